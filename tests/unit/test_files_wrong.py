# SPDX-License-Identifier: Apache-2.0
"""Files that are followed and are wrong, or have what others have."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hostreach.sources.files import Changes

from .followed import Followed, at, follow, is_whole, replace, services, text, write


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("version: 1\nservices:\n- frontend: nonsense\n", "a.yaml:3: 'nonsense' has no protocol"),
        ("", "a.yaml: is empty"),
        ("version: 2\nservices: []\n", "a.yaml:1: version must be 1"),
        ("version: 1\nservices:\n- {frontend: 'node:1/tcp', owner: me}\n", "a.yaml:3: owner 'me'"),
    ],
)
def test_a_wrong_file_keeps_what_was_right(
    directory: Path, followed: Followed, said: str, problem: str
) -> None:
    (directory / "a.yaml").write_text(said)
    assert not followed.wait()
    assert problem in followed.files.problems[0]
    assert len(followed.files.entries) == 3
    (directory / "b.yaml").write_text(text(7))  # others go on
    deadline = time.monotonic() + 10
    while at(7) not in followed.files.entries and time.monotonic() < deadline:
        followed.files.look(followed.files.tree.watching.hear())
    assert at(1) in followed.files.entries
    replace(directory / "a.yaml", 1)
    found: Changes = {}
    while not found and time.monotonic() < deadline:
        found = followed.files.look(followed.files.tree.watching.hear())
    assert services(found) == {2: None}
    assert not followed.files.problems


def test_wrong_from_the_beginning(directory: Path) -> None:
    """Who starts beside a wrong file does not know what it said before."""
    write(directory / "a.yaml", 1)
    (directory / "b.yaml").write_text("nonsense")
    os.utime(directory / "b.yaml", times=(1, 1))
    followed = follow(directory)
    assert followed.frontends == ["10.96.0.1:80/tcp"]
    assert not is_whole(followed)
    (directory / "b.yaml").unlink()
    followed.wait(0.2)
    assert is_whole(followed)
    followed.files.close()


def test_what_is_no_regular_file(directory: Path, followed: Followed) -> None:
    os.mkfifo(directory / "c.yaml")  # opening it would wait for ever
    followed.wait()
    assert followed.files.problems == [f"{directory}/c.yaml: is no regular file"]


def test_one_service_in_two_files(directory: Path, followed: Followed) -> None:
    """Who had it first keeps it, until it lets go."""
    (directory / "0.yaml").write_text(text(1, 8, backend="10.0.0.8:80"))
    assert not followed.wait()
    (problem,) = followed.files.problems
    assert problem == f"{directory}/0.yaml: 10.96.0.1:80/tcp is in {directory}/a.yaml too"
    assert at(8) not in followed.files.entries
    (directory / "a.yaml").write_text(text(2))
    deadline = time.monotonic() + 10
    found: Changes = {}
    while not found and time.monotonic() < deadline:
        found = followed.files.look(followed.files.tree.watching.hear())
    assert services(found) == {1: "10.0.0.8:80", 8: "10.0.0.8:80"}
    assert not followed.files.problems


def test_two_new_files_with_one_service(directory: Path) -> None:
    """The first by name has it: it must not depend on the order of anything."""
    for name in ("b.yaml", "a.yaml", "c.yaml"):
        write(directory / name, 1, backend=f"10.0.0.{ord(name[0])}:80")
    followed = follow(directory)
    assert services(followed.first) == {1: "10.0.0.97:80"}
    assert len(followed.files.problems) == 2
    followed.files.close()


def test_services_change_places(directory: Path, followed: Followed) -> None:
    """Each takes what the other gives up."""
    for name, numbers in (("a.yaml", (3,)), ("b.yaml", (1, 2))):
        replace(directory / name, *numbers)
    assert followed.hears_nothing()
    assert not followed.files.problems
    assert len(followed.files.entries) == 3
