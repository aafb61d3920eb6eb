# SPDX-License-Identifier: Apache-2.0
"""Services as text, in the format that `file` reads: what ``export`` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from hostreach.plain import PlainBackend, PlainService, plain_service
from hostreach.syntax import format_duration, format_frontend, frontend_key

if TYPE_CHECKING:
    from hostreach.models import Service

Either: TypeAlias = "Service | PlainService"


def dump(services: Iterable[Either]) -> str:
    """As YAML, sorted, without the fields that have their default value."""
    listed = _sorted(services)
    if not listed:
        return "version: 1\nservices: []\n"
    lines = ["version: 1", "services:"]
    for service in listed:
        first = "- "
        for key, value in _fields(service):
            lines.append(f"{first}{key}: {_scalar(value)}")
            first = "  "
        if backends := service[6]:
            lines.append("  backends:")
            lines += map(_backend_lines, backends)
    lines.append("")
    return "\n".join(lines)


def dump_json(services: Iterable[Either]) -> str:
    """The same as JSON."""
    entries = [_entry(service) for service in _sorted(services)]
    return json.dumps({"version": 1, "services": entries}, indent=2, ensure_ascii=False) + "\n"


def _sorted(services: Iterable[Either]) -> Sequence[PlainService]:
    plain = [each if isinstance(each, tuple) else _plain(each) for each in services]
    plain.sort(key=lambda each: frontend_key(*each[:3]))
    return plain


def _plain(service: Service) -> PlainService:
    return plain_service(service, lambda _: (0, 0))  # a file has a cgroup's path alone


def _fields(service: PlainService) -> Iterator[tuple[str, object]]:
    """All but the backends, without those that have their default value."""
    name, owner, algorithm, _, affinity, host_only, subtree, removal, ranges = service[3:]
    yield "frontend", format_frontend(*service[:3])
    if name is not None:
        yield "name", name
    if owner != "manual":
        yield "owner", owner
    if algorithm != "random":
        yield "algorithm", algorithm
    if affinity:
        yield "affinity", format_duration(affinity)
    if host_only:
        yield "host_only", True
    if subtree is not None:
        yield "from_cgroup", subtree[0]
    if ranges is not None:
        yield "source_ranges", ranges
    if removal is not None:
        yield "on_removal", removal


def _entry(service: PlainService) -> dict[str, Any]:
    entry = dict(_fields(service))
    if service[6]:
        entry["backends"] = [*map(_backend, service[6])]
    return entry


def _backend(backend: PlainBackend) -> dict[str, object]:
    address, weight, state = backend
    entry: dict[str, object] = {"address": address}
    if weight != 1:
        entry["weight"] = weight
    if state != "active":
        entry["state"] = state
    return entry


def _backend_lines(backend: PlainBackend) -> str:
    address, weight, state = backend
    # In brackets it would be a list to YAML; IPv4 needs no quotes, as `_PLAIN` has it.
    text = f'  - address: "{address}"' if address[0] == "[" else f"  - address: {address}"
    if weight != 1:
        text += f"\n    weight: {weight}"
    if state != "active":
        text += f"\n    state: {state}"
    return text


# Left unquoted: only what no version of YAML takes for anything but a string.
_PLAIN = re.compile(
    r"[A-Za-z][\w./-]*(:[\w/][\w./-]*)*"
    r"|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+:[0-9]+(/[a-z]+)?"
    r"|[1-9][0-9]*(ms|s|m|h|d)"
    r"|(/[\w.-]+)+",
    re.ASCII,
)
_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if isinstance(value, int) or (_PLAIN.fullmatch(text) and text.lower() not in _WORDS):
        return text
    return json.dumps(text, ensure_ascii=False)
