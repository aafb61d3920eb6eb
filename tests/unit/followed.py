# SPDX-License-Identifier: Apache-2.0
"""Files that are followed, and how they are written."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

from hostreach.models import Frontend
from hostreach.sources.files import Changes, Files
from hostreach.sources.reader import Entry
from hostreach.sources.watching import Heard


class Followed:
    """Files, and what has become of their services."""

    def __init__(self, *paths: Path) -> None:
        self.files = Files([str(path) for path in paths], "file")
        self.first = self.files.look(Heard(everything=True))
        self.read = 0

    def wait(self, seconds: float = 10) -> Changes:
        """What the next news change; settles what is unsettled, as the agent does."""
        found: Changes = {}
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.files.tree.watching, select.POLLIN)
        while time.monotonic() < deadline and not found:
            heard = Heard()
            if poll.poll(50 if self.files.unsettled else 1000 * (deadline - time.monotonic())):
                time.sleep(0.02)
                heard = self.files.tree.watching.hear()
            if heard or self.files.unsettled:
                found = self.files.look(heard)
                if self.files.problems:
                    break
        return found

    def hears_nothing(self) -> bool:
        """For a moment, in which all would be heard that was done before."""
        time.sleep(0.02)
        return not self.files.look(self.files.tree.watching.hear() or Heard())

    @property
    def frontends(self) -> list[str]:
        return sorted(map(str, self.files.entries))


def text(*numbers: int, backend: str = "10.0.0.2:80") -> str:
    """A file of these services."""
    lines = ["version: 1", "services:" if numbers else "services: []"]
    for number in numbers:
        lines += [f"- frontend: 10.96.0.{number}:80/tcp", f"  backends: [address: '{backend}']"]
    return "\n".join(lines) + "\n"


def write(path: Path, *numbers: int, backend: str = "10.0.0.2:80", age: float = 10) -> None:
    """As nobody writes who is heard of: settled long ago."""
    path.write_text(text(*numbers, backend=backend))
    os.utime(path, times=(time.time() - age,) * 2)


def replace(path: Path, *numbers: int, backend: str = "10.0.0.2:80") -> None:
    """As careful programs do."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text(*numbers, backend=backend))
    new.replace(path)


def at(number: int) -> Frontend:
    return Frontend.parse(f"10.96.0.{number}:80/tcp")


def follow(*paths: Path) -> Followed:
    """Once the files are settled, whatever their times say."""
    found = Followed(*paths)
    while found.files.unsettled:
        time.sleep(0.05)
        found.first.update(found.files.look(Heard()))
    return found


def is_whole(followed: Followed) -> bool:
    return followed.files.whole  # a call: type checkers would take it for constant


def services(changes: Changes) -> dict[int, str | None]:
    """By the address's last number: the first backend, or None for what is gone."""

    def shown(entry: Entry | None) -> str | None:
        return entry and entry.service.backends[0].address

    return {int(str(f).split(".")[3].split(":")[0]): shown(e) for f, e in changes.items()}
