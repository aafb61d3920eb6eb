# SPDX-License-Identifier: Apache-2.0
"""The agent that follows files, on a real kernel: a file changes, and sockets go elsewhere."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, cli, wait_until
from .harness.agents import AgentProcess, Notified, follow, text
from .harness.clients import TCP, UDP_CONNECTED, V4, V6, Seen, exchange, outcome
from .harness.timing import lag

if TYPE_CHECKING:
    from hostreach.node import Node

VIP = ("10.96.0.10", 80)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "services.d"
    made.mkdir()
    return made


@pytest.fixture
def agent(box: Box, directory: Path, tmp_path: Path) -> Iterator[AgentProcess]:
    with follow(box, tmp_path, str(directory)) as process:
        process.wait_ready()
        yield process


def reached(box: Box, vip: tuple[str, int] = VIP, kind: str = TCP) -> set[object]:
    """What ten clients come to."""
    family = V6 if ":" in vip[0] else V4
    seen = [box.call(outcome, exchange, family, kind, vip) for _ in range(10)]
    return {each.server if isinstance(each, Seen) else each for each in seen}


def reaches(box: Box, *servers: str, vip: tuple[str, int] = VIP, kind: str = TCP) -> None:
    wait_until(lambda: reached(box, vip, kind) == {*servers}, f"{vip} reaching {servers}")


# --- files and sockets -------------------------------------------------------------------------


def test_files_come_change_and_go(box: Box, directory: Path, agent: AgentProcess) -> None:
    box.serve("10.0.0.2:8080/tcp", "10.0.0.3:8080/tcp", "[fd00::2]:53/udp")
    reaches(box, "ENETUNREACH")
    file = directory / "web.yaml"
    file.write_text(text(["10.0.0.2:8080"]))
    reaches(box, "10.0.0.2:8080")
    (directory / "dns.json").write_text(
        json.dumps(
            {
                "version": 1,
                "services": [
                    {"frontend": "[fd00:96::a]:53/udp", "backends": [{"address": "[fd00::2]:53"}]}
                ],
            }
        )
    )
    reaches(box, "[fd00::2]:53", vip=("fd00:96::a", 53), kind=UDP_CONNECTED)
    new = directory / ".web.yaml.new"
    new.write_text(text(["10.0.0.3:8080"]))
    new.rename(file)
    reaches(box, "10.0.0.3:8080")
    file.unlink()
    reaches(box, "ENETUNREACH")
    (directory / "dns.json").unlink()
    reaches(box, "ENETUNREACH", vip=("fd00:96::a", 53), kind=UDP_CONNECTED)
    assert agent.metric("hostreach_files") == 0


def test_change_is_written_soon(directory: Path, agent: AgentProcess) -> None:
    """Within the window and what writing takes, not the next look."""
    file = directory / "web.yaml"

    def writes() -> float:
        return agent.metric('hostreach_table_writes_total{action="put"}')

    for number in range(10):
        before = writes()
        file.write_text(text([f"10.0.0.{2 + number % 2}:8080"]))
        within = 2 + 20 * lag()
        wait_until(lambda: writes() > before, "the write", seconds=within)  # noqa: B023


def test_wrong_file_keeps_the_last_good_state(
    box: Box, directory: Path, agent: AgentProcess
) -> None:
    box.serve("10.0.0.2:8080/tcp")
    file = directory / "web.yaml"
    file.write_text(text(["10.0.0.2:8080"]))
    reaches(box, "10.0.0.2:8080")
    file.write_text(text(["10.0.0.2:8080"]) + "  bakcends: []\n")
    problem = f"{file}:6: unknown key 'bakcends'"
    wait_until(lambda: agent.metric("hostreach_files_wrong") == 1, "the metric")
    assert f"error {problem}; what it said before still counts" in agent.log
    wait_until(lambda: problem in cli.run(box.pin, "status").stdout, "status telling of it")
    (shown,) = cli.run(box.pin, "status", "--json").json["agents"]
    assert shown["source"] == "file"
    assert shown["problems"] == [problem]
    reaches(box, "10.0.0.2:8080")
    assert agent.ask("/readyz")[0] == agent.ask("/healthz")[0] == 200
    file.write_text(text(["10.0.0.2:8080"]))
    wait_until(lambda: agent.metric("hostreach_files_wrong") == 0, "the metric")
    wait_until(lambda: problem not in cli.run(box.pin, "status").stdout, "status forgetting it")
    assert agent.log.count(problem) == 1


def test_restart_beside_a_wrong_file_removes_nothing(
    box: Box, directory: Path, tmp_path: Path, table: Node
) -> None:
    good, bad = directory / "good.yaml", directory / "bad.yaml"
    good.write_text(text(["10.0.0.2:8080"]))
    bad.write_text(text(["10.0.0.3:8080"], "10.96.0.11:80/tcp"))
    with follow(box, tmp_path, str(directory)) as process:
        process.wait_ready()
        assert len(table.services) == 2
    bad.write_text("nonsense")
    with follow(box, tmp_path, str(directory)) as process:
        process.wait_ready()
        assert [str(s.frontend) for s in table.services.list("file")] == [
            "10.96.0.10:80/tcp",
            "10.96.0.11:80/tcp",
        ]
        bad.unlink()
        wait_until(lambda: len(table.services) == 1, "what nobody names any more going")


def test_restart_writes_nothing(box: Box, directory: Path, tmp_path: Path, table: Node) -> None:
    (directory / "web.yaml").write_text(text(["10.0.0.2:8080"]))
    for writes in (1, 0):
        with follow(box, tmp_path, str(directory)) as process:
            process.wait_ready()
            assert process.metric('hostreach_table_writes_total{action="put"}') == writes
            assert process.stop() < 5 + 20 * lag()
        assert len(table.services) == 1  # what it wrote stays


def test_owners_keep_to_their_own(directory: Path, agent: AgentProcess, table: Node) -> None:
    theirs = Service.of("10.96.0.10:80/tcp", "10.0.0.9:80")
    table.services.add(theirs)
    (directory / "web.yaml").write_text(text(["10.0.0.2:8080"]))
    wait_until(lambda: agent.metric("hostreach_conflicting_services") == 1, "the conflict")
    assert table.services.get(theirs.frontend) == theirs
    assert "is left alone, for 'manual' owns it" in agent.log
    table.services.remove(theirs.frontend)
    wait_until(lambda: table.services.list("file"), "it taking over")
    (directory / "web.yaml").unlink()
    wait_until(lambda: not len(table.services), "its own going")


def test_what_others_changed_of_its_own_is_mended_by_a_restart(
    box: Box, directory: Path, tmp_path: Path, table: Node
) -> None:
    (directory / "web.yaml").write_text(text(["10.0.0.2:8080"]))
    for _ in range(2):
        with follow(box, tmp_path, str(directory)) as process:
            process.wait_ready()
            assert len(table.services.get("10.96.0.10:80/tcp").backends) == 1
        table.services.add_backend("10.96.0.10:80/tcp", "10.0.0.3:80", owner="file")
        table.services.add(Service.of("10.96.0.99:80/tcp", owner="file"))
    with follow(box, tmp_path, str(directory)) as process:
        process.wait_ready()
        assert len(table.services) == 1


def test_cgroup_that_comes_later_and_comes_again(
    box: Box, directory: Path, agent: AgentProcess
) -> None:
    box.serve("10.0.0.2:8080/tcp")
    inner = box.cgroup / "later"
    more = f"  from_cgroup: {inner}\n"
    (directory / "scoped.yaml").write_text(text(["10.0.0.2:8080"], more=more))
    (directory / "web.yaml").write_text(text(["10.0.0.2:8080"], "10.96.0.11:80/tcp"))
    reaches(box, "10.0.0.2:8080", vip=("10.96.0.11", 80))  # it holds up nobody else
    wait_until(lambda: agent.metric("hostreach_services_without_cgroup") == 1, "it waiting")

    def inside() -> object:
        (inner / "cgroup.procs").write_text("0")
        return outcome(exchange, V4, TCP, VIP)

    for _ in range(2):
        inner.mkdir()
        try:
            wait_until(
                lambda: isinstance(box.call(inside), Seen), "the service in its cgroup", seconds=20
            )
        finally:
            wait_until(lambda: not (inner / "cgroup.procs").read_text(), "it being empty")
            inner.rmdir()


def test_directory_that_appears_later(box: Box, tmp_path: Path) -> None:
    box.serve("10.0.0.2:8080/tcp")
    path = tmp_path / "deep" / "services.d"
    with follow(box, tmp_path, str(path)) as process:
        process.wait_ready()
        path.mkdir(parents=True)
        (path / "web.yaml").write_text(text(["10.0.0.2:8080"]))
        reaches(box, "10.0.0.2:8080")


def test_many_files(directory: Path, agent: AgentProcess, table: Node) -> None:
    for number in range(300):
        (directory / f"{number}.yaml").write_text(
            text(["10.0.0.2:80"], f"10.97.{number // 200}.{number % 200 + 1}:80/tcp")
        )
    wait_until(lambda: len(table.services) == 300, "all of them")
    before = agent.metric("process_cpu_seconds_total")
    for number in range(0, 300, 2):
        (directory / f"{number}.yaml").unlink()
    wait_until(lambda: len(table.services) == 150, "half of them")
    assert agent.metric("process_cpu_seconds_total") - before < 10
    assert agent.metric("hostreach_files") == 150


# --- systemd, logs, usage ----------------------------------------------------------------------


def test_systemd_hears_of_it(box: Box, directory: Path, tmp_path: Path) -> None:
    variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
    (directory / "bad.yaml").write_text("nonsense")  # no reason not to be ready
    with (
        closing(Notified(tmp_path / "notify")) as notified,
        follow(box, tmp_path, str(directory), variables=variables) as process,
    ):
        wait_until(lambda: "READY=1\nSTATUS=in step with the files" in notified.listen(), "READY=1")
        pings = notified.said.count("WATCHDOG=1")
        wait_until(lambda: notified.listen().count("WATCHDOG=1") >= pings + 3, "the watchdog")
        process.stop()
        assert "STOPPING=1" in notified.listen()
    assert cli.run(box.pin, "status", "--json").json["agents"] == []


def test_networks_without_an_address(box: Box, tmp_path: Path) -> None:
    """Told once, however often it is looked."""
    file = tmp_path / "one.yaml"
    file.write_text(text(["10.0.0.2:80"]))
    with follow(box, tmp_path, str(file), "--node-addresses=198.51.100.0/24") as agent:
        agent.wait_ready()
        wait_until(lambda: "has no address in" in agent.log, "the warning")
        box.run(["ip", "address", "add", "192.0.2.77/32", "dev", "lo"])
        time.sleep(1)
        box.run(["ip", "address", "del", "192.0.2.77/32", "dev", "lo"])
        time.sleep(1)
    assert agent.log.count("this node has no address in 198.51.100.0/24") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_changes_nothing(box: Box, tmp_path: Path, number: int) -> None:
    """It is ending by then, and ends as it would have: with all that --detach-on-exit says."""
    with follow(box, tmp_path, "--detach-on-exit", str(tmp_path / "one.yaml")) as agent:
        agent.wait_ready()
        for _ in range(5):
            agent.process.send_signal(number)
            time.sleep(0.01)
        agent.process.wait(20)
        assert agent.process.returncode == 0
        assert " detached: " in agent.log


def test_port_that_is_taken(box: Box, tmp_path: Path) -> None:
    box.serve("127.0.0.1:9879/tcp")
    done = box.run([cli.SCRIPT, "agent", "file", f"--pin={box.pin}", str(tmp_path)], bare=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "--listen 127.0.0.1:9879: address already in use" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "missing argument 'PATH...'"),
        (("",), "agent file: a path is empty"),
        (("x", "--owner="), "owner is empty"),
        (("x", "--owner=a b"), "owner 'a b' has white space"),
        (("x", "--all-down=maybe"), "--all-down must be use-all or refuse, not 'maybe'"),
        (("x", "--checks-at-once=0"), "--checks-at-once must be"),
        (("x", "--node-addresses=10.0.0.1"), "'10.0.0.1' has no prefix length"),
    ],
)
def test_bad_options(box: Box, arguments: tuple[str, ...], message: str) -> None:
    """In a box: one that is taken for good must not be attached to the machine."""
    said = cli.run(box.pin, "agent", "file", f"--cgroup={box.cgroup}", *arguments)
    assert said.status == 2, said
    assert message in said.stderr
    assert said.stderr.count("\n") == 1


def test_apply_says_that_it_checks_nothing(box: Box) -> None:
    said = cli.run(
        box.pin, "apply", "-f", "-", stdin=text(["10.0.0.2:80"], more="  check: {kind: tcp}\n")
    )
    assert said.status == 0
    assert "1 of the services have a check, which `agent file` does and apply does not" in (
        said.stderr
    )
