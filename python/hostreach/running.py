# SPDX-License-Identifier: Apache-2.0
"""The file by which `hostreach status` knows that an agent runs, and how fresh its tables are.

It says nothing that the tables need: without it, all that is missing is a line of `status`.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import NamedTuple

DIRECTORY = "/run/hostreach"


class Running(NamedTuple):
    """An agent of an instance, as it last said."""

    source: str
    pid: int
    alive: bool
    synced: float | None
    """Seconds since the tables were last known to be in step; None: they were not yet."""


def path_of(pin: str) -> str:
    """One for each instance."""
    return f"{DIRECTORY}/{pin.strip('/').replace('/', '-')}.json"


def write(pin: str, source: str, synced_at: float | None) -> None:
    """``synced_at`` is by time.time(). Where /run cannot be written, it is not."""
    path = path_of(pin)
    with suppress(OSError):
        os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)  # noqa: PTH103 - as quick as can be
        with open(f"{path}.new", "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump({"source": source, "pid": os.getpid(), "synced_at": synced_at}, file)
        os.replace(f"{path}.new", path)  # noqa: PTH105


def remove(pin: str) -> None:
    """The agent ends."""
    with suppress(OSError):
        os.unlink(path_of(pin))  # noqa: PTH108


def read(pin: str) -> Running | None:
    """None if no agent said anything here."""
    try:
        with open(path_of(pin), encoding="utf-8") as file:  # noqa: PTH123
            said = json.load(file)
        pid, synced_at = int(said["pid"]), said["synced_at"]
        age = None if synced_at is None else max(0.0, time.time() - float(synced_at))
        return Running(str(said["source"]), pid, _is_alive(pid), age)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
