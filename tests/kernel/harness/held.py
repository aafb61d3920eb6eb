# SPDX-License-Identifier: Apache-2.0
"""Which socket has which place, in an instance's table `holders`."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .rawmap import RawMap

if TYPE_CHECKING:
    from .box import Box

PLACES, CROWDED, UNCONNECTED = 65536, 1 << 63, 1 << 62
_SO_COOKIE = 57


def cookie(client: socket.socket) -> int:
    return int(struct.unpack("=Q", client.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))[0])


class Holders:
    """Who has which place."""

    def __init__(self, map_: RawMap) -> None:
        self._map = map_

    def __getitem__(self, of: int) -> tuple[int, bool]:
        """Of the place where that cookie belongs: the holder's cookie; has anybody found it so?"""
        word = self._word(of)
        return word & ~(CROWDED | UNCONNECTED), bool(word & CROWDED)

    def __setitem__(self, of: int, holder: tuple[int, bool]) -> None:
        self._map[of % PLACES] = struct.pack("=Q", holder[0] | CROWDED * holder[1])

    def is_only(self, of: int) -> bool:
        """Does that socket, not connected, have its only service there?"""
        return self._word(of) & ~CROWDED == of | UNCONNECTED

    def _word(self, of: int) -> int:
        return int(struct.unpack("=Q", self._map[of % PLACES])[0])


@contextmanager
def holders_of(box: Box) -> Iterator[Holders]:
    with RawMap.pinned(box.pin / "holders") as found:
        yield Holders(found)
