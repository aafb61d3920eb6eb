# SPDX-License-Identifier: Apache-2.0
"""What the programs do, call by call: `Node.trace`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, final

from .podnames import PodNames, uid_of
from .syntax import parse_frontend

if TYPE_CHECKING:
    from .plain import PlainFrontend

Verdict = Literal["translated", "refused"]
Reason = Literal["no-backend", "not-admitted", "unanswerable"]

VERDICTS: dict[str, tuple[str, ...]] = {
    "translated": ("translated",),
    "refused": ("no-backend", "not-admitted", "unanswerable"),
}
"""What the programs tell apart, by what it comes to for the caller."""
SILENT = 2.0
"""Seconds: who gives no sign for ten (HR_LISTENER_GONE_NS) is told nothing, though he waits."""
MOST = 4096
"""Calls that are taken from the buffer at once."""
NAMES_AGE = 10.0
"""Seconds for which a service's name, or a cgroup's path, is believed."""
NAMES_MAX = 4096
BUFFER = 4 << 20
"""Bytes: some 37,000 calls."""

Plain = tuple[int, int, int, bytes, int, int, str, str, "str | None", str]
"""A call as the compiled module gives it; see `_core.pyi`."""


class Wanted(NamedTuple):
    """Which calls are told of: those that are all of these. None is any."""

    service: str | None = None
    """A frontend."""
    pid: int | None = None
    """A process, as the host counts them."""
    cgroup: str | None = None
    """A cgroup's path: tasks in it or below."""
    verdict: Verdict | None = None


class Traced(NamedTuple):
    """One call that was translated or refused."""

    time: float
    """Seconds since the epoch."""
    pid: int
    """Of the process, as the host counts them."""
    thread: int
    command: str
    """The thread's name, which is the program's unless it took another."""
    cgroup: str | None
    """The calling task's, below the cgroup v2 root; None if it is gone, or was never seen."""
    pod: str | None
    """``namespace/name``, or its uid where the kubelet's logs do not tell."""
    netns: int
    """Cookie of the socket's network namespace."""
    service: str
    """The frontend."""
    name: str | None
    """The service's."""
    asked: str
    """As a frontend; the same unless that is ``node``."""
    backend: str | None
    """None: there was none."""
    verdict: Verdict
    reason: Reason | None
    """Why it was refused: no backend was usable, the client has no address in the source ranges,
    or the socket could not remember, so that answers would show the backend's address."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return self._asdict()


class Ear(Protocol):
    """What `_core.Listener` does."""

    def read(self, timeout_ms: int, most: int) -> list[Plain]:
        """Waits for the first; none after the time or a signal."""

    def lost(self) -> int:
        """Calls that found no room, since it was made."""

    def is_heard(self) -> bool:
        """Whether anything may still come."""


class Table(Protocol):
    """Where calls are heard of."""

    def listen(self, wanted: Wanted, size: int) -> Ear:
        """From now on; raises `NotFound`, `Refused`."""

    def plain_name(self, frontend: PlainFrontend) -> str | None:
        """A service's name, if it is there and has one."""

    def cgroup_path(self, cgroup_id: int) -> str | None:
        """Below the cgroup v2 root; None if it is gone."""


class _Remembered:
    """Answers that are believed for a while."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[float, str | None]] = {}

    def get(self, key: Hashable, ask: Callable[[], str | None]) -> str | None:
        now = time.monotonic()
        if (known := self._known.get(key)) and now - known[0] < NAMES_AGE:
            return known[1]
        if len(self._known) >= NAMES_MAX:
            self._known.clear()
        answer = ask()
        self._known[key] = (now, answer)
        return answer


@final
class Tracer:
    """Calls as they come. `read` until enough, and `close` it: programs then stop telling.

    It is a context manager. Who has not read for ten seconds is told nothing until he does.

    Attributes:
        lost: calls so far that came quicker than they were read.
    """

    def __init__(self, table: Table, wanted: Wanted, size: int = BUFFER) -> None:
        self.lost = 0
        self._table = table
        self._wanted = wanted
        self._size = size
        self._ear: Ear | None = table.listen(wanted, size)
        self._lost_before = 0
        self._pods = PodNames()
        self._names = _Remembered()
        self._cgroups = _Remembered()

    def __enter__(self) -> Tracer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; nothing more is read."""
        self._ear = None

    def read(self, seconds: float) -> list[Traced]:
        """What came since; waits so long for the first.

        Raises `NotFound` if the tables went.
        """
        deadline = time.monotonic() + seconds
        found = self._read(min(seconds, SILENT))
        while not found and self._ear and (left := deadline - time.monotonic()) > 0:
            found = self._read(min(left, SILENT))
        return found

    def _read(self, seconds: float) -> list[Traced]:
        ear = self._ear
        if ear is None:
            return []
        found = ear.read(max(0, math.ceil(seconds * 1000)), MOST)
        self.lost = self._lost_before + ear.lost()
        if not found and not ear.is_heard():
            # Stopped for so long that the place went to another, or the tables are others now.
            self._lost_before = self.lost
            self._ear = self._table.listen(self._wanted, self._size)
        # Anew for each: the clock may have been set.
        offset = time.time_ns() - time.monotonic_ns()
        return [*self._shown(found, offset)]

    def _shown(self, found: list[Plain], offset: int) -> Iterator[Traced]:
        for at, pid, thread, command, cgroup_id, netns, service, asked, backend, verdict in found:
            cgroup = self._cgroup(cgroup_id)
            refused = verdict != "translated"
            yield Traced(
                (at + offset) / 1e9,
                pid,
                thread,
                command.decode("utf-8", "backslashreplace"),
                cgroup,
                self._pod(cgroup),
                netns,
                service,
                self._name(service),
                asked,
                backend,
                "refused" if refused else "translated",
                verdict if refused else None,  # type: ignore[arg-type]
            )

    def _name(self, service: str) -> str | None:
        return self._names.get(service, lambda: self._table.plain_name(parse_frontend(service)))

    def _cgroup(self, cgroup_id: int) -> str | None:
        return self._cgroups.get(
            cgroup_id, lambda: self._table.cgroup_path(cgroup_id) if cgroup_id else None
        )

    def _pod(self, cgroup: str | None) -> str | None:
        uid = cgroup and uid_of(cgroup)
        return self._pods.name(uid) or uid if uid else None
