# SPDX-License-Identifier: Apache-2.0
"""Servers of this host that a service takes the local clients from."""

from __future__ import annotations

import socket
from collections.abc import Iterator

_LISTENING = {"tcp": "0A", "udp": "07"}  # TCP_LISTEN; TCP_CLOSE is an unconnected UDP socket
_ANY = ("0.0.0.0", "::")


def hidden(address: str, port: int, protocol: str) -> list[str]:
    """Bound addresses of this network namespace's servers that the frontend hides, sorted.

    A ``node`` frontend hides whatever has its port; one on an address of this host what is bound to
    that address or to any. Others hide nothing: nobody could have listened there.
    """
    if address == "node":
        return sorted({bound for bound, used in _bound(protocol) if used == port})
    if not is_local(address):
        return []
    reached = (address, *_ANY)
    return sorted({b for b, used in _bound(protocol) if used == port and b in reached})


def _bound(protocol: str) -> Iterator[tuple[str, int]]:
    for family, name in ((socket.AF_INET, protocol), (socket.AF_INET6, f"{protocol}6")):
        try:
            table = open(f"/proc/net/{name}", encoding="ascii")  # noqa: SIM115, PTH123
        except OSError:
            continue  # a kernel without that family
        with table:
            for line in list(table)[1:]:
                _, local, _, state = line.split()[:4]
                if state == _LISTENING[protocol]:
                    address, port = local.split(":")
                    yield _address(family, address), int(port, 16)


def _address(family: socket.AddressFamily, text: str) -> str:
    """The kernel prints each 32-bit word in the host's byte order."""
    words = (text[i : i + 8] for i in range(0, len(text), 8))
    return socket.inet_ntop(family, b"".join(bytes.fromhex(word)[::-1] for word in words))


def is_local(address: str) -> bool:
    """Whether it is one of this network namespace's own."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
