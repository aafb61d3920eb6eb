# SPDX-License-Identifier: Apache-2.0
"""An agent out of its own services' way: exempt, alone, for as long as it runs."""

from __future__ import annotations

import logging
import os
from contextlib import suppress

from hostreach.errors import HostreachError
from hostreach.exempt import Exemptions

from .place import PlaceAlone

log = logging.getLogger("hostreach.agent")


class Apart:
    """Tasks of this process see no service. Begins with `stand`."""

    def __init__(self, exempt: Exemptions) -> None:
        self._exempt = exempt
        self._place: PlaceAlone | None = None
        self._stands = self._hopeless = False
        self._told = ""

    def stand(self, otherwise: str) -> None:
        """Exempt a cgroup that has this process alone. To be called again and again.

        What stands against it may pass, as tables of an older layout do once programs are
        attached. Until then that is told, once, with what it means ``otherwise``.
        """
        if self._stands or self._hopeless:
            return
        try:
            self._place = self._place or PlaceAlone()
        except OSError as error:
            self._hopeless = True
            self._tell(error, otherwise)
            return
        try:
            self._exempt.add(self._place.path, if_missing=True)
        except HostreachError as error:
            self._tell(error, otherwise)
            return
        if self._told:
            log.info("this process is exempt now")
        self._stands = True
        for left in self._place.abandoned():
            with suppress(HostreachError, OSError):  # somebody else was quicker
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

    def _tell(self, error: Exception, otherwise: str) -> None:
        if str(error) != self._told:
            log.warning("this process cannot be exempt: %s; %s", error, otherwise)
        self._told = str(error)
