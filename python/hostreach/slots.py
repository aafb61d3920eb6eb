# SPDX-License-Identifier: Apache-2.0
"""From backends to slots of the selection table, of which the kernel draws one."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Protocol

SLOTS_MAX = 4096
"""Slots that one service may take for one family."""

MAGLEV_SIZES = (101, 251, 509, 1021, 2039, 4093)
"""Maglev needs primes. They are few, so that adding a backend seldom changes the size."""
MAGLEV_SLOTS_EACH = 100
"""Slots for each backend at which their shares are within 1 % of each other."""


class Member(Protocol):
    """What a backend's slots depend on."""

    @property
    def weight(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def family(self) -> int: ...


def candidate_weights(members: Sequence[Member]) -> list[int]:
    """The weight of each that new connections may go to, and 0 for the others.

    Those are the active ones. Where no active one has a weight above 0 it is the draining ones:
    Kubernetes too sends to terminating endpoints that still serve rather than refuse.
    """
    weights: list[int] = []
    for state in ("active", "draining"):
        weights = [member.weight if member.state == state else 0 for member in members]
        if any(weights):
            break
    return weights


def service_slots(members: Sequence[Member], algorithm: str) -> list[int]:
    """How many slots each backend of a service gets.

    Each family is a selection of its own: a frontend that takes both gives a client one of the
    client's family.
    """
    rule = maglev_counts if algorithm == "maglev" else slot_counts
    slots = [0] * len(members)
    for family in (4, 6):
        indexes = [i for i, member in enumerate(members) if member.family == family]
        counts = rule(candidate_weights([members[i] for i in indexes]))
        for i, count in zip(indexes, counts, strict=True):
            slots[i] = count
    return slots


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
    live = [weight for weight in weights if weight > 0]
    if not live:
        return [0] * len(weights)
    divisor = gcd(*live)
    total = sum(live) // divisor
    if total <= limit:
        return [weight // divisor for weight in weights]
    return _shared(weights, limit)


def maglev_size(backends: int) -> int:
    """Slots of a Maglev table for that many backends of weight above 0."""
    if not backends:
        return 0
    fitting = (size for size in MAGLEV_SIZES if size >= MAGLEV_SLOTS_EACH * backends)
    return next(fitting, MAGLEV_SIZES[-1])


def maglev_counts(weights: Sequence[int]) -> list[int]:
    """How many slots each backend gets of a Maglev table, to within what its permutations do.

    Raises ValueError if there are more weights above 0 than slots.
    """
    size = maglev_size(sum(weight > 0 for weight in weights))
    return _shared(weights, size) if size else [0] * len(weights)


def _shared(weights: Sequence[int], slots: int) -> list[int]:
    """All ``slots``, shared by the second and third rule of `slot_counts`."""
    counts = [0] * len(weights)
    live = [i for i, weight in enumerate(weights) if weight > 0]
    if len(live) > slots:
        raise ValueError(f"{len(live)} backends do not fit in {slots} slots")
    left, total = slots, sum(weights)
    while small := [i for i in live if weights[i] * left < total]:
        for i in small:
            counts[i] = 1
        left -= len(small)
        total -= sum(weights[i] for i in small)
        aside = set(small)
        live = [i for i in live if i not in aside]
    for i in live:
        counts[i] = weights[i] * left // total
    spare = left - sum(counts[i] for i in live)
    for i in sorted(live, key=lambda i: (-(weights[i] * left % total), i))[:spare]:
        counts[i] += 1
    return counts
