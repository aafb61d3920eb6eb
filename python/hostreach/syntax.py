# SPDX-License-Identifier: Apache-2.0
"""The textual forms of addresses, networks, frontends, names, paths, durations and protocols.

Each ``parse_*`` takes exactly one form and gives back the canonical value; each ``format_*`` is
its inverse. All of them raise `InvalidInput`, whose one line says what was wrong and what would be
right.

Ports are plain integers here (host order); addresses are text as inet_ntop(3) prints them. Parsing
is by inet_pton(3): the ``ipaddress`` module costs several times as much, and there may be half a
million backends in one file.
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Literal

from .errors import InvalidInput

Protocol = Literal["tcp", "udp"]

PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp")
NODE = "node"
"""Instead of a frontend's address: every address of this node, a NodePort."""
NAME_MAX = 255
OWNER_MAX = 63
PATH_MAX = 4095
DURATION_MAX = 2**32 - 1
"""Milliseconds: what fits the tables' 32-bit fields, 49 days."""

_V4_MAPPED = bytes(10) + b"\xff\xff"
_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_SHOWN = 60


def quote(text: str) -> str:
    """``text`` in single quotes, cut and escaped so that a message stays one readable line."""
    if len(text) > _SHOWN:
        text = text[: _SHOWN - 3] + "..."
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return f"'{text}'"


def describe(value: object) -> str:
    """A value as people would name it, never a Python repr."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    return quote(str(value))[1:-1]


def pack_address(address: str) -> bytes:
    """The 4 or 16 bytes, network order, of an address that is known to be good."""
    return inet_pton(AF_INET6 if ":" in address else AF_INET, address)


def parse_address(text: str) -> str:
    """An IPv4 or (bare) IPv6 address that a service or a backend may have, canonical."""
    try:
        if ":" not in text:
            packed = inet_pton(AF_INET, text)
            # 224.0.0.0/4; inet_pton takes nothing but the canonical form of IPv4.
            if 224 <= packed[0] < 240:
                raise InvalidInput("a multicast address cannot be used", object=text)
            if packed == b"\0\0\0\0":
                raise InvalidInput("the unspecified address cannot be used", object=text)
            if packed == b"\xff\xff\xff\xff":
                raise InvalidInput("the broadcast address cannot be used", object=text)
            return text
        packed = inet_pton(AF_INET6, text)
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(_why_no_address(text)) from None
    canonical = inet_ntop(AF_INET6, packed)
    if packed[0] == 0xFF:
        raise InvalidInput("a multicast address cannot be used", object=canonical)
    if packed == bytes(16):
        raise InvalidInput("the unspecified address cannot be used", object=canonical)
    if packed.startswith(_V4_MAPPED):
        v4 = inet_ntop(AF_INET, packed[12:])
        raise InvalidInput(f"this is IPv4 in IPv6 form; write {v4}", object=canonical)
    if packed[0] == 0xFE and packed[1] & 0xC0 == 0x80:
        raise InvalidInput(
            "an IPv6 link-local address cannot be used; it needs an interface", object=canonical
        )
    return canonical


def _why_no_address(text: str) -> str:
    if "%" in text:
        return f"{quote(text)} is no address: an interface (%) cannot be given"
    if "/" in text:
        return f"{quote(text)} is no address: write one address, not a network"
    return f"{quote(text)} is no IPv4 or IPv6 address"


def parse_port(text: str) -> int:
    """A port from 1 to 65535 in plain decimal digits."""
    if not (text.isascii() and text.isdigit()) or text[0] == "0" or len(text) > 5:
        raise InvalidInput(f"{quote(text)} is no port; ports are 1 to 65535")
    port = int(text)
    if port > 65535:
        raise InvalidInput(f"{quote(text)} is no port; ports are 1 to 65535")
    return port


def parse_endpoint(text: str) -> tuple[str, int]:
    """``10.0.0.2:53`` or ``[fd00::2]:53`` as (canonical address, port)."""
    address, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        raise InvalidInput(f"{quote(text)} has no port; write it as 10.0.0.2:53 or [fd00::2]:53")
    try:
        if address.startswith("[") and address.endswith("]"):
            if ":" not in address:
                raise InvalidInput(f"{quote(address)} is no IPv6 address")
            return parse_address(address[1:-1]), parse_port(port)
        if ":" in address:
            raise InvalidInput("put an IPv6 address in brackets, as in [fd00::2]:53")
        return parse_address(address), parse_port(port)
    except InvalidInput as error:
        raise InvalidInput(f"{quote(text)}: {error.message}") from None


def format_endpoint(address: str, port: int) -> str:
    """The inverse of `parse_endpoint`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def parse_backend(text: str) -> dict[str, object]:
    """What ``10.0.0.3:53,weight=3,state=down`` says of each field, which is yet to be checked.

    Raises `InvalidInput`.
    """
    address, *options = text.split(",")
    values: dict[str, object] = {"address": address}
    for option in options:
        key, equals, value = option.partition("=")
        if key not in ("weight", "state") or not equals:
            raise InvalidInput(
                f"{quote(text)}: unknown option {quote(option)}; use weight=N or state=NAME"
            )
        if key in values:
            raise InvalidInput(f"{quote(text)}: {key} is given twice")
        number = key == "weight" and value.isascii() and value.isdigit() and len(value) <= 9
        values[key] = int(value) if number else value
    return values


