# SPDX-License-Identifier: Apache-2.0
"""Where the kernel has no way to end sockets they go on, and whoever took their backend is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .harness import Box, kernel
from .harness.clients import TCP, UDP_CONNECTED, V4
from .harness.fates import ALIVE, Place

if TYPE_CHECKING:
    from hostreach.node import Node


@pytest.mark.parametrize("kind", [TCP, UDP_CONNECTED])
def test_they_go_on(box: Box, node: Node, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "the kernel ends no sockets: Operation not supported"
    if kernel.ends_sockets():
        kernel.switch_off(monkeypatch, "sock_destroy", "sock_diag")
        reason = "this kernel has no way to end sockets"
    place = Place(box, node, V4, kind)
    with place.clients() as (test, _):
        node.services.remove(place.frontend)
        result = node.last_ended
        assert result
        assert (result.sockets, result.problem) == ([], reason)
        assert set(test.ask("fates")) == {ALIVE}
