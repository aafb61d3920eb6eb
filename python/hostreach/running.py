# SPDX-License-Identifier: Apache-2.0
"""The files by which `hostreach status` knows which agents run, and how fresh the tables are.

They say nothing that the tables need: without them, all that is missing is a line of `status`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from typing import Any, NamedTuple

from .errors import Refused

DIRECTORY = "/run/hostreach"
EXEMPT = "exempt"
"""What the Kubernetes agent notes of cgroups that it made exempt."""
PROBLEMS_MAX = 5
KUBERNETES = "kubernetes"
_NEW = ".new"
_A_LOOK = 0.5
"""Seconds that whoever looks at a lock surely has it for no longer than."""


class Running(NamedTuple):
    """An agent of an instance, as it last said."""

    source: str
    pid: int
    alive: bool
    synced: float | None
    """Seconds since the tables were last known to be in step; None: they were not yet."""
    problems: list[str]
    """What of its source it could not use: the first few, and how many more."""


def path_of(pin: str, what: str) -> str:
    """Where something is noted of an instance, and of no other."""
    return f"{DIRECTORY}/{_stem(pin)}.{what}.json"


def _stem(pin: str) -> str:
    return pin.strip("/").replace("%", "%25").replace("-", "%2D").replace("/", "-")


def write(pin: str, source: str, synced_at: float | None, problems: Sequence[str] = ()) -> None:
    """``synced_at`` is by time.time(). Where /run cannot be written, it is not."""
    shown = [*problems[:PROBLEMS_MAX]]
    if len(problems) > PROBLEMS_MAX:
        shown.append(f"and {len(problems) - PROBLEMS_MAX} more")
    write_json(
        path_of(pin, f"agent-{_as_name(source)}"),
        {"source": source, "pid": os.getpid(), "synced_at": synced_at, "problems": shown},
    )


@contextmanager
def alone(
    pin: str, source: str, seconds: float = 0.0, waits: Callable[[str], None] | None = None
) -> Iterator[None]:
    """For as long as the block no other agent of that name keeps the instance.

    Two would take each other's services for stale. Raises `Refused` if there is one that does not
    end within so many seconds, half of one at least; ``waits`` is told who is waited for. Where
    /run cannot be written, nobody knows.
    """
    path = _lock_path(pin, source)
    deadline = time.monotonic() + max(seconds, _A_LOOK)
    while (held := _lock(path)) == _TAKEN:
        who = _holder(path)
        if time.monotonic() >= deadline:
            raise Refused(f"{who} is this instance's agent '{source}' already", object=pin)
        if waits is not None:
            waits(who)
            waits = None
        time.sleep(0.1)
    try:
        if held is not None:
            with suppress(OSError):  # a full disk: then it has no name
                os.ftruncate(held, 0)  # a killed one's name
                os.pwrite(held, str(os.getpid()).encode(), 0)
        yield
    finally:
        if held is not None:
            _unlink(path)
            os.close(held)


def _holder(path: str) -> str:
    """Who took it says so inside."""
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123
            return f"pid {int(file.read())}"
    except (OSError, ValueError):  # it is just being taken, or given back
        return "another process"


_TAKEN = -1


def _lock(path: str) -> int | None:
    """The descriptor that holds it, `_TAKEN`, or None where it cannot be had at all."""
    while True:
        try:
            os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)  # noqa: PTH103
            # Not for others to open: who can open it can lock it.
            held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return None
        try:
            flock(held, LOCK_EX | LOCK_NB)
            if os.fstat(held).st_ino == os.stat(path).st_ino:  # noqa: PTH116
                return held
        except BlockingIOError:
            os.close(held)
            return _TAKEN
        except FileNotFoundError:
            pass
        os.close(held)  # its holder ended, and took the name away


class Checked(NamedTuple):
    """What an agent last found of a backend. It is in the table already, as a state."""

    passes: bool | None
    """None: nothing yet, and it counts as passing."""
    why: str
    """What the last check that failed found."""
    since: float
    """When it last changed, by time.time(); 0 is never."""


def write_checks(
    pin: str, owner: str, source: str, found: Mapping[str, Mapping[str, Checked]]
) -> None:
    """Of an owner's services: by frontend and backend, those that this agent checks."""
    path = _checks_path(pin, owner)
    if found:
        write_json(path, {"source": source, "pid": os.getpid(), "services": found})
    else:
        _unlink(path)