def parse_frontend(text: str) -> tuple[str, int, Protocol]:
    """``10.96.0.10:53/udp`` or ``[fd00:96::a]:53/udp`` as (canonical address, port, protocol).

    The address of ``node:30080/tcp`` is `NODE`.
    """
    endpoint, slash, protocol = text.rpartition("/")
    if not slash:
        raise InvalidInput(f"{quote(text)} has no protocol; write it as 10.96.0.10:53/udp")
    if protocol not in PROTOCOLS:
        raise InvalidInput(f"{quote(text)}: {quote(protocol)} is no protocol; use tcp or udp")
    if endpoint.startswith(f"{NODE}:"):
        try:
            return NODE, parse_port(endpoint[len(NODE) + 1 :]), protocol
        except InvalidInput as error:
            raise InvalidInput(f"{quote(endpoint)}: {error.message}") from None
    if ":" not in endpoint or endpoint.endswith("]"):
        raise InvalidInput(
            f"{quote(text)} has no port; write it as 10.96.0.10:53/udp or [fd00:96::a]:53/udp"
        )
    address, port = parse_endpoint(endpoint)
    return address, port, protocol


def split_frontend(text: str) -> tuple[str, int, Protocol]:
    """The same of what `format_frontend` has made: nothing is checked, and very many are quick."""
    endpoint, _, protocol = text.rpartition("/")
    address, _, port = endpoint.rpartition(":")
    return address.strip("[]"), int(port), protocol  # type: ignore[return-value]


def parse_frontend_address(text: str) -> str:
    """As `parse_address`, or `NODE`."""
    return text if text == NODE else parse_address(text)


def format_frontend(address: str, port: int, protocol: str) -> str:
    """The inverse of `parse_frontend`."""
    return f"{format_endpoint(address, port)}/{protocol}"


def frontend_key(address: str, port: int, protocol: str) -> tuple[int, bytes, int, str]:
    """What services are sorted by: family, address as a number, port, protocol; `NODE` is last."""
    if address == NODE:
        return 255, b"", port, protocol
    packed = pack_address(address)
    return len(packed), packed, port, protocol


def parse_networks(text: str) -> tuple[str, ...]:
    """``10.0.0.0/8`` or ``192.0.2.7/32,fd00::/64``, canonical and in the order given."""
    networks = tuple(_network(part) for part in text.split(","))
    for i, network in enumerate(networks):
        if network in networks[:i]:
            raise InvalidInput(f"{quote(text)} names {network} twice")
    return networks


