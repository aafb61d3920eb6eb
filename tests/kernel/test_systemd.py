# SPDX-License-Identifier: Apache-2.0
"""The units' own command lines, with what the units take away taken away by hand."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hostreach import systemd

from .harness import Box, wait_until
from .harness.agents import SMALL, AgentProcess, Notified, running
from .harness.box import environment
from .harness.cgroup import v2_root
from .harness.clients import UDP_CONNECTED, V4, Seen, exchange, outcome
from .harness.host import Pod, pods
from .harness.line import Line

if TYPE_CHECKING:
    from hostreach.node import Node

# As ProtectSystem=strict and the paths do it, in a mount namespace that ends with the process; and
# MemoryDenyWriteExecute, for which systemd has a filter and newer kernels a call (PR_SET_MDWE).
_CONFINE = """
mkdir -p /run/hostreach && mount --bind /run/hostreach /run/hostreach
for place in "$2" /proc /sys /; do mount -o remount,bind,ro "$place" || exit 99; done
touch /etc/hostreach-test 2>/dev/null && exit 98
bounding=$1; shift 2
exec setpriv --bounding-set="$bounding" --inh-caps=-all --no-new-privs "$PYTHON" -c '
import ctypes, os, sys
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])' "$@"
"""


def confined(text: str) -> list[str]:
    """What is put before a unit's command."""
    found = re.search(r"^CapabilityBoundingSet=(.*)$", text, re.MULTILINE)
    assert found
    kept = "".join(f",+{each.lower().removeprefix('cap_')}" for each in found[1].split())
    private = ("unshare", "--mount", "--propagation", "private", "--")
    return [*private, "sh", "-c", _CONFINE, "sh", f"-all{kept}", str(v2_root())]


def command(text: str, options: str = "") -> list[list[str]]:
    """The unit's commands, one for each ExecStart."""
    lines = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    return [
        shlex.split(re.sub(r"\$HOSTREACH_\w*OPTIONS", options, line).replace("$$", "$"))
        for line in lines
    ]


VARIABLES = {"PYTHON": sys.executable}


class Unit(AgentProcess):
    """A unit's process, confined as the unit confines it."""

    def __init__(self, box: Box, unit: systemd.Unit, options: str, **more: object) -> None:
        self._line = command(unit.text, options)[0]
        kind = "metrics" if "metrics" in unit.file else "file"
        super().__init__(box, kind, wrapper=confined(unit.text), **more)  # type: ignore[arg-type]

    def command(self) -> list[str]:
        return [*self._wrapper, *self._line]


@contextmanager
def started(box: Box, unit: systemd.Unit, options: str, directory: Path) -> Iterator[Unit]:
    """For as long as the block, ready, with the watchdog fed."""
    variables = {
        **VARIABLES,
        "NOTIFY_SOCKET": str(directory / "notify"),
        "WATCHDOG_USEC": "600000",
    }
    with (
        closing(Notified(directory / "notify")) as notified,
        running(Unit(box, unit, options, directory=directory, variables=variables)) as process,
    ):
        wait_until(
            lambda: process.log and any("READY=1" in each for each in notified.listen()),
            f"READY=1 of {unit.file}",
        )
        assert process.process.poll() is None, process.log
        yield process
        pings = notified.said.count("WATCHDOG=1")
        wait_until(lambda: notified.listen().count("WATCHDOG=1") > pings, "the watchdog's ping")
        process.stop()
        assert "STOPPING=1" in notified.listen()


@pytest.fixture
def pod(box: Box) -> Iterator[Pod]:
    with pods(box, 1) as (made,):
        yield made


def services(backend: str = "10.0.0.2:53") -> str:
    return (
        "version: 1\nservices:\n- frontend: 10.96.0.10:53/udp\n"
        f"  check: {{kind: tcp, interval: 100ms}}\n  backends: [address: '{backend}']\n"
    )


def waiting(pod: Pod) -> Callable[[Line], None]:
    """A client in the pod, connected, that tells what its socket comes to."""

    def wait(line: Line) -> None:
        pod.enter()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("10.96.0.10", 53))
            line.send()
            line.recv()
            line.send(outcome(client.getpeername))

    return wait


def test_the_agents_unit(box: Box, pod: Pod, tmp_path: Path, table: Node) -> None:
    """It attaches, follows, checks, and ends sockets in a pod, with what the unit leaves it."""
    box.serve("10.0.0.2:53/udp", "10.0.0.2:53/tcp")
    directory = tmp_path / "services.d"
    directory.mkdir()
    unit = systemd.unit("agent", str(box.pin), [str(directory)])
    options = " ".join([f"--cgroup={box.cgroup}", *SMALL])
    with started(box, unit, options, tmp_path) as process:
        (directory / "dns.yaml").write_text(services())
        wait_until(lambda: len(table.services) == 1, "the service")
        seen = box.call(outcome, exchange, V4, UDP_CONNECTED, ("10.96.0.10", 53))
        assert seen == Seen("10.0.0.2:53", ("10.96.0.10", 53))
        wait_until(lambda: process.metric("hostreach_checks_failing") == 0, "the check")
        assert process.metric('hostreach_check_results_total{kind="tcp",result="pass"}') > 0
        assert f"{box.bare}" in table.exempt.list()[0]
        with box.talk(waiting(pod)) as line:
            line.recv()
            (directory / "dns.yaml").unlink()
            wait_until(lambda: not len(table.services), "the service going")
            wait_until(lambda: not table.end_sockets(dry_run=True).sockets, "its sockets' end")
            assert line.ask() == "ENOTCONN"


def test_the_metrics_unit(box: Box, node: Node, tmp_path: Path) -> None:
    assert node.pin == str(box.pin)
    unit = systemd.unit("metrics", str(box.pin))
    with started(box, unit, "", tmp_path) as process:
        assert process.metric("hostreach_tables_readable") == 1
        assert process.metric("hostreach_attached") == 1


def test_the_unit_that_restores(box: Box, tmp_path: Path, table: Node) -> None:
    """Its two commands, in order; nothing is attached before the tables are whole."""
    box.serve("10.0.0.2:53/udp")
    saved = tmp_path / "services.yaml"
    saved.write_text(services())
    unit = systemd.unit("restore", str(box.pin))
    apply, attach = command(unit.text.replace(systemd.SERVICES, str(saved)))
    for each in ([*apply, *SMALL], [*attach, f"--cgroup={box.cgroup}"]):
        done = subprocess.run(
            [*confined(unit.text), *each],
            capture_output=True,
            text=True,
            preexec_fn=lambda: box.enter(bare=True),
            env={**environment(), **VARIABLES},
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert [service.owner for service in table.services] == ["manual"]
    seen = box.call(outcome, exchange, V4, UDP_CONNECTED, ("10.96.0.10", 53))
    assert seen == Seen("10.0.0.2:53", ("10.96.0.10", 53))
