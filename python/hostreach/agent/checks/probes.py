# SPDX-License-Identifier: Apache-2.0
"""One check of one backend: whether it answers as it should, and if not, why."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import struct
from typing import NamedTuple

from hostreach._version import __version__
from hostreach.checks import Check, parse_statuses
from hostreach.syntax import Protocol, format_endpoint, parse_endpoint

_OURS = (
    *(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM),  # no room for a socket
    errno.EADDRNOTAVAIL,  # no port for it, or no IPv6 on any interface
    errno.EAFNOSUPPORT,  # no IPv6 at all
    *(errno.EPERM, errno.EACCES),  # a firewall or a policy of this node
)
_LINE_MAX = 4096
_RCODES = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
_QR, _RD = 0x8000, 0x0100
_A, _IN = 1, 1


class ProbeError(Exception):
    """The backend does not answer as it should; the text says how, in a few words."""


class NotDone(Exception):
    """It could not be tried, for want of something here: that says nothing of the backend."""


class Target(NamedTuple):
    """What is checked, and how: services that agree on all of it share their checks.

    ``protocol`` is the service's, and matters to dns alone.
    """

    backend: str
    check: Check
    protocol: Protocol

    @classmethod
    def of(cls, backend: str, check: Check, protocol: Protocol) -> Target:
        """Without what does not matter to the check itself."""
        shared = check if check.all_down is None else check.model_copy(update={"all_down": None})
        return cls(backend, shared, protocol if check.kind == "dns" else "tcp")


async def probe(target: Target) -> None:
    """Returns if all is well; raises `ProbeError` or `NotDone`, within the check's timeout."""
    check = target.check
    host, port = parse_endpoint(target.backend)
    at = host, check.port or port
    try:
        if check.kind == "tcp":
            work = _tcp(at)
        elif check.kind == "http":
            work = _http(at, check)
        else:
            work = _dns(at, check.name or "", target.protocol)
        await asyncio.wait_for(work, check.timeout_s)
    except asyncio.TimeoutError:
        raise ProbeError(f"no answer within {check.timeout}") from None
    except OSError as error:
        reason = (os.strerror(error.errno) if error.errno else str(error)).lower()
        raise (NotDone if error.errno in _OURS else ProbeError)(reason) from None


async def _tcp(at: tuple[str, int]) -> None:
    _, writer = await asyncio.open_connection(*at)
    writer.close()


async def _http(at: tuple[str, int], check: Check) -> None:
    host = check.host or format_endpoint(*at)
    reader, writer = await asyncio.open_connection(*at, limit=_LINE_MAX)
    try:
        writer.write(
            f"GET {check.path or '/'} HTTP/1.1\r\nHost: {host}\r\n"
            f"User-Agent: hostreach/{__version__}\r\nAccept: */*\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            raise ProbeError("closed without an answer") from None
        except asyncio.LimitOverrunError:
            raise ProbeError("no HTTP") from None
    finally:
        writer.close()
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ProbeError("no HTTP")
    status = int(words[1])
    if not any(
        first <= status <= last for first, last in parse_statuses(check.status or "200-399")
    ):
        raise ProbeError(f"status {status}")


async def _dns(at: tuple[str, int], name: str, protocol: Protocol) -> None:
    number = secrets.randbelow(1 << 16)
    question = _question(name)
    query = struct.pack("!6H", number, _RD, 1, 0, 0, 0) + question
    ask = _ask_by_tcp if protocol == "tcp" else _ask_by_udp
    answer = await ask(at, query)
    if len(answer) < 12:
        raise ProbeError("no DNS")
    found, flags = struct.unpack("!2H", answer[:4])
    # The name may come back in another case.
    echoed = answer[12 : 12 + len(question)].lower() == question.lower()
    if found != number or not flags & _QR:
        raise ProbeError("an answer to something else")
    if code := flags & 0xF:
        raise ProbeError(_RCODES.get(code, f"error {code}"))
    if not echoed:
        raise ProbeError("an answer to something else")


def _question(name: str) -> bytes:
    labels = [label for label in name.removesuffix(".").split(".") if label]
    packed = b"".join(bytes([len(label)]) + label.encode() for label in labels)
    return packed + struct.pack("!x2H", _A, _IN)


async def _ask_by_tcp(at: tuple[str, int], query: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*at)
    try:
        writer.write(struct.pack("!H", len(query)) + query)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        return await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        raise ProbeError("closed without an answer") from None
    finally:
        writer.close()


async def _ask_by_udp(at: tuple[str, int], query: bytes) -> bytes:
    """On a connected socket, which hears that a port is closed."""
    family = socket.AF_INET6 if ":" in at[0] else socket.AF_INET
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(at)
        client.send(query)
        return await loop.sock_recv(client, 65535)
