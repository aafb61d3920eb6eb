# SPDX-License-Identifier: Apache-2.0
"""An agent out of its own services' way: exempt, alone, for as long as it runs."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress

from hostreach.errors import HostreachError
from hostreach.exempt import Exemptions

from .place import PlaceAlone

log = logging.getLogger("hostreach.agent")

AGAIN = 5.0
"""Seconds after which what failed is tried again."""


class Apart:
    """Tasks of this process see no service. Begins with `stand`."""

    def __init__(self, exempt: Exemptions) -> None:
        self._exempt = exempt
        self._place: PlaceAlone | None = None
        self._stands = self._hopeless = False
        self._told: type[Exception] | None = None
        self._due = 0.0

    def stand(self, otherwise: str, *, at_once: bool = False) -> None:
        """Exempt a cgroup that has this process alone. To be called again and again.

        What stands against it may pass, as tables of an older layout or a cgroup v2 that is not
        mounted do once programs are attached; ``at_once`` says that it may have. Until then that is
        told, once, with what it means ``otherwise``.
        """
        now = time.monotonic()
        if self._stands or self._hopeless or (now < self._due and not at_once):
            return
        self._due = now + AGAIN
        try:
            self._place = self._place or PlaceAlone()
            self._exempt.add(self._place.path, if_missing=True)
        except OSError as error:
            self._hopeless = True
            self._tell(error, otherwise)
            return
        except HostreachError as error:
            self._tell(error, otherwise)
            return
        if self._told is not None:
            log.info("this process is exempt now")
        self._stands = True
        with suppress(OSError):
            for left in self._place.abandoned():
                with suppress(HostreachError, OSError):  # somebody else was quicker
                    self._exempt.remove(left, if_exists=True)
                    os.rmdir(left)  # noqa: PTH106 - of a cgroup, whose files are the kernel's

    def end(self) -> None:
        """As it was before."""
        if self._place is None:
            return
        if self._stands:
            try:
                self._exempt.remove(self._place.path, if_exists=True)
            except HostreachError as error:
                log.error("%s stays exempt: %s", self._place.path, error)
        self._place.leave()

    def _tell(self, error: Exception, otherwise: str) -> None:
        if type(error) is not self._told:
            log.warning("this process cannot be exempt: %s; %s", error, otherwise)
        self._told = type(error)
