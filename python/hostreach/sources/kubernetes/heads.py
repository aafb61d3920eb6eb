# SPDX-License-Identifier: Apache-2.0
"""What can be told of an answer of which only the beginning was read, for it is too large."""

from __future__ import annotations

import re

import msgspec

from . import objects
from .client import ApiError

_head = msgspec.json.Decoder(objects.PageHead)  # here, for threads: see watch.py


def text_of(head: bytes, key: str) -> str | None:
    """The first value of ``key``: an object's metadata come early."""
    found = re.search(rb'"%s"\s*:\s*"([^"\\]{1,253})"' % key.encode(), head)
    return found[1].decode(errors="replace") if found else None


def page_of(head: bytes) -> objects.PageHead:
    """A list's kind and metadata come before its items."""
    before, items, _ = head.partition(b'"items"')
    try:
        return _head.decode(before.rstrip(b" \t\r\n,") + b"}")
    except msgspec.DecodeError as error:
        why = error if items else "it is too large"
        raise ApiError(0, f"no list was sent: {why}") from None
