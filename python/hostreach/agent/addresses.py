# SPDX-License-Identifier: Apache-2.0
"""Tells when this network namespace's addresses come or go, by rtnetlink."""

from __future__ import annotations

import socket
from contextlib import suppress

_GROUPS = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR


class AddressWatch:
    """What changed is not read, only that something did: a full look costs next to nothing."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, _GROUPS))
        self._socket.setblocking(False)

    def changed(self) -> bool:
        """Whether anything did since the last call."""
        found = False
        with suppress(BlockingIOError):
            while True:
                try:
                    self._socket.recv(65536)
                except BlockingIOError:
                    raise
                except OSError:
                    return True  # ENOBUFS: some were lost, so something changed
                found = True
        return found

    def close(self) -> None:
        self._socket.close()
