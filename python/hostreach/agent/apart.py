# SPDX-License-Identifier: Apache-2.0
"""An agent out of its own services' way: exempt, alone, for as long as it runs."""

from __future__ import annotations

import logging
import os

from hostreach.errors import HostreachError
from hostreach.exempt import Exemptions

from .place import PlaceAlone

log = logging.getLogger("hostreach.agent")


class Apart:
    """Tasks of this process see no service. Begins with `stand`."""

    def __init__(self, exempt: Exemptions) -> None:
        self._exempt = exempt
        self._place: PlaceAlone | None = None

    def stand(self) -> None:
        """Exempt a cgroup that has this process alone; again is nothing.

        Raises HostreachError or OSError; then it is not exempt.
        """
        if self._place is not None:
            return
        self._place = PlaceAlone()
        self._exempt.add(self._place.path, if_missing=True)
        for left in self._place.abandoned():
            self._exempt.remove(left, if_exists=True)
            os.rmdir(left)  # noqa: PTH106 - of a cgroup, whose files are the kernel's

    def end(self) -> None:
        """As it was before."""
        if self._place is None:
            return
        try:
            self._exempt.remove(self._place.path, if_exists=True)
        except HostreachError as error:
            log.error("%s stays exempt: %s", self._place.path, error)
        self._place.leave()
