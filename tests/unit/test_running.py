# SPDX-License-Identifier: Apache-2.0
"""What agents leave for `status` and `svc show`, and what those make of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hostreach import running
from hostreach.errors import Refused
from hostreach.running import Checked

PIN = "/sys/fs/bpf/hostreach"
CHECKS = {"a": {"b": Checked(None, "", 0.0)}}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(running, "DIRECTORY", str(tmp_path / "run"))
    return tmp_path / "run"


def gone() -> int:
    """The pid of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-Sc", ""])
    child.wait()
    return child.pid


def test_agents_of_an_instance() -> None:
    running.write(PIN, "kubernetes", time.time() - 5)
    running.write(PIN, "file", None, [f"problem {number}" for number in range(8)])
    running.write("/sys/fs/bpf/other", "file", None)
    file, kubernetes = running.read(PIN)
    assert (file.source, file.synced, file.pid, file.alive) == ("file", None, os.getpid(), True)
    assert file.problems == [*(f"problem {number}" for number in range(5)), "and 3 more"]
    assert kubernetes.synced is not None
    assert 4 < kubernetes.synced < 60
    running.remove(PIN, "file")
    assert [each.source for each in running.read(PIN)] == ["kubernetes"]


def test_agent_that_was_killed(directory: Path) -> None:
    running.write(PIN, "file", None)
    (path,) = directory.iterdir()
    path.write_text(path.read_text().replace(str(os.getpid()), str(gone())))
    assert [each.alive for each in running.read(PIN)] == [False]


def test_nobody_else_writes_them(directory: Path) -> None:
    """Whatever the umask of who started the agent."""
    before = os.umask(0)
    try:
        running.write(PIN, "file", None)
        running.write_checks(PIN, "file", "file", CHECKS)
    finally:
        os.umask(before)
    assert directory.stat().st_mode & 0o777 == 0o755
    assert [each.stat().st_mode & 0o777 for each in directory.iterdir()] == [0o644, 0o644]


def test_another_process_has_its_pid_by_now() -> None:
    """Its lock was given back when it was killed."""
    running.write(PIN, "file", None)
    running.write_checks(PIN, "file", "file", CHECKS)
    Path(running.path_of(PIN, "lock-file")).touch()
    assert [each.alive for each in running.read(PIN)] == [False]
    assert running.read_checks(PIN, "file", "a") == {}


def test_alive_in_another_pid_namespace() -> None:
    with running.alone(PIN, "file"):
        running.write(PIN, "file", None)
        path = Path(running.path_of(PIN, "agent-file"))
        path.write_text(json.dumps({**json.loads(path.read_text()), "pid": gone()}))
        assert [each.alive for each in running.read(PIN)] == [True]
    assert [each.alive for each in running.read(PIN)] == [False]


def test_of_a_running_one_nothing_is_forgotten(directory: Path) -> None:
    with running.alone(PIN, "kubernetes"):
        running.write(PIN, "kubernetes", None)
        Path(running.path_of(PIN, "exempt")).touch()
        before = sorted(directory.iterdir())
        running.forget(PIN)
        assert sorted(directory.iterdir()) == before


@pytest.mark.parametrize(
    ("one", "other"),
    [("/bpf/a-b", "/bpf/a/b"), ("/bpf/a%2Db", "/bpf/a-b"), ("/bpf/a", "/bpf/a.agent-x")],
)
def test_instances_whose_pins_look_alike(one: str, other: str) -> None:
    running.write(one, "file", None)
    running.write(other, "kubernetes", None)
    with running.alone(one, "file"), running.alone(other, "file"):
        assert [each.source for each in running.read(one)] == ["file"]
        assert [each.source for each in running.read(other)] == ["kubernetes"]


