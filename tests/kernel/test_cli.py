# SPDX-License-Identifier: Apache-2.0
"""The installed command on a real kernel: a service's whole life, and what hosts look like."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest

from hostreach.cli import main
from hostreach.datapath import kernel_features, socket_features

from .harness import Box, cli, kernel, linux, wait_until
from .harness.bpf import attached
from .harness.cli import one_line
from .harness.clients import TCP, V4, Seen, exchange, outcome
from .harness.host import HOST_V4, give_addresses, mount_hierarchy

FRONTEND = "10.96.0.10:80/tcp"
VIP = ("10.96.0.10", 80)
SMALL = ("--max-services=2", "--max-backends=4", "--max-slots=16")


def test_from_attach_to_purge(box: Box) -> None:
    box.serve("10.0.0.2:8080/tcp", "10.0.0.3:8080/tcp")

    def hostreach(*arguments: str) -> cli.Said:
        return cli.run(box.pin, *arguments)

    assert hostreach("svc", "add", FRONTEND, "--backend", "10.0.0.2:8080").status == 0
    assert hostreach("attach", "--cgroup", str(box.cgroup)).status == 0
    assert box.call(exchange, V4, TCP, VIP) == Seen("10.0.0.2:8080", VIP)

    assert hostreach("backend", "add", FRONTEND, "10.0.0.3:8080", "--weight=3").status == 0
    assert hostreach("backend", "rm", FRONTEND, "10.0.0.2:8080").status == 0
    assert box.call(exchange, V4, TCP, VIP) == Seen("10.0.0.3:8080", VIP)
    shown = hostreach("svc", "show", FRONTEND, "--json").json["service"]
    assert shown["backends"] == [{"address": "10.0.0.3:8080", "weight": 3, "state": "active"}]

    status = hostreach("status", "--json").json
    assert status["cgroup"] == str(box.cgroup)
    assert status["services"]["used"] == 1
    assert {p["name"] for p in status["programs"] if p["effective"]} == kernel.hooks()
    assert hostreach().stdout == hostreach("status").stdout
    assert str(box.cgroup) in hostreach().stdout

    assert hostreach("svc", "rm", FRONTEND).status == 0
    assert box.call(outcome, exchange, V4, TCP, VIP) == "ENETUNREACH"
    assert hostreach("detach", "--purge").status == 0
    assert not attached(box.cgroup)
    assert not box.pin.exists()
    assert hostreach("detach", "--purge").status == 0


def test_pin_by_environment_and_option(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTREACH_PIN", str(box.pin))
    assert cli.run(None, "svc", "add", FRONTEND).status == 0
    assert FRONTEND in cli.run(None, "svc", "ls").stdout
    monkeypatch.setenv("HOSTREACH_PIN", "/sys/fs/bpf/hostreach-test-nowhere")
    assert FRONTEND in cli.run(box.pin, "svc", "ls").stdout
    assert FRONTEND not in cli.run(None, "svc", "ls").stdout


def test_export_and_apply(box: Box) -> None:
    """What one instance exports makes another one the same; the file is the issue's own."""
    text = """\
version: 1
services:
- frontend: 10.96.0.10:53/udp
  name: kube-system/kube-dns:dns
  backends:
  - address: 10.0.0.2:53
  - address: 10.0.0.3:53
    weight: 3
- frontend: '[fd00:96::a]:443/tcp'
"""
    assert cli.run(box.pin, "apply", "--dry-run", "-f", "-", stdin=text).status == 0
    assert cli.run(box.pin, "svc", "ls", "--json").json["services"] == []
    assert cli.run(box.pin, "apply", "-f", "-", stdin=text).status == 0
    exported = cli.run(box.pin, "export").stdout
    assert (
        cli.run(box.pin, "apply", "-f", "-", "--prune", "--json", stdin=exported).json["changes"]
        == []
    )
    assert cli.run(box.pin, "detach", "--purge").status == 0
    assert cli.run(box.pin, "apply", "-f", "-", stdin=exported).status == 0
    assert cli.run(box.pin, "export").stdout == exported
    as_json = cli.run(box.pin, "export", "--json").stdout
    assert cli.run(box.pin, "apply", "-f", "-", "--prune", stdin="version: 1\n").status in (0, 2)
    assert cli.run(box.pin, "apply", "-f", "-", "--prune", stdin=as_json).status == 0
    assert cli.run(box.pin, "export").stdout == exported


