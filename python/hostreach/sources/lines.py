# SPDX-License-Identifier: Apache-2.0
"""JSON lines: what a script writes, one service or removal in each line.

{"frontend": "10.96.0.10:53/udp", "backends": [{"address": "10.0.0.2:53"}]}
{"remove": "10.96.0.11:80/tcp"}
"""

from __future__ import annotations

import re

from hostreach.errors import InvalidInput

from .document import parse_json, quick_decode, quickly

KEYS = ("frontend", "remove")
"""One of them is in each line, and tells a line from a document in JSON."""
# Neither YAML nor the beginning of a document, all of which may stand in one line.
_MAY_BE_LINES = re.compile(r'\s*\{(?!\s*"(version|services)")')


def parse_lines(text: str, where: str) -> list[object] | None:
    """What each line that is not blank says; None if these are no JSON lines."""
    if not _MAY_BE_LINES.match(text):
        return None
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    if not lines or not _is_entry(lines[0], alone=len(lines) == 1):
        return None
    entries = quickly(text, lambda: [quick_decode(line) for line in lines])
    if entries is None:
        numbers = line_numbers(text)
        entries = [
            parse_json(line, f"{where}:{number}")
            for line, number in zip(lines, numbers, strict=True)
        ]
    return entries


def line_numbers(text: str) -> list[int]:
    """Of the lines that are not blank, from 1."""
    lines = enumerate(text.split("\n"), 1)
    return [number for number, line in lines if line and not line.isspace()]


def _is_entry(line: str, *, alone: bool) -> bool:
    """A document may be in one line too; but behind its end there is no other."""
    try:
        found = parse_json(line, "")
    except InvalidInput:
        return False
    return isinstance(found, dict) and (not alone or any(key in found for key in KEYS))
