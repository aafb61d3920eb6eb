# SPDX-License-Identifier: Apache-2.0
"""What checks make of a service's backends. No I/O: results in, states out.

A check takes backends away and never gives any: one that the file has draining or down stays so
whatever its checks say. So what a person chose is in the file, what a check found is the difference
between the file and the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hostreach.checks import AllDown
from hostreach.models import Backend, Service


class Verdict(NamedTuple):
    """A service as it is to be in the table.

    ``all_down``: all backends of a family fail, so that the service's rule for that decided.
    """

    service: Service
    all_down: bool


def judge(service: Service, passes: Mapping[str, bool | None], rule: AllDown) -> Verdict:
    """``passes`` by backend; None and what is not named have no result, and count as passing.

    A backend that fails is down. If all that a client of one family could use fail, they are used
    all the same (``use-all``) or down with the others (``refuse``).
    """
    failing = {b.address for b in service.backends if passes.get(b.address) is False}
    all_down = False
    for family in (4, 6):
        usable = {b.address for b in service.backends if b.family == family and _is_usable(b)}
        if usable and usable <= failing:
            all_down = True
            if rule == "use-all":
                failing -= usable
    if not failing:
        return Verdict(service, all_down)
    backends = tuple(
        b.model_copy(update={"state": "down"}) if b.address in failing else b
        for b in service.backends
    )
    return Verdict(service.model_copy(update={"backends": backends}), all_down)


def _is_usable(backend: Backend) -> bool:
    """The table falls back on draining ones, so they count; what the file has down does not."""
    return backend.state == "draining" or (backend.state == "active" and backend.weight > 0)
