# SPDX-License-Identifier: Apache-2.0
"""The units under systemd itself: boot, a watchdog that bites, a kill, a reload, a stop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import hostreach

from .harness import Box, cli, scaled, wait_until
from .harness.clients import UDP_CONNECTED, V4, Seen, exchange
from .harness.live_systemd import LiveSystemd, of_pid

AGENT = "hostreach-agent.service"
RESTORE = "hostreach-restore.service"


def services(frontend: str, backend: str) -> str:
    return f"version: 1\nservices:\n- frontend: {frontend}\n  backends: [address: '{backend}']\n"


@pytest.fixture
def machine(box: Box, tmp_path: Path) -> Iterator[LiveSystemd]:
    with closing(LiveSystemd(box, tmp_path)) as made:
        followed = made.etc / "hostreach/services.d"
        followed.mkdir(parents=True)
        saved = services("10.96.0.1:53/udp", "10.0.0.2:53")
        (made.etc / "hostreach/services.yaml").write_text(saved)
        (followed / "web.yaml").write_text(services("10.96.0.2:53/udp", "10.0.0.3:53"))
        said = cli.run(box.pin, "systemd", "install", "--directory", str(made.units))
        assert said.status == 0, said
        dropin = made.units / f"{AGENT}.d"
        dropin.mkdir()
        log = made.etc.parent / "agent.log"
        (dropin / "test.conf").write_text(
            f"[Service]\nWatchdogSec={scaled(3):g}s\nStandardError=append:{log}\n"
        )
        made.enable(AGENT)
        made.enable(RESTORE)
        yield made


def test_from_boot_to_stop(box: Box, machine: LiveSystemd) -> None:
    box.serve("10.0.0.2:53/udp", "10.0.0.3:53/udp", "10.0.0.4:53/udp")

    def reached(address: str) -> Seen:
        return machine.call(exchange, V4, UDP_CONNECTED, (address, 53))

    def restarts() -> int:
        shown = machine.show(AGENT)
        return int(shown["NRestarts"]) if shown.get("ActiveState") == "active" else 0

    restored = Seen("10.0.0.2:53", ("10.96.0.1", 53))
    followed = Seen("10.0.0.3:53", ("10.96.0.2", 53))
    machine.boot()
    wait_until(lambda: machine.ctl("is-active", AGENT) == "active", "the agent", 60)
    failed = machine.ctl("list-units", "--failed", "--plain", "--no-legend")
    assert failed == "", machine.ctl("status", "--no-pager", "--full", AGENT, RESTORE)
    before, network = machine.show(RESTORE), machine.show("network-pre.target")
    entered = "ActiveEnterTimestampMonotonic"
    assert 0 < int(before[entered]) <= int(network[entered])
    assert (reached("10.96.0.1"), reached("10.96.0.2")) == (restored, followed)

    shown = machine.show(AGENT)
    assert (shown["Type"], shown["StatusText"] != "") == ("notify", True)
    process = of_pid(machine, shown["MainPID"])
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    assert status["NoNewPrivs"] == "1"
    kept = 1 << 12 | 1 << 19 | 1 << 21 | 1 << 24  # net_admin, sys_ptrace, sys_admin, sys_resource
    assert int(status["CapBnd"], 16) & ~kept == 0
    root = [line.split() for line in (process / "mounts").read_text().splitlines()]
    assert all("ro" in each[3].split(",") for each in root if each[1] in ("/", "/sys"))

    machine.ctl("kill", "--kill-whom=main", "--signal=STOP", AGENT)
    assert reached("10.96.0.2") == followed
    wait_until(lambda: restarts() == 1, "what the watchdog does", 60)
    machine.ctl("kill", "--kill-whom=main", "--signal=KILL", AGENT)
    assert reached("10.96.0.2") == followed
    wait_until(lambda: restarts() == 2, "another start", 60)

    changed = services("10.96.0.1:53/udp", "10.0.0.4:53")
    (machine.etc / "hostreach/services.yaml").write_text(changed)
    assert machine.ctl("reload", RESTORE) == ""
    assert reached("10.96.0.1") == Seen("10.0.0.4:53", ("10.96.0.1", 53))

    machine.ctl("stop", AGENT, RESTORE)
    stopped = machine.show(AGENT)
    assert (stopped["ActiveState"], stopped["Result"]) == ("inactive", "success")
    assert (reached("10.96.0.1").server, reached("10.96.0.2")) == ("10.0.0.4:53", followed)
    with hostreach.open(str(box.pin)) as node:
        assert [service.owner for service in node.services] == ["manual", "file"]
