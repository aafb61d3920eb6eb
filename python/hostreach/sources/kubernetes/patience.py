# SPDX-License-Identifier: Apache-2.0
"""How long to wait for a server, and longer from one failure to the next."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """Seconds."""

    first: float = 0.5
    longest: float = 30.0
    settled: float = 10.0
    """A watch that went well for so long is forgiven what failed before it."""
    watch: tuple[int, int] = (300, 600)
    """How long the server is asked to let a watch last: between these."""


class Backoff:
    """Doubles from one failure to the next, and is never quite the same for two agents."""

    def __init__(self, patience: Patience, draw: Callable[[], float] = random.random) -> None:
        self._patience = patience
        self._draw = draw
        self._next = patience.first

    def reset(self) -> None:
        self._next = self._patience.first

    def take(self, at_least: float | None = None) -> float:
        """Seconds to wait now; ``at_least`` is what the server asked for."""
        delay = self._next * (0.5 + self._draw() / 2)
        self._next = min(self._next * 2, self._patience.longest)
        if at_least is not None:
            delay = max(delay, min(at_least, 300.0) * (1 + self._draw() / 10))
        return delay
