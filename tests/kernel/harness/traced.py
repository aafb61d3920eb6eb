# SPDX-License-Identifier: Apache-2.0
"""Services whose calls are traced, and whether anybody listens."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hostreach import Service

from . import Box
from .clients import TCP, V4, exchange, outcome
from .rawmap import RawMap

if TYPE_CHECKING:
    from hostreach.node import Node

FRONTEND, VIP = "10.96.0.10:80/tcp", ("10.96.0.10", 80)
OTHER, OTHER_VIP = "10.96.0.11:80/tcp", ("10.96.0.11", 80)
EMPTY, EMPTY_VIP = "10.96.0.12:80/tcp", ("10.96.0.12", 80)
SERVER = "10.0.0.2:8080"
LISTENED = 3  # HR_LISTENED, an index of `flags`


def add_services(box: Box, node: Node) -> None:
    box.serve(f"{SERVER}/tcp")
    node.services.add(Service.of(FRONTEND, SERVER, name="shop/web:http"))
    node.services.add(Service.of(OTHER, SERVER))
    node.services.add(Service.of(EMPTY))


def call(vip: tuple[str, int]) -> tuple[int, object]:
    return os.getpid(), outcome(exchange, V4, TCP, vip)


def is_listened(box: Box) -> bool:
    with RawMap.pinned(box.pin / "flags") as flags:
        return flags[LISTENED] != bytes(8)
