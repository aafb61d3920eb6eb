# SPDX-License-Identifier: Apache-2.0
"""What a watcher tells of one kind of object.

A list begins with `Listing` and ends with `Listed`; only then may be forgotten what was not on it.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from .intake import ExemptPod, KubeService, Problem, Slice
from .state import Kind

Taken: TypeAlias = KubeService | Slice | ExemptPod


class Listing(NamedTuple):
    """A list begins."""

    kind: Kind


class Listed(NamedTuple):
    """It is complete."""

    kind: Kind


class Changed(NamedTuple):
    """An object as it is now; None: it is gone, or none of a proxy's business."""

    kind: Kind
    key: str
    value: Taken | None


class Spoiled(NamedTuple):
    """An object that cannot be used."""

    kind: Kind
    key: str
    problem: Problem


News: TypeAlias = Listing | Listed | Changed | Spoiled
