# SPDX-License-Identifier: Apache-2.0
"""Addresses and networks as stored objects of the API may have them.

kube-proxy reads these with ParseIPSloppy and ParseCIDRSloppy: zeros that lead are decimal, never
octal; IPv4 in IPv6 form is IPv4; bits beyond a network's prefix count for nothing. What people
write for hostreach itself is read strictly, by `hostreach.syntax`.
"""

from __future__ import annotations

import re
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from hostreach.errors import InvalidInput
from hostreach.syntax import parse_address, quote

_QUAD = re.compile(r"(?:^|(?<=:))[0-9]+(?:\.[0-9]+){3}\Z")
"""IPv4, or the end of an IPv6 address that is written so."""
_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
_MAPPED = bytes(10) + b"\xff\xff"


def read_address(text: str) -> str:
    """Canonical; raises `InvalidInput` for what no service or endpoint can have."""
    try:
        return parse_address(text)
    except InvalidInput:
        plain = _plain(text)
        if plain == text:
            raise
    return parse_address(plain)


def read_network(text: str) -> str:
    """Canonical, as in ``10.0.0.0/8``; raises `InvalidInput`."""
    address, _, digits = text.strip().partition("/")
    family = AF_INET6 if ":" in address else AF_INET
    try:
        packed, length = inet_pton(family, _without_zeros(address)), int(digits)
        good = digits.isascii() and digits.isdigit() and length <= len(packed) * 8
    except (OSError, ValueError):
        good = False
    if not good:
        raise InvalidInput(f"{quote(text)} is no network")
    if packed.startswith(_MAPPED) and length >= 96:
        family, packed, length = AF_INET, packed[12:], length - 96
    spare = len(packed) * 8 - length
    first = int.from_bytes(packed, "big") >> spare << spare
    return f"{inet_ntop(family, first.to_bytes(len(packed), 'big'))}/{length}"


def _plain(text: str) -> str:
    plain = _without_zeros(text)
    if ":" not in plain:
        return plain
    try:
        packed = inet_pton(AF_INET6, plain)
    except (OSError, ValueError):
        return text
    return inet_ntop(AF_INET, packed[12:]) if packed.startswith(_MAPPED) else plain


def _without_zeros(address: str) -> str:
    return _QUAD.sub(lambda quad: _ZEROS.sub("", quad[0]), address)