def _network(text: str) -> str:
    address, slash, digits = text.partition("/")
    family = AF_INET6 if ":" in address else AF_INET
    try:
        packed = inet_pton(family, address)
    except (OSError, ValueError):
        raise InvalidInput(
            f"{quote(text)} is no network; write it as 10.0.0.0/8 or fd00::/64"
        ) from None
    bits = len(packed) * 8
    if not slash:
        raise InvalidInput(f"{quote(text)} has no prefix length; write {address}/{bits}")
    plain = digits.isascii() and digits.isdigit() and len(digits) <= 3
    if not plain or (digits[0] == "0" and digits != "0") or int(digits) > bits:
        raise InvalidInput(
            f"{quote(text)}: {quote(digits)} is no prefix length; here they are 0 to {bits}"
        )
    length = int(digits)
    if packed.startswith(_V4_MAPPED) and length >= 96:
        v4 = inet_ntop(AF_INET, packed[12:])
        raise InvalidInput(f"{quote(text)} is IPv4 in IPv6 form; write {v4}/{length - 96}")
    number = int.from_bytes(packed, "big")
    first = number >> (bits - length) << (bits - length)
    network = f"{inet_ntop(family, first.to_bytes(len(packed), 'big'))}/{length}"
    if first != number:
        raise InvalidInput(f"{quote(text)} has bits set beyond its prefix; write {network}")
    return network


def parse_cgroup(text: str) -> str:
    """The absolute path of a cgroup's directory, without slashes to spare. Nothing is opened."""
    if not text.startswith("/"):
        raise InvalidInput(
            f"{quote(text)} is no absolute path; write it as /sys/fs/cgroup/system.slice"
        )
    if not text.isprintable():
        raise InvalidInput(f"{quote(text)} has a character that cannot be printed")
    steps = [step for step in text.split("/") if step]
    if "." in steps or ".." in steps:
        raise InvalidInput(f"{quote(text)}: write the path without . and ..")
    if len(text.encode()) > PATH_MAX:
        raise InvalidInput(f"{quote(text)} is longer than a path can be")
    return "/" + "/".join(steps)


def check_label(text: str, what: str, longest: int) -> str:
    """A name of 1 to ``longest`` bytes of UTF-8, all printable, without white space."""
    if not text:
        raise InvalidInput(f"{what} is empty")
    if not text.isprintable() or " " in text:
        raise InvalidInput(
            f"{what} {quote(text)} has white space or a character that cannot be printed"
        )
    size = len(text.encode())
    if size > longest:
        raise InvalidInput(f"{what} {quote(text)} is {size} bytes long; at most {longest} fit")
    return text


def parse_duration(text: str) -> int:
    """``250ms``, ``30s``, ``5m``, ``3h`` or ``2d`` as milliseconds."""
    digits = text.rstrip("dhms")
    factor = _UNITS.get(text[len(digits) :])
    if factor is None or not (digits.isascii() and digits.isdigit()):
        raise InvalidInput(
            f"{quote(text)} is no duration; write an integer with ms, s, m, h or d, as in 30s"
        )
    if digits[0] == "0" and digits != "0":
        raise InvalidInput(f"{quote(text)} is no duration; leave out the leading zeros")
    if len(digits) > 10 or int(digits) * factor > DURATION_MAX:
        raise InvalidInput(f"{quote(text)} is too long; at most {DURATION_MAX // _UNITS['d']}d")
    return int(digits) * factor


def format_duration(milliseconds: int) -> str:
    """The inverse of `parse_duration`, in the largest unit that keeps it an integer."""
    if milliseconds == 0:
        return "0s"
    for unit, factor in _UNITS.items():
        if milliseconds % factor == 0:
            return f"{milliseconds // factor}{unit}"
    raise AssertionError("unreachable: every integer is a multiple of 1 ms")


def parse_protocols(text: str) -> tuple[Protocol, ...]:
    """``tcp``, ``udp`` or ``tcp,udp`` in either order; given back in the order tcp, udp."""
    names = text.split(",")
    for name in names:
        if name not in PROTOCOLS:
            raise InvalidInput(f"{quote(name)} is no protocol; use tcp, udp or tcp,udp")
    if len(set(names)) != len(names):
        raise InvalidInput(f"{quote(text)} names a protocol twice")
    return tuple(protocol for protocol in PROTOCOLS if protocol in names)
