# SPDX-License-Identifier: Apache-2.0
"""What an instance is made and attached with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .errors import InvalidInput

CAPACITY_MAX = 2**24


class Capacities(NamedTuple):
    """How much the tables hold; chosen when they are made.

    None leaves it open: the default for new tables, whatever it is for tables that are there.
    """

    services: int | None = None
    """Default 65,536."""
    backends: int | None = None
    """Of all services together. Default 262,144."""
    slots: int | None = None
    """Of the selection tables of all services together. Default 1,048,576."""

    def check(self) -> None:
        """Raises `InvalidInput` for a number that no table can have."""
        for name, value in zip(self._fields, self, strict=True):
            if value is not None and not 1 <= value <= CAPACITY_MAX:
                raise InvalidInput(f"--max-{name} must be from 1 to {CAPACITY_MAX}, not {value}")


class AttachOptions(NamedTuple):
    """See `hostreach.node.Node.attach`."""

    cgroup: str
    cgroup_mount: str
    protocols: Sequence[str]
    protect_binds: bool
    host_netns: str | None
    node_addresses: Sequence[str] | None
    first: bool = False
