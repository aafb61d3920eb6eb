# SPDX-License-Identifier: Apache-2.0
"""Totals that do not fall when a service goes, and its counts with it. No I/O here."""

from __future__ import annotations

import threading


class Rising:
    """What is counted of all services, for Prometheus: to that a counter that falls began anew, and
    all that is left of it would count once more.

    Attributes:
        lock: to be held from before the counts are read until `total` knows them.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()  # each that asks has a thread of its own
        self._latest: dict[str, int] = {}
        self._gone: dict[str, int] = {}

    def total(self, name: str, count: int) -> int:
        """Of what is counted now, and of what went since the first look."""
        fell = self._latest.get(name, 0) - count
        self._gone[name] = self._gone.get(name, 0) + max(0, fell)
        self._latest[name] = count
        return count + self._gone[name]