def read_checks(pin: str, owner: str, frontend: str) -> dict[str, Checked]:
    """By backend; empty if nobody checks that service now."""
    try:
        said = _load(_checks_path(pin, owner))
        if not _is_alive(pin, said):
            return {}
        return {
            backend: Checked(*each) for backend, each in said["services"].get(frontend, {}).items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _lock_path(pin: str, source: str) -> str:
    return path_of(pin, f"lock-{_as_name(source)}")


def _checks_path(pin: str, owner: str) -> str:
    return path_of(pin, f"checks-{_as_name(owner)}")


def _as_name(text: str) -> str:
    return text.replace("%", "%25").replace("/", "%2F")


def write_json(path: str, value: object) -> None:
    """Whoever reads it finds all of it, or all that was there before."""
    with suppress(OSError):
        os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)  # noqa: PTH103 - as quick as can be
        with open(f"{path}{_NEW}", "w", encoding="utf-8", opener=open_ours) as file:
            json.dump(value, file)
        os.replace(f"{path}{_NEW}", path)  # noqa: PTH105


def open_ours(path: str, flags: int) -> int:
    """For open(): nobody else is to write there, whatever the umask, for it is believed."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


def remove(pin: str, source: str) -> None:
    """The agent ends."""
    _unlink(path_of(pin, f"agent-{_as_name(source)}"))


def read(pin: str) -> list[Running]:
    """Those agents that said anything here, by their sources' names."""
    found = (_read(pin, path) for path in _noted(pin, "agent-"))
    return [each for each in found if each is not None]


def alive(pin: str) -> list[Running]:
    """Those of them that run."""
    return [each for each in read(pin) if each.alive]


def forget(pin: str) -> None:
    """What killed agents left of an instance goes, and what nobody can read; the rest stays."""
    for path in (*_noted(pin, "agent-"), *_noted(pin, "checks-")):
        alive = False
        with suppress(OSError, ValueError, KeyError, TypeError):
            alive = _is_alive(pin, _load(path))
        if not alive:
            _unlink(path)
    # of who was killed while he wrote it; who lives writes it again
    for path in (*_noted(pin, "agent-", f".json{_NEW}"), *_noted(pin, "checks-", f".json{_NEW}")):
        _unlink(path)
    for path in _noted(pin, "lock-"):
        if (held := _lock(path)) is not None and held != _TAKEN:
            _unlink(path)
            os.close(held)
    for path in _noted(pin, EXEMPT):
        with suppress(Refused), alone(pin, KUBERNETES):
            _unlink(path)


def _noted(pin: str, what: str, ending: str = ".json") -> list[str]:
    prefix = f"{_stem(pin)}.{what}"
    try:
        names = sorted(os.listdir(DIRECTORY))  # noqa: PTH208
    except OSError:
        return []
    found = (name for name in names if name.startswith(prefix) and name.endswith(ending))
    return [f"{DIRECTORY}/{name}" for name in found]


def _read(pin: str, path: str) -> Running | None:
    try:
        said = _load(path)
        source, pid, synced_at = str(said["source"]), int(said["pid"]), said["synced_at"]
        age = None if synced_at is None else max(0.0, time.time() - float(synced_at))
        problems = [str(each) for each in said["problems"]]
        return Running(source, pid, _is_alive(pin, said), age, problems)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _load(path: str) -> Any:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        return json.load(file)


def _unlink(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)  # noqa: PTH108


def _is_alive(pin: str, said: Any) -> bool:
    """Is there still the agent that wrote that?

    Its lock says so, whatever its pid namespace and whoever has its pid by now; where that cannot
    be looked at, the pid has to do.
    """
    try:
        lock = _lock_path(pin, str(said["source"]))
        looked = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return _is_running(int(said["pid"]))
    try:
        flock(looked, LOCK_SH | LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(looked)
    return False


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
