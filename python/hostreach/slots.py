# SPDX-License-Identifier: Apache-2.0
"""From weights to slots of the selection table, of which the kernel draws one at random."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

SLOTS_MAX = 4096
"""Slots that one service may take."""


def slot_counts(weights: Sequence[int], limit: int = SLOTS_MAX) -> list[int]:
    """How many slots of the selection table each backend gets, for its weight.

    The rule, which the writer of the kernel's table follows to the slot:

    1. Weight 0 gets no slot. The others are divided by their greatest common divisor; if they then
       sum to at most ``limit``, they are the answer, and exact.
    2. Otherwise ``limit`` slots are shared. Whoever's proportional share, weight * limit / sum, is
       below one slot gets one; all of these are set aside with their slots, and the rest is shared
       anew among the others, until no share is below one.
    3. Each of the others gets its share rounded down, and what is left goes one by one to the
       largest remainders, on a tie to the earlier backend.

    Raises ValueError if there are more weights above 0 than ``limit``.
    """
    counts = [0] * len(weights)
    live = [i for i, weight in enumerate(weights) if weight > 0]
    if not live:
        return counts
    if len(live) > limit:
        raise ValueError(f"{len(live)} backends do not fit in {limit} slots")
    divisor = gcd(*(weights[i] for i in live))
    for i in live:
        counts[i] = weights[i] // divisor
    total = sum(counts)
    if total <= limit:
        return counts

    scaled, left = tuple(counts), limit
    while small := [i for i in live if scaled[i] * left < total]:
        for i in small:
            counts[i] = 1
        left -= len(small)
        total -= sum(scaled[i] for i in small)
        aside = set(small)
        live = [i for i in live if i not in aside]
    for i in live:
        counts[i] = scaled[i] * left // total
    spare = left - sum(counts[i] for i in live)
    for i in sorted(live, key=lambda i: (-(scaled[i] * left % total), i))[:spare]:
        counts[i] += 1
    return counts
