# SPDX-License-Identifier: Apache-2.0
"""How a tracer waits: the programs tell nothing to who gives no sign of life for ten seconds."""

from __future__ import annotations

import pytest

from hostreach.plain import PlainFrontend
from hostreach.tracing import Plain, Tracer, Wanted

GONE = 10.0
CALL: Plain = (0, 7, 7, b"curl", 0, 1, "10.96.0.1:80/tcp", "10.96.0.1:80/tcp", None, "no-backend")


class Listeners:
    """One call comes at a time of a clock that only waiting moves."""

    def __init__(self, call_at: float) -> None:
        self.now = 0.0
        self.call_at = call_at
        self.ears: list[Ear] = []

    def listen(self, wanted: Wanted, size: int) -> Ear:
        assert (wanted, size) == (Wanted(), 4096)
        self.ears.append(Ear(self))
        return self.ears[-1]

    def plain_name(self, frontend: PlainFrontend) -> str | None:
        return None if frontend[1] else "never"

    def cgroup_path(self, cgroup_id: int) -> str | None:
        raise AssertionError(cgroup_id)


class Ear:
    def __init__(self, listeners: Listeners) -> None:
        self.all = listeners
        self.heard = True

    def read(self, timeout_ms: int, most: int) -> list[Plain]:
        assert most > 0
        until = self.all.now + timeout_ms / 1000
        if timeout_ms / 1000 < GONE and self.heard and self.all.call_at <= until:
            self.all.now, self.all.call_at = max(self.all.now, self.all.call_at), float("inf")
            return [CALL]
        self.all.now = until
        return []

    def lost(self) -> int:
        return 0

    def is_heard(self) -> bool:
        return self.heard


@pytest.fixture
def listeners(monkeypatch: pytest.MonkeyPatch) -> Listeners:
    found = Listeners(call_at=15.0)
    monkeypatch.setattr("hostreach.tracing.time.monotonic", lambda: found.now)
    return found


@pytest.mark.parametrize("seconds", [60.0, float("inf")])
def test_waits_for_longer_than_it_may_be_silent(listeners: Listeners, seconds: float) -> None:
    with Tracer(listeners, Wanted(), 4096) as tracer:
        (seen,) = tracer.read(seconds)
        assert (seen.pid, seen.reason, listeners.now) == (7, "no-backend", 15.0)
        assert tracer.read(30.0) == []
        assert listeners.now == pytest.approx(45.0, abs=0.01)
    assert tracer.read(30.0) == []
    assert listeners.now < 46


def test_whose_place_went_to_another_listens_anew(listeners: Listeners) -> None:
    tracer = Tracer(listeners, Wanted(), 4096)
    listeners.ears[0].heard = False
    assert len(tracer.read(60.0)) == 1
    assert len(listeners.ears) == 2
