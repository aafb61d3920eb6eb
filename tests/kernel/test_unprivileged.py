# SPDX-License-Identifier: Apache-2.0
"""A user without privileges cannot read, change or block anything of an instance."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hostreach.running import alone, path_of

from .harness import Box, cli, rawbpf
from .harness.cli import as_nobody, one_line

if TYPE_CHECKING:
    from hostreach.node import Node

NOBODY = 65534


def refused(box: Box, *attempts: Callable[[], object]) -> None:
    """By a process of the user nobody, each ends with EACCES or EPERM."""

    def attempt() -> list[str]:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return [outcome_of(each) for each in attempts]

    assert {*box.call(attempt, bare=True)} <= {"EACCES", "EPERM"}


def outcome_of(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "it could"


def lock(path: Path) -> None:
    held = os.open(path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_pin_directory(box: Box, node: Node) -> None:
    """To lock it one has to open it."""
    assert box.pin.stat().st_mode & 0o777 == 0o700
    assert (box.pin / "links").stat().st_mode & 0o777 == 0o700
    pins = [path for path in box.pin.rglob("*") if path.is_file()]
    assert len(pins) > 20
    assert node.status().cgroup
    refused(
        box,
        lambda: [*box.pin.iterdir()],
        lambda: lock(box.pin),
        lambda: (box.pin / "x").mkdir(),
        lambda: box.pin.rename(f"{box.pin}-x"),
        lambda: box.pin.rmdir(),
        *(lambda path=path: path.unlink() for path in pins),
        *(lambda path=path: rawbpf.pinned(path) for path in pins),
        *(lambda path=path: lock(path) for path in pins),
    )


def test_a_pin_directory_that_somebody_made_before(box: Box) -> None:
    """By mkdir, so that everybody may open it; or everybody may write to it: then it is refused."""
    box.pin.mkdir(mode=0o755)
    assert cli.run(box.pin, "svc", "add", "10.96.0.1:80/tcp").status == 0
    refused(box, lambda: lock(box.pin))
    for mode in (0o770, 0o707):
        box.pin.chmod(mode)
        one_line(cli.run(box.pin, "status"), 1, "others may write to it")


def test_the_lock_of_an_agent(box: Box) -> None:
    """Who could open it could keep the agent from starting."""
    with alone(str(box.pin), "file"):
        path = Path(path_of(str(box.pin), "lock-file"))
        assert path.stat().st_mode & 0o777 == 0o600
        refused(
            box,
            lambda: lock(path),
            lambda: path.unlink(),
            lambda: path.write_text("1"),
            lambda: Path(path_of(str(box.pin), "agent-file")).write_text("{}"),
        )


@pytest.mark.parametrize(
    "arguments",
    [
        *(("status",), ("svc", "ls"), ("svc", "show", "10.96.0.1:80/tcp"), ("export",)),
        *(("svc", "rm", "10.96.0.1:80/tcp"), ("exempt", "ls"), ("detach", "--purge")),
        *(("backend", "rm", "10.96.0.1:80/tcp", "10.0.0.2:80"), ("trace", "--duration", "1s")),
        *(("top", "--once"), ("explain", "10.96.0.1:80/tcp")),
    ],
    ids=" ".join,
)
def test_commands(box: Box, node: Node, arguments: tuple[str, ...]) -> None:
    added = cli.run(box.pin, "svc", "add", "10.96.0.1:80/tcp", "--backend", "10.0.0.2:80")
    assert added.status == 0
    one_line(box.call(as_nobody, box.pin, *arguments), 1, str(box.pin))
    assert len(node.services.get("10.96.0.1:80/tcp").backends) == 1
