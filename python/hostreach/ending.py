# SPDX-License-Identifier: Apache-2.0
"""What became of the sockets whose backend is gone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

__all__ = ["EndResult", "EndedSocket"]


class EndedSocket(NamedTuple):
    """A client's socket."""

    protocol: str
    """"tcp" or "udp"."""
    service: str
    """What it had asked for, as in ``10.96.0.10:53/udp``."""
    backend: str
    """Where it had been sent."""
    local: str
    """Its own address."""
    netns: int
    """Its network namespace, by the inode that `lsns` shows."""
    cookie: int
    """The kernel's number for it, as `ss -e` shows it."""


@dataclass(frozen=True)
class EndResult:
    """What `Node.end_sockets` did."""

    sockets: list[EndedSocket] = field(default_factory=list)
    """Those that were ended; with ``dry_run``, those that would be."""
    dry_run: bool = False
    method: Literal["bpf", "netlink"] | None = None
    """None: this kernel cannot, and ``problem`` says why."""
    namespaces: int = 0
    """Network namespaces that were looked into."""
    unreachable: int = 0
    """Those that should have been, but could not be entered."""
    left: int = 0
    """Sockets in those."""
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {**asdict(self), "sockets": [socket._asdict() for socket in self.sockets]}
