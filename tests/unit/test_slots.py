# SPDX-License-Identifier: Apache-2.0
"""The rule from weights to slots."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostreach.slots import SLOTS_MAX, slot_counts


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
