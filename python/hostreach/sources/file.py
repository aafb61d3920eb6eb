# SPDX-License-Identifier: Apache-2.0
"""The file of services that ``apply`` reads and ``export`` writes.

    version: 1
    services:
    - frontend: 10.96.0.10:53/udp
      name: kube-system/kube-dns:dns
      backends:
      - address: 10.0.0.2:53
      - address: 10.0.0.3:53
        weight: 3
        state: draining
    - frontend: node:30080/tcp
      algorithm: least-conn
      affinity: 3h
      host_only: true
      from_cgroup: /sys/fs/cgroup/system.slice
      on_removal: reset

All but version, services, frontend and address may be left out.

A service may say how its backends are checked, which `hostreach agent file` alone does:

      check:
        kind: http
        path: /healthz

The same in JSON is read too, and JSON lines (`hostreach.sources.lines`). Values are taken as they
stand: ``weight: "3"`` is refused.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from hostreach import collector
from hostreach.errors import InvalidInput
from hostreach.syntax import OWNER_MAX, check_label, describe, quote

from .document import Path, Tick, find_line, nothing, parse
from .dump import dump, dump_json
from .lines import line_numbers, parse_lines
from .reader import Changes, Decoded, Entry, Places, Reader, shown

if TYPE_CHECKING:
    from hostreach.models import Service

__all__ = ["SIZE_MAX", "dump", "dump_json", "load", "load_changes", "load_entries"]

SIZE_MAX = 256 * 1024 * 1024
"""Bytes; a file of 50,000 services with 10 backends each has 22 million."""


def load(path: str, *, owner: str = "manual") -> list[Service]:
    """The services in a file, in its order; ``-`` is standard input. See `load_entries`."""
    return [entry.service for entry in load_entries(path, owner=owner)]


def load_entries(path: str, *, owner: str = "manual", alone: bool = False) -> list[Entry]:
    """The services in a file and their checks, in its order; ``-`` is standard input.

    Services that name no owner get ``owner``; ``alone`` refuses those of others. Raises
    `InvalidInput`, whose line names the file, the line where it can be told, and what is wrong
    there; then nothing is returned of the rest either.
    """
    text, where = _read(path, owner)
    with collector.paused():
        return Reader(_decoded(text, where, nothing), owner, alone=alone, tick=nothing).entries()


def load_changes(path: str, *, owner: str = "manual", tick: Tick = nothing) -> Changes:
    """What the file asks `apply` for; ``tick`` is told how far it is."""
    text, where = _read(path, owner)
    with collector.paused():
        decoded = _decoded(text, where, lambda done: tick(done / 2))
        if decoded.removes:  # lines, which are decoded in no time
            return Reader(decoded, owner, alone=False, tick=tick).changes()
        return Reader(decoded, owner, alone=False, tick=lambda done: tick((1 + done) / 2)).changes()


def _read(path: str, owner: str) -> tuple[str, str]:
    """The text and what to call it."""
    check_label(owner, "owner", OWNER_MAX)
    where = "standard input" if path == "-" else shown(path)
    try:
        if path == "-":
            data = sys.stdin.buffer.read(SIZE_MAX + 1)
        else:
            with open(path, "rb") as file:  # noqa: PTH123 - as given, "" included
                data = file.read(SIZE_MAX + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidInput(f"cannot be read: {reason}", object=where, errno=error.errno) from None
    except ValueError:
        raise InvalidInput("is no path", object=where) from None
    if len(data) > SIZE_MAX:
        raise InvalidInput(f"is larger than {SIZE_MAX >> 20} MiB", object=where)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidInput(
            f"is not UTF-8 (byte 0x{data[error.start]:02x})", object=f"{where}:{line}"
        ) from None
    if not text or text.isspace():
        raise InvalidInput("is empty", object=where)
    return text, where


def _decoded(text: str, where: str, tick: Tick) -> Decoded:
    if lines := parse_lines(text, where):
        return Decoded(lines, Places(where, partial(_line_of, text), ()), removes=True)
    places = Places(where, partial(find_line, text), ("services",))
    refuse = places.refuse
    document = parse(text, where, tick)
    if not isinstance(document, dict):
        refuse((), f"must be a mapping with version and services, not {describe(document)}")
    for key in document:
        if key not in ("version", "services"):
            refuse((key,), f"unknown key {quote(key)}")
    for key in ("version", "services"):
        if key not in document:
            refuse((), f"{key} is missing")
    version, entries = document["version"], document["services"]
    if type(version) is not int or version != 1:
        refuse(("version",), f"version must be 1, not {describe(version)}")
    if not isinstance(entries, list):
        refuse(("services",), f"services must be a list ([] for none), not {describe(entries)}")
    return Decoded(entries, places, removes=False)


def _line_of(text: str, path: Path) -> int:
    assert isinstance(path[0], int)
    return line_numbers(text)[path[0]]
