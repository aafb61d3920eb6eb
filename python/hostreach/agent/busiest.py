# SPDX-License-Identifier: Apache-2.0
"""Which frontends have metrics of their own, of more than there is to be room for. No I/O here."""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Sequence

REMEMBERED = 3600.0
"""Seconds: what was counted so long ago weighs little more than a third of what is counted now."""


class Busiest:
    """The ``most`` that are used most, and mostly the same ones, for series that come and go tell
    little.

    Attributes:
        shown: those that were chosen last, in the order that they were given in.
        due: when they are to be chosen again, as who calls `choose` knows.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.shown: tuple[str, ...] = ()
        self.due = 0.0
        self._at = 0.0
        self._seen: dict[str, tuple[int, float]] = {}  # what was counted, and how much that weighs
        self._lock = threading.Lock()  # each that asks has a thread of its own

    def choose(self, frontends: Sequence[str], counts: Sequence[int], now: float) -> None:
        """Out of all; ``counts`` of each only rise, ``now`` are seconds since the node booted.

        First come those among the first half, then those that were chosen before and are among
        twice as many, then the next. What is not used at all has the order that it is given in.
        """
        with self._lock:
            weights = self._weigh(frontends, counts, now)
            near = heapq.nlargest(2 * self.most, range(len(weights)), key=weights.__getitem__)
            shown = {*self.shown}
            first, others = near[: self.most // 2], near[self.most // 2 :]
            stay = [i for i in others if frontends[i] in shown]
            come = [i for i in others if frontends[i] not in shown]
            chosen = sorted([*first, *stay, *come][: self.most])
            self.shown = tuple(frontends[i] for i in chosen)

    def _weigh(self, frontends: Sequence[str], counts: Sequence[int], now: float) -> list[float]:
        """What rose since the last look counts whole, what was known by then less and less."""
        # Of what was there at the first look nobody knows when it came: evenly since the boot, say.
        fresh = 1.0 if self._at else min(1.0, REMEMBERED / max(now, 1.0))
        faded = math.exp(min(0.0, self._at - now) / REMEMBERED)
        self._at = now
        before, self._seen = self._seen, {}
        weights = []
        for frontend, count in zip(frontends, counts, strict=True):
            weight = 0.0
            if count:
                known, weighs = before.get(frontend, (0, 0.0))
                rose = count - known if count >= known else count  # it was added anew
                weight = weighs * faded + rose * fresh
                self._seen[frontend] = count, weight
            weights.append(weight)
        return weights
