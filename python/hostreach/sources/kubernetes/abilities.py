# SPDX-License-Identifier: Apache-2.0
"""What an API server is asked for, until it shows that it cannot."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

HOUR = 3600.0
"""Seconds after which it is asked for what it could not do: one is upgraded after the other."""
AWAY = 30.0
"""Seconds without any answer after which it may be another one."""


class Abilities:
    """Of a server, for one kind of object.

    Attributes:
        streams: lists that are streamed (WatchList).
        whole: lists in one answer that is not too large.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.streams = True
        self.whole = True
        self._clock = clock
        self._again_at = math.inf
        self._away_since: float | None = None

    def lacks_streams(self) -> None:
        """It said so."""
        self.streams = False
        self._again_at = self._clock() + HOUR

    def lacks_whole(self) -> None:
        """It sent more than can be taken at once."""
        self.whole = False
        self._again_at = self._clock() + HOUR

    def renew(self) -> None:
        """A list is about to be asked for: what was long ago is forgotten."""
        if self._clock() >= self._again_at:
            self.streams = self.whole = True
            self._again_at = math.inf

    def failed(self) -> None:
        """It did not answer, or not what was asked for."""
        if self._away_since is None:
            self._away_since = self._clock()

    def answered(self) -> None:
        """It is there, for the first time or again."""
        if self._away_since is not None and self._clock() - self._away_since >= AWAY:
            self._again_at = self._clock()
        self._away_since = None