def test_networks_without_an_address(box: Box) -> None:
    """Of this node: then a NodePort is on loopback alone, if anywhere."""
    give_addresses(box)
    attach = [cli.SCRIPT, "attach", f"--pin={box.pin}", f"--cgroup={box.cgroup}", *SMALL]
    said = box.run([*attach, "--node-addresses=198.51.100.0/24,fd00:98::/64"], bare=True)
    assert said.returncode == 0
    assert said.stderr == (
        "hostreach: warning: --node-addresses: this node has no address in "
        "198.51.100.0/24,fd00:98::/64\n"
    )
    assert not box.run([*attach, f"--node-addresses={HOST_V4}/32"], bare=True).stderr


@pytest.mark.parametrize("lost", ["full disk", "closed pipe"])
def test_a_change_whose_output_is_lost(box: Box, lost: str) -> None:
    """The change stands all the same, and whoever reads the message knows."""

    def said(*arguments: str) -> tuple[int, str]:
        reader, writer = os.pipe()
        os.close(reader)
        with open("/dev/full" if lost == "full disk" else writer, "w") as output:  # noqa: PTH123
            if lost == "full disk":
                os.close(writer)
            done = subprocess.run(
                [cli.SCRIPT, *arguments, f"--pin={box.pin}"],
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        return done.returncode, done.stderr

    status = 1 if lost == "full disk" else 141
    why = "no space left on device" if lost == "full disk" else "broken pipe"
    made = (status, f"hostreach: standard output: {why}; the change is made\n")
    add = ("svc", "add", FRONTEND, "--backend", "10.0.0.2:8080")
    assert said(*add, *SMALL) == made
    assert cli.run(box.pin, "svc", "show", FRONTEND).status == 0
    nothing = "" if lost == "closed pipe" else f"hostreach: standard output: {why}\n"
    for unchanged in ((*add, "--if-missing"), ("svc", "ls"), ("svc", "rm", FRONTEND, "--dry-run")):
        assert said(*unchanged) == (status, nothing)
    assert said("attach", f"--cgroup={box.cgroup}") == made
    assert said("exempt", "add", str(box.bare)) == made
    assert said("detach") == made
    assert said("detach", "--purge") == made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("svc", "add", FRONTEND), "hostreach: interrupted; the change is made\n"),
        (("svc", "ls"), ""),
    ],
)
def test_an_interrupt_behind_the_change(box: Box, arguments: tuple[str, ...], message: str) -> None:
    """Here while its output waits for a reader that does not read."""
    assert cli.run(box.pin, "svc", "add", "10.96.0.9:80/tcp", *SMALL).status == 0
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    process = subprocess.Popen(
        [cli.SCRIPT, *arguments, f"--pin={box.pin}"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: "pipe_w" in waits_in(process.pid), "the output being stuck")
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[1] == message
    finally:
        process.kill()
        os.close(reader)
        os.close(writer)
    assert process.returncode == 130


def waits_in(pid: int) -> str:
    """The kernel's function that a process sleeps in; "" if it does not say."""
    return Path(f"/proc/{pid}/wchan").read_text()


def test_attach_twice(box: Box) -> None:
    attach = ("attach", "--cgroup", str(box.cgroup))
    assert len(cli.run(box.pin, *attach, "--json").json["changes"]) == len(kernel.hooks())
    before = attached(box.cgroup)
    assert cli.run(box.pin, *attach, "--json").json["changes"] == []
    assert cli.run(box.pin, *attach).status == 0
    assert attached(box.cgroup) == before
    said = cli.run(box.pin, "attach", "--cgroup", str(box.bare))
    one_line(said, 1, str(box.cgroup), str(box.bare))
    changed = cli.run(box.pin, *attach, "--protocols", "tcp", "--json").json
    removed = [change for change in changed["changes"] if change["action"] == "removed"]
    assert len(removed) == 4
    assert set(attached(box.cgroup)) == kernel.hooks("tcp")


@pytest.mark.parametrize("where", ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/mnt"])
def test_root_cgroup_is_found(box: Box, where: str) -> None:
    """On pure v2 hosts, on hybrid ones, and wherever else it may be mounted."""
    said = cli.run(box.pin, "attach", "--json", prepare=lambda: mount_hierarchy(box, where))
    assert said.status == 0, said
    assert said.json["cgroup"] == where
    assert set(attached(box.cgroup)) == kernel.hooks()


def bpffs(mode: str) -> Callable[[], None]:
    """A mount namespace with bpffs missing, or read-only."""

    def prepare() -> None:
        linux.private_mounts()
        while os.path.ismount("/sys/fs/bpf"):
            linux.umount("/sys/fs/bpf")
        if mode == "read-only":
            linux.mount("bpf", "/sys/fs/bpf", "bpf", linux.MS_RDONLY)

    return prepare


def test_bpffs_is_mounted_when_missing(box: Box) -> None:
    """The instance ends with the mount namespace; here it is enough that it came to be."""
    said = cli.run(box.pin, "attach", "--cgroup", str(box.cgroup), prepare=bpffs("missing"))
    assert said.status == 0, said
    said = cli.run(box.pin, "svc", "add", FRONTEND, prepare=bpffs("missing"))
    assert said.status == 0, said
    assert not box.pin.exists()


def test_bpffs_read_only(box: Box) -> None:
    for arguments in (("attach", "--cgroup", str(box.cgroup)), ("svc", "add", FRONTEND)):
        one_line(cli.run(box.pin, *arguments, prepare=bpffs("read-only")), 1, str(box.pin))
    assert not attached(box.cgroup)


def test_a_cgroup_that_is_gone(box: Box) -> None:
    """Its service can be changed and applied again, and nobody uses it."""
    kernel.need(kernel.knows_cgroups(), "way for programs to tell a task's cgroup")
    pod = box.cgroup / "pod"
    pod.mkdir()
    add = ("svc", "add", FRONTEND, "--backend", "10.0.0.2:80", "--from-cgroup", str(pod))
    assert cli.run(box.pin, *add, *SMALL).status == 0
    pod.rmdir()
    assert cli.run(box.pin, "backend", "add", FRONTEND, "10.0.0.3:80").status == 0
    exported = cli.run(box.pin, "export").stdout
    assert str(pod) in exported
    assert cli.run(box.pin, "apply", "-f", "-", stdin=exported).status == 0
    assert cli.run(box.pin, "export").stdout == exported


def test_hidden_listeners_are_reported(box: Box) -> None:
    """A line on stderr, and the service is added all the same."""

    def add_beside_a_server() -> tuple[int, str]:
        out, err = io.StringIO(), io.StringIO()
        with socket.create_server(("0.0.0.0", 30080)), redirect_stdout(out), redirect_stderr(err):
            status = main(["svc", "add", "node:30080/tcp", "--pin", str(box.pin)])
        return status, err.getvalue()

    status, said = box.call(add_beside_a_server)
    assert status == 0
    assert "0.0.0.0" in said
    assert said.count("\n") == 1


def test_doctor(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each feature's own line; a missing one is no failure. Ports that may collide are named."""
    found = {
        each["name"]: each["found"]
        for each in cli.run(box.pin, "doctor", "--json").json["features"]
    }
    assert found["connect"]
    assert set(found) == {*kernel_features(), *socket_features()}
    for without, missing in (
        ("mptcp,sock_diag", {"mptcp", "sock_diag"}),
        ("netns_cookie", {"netns_cookie", "host_netns"}),
        ("btf", {"btf", "sock_destroy", "sock_read"}),
    ):
        kernel.switch_off(monkeypatch, without)
        said = cli.run(box.pin, "doctor", "--json")
        now = {each["name"]: each["found"] for each in said.json["features"]}
        found |= dict.fromkeys(missing, False)
        assert now == found
    low = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]
    assert cli.run(box.pin, "svc", "add", f"node:{low}/tcp", *SMALL).status == 0
    assert low in cli.run(box.pin, "doctor").stdout
