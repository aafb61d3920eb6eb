# SPDX-License-Identifier: Apache-2.0
"""What clients do with sockets, for tables of cases: families, kinds of socket, exchanges."""

from __future__ import annotations

import errno
import itertools
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from . import kernel
from .timing import scaled

_payloads = itertools.count(1)


@dataclass(frozen=True)
class Family:
    """One of the three ways to name a service: IPv4, IPv6, and IPv4 from an IPv6 socket."""

    name: str
    af: int
    vip_network: str
    backend_network: str

    def __str__(self) -> str:
        return self.name

    def vip(self, number: int = 10) -> str:
        return f"{self.vip_network}{_digits(number, self.vip_network)}"

    def backend(self, number: int) -> str:
        return f"{self.backend_network}{_digits(number, self.backend_network)}"

    def sockaddr(self, host: str, port: int) -> tuple[str, int]:
        """What a program of this family passes to connect and sendto."""
        mapped = self.af == socket.AF_INET6 and ":" not in host
        return (f"::ffff:{host}" if mapped else host), port

    def sockaddr_of(self, endpoint: str) -> tuple[str, int]:
        """The same of endpoint()."""
        host, _, port = endpoint.rpartition(":")
        return self.sockaddr(host.strip("[]"), int(port))

    def endpoint(self, host: str, port: int) -> str:
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _digits(number: int, network: str) -> str:
    return f"{number:x}" if ":" in network else str(number)


V4 = Family("ipv4", socket.AF_INET, "10.96.0.", "10.0.0.")
V6 = Family("ipv6", socket.AF_INET6, "fd00:96::", "fd00::")
MAPPED = Family("mapped", socket.AF_INET6, "10.96.0.", "10.0.0.")
FAMILIES = (V4, V6, MAPPED)

# The kernel connects to loopback who asks for no address at all.
NO_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "::ffff:0.0.0.0": "::ffff:127.0.0.1"}

TCP = "tcp"
UDP_CONNECTED = "udp-connected"
UDP_UNCONNECTED = "udp-unconnected"
KINDS = (TCP, UDP_CONNECTED, UDP_UNCONNECTED)


def protocol_of(kind: str) -> str:
    return kind.partition("-")[0]


class Seen(NamedTuple):
    """What a client saw: who answered, and the address it was shown as the peer's.

    Where getpeername(2) shows the backend's, exchange() has seen to that, and this is the
    service's all the same.
    """

    server: str
    peer: tuple[str, int]


def new_socket(family: Family, kind: str, *, blocking: bool = True) -> socket.socket:
    tcp = protocol_of(kind) == "tcp"
    client = socket.socket(family.af, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    client.setblocking(blocking)
    if blocking:
        limit_waits(client)
    return client


def limit_waits(client: socket.socket) -> None:
    """Ends a wait in the kernel. (Python's own timeouts make the socket a non-blocking one.)"""
    limit = struct.pack("=qq", int(scaled(5)), 0)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        client.setsockopt(socket.SOL_SOCKET, option, limit)


def connect(client: socket.socket, address: tuple[str, int]) -> None:
    """connect(2), waited for when the socket does not block; an error is an OSError."""
    code = client.connect_ex(address)
    if code == errno.EINPROGRESS:
        wait_writable(client)
        code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, errno.errorcode[code])


LOST = "lost"
"""As an outcome: a datagram that went where nobody is, of which its sender hears nothing."""


class Lost(Exception):
    """See LOST; raised instead of waiting for an answer that cannot come."""


def sent_to_nobody() -> int:
    """How many datagrams of this network namespace have met a closed port."""
    lines = Path("/proc/self/net/snmp").read_text().splitlines()
    heads, figures = (line.split() for line in lines if line.startswith("Udp:"))
    count = int(figures[heads.index("NoPorts")])
    for line in Path("/proc/self/net/snmp6").read_text().splitlines():
        if line.startswith("Udp6NoPorts"):
            count += int(line.split()[1])
    return count


def receive(client: socket.socket) -> tuple[bytes, Any]:
    wait_readable(client)
    return client.recvfrom(65536)


def wait_readable(client: socket.socket) -> None:
    if not select.select([client], [], [], scaled(5))[0]:
        raise TimeoutError("no answer came")


def wait_unless_lost(client: socket.socket, before: int) -> None:
    """Until there is an answer; Lost if a closed port was met since before (see sent_to_nobody).

    An earlier socket's late answer meets one too: so ours gets a little longer then.
    """
    deadline = time.monotonic() + scaled(5)
    while not select.select([client], [], [], scaled(0.01))[0] and time.monotonic() < deadline:
        if sent_to_nobody() > before and not select.select([client], [], [], scaled(0.1))[0]:
            raise Lost


def wait_writable(client: socket.socket) -> None:
    if not select.select([], [client], [], scaled(5))[1]:
        raise TimeoutError("the connect did not finish")


def line(client: socket.socket) -> str:
    """The next line from an identity server, the first being its endpoint."""
    said = b""
    while not said.endswith(b"\n"):
        wait_readable(client)
        byte = client.recv(1)
        if not byte:
            break
        said += byte
    return said.decode().rstrip("\n")


def fresh_payload() -> str:
    return f"n{next(_payloads)}"


def ask(client: socket.socket, address: tuple[str, int] | None = None) -> Seen:
    """One datagram, to address or to the connected peer, and its answer's server and source."""
    payload = fresh_payload()
    if address is None:
        client.send(payload.encode())
    elif kernel.refuses_at_once():
        client.sendto(payload.encode(), address)
    else:
        before = sent_to_nobody()
        client.sendto(payload.encode(), address)
        wait_unless_lost(client, before)
    answer, source = receive(client)
    server, echoed = answer.decode().split(" ")
    assert echoed == payload, f"asked {payload}, answered {echoed} by {server}"
    return Seen(server, source[:2])


def refusals() -> dict[str, str]:
    """Kind -> what an exchange comes to with a service that has no usable backend."""
    if kernel.refuses_at_once():
        return dict.fromkeys(KINDS, "ECONNREFUSED")
    # A UDP socket that is connected to port 0 has no peer to name.
    return {TCP: "ECONNREFUSED", UDP_CONNECTED: "ENOTCONN", UDP_UNCONNECTED: LOST}


def exchange(family: Family, kind: str, address: tuple[str, int], blocking: bool = True) -> Seen:
    """A whole conversation on a new socket."""
    with new_socket(family, kind, blocking=blocking) as client:
        if kind == UDP_UNCONNECTED:
            return ask(client, address)
        connect(client, address)
        peer = client.getpeername()[:2]
        seen = Seen(line(client), peer) if kind == TCP else ask(client)
        shown = kernel.shown(seen.peer, family.sockaddr_of(seen.server))
        assert peer == shown, f"connected to {peer}, answered by {seen}"
        if kind != TCP or kernel.shows_services():
            return seen
        host, port = address
        return seen._replace(peer=(NO_ADDRESS.get(host, host), port))


def outcome(function: Callable[..., object], *args: object) -> object:
    """A call's result, or the name of its errno, or LOST: comparable between cgroups."""
    try:
        return function(*args)
    except Lost:
        return LOST
    except OSError as error:
        return errno.errorcode[error.errno] if error.errno else repr(error)


def raw_sockaddr_in(host: str, port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton(host))


RAW_UNSPEC = struct.pack("=H14x", socket.AF_UNSPEC)
