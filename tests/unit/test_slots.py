# SPDX-License-Identifier: Apache-2.0
"""The rule from weights to slots."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostreach.slots import (
    MAGLEV_SIZES,
    SLOTS_MAX,
    candidate_weights,
    maglev_counts,
    maglev_size,
    service_slots,
    slot_counts,
)


@dataclass
class Backend:
    weight: int
    state: str = "active"
    family: int = 4


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        pytest.param([], [], id="none"),
        pytest.param([0, 0], [0, 0], id="all zero"),
        pytest.param([7], [1], id="one"),
        pytest.param([1, 1, 1], [1, 1, 1], id="equal"),
        pytest.param([1000, 0, 3000], [1, 0, 3], id="divided by the gcd"),
        pytest.param([4095, 1], [4095, 1], id="exactly full"),
        pytest.param([65535, 1], [4095, 1], id="at least one slot"),
        pytest.param([4097, 4097, 4096], [1366, 1365, 1365], id="tie to the earlier"),
        pytest.param([65535] + [1] * 4095, [1] * 4096, id="no slot to spare"),
        pytest.param([65535, 65534, 1, 1], [2047, 2047, 1, 1], id="set aside, then shared"),
    ],
)
def test_counts(weights: list[int], expected: list[int]) -> None:
    assert slot_counts(weights) == expected


@given(st.lists(st.integers(0, 65535), max_size=60), st.integers(60, 300))
def test_counts_are_fair(weights: list[int], limit: int) -> None:
    counts = slot_counts(weights, limit)
    assert [bool(count) for count in counts] == [bool(weight) for weight in weights]
    assert sum(counts) <= limit
    total = sum(weights)
    if total and total // gcd(*weights) <= limit:
        assert all(c * total == w * sum(counts) for c, w in zip(counts, weights, strict=True))
    elif total:
        assert sum(counts) == limit
        for count, weight in zip(counts, weights, strict=True):
            # Nobody above one slot gets more than its share rounded up.
            assert count <= 1 or count < Fraction(weight * limit, total) + 1


@given(st.lists(st.integers(1, 65535), min_size=2, max_size=60))
def test_more_weight_is_never_fewer_slots(weights: list[int]) -> None:
    counts = slot_counts(weights)
    ranked = sorted(zip(weights, counts, strict=True))
    for (lighter, few), (heavier, more) in pairwise(ranked):
        assert few <= more or lighter == heavier


def test_too_many() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        slot_counts([1] * (SLOTS_MAX + 1))


@pytest.mark.parametrize(
    ("backends", "expected"),
    [
        pytest.param([], [], id="none"),
        pytest.param([(1, "active"), (2, "active")], [1, 2], id="active"),
        pytest.param([(1, "active"), (2, "draining")], [1, 0], id="draining stands back"),
        pytest.param([(1, "down"), (2, "draining")], [0, 2], id="draining rather than refuse"),
        pytest.param([(0, "active"), (2, "draining")], [0, 2], id="active without weight"),
        pytest.param([(0, "active"), (0, "draining")], [0, 0], id="nothing of weight"),
        pytest.param([(1, "down"), (2, "down")], [0, 0], id="all down"),
    ],
)
def test_candidates(backends: list[tuple[int, str]], expected: list[int]) -> None:
    assert candidate_weights([Backend(*backend) for backend in backends]) == expected


def test_each_family_is_a_selection_of_its_own() -> None:
    backends = [
        Backend(2),
        Backend(1, "draining", 6),
        Backend(4),
        Backend(1, "down", 6),
        Backend(9, "draining"),
        Backend(3, "draining", 6),
    ]
    assert service_slots(backends, "random") == [1, 1, 2, 0, 0, 3]
    assert service_slots(backends, "least-conn") == [1, 1, 2, 0, 0, 3]
    slots = service_slots(backends, "maglev")
    assert [bool(count) for count in slots] == [True, True, True, False, False, True]
    assert slots[0] + slots[2] == slots[1] + slots[5] == maglev_size(2)


@pytest.mark.parametrize(
    ("backends", "size"),
    [
        (0, 0),
        (1, 101),
        (2, 251),
        (3, 509),
        (5, 509),
        (6, 1021),
        (20, 2039),
        (21, 4093),
        (4093, 4093),
    ],
)
def test_maglev_size(backends: int, size: int) -> None:
    assert maglev_size(backends) == size


def test_maglev_sizes_are_primes() -> None:
    for size in MAGLEV_SIZES:
        assert all(size % divisor for divisor in range(2, size))
        assert size <= SLOTS_MAX


@given(st.lists(st.integers(0, 65535), max_size=200))
def test_maglev_counts(weights: list[int]) -> None:
    counts = maglev_counts(weights)
    assert [bool(count) for count in counts] == [bool(weight) for weight in weights]
    assert sum(counts) == maglev_size(sum(weight > 0 for weight in weights))


def test_maglev_takes_no_more() -> None:
    assert maglev_counts([1] * 4093) == [1] * 4093
    with pytest.raises(ValueError, match="do not fit"):
        maglev_counts([1] * 4094)
