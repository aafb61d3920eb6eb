# SPDX-License-Identifier: Apache-2.0
"""Which endpoints a client on this node may be given.

The rules are kube-proxy's (pkg/proxy/topology.go of Kubernetes 1.36), computed for the cluster and
for this node on their own. An endpoint is text such as ``10.0.0.2:53`` and a few flags.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

READY = 1
SERVING = 2
TERMINATING = 4
LOCAL = 8
"""On this node."""
FOR_NODES = 16
"""It has hints that name nodes,"""
THIS_NODE = 32
"""and this one among them."""
FOR_ZONES = 64
THIS_ZONE = 128

_DRAINING = SERVING | TERMINATING


class Choice(NamedTuple):
    """Endpoints, sorted: the order in which slices arrive must not show."""

    usable: list[str]
    """New connections go to these."""
    draining: list[str]
    """These are going, but still serve: what is connected to them may finish."""
    far: list[str]
    """These are ready, but hints leave them to clients elsewhere."""


def choose(endpoints: Mapping[str, int], *, local: bool) -> Choice:
    """Ready ones (near ones, if hints say so) or, where there are none, those that still serve.

    ``local`` is for a policy of Local: those on this node alone, whatever the hints.
    """
    # There are many endpoints and few kinds of them: the rules are asked of the kinds.
    kinds = {*endpoints.values()}
    mine = {kind for kind in kinds if kind & LOCAL} if local else kinds
    draining = {kind for kind in mine if kind & (READY | _DRAINING) == _DRAINING}
    ready = {kind for kind in mine if kind & READY}
    if not ready:
        return Choice(_of(draining, kinds, endpoints), [], [])
    near = ready if local else _near(ready)
    return Choice(*(_of(each, kinds, endpoints) for each in (near, draining, ready - near)))


def _of(wanted: set[int], kinds: set[int], endpoints: Mapping[str, int]) -> list[str]:
    if not wanted or wanted == kinds:
        return sorted(endpoints) if wanted else []
    return sorted(text for text, kind in endpoints.items() if kind in wanted)


def _near(ready: set[int]) -> set[int]:
    """Those on this node, or in its zone, if hints keep to it; otherwise all.

    They do if all ready endpoints have such hints, and one of them names this node or zone.
    """
    for hinted, this in ((FOR_NODES, THIS_NODE), (FOR_ZONES, THIS_ZONE)):
        near = {kind for kind in ready if kind & this}
        if near and all(kind & hinted for kind in ready):
            return near
    return ready


def better(one: int, other: int) -> int:
    """The flags of an endpoint that two slices list, as while it moves from one to the other."""
    best = max(one, other, key=lambda f: (f & READY, not f & TERMINATING, f & SERVING))
    return best | (one | other) & LOCAL
