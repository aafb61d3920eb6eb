# SPDX-License-Identifier: Apache-2.0
"""Totals for Prometheus, where what was counted of a service goes with it."""

from __future__ import annotations

from hostreach.agent.rising import Rising


def test_a_total_does_not_fall() -> None:
    rising = Rising()
    counts = (1000, 1010, 400, 405, 0, 7)
    told = [rising.total("translations", count) for count in counts]
    assert told == [1000, 1010, 1010, 1015, 1015, 1022]
    assert rising.total("refusals", 3) == 3
