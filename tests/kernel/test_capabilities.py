# SPDX-License-Identifier: Apache-2.0
"""What the chart asks for: each capability is needed, and they are enough."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import Box, Line, cli, kernel
from .harness.host import Pod, pods

ROOT = Path(__file__).resolve().parents[2]
VIP = ("10.96.0.10", 80)
SERVICE, BACKEND = "10.96.0.10:80/udp", "10.0.0.2:8080"
SMALL = ("--max-services=64", "--max-backends=128", "--max-slots=2048")


def chart() -> list[str]:
    """As setpriv names them."""
    text = (ROOT / "deploy/helm/hostreach/templates/_helpers.tpl").read_text()
    found = re.search(r"add: \[(.+)\]", text)
    assert found
    return found[1].lower().split(", ")


@pytest.fixture
def pod(box: Box) -> Iterator[Pod]:
    with pods(box, 1) as (made,):
        yield made


def end_a_pods_socket(box: Box, pod: Pod, capabilities: list[str], without: str = "") -> str:
    """Attach, add a service, take its backend from a socket in a pod; what was said last."""

    kernel.need(kernel.ends_sockets(), "way to end sockets")

    def hostreach(*arguments: str) -> str:
        kept = "".join(f",+{each}" for each in capabilities)
        command = ["setpriv", f"--bounding-set=-all{kept}", "--inh-caps=-all", "--no-new-privs"]
        done = subprocess.run(
            ["env", f"HOSTREACH_WITHOUT={without}", *command, cli.SCRIPT, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done.stderr if done.returncode else done.stdout

    def connected(line: Line) -> None:
        pod.enter()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(VIP)
            line.send()
            line.recv()

    pin = f"--pin={box.pin}"
    attached = hostreach("attach", pin, f"--cgroup={box.cgroup}", *SMALL)
    if not attached.startswith("attached"):
        return attached
    hostreach("svc", "add", SERVICE, "--backend", BACKEND, pin)
    with box.talk(connected) as line:
        line.recv()
        said = hostreach("backend", "rm", SERVICE, BACKEND, pin)
        line.send()
    return said


def test_the_charts_capabilities_are_enough(box: Box, pod: Pod) -> None:
    assert "ended 1 socket" in end_a_pods_socket(box, pod, chart())


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("sys_admin", "Operation not permitted"),
        ("sys_ptrace", "could not be entered"),
    ],
)
def test_without_one_that_loads_and_enters(box: Box, pod: Pod, missing: str, message: str) -> None:
    kept = [each for each in chart() if each != missing]
    assert len(kept) == len(chart()) - 1
    assert message in end_a_pods_socket(box, pod, kept)


def test_without_the_one_for_netlink(box: Box, pod: Pod) -> None:
    """Before Linux 6.5 sockets are ended by netlink, which no other capability allows."""
    netlink = "sock_destroy"
    assert "ended 1 socket" in end_a_pods_socket(box, pod, chart(), netlink)


def test_without_the_one_for_netlink_it_cannot(box: Box, pod: Pod) -> None:
    kept = [each for each in chart() if each != "net_admin"]
    assert "ended 1 socket" not in end_a_pods_socket(box, pod, kept, "sock_destroy")


def test_sys_resource_is_for_old_kernels_alone(box: Box, pod: Pod) -> None:
    """Before Linux 5.11 maps count as locked memory, whose limit it lifts (RLIMIT_MEMLOCK)."""
    kept = [each for each in chart() if each != "sys_resource"]
    assert len(kept) == len(chart()) - 1
    assert "ended 1 socket" in end_a_pods_socket(box, pod, kept)


def test_nothing_that_is_not_needed() -> None:
    """SYS_ADMIN allows all that BPF and PERFMON do."""
    assert chart() == ["net_admin", "sys_admin", "sys_ptrace", "sys_resource"]
