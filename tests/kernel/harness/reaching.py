# SPDX-License-Identifier: Apache-2.0
"""Where a service leads, once the agent that writes it has caught up."""

from __future__ import annotations

import errno

from . import wait_until
from .box import Box
from .clients import TCP, V4, V6, Seen, exchange, outcome

VIP = ("10.96.0.10", 80)


def reaches(box: Box, *servers: str, kind: str = TCP, vip: tuple[str, int] = VIP) -> None:
    """Before long, and then every time; each of them at least once."""
    family = V6 if ":" in vip[0] else V4

    def all_right() -> bool:
        seen = [box.call(outcome, exchange, family, kind, vip) for _ in range(8 * len(servers))]
        return {*seen} == {Seen(server, vip) for server in servers}

    wait_until(all_right, f"{vip} reaching {servers}")


def says(box: Box, error: int, kind: str = TCP, vip: tuple[str, int] = VIP) -> None:
    family = V6 if ":" in vip[0] else V4
    name = errno.errorcode[error]
    wait_until(
        lambda: box.call(outcome, exchange, family, kind, vip) == name, f"{vip} saying {name}"
    )


def untouched(box: Box, vip: tuple[str, int] = VIP) -> None:
    says(box, errno.ENETUNREACH, vip=vip)
