# SPDX-License-Identifier: Apache-2.0
"""Agents beside one another and beside commands: whose instance it is, and who takes it down."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hostreach.running import DIRECTORY, path_of

from .harness import Box, cli, wait_until
from .harness.agents import follow, text
from .harness.timing import lag

if TYPE_CHECKING:
    from hostreach.node import Node


def test_two_agents_of_one_instance(box: Box, tmp_path: Path, table: Node) -> None:
    """Each with an owner's name of its own; whoever listens there first is heard."""
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(text(["10.0.0.2:80"]))
    two.write_text(text(["10.0.0.3:80"], "10.96.0.11:80/tcp"))
    with (
        follow(box, tmp_path, str(one)) as first,
        follow(box, tmp_path, str(two), "--owner=other", "--listen=127.0.0.1:9880"),
    ):
        first.wait_ready()
        wait_until(lambda: len(table.services) == 2, "both")
        one.write_text("version: 1\nservices: []\n")
        wait_until(lambda: len(table.services) == 1, "the first one's going")
        assert [s.owner for s in table.services] == ["other"]


def test_a_second_one_of_the_same_name_is_refused(box: Box, tmp_path: Path, table: Node) -> None:
    """Each would take the other's services for stale."""
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(text(["10.0.0.2:80"]))
    two.write_text(text(["10.0.0.3:80"], "10.96.0.11:80/tcp"))
    again = [cli.SCRIPT, "agent", "file", f"--pin={box.pin}", f"--cgroup={box.cgroup}", str(two)]
    with follow(box, tmp_path, str(one)) as first:
        first.wait_ready()
        done = box.run([*again, "--listen=off"], bare=True)
        assert done.returncode == 1
        assert done.stderr == (
            f"hostreach: {box.pin}: pid {first.process.pid} is this instance's agent 'file' "
            "already\n"
        )
        assert len(table.services) == 1
        first.stop(signal.SIGKILL)  # who holds nothing any more
        with follow(box, tmp_path, str(two)) as second:
            second.wait_ready()
            assert [str(s.frontend) for s in table.services] == ["10.96.0.11:80/tcp"]


def test_purge_forgets_one_that_was_killed(box: Box, tmp_path: Path) -> None:
    """Its name and what it checked are in /run, or halfway there."""
    file = tmp_path / "one.yaml"
    file.write_text(text(["10.0.0.2:80"], more="  check: {kind: tcp}\n"))
    with follow(box, tmp_path, str(file)) as agent:
        agent.wait_ready()
        wait_until(lambda: any("checks" in note.name for note in notes(box)), "a check's outcome")
        agent.stop(signal.SIGKILL)
    left = notes(box)
    assert len(left) >= 3
    for note in left:
        if note.suffix == ".json" and ".lock-" not in note.name:
            note.with_name(f"{note.name}.new").write_text("{")
    assert cli.run(box.pin, "detach", "--purge").status == 0
    assert not notes(box)


def test_status_knows_at_once(box: Box, tmp_path: Path) -> None:
    """That it is in step: the note of the beginning is not left for seconds."""
    file = tmp_path / "one.yaml"
    with file.open("w") as writer, follow(box, tmp_path, str(file)) as agent:
        until = None
        while until is None or time.monotonic() < until:  # so long it is not read
            writer.write("# being written\n")
            writer.flush()
            time.sleep(0.05)
            if until is None and "attached to" in agent.log:
                until = time.monotonic() + 1
        assert "not in step yet" in status(box)
        writer.write(text(["10.0.0.2:80"]))
        writer.close()
        agent.wait_ready()
        wait_until(lambda: "not in step" not in status(box), "the note", seconds=2 + 10 * lag())


@pytest.mark.parametrize("purge", [(), ("--purge",)])
def test_detach_tells_of_an_agent(box: Box, tmp_path: Path, purge: tuple[str, ...]) -> None:
    """It goes on, and would bring the programs back; until then doctor says what is missing."""
    file = tmp_path / "one.yaml"
    file.write_text(text(["10.0.0.2:80"]))
    with follow(box, tmp_path, str(file)) as agent:
        wait_until(lambda: "in step" in status(box) and "not in" not in status(box), "its sync")
        said = cli.run(box.pin, "detach", *purge)
        assert said.status == 0
        assert said.stdout.startswith("removed ")
        who = f"hostreach: warning: agent 'file', pid {agent.process.pid}, "
        assert said.stderr.startswith(who + ("ran still" if purge else "still runs"))
        assert said.stderr.count("\n") == 1
        if purge:
            wait_until(lambda: agent.process.poll() == 1, "the agent's end")
        else:
            checks = cli.run(box.pin, "doctor", "--no-probe", "--json").json["checks"]
            (found,) = (each for each in checks if each["name"] == "attachment")
            assert found["state"] == "broken"
            assert f"'file', pid {agent.process.pid}, keeps" in found["text"]
            agent.stop()
        assert not cli.run(box.pin, "detach").stderr


def test_who_did_not_attach_detaches_nothing(box: Box, tmp_path: Path, table: Node) -> None:
    """The port is taken by the agent whose programs these are."""
    with follow(box, tmp_path, str(tmp_path / "one.yaml")) as first:
        wait_until(lambda: "attached to" in first.log, "the programs being attached")
        again = [cli.SCRIPT, "agent", "file", f"--pin={box.pin}", f"--cgroup={box.cgroup}"]
        again += ["--owner=other", "--detach-on-exit", str(tmp_path / "two.yaml")]
        done = box.run(again, bare=True)
        assert "address already in use" in done.stderr
        assert is_attached(table)


def test_the_last_one_detaches(box: Box, tmp_path: Path, table: Node) -> None:
    """Programs serve all agents of an instance."""
    mine, yours = ("--detach-on-exit", str(tmp_path / "one.yaml")), str(tmp_path / "two.yaml")
    with follow(box, tmp_path, yours, "--owner=other", "--listen=off") as other:
        wait_until(lambda: "attached to" in other.log, "the programs being attached")
        with follow(box, tmp_path, *mine) as first:
            first.wait_ready()
            first.stop()
        assert "not detached: agent 'file:other'" in first.log
        assert is_attached(table)
    with follow(box, tmp_path, *mine) as last:
        last.wait_ready()
        last.stop()
    assert " detached: " in last.log
    assert not any(each.attached for each in table.status().programs)


def status(box: Box) -> str:
    return cli.run(box.pin, "status").stdout


def notes(box: Box) -> list[Path]:
    return [*Path(DIRECTORY).glob(f"{Path(path_of(str(box.pin), '')).stem}*")]


def is_attached(table: Node) -> bool:
    programs = table.status().programs
    return bool(programs) and all(each.attached for each in programs)
