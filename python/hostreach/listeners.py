# SPDX-License-Identifier: Apache-2.0
"""Servers of this host that a service takes the local clients from."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plain import PlainFrontend

_LISTENING = {"tcp": "0A", "udp": "07"}  # TCP_LISTEN; TCP_CLOSE is an unconnected UDP socket
_ANY = ("0.0.0.0", "::")
_CHEAPER = 256
"""Of so many addresses it is cheaper to ask whether they are ours than to read all sockets."""


def hidden(frontends: Iterable[PlainFrontend]) -> Iterator[tuple[PlainFrontend, list[str]]]:
    """Frontends that hide servers of this network namespace, and what these are bound to, sorted.

    A ``node`` frontend hides whatever has its port; one on an address of this host what is bound to
    that address or to any. Others hide nothing: nobody could have listened there.
    """
    servers: dict[str, dict[int, list[str]]] = {}
    asked = 0
    for frontend in frontends:
        address, port, protocol = frontend
        if protocol not in servers:
            if address != "node" and asked < _CHEAPER:
                asked += 1
                if not is_local(address):
                    continue
            servers[protocol] = _servers(protocol)
        bound = servers[protocol].get(port)
        if bound and address != "node":
            reached = (address, *_ANY)
            bound = [each for each in bound if each in reached] if is_local(address) else []
        if bound:
            yield frontend, sorted({*bound})


def _servers(protocol: str) -> dict[int, list[str]]:
    """What they are bound to, by port."""
    servers: dict[int, list[str]] = {}
    for address, port in _bound(protocol):
        servers.setdefault(port, []).append(address)
    return servers


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
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:  # nor where the kernel does not know the family
        return False
    return True
