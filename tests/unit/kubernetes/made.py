# SPDX-License-Identifier: Apache-2.0
"""What a Service and its EndpointSlices become, in short."""

from __future__ import annotations

from typing import Any

from kube.objects import (
    taken_service,
    taken_slice,
)

from hostreach.plain import PlainService, model_of
from hostreach.sources.kubernetes.services import Rules, entries

NO_RULES = Rules()


def made(
    value: Any, *pieces: Any, rules: Rules = NO_RULES
) -> tuple[dict[str, PlainService], list[str]]:
    """Entries by frontend, and the reasons of the problems."""
    kube = taken_service(value)
    if kube is None:
        return {}, []
    slices = [taken for each in pieces if (taken := taken_slice(each)) is not None]
    found, problems = entries(kube, slices, rules)
    by_frontend = {str(model_of(entry).frontend): entry for entry in found}
    assert len(by_frontend) == len(found)
    reasons = [each.reason for each in kube.problems]
    reasons += [each.reason for piece_ in slices for each in piece_.problems]
    return by_frontend, reasons + [each.reason for each in problems]


def backends(*args: Any, **options: Any) -> dict[str, str]:
    """Each frontend's backends in one line; draining ones have a ``~``."""
    found, _ = made(*args, **options)
    return {
        frontend: " ".join("~" * (state == "draining") + text for text, _, state in entry[6])
        for frontend, entry in found.items()
    }
