# SPDX-License-Identifier: Apache-2.0
"""JSON lines: what a script writes, one service or removal in each line.

{"frontend": "10.96.0.10:53/udp", "backends": [{"address": "10.0.0.2:53"}]}
{"remove": "10.96.0.11:80/tcp"}
"""

from __future__ import annotations

from hostreach.errors import InvalidInput

from .document import parse_json

KEYS = ("frontend", "remove")
"""One of them is in each line, and tells such lines from a document in JSON."""


def parse_lines(text: str, where: str) -> tuple[list[object], list[int]] | None:
    """What each line says, and which line that is, from 1; None if these are no JSON lines."""
    lines = text.split("\n")
    first = next((line for line in lines if line and not line.isspace()), "")
    if not first.lstrip().startswith("{") or not _is_entry(first):
        return None
    entries: list[object] = []
    numbers: list[int] = []
    for number, line in enumerate(lines, 1):
        if line and not line.isspace():
            entries.append(parse_json(line, f"{where}:{number}"))
            numbers.append(number)
    return entries, numbers


def _is_entry(line: str) -> bool:
    try:
        found = parse_json(line, "")
    except InvalidInput:
        return False
    return isinstance(found, dict) and any(key in found for key in KEYS)