def test_what_killed_ones_left_is_forgotten(directory: Path) -> None:
    for source in ("kept", "killed"):
        running.write(PIN, source, None)
        running.write_checks(PIN, source, source, CHECKS)
    for path in directory.glob("*killed*"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "pid": gone()}))
    Path(running.path_of(PIN, "lock-killed")).touch()
    others = running.path_of(f"{PIN}-too", "lock-killed")
    Path(others).touch()
    Path(running.path_of(PIN, "agent-spoilt")).write_text("{")
    Path(running.path_of(PIN, "exempt")).touch()
    with running.alone(PIN, "kept"):
        running.forget(PIN)
        left = {path.name.partition(".")[2] for path in directory.iterdir()}
    assert left == {
        *(f"{what}-kept.json" for what in ("agent", "checks", "lock")),
        "lock-killed.json",
    }
    assert Path(others).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": "x"}', "null"])
def test_what_is_not_as_it_was_written(directory: Path, text: str) -> None:
    running.write(PIN, "file", None)
    running.write_checks(PIN, "file", "file", CHECKS)
    for path in directory.iterdir():
        path.write_text(text)
    assert running.read(PIN) == []
    assert running.read_checks(PIN, "file", "a") == {}


@pytest.mark.parametrize("owner", ["file", "../../etc/x", "50%"])
def test_checks_of_an_owner(directory: Path, owner: str) -> None:
    found = {"10.96.0.1:80/tcp": {"10.0.0.1:80": Checked(False, "connection refused", 7.0)}}
    running.write_checks(PIN, owner, owner, found)
    assert running.read_checks(PIN, owner, "10.96.0.1:80/tcp") == found["10.96.0.1:80/tcp"]
    assert running.read_checks(PIN, owner, "10.96.0.2:80/tcp") == {}
    assert running.read_checks(PIN, "other", "10.96.0.1:80/tcp") == {}
    (path,) = directory.iterdir()  # and nowhere else
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "pid": gone()}))
    assert running.read_checks(PIN, owner, "10.96.0.1:80/tcp") == {}
    running.write_checks(PIN, owner, owner, {})
    assert not [*directory.iterdir()]


def test_one_of_a_name(directory: Path) -> None:
    with running.alone(PIN, "file"), running.alone(PIN, "file:a/b"), running.alone("/x", "file"):
        with pytest.raises(Refused, match=f"pid {os.getpid()} is this instance's agent 'file'"):
            running.alone(PIN, "file").__enter__()
        locks = [path for path in directory.iterdir() if "lock" in path.name]
        assert {path.stat().st_mode & 0o777 for path in locks} == {0o600}  # nobody else's to take
        assert len(locks) == 3
    assert not [*directory.iterdir()]


def test_one_that_ends_is_waited_for() -> None:
    told: list[str] = []
    first = running.alone(PIN, "kubernetes")
    first.__enter__()

    def waits(who: str) -> None:
        told.append(who)
        first.__exit__(None, None, None)

    with running.alone(PIN, "kubernetes", 30, waits):
        assert told == [f"pid {os.getpid()}"]
        began = time.monotonic()
        with pytest.raises(Refused, match="already"):
            running.alone(PIN, "kubernetes", 0.3).__enter__()
        assert time.monotonic() - began > 0.29


def test_one_that_was_killed_leaves_its_name(directory: Path) -> None:
    left = Path(running.path_of(PIN, "lock-file"))
    directory.mkdir(exist_ok=True)
    left.write_text("1234567890123")
    with (
        running.alone(PIN, "file"),
        pytest.raises(Refused, match=f"pid {os.getpid()} is"),
    ):
        running.alone(PIN, "file").__enter__()
    assert not left.exists()


def test_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "DIRECTORY", "/proc/no/such")
    running.write(PIN, "file", None)
    running.remove(PIN, "file")
    with running.alone(PIN, "file"):
        assert running.read(PIN) == []


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_jumped(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    """Until the agent's next word an age is wrong, but never below nothing."""
    running.write(PIN, "file", time.time() - 1)
    now = time.time
    monkeypatch.setattr("hostreach.running.time.time", lambda: now() + jump)
    (found,) = running.read(PIN)
    assert found.synced is not None
    assert found.synced == pytest.approx(max(0.0, jump + 1), abs=1)
    running.write(PIN, "file", now() + jump - 1)
    (found,) = running.read(PIN)
    assert found.synced == pytest.approx(1, abs=1)
