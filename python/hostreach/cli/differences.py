# SPDX-License-Identifier: Apache-2.0
"""A change in words. From plain values: to make models takes a command longer than its write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostreach.syntax import format_duration, format_frontend

if TYPE_CHECKING:
    from hostreach.changes import Change
    from hostreach.plain import PlainBackend, PlainService

_DETAILS_MAX = 6


def describe(change: Change) -> str:
    """Whose service, and what is new about it."""
    frontend = format_frontend(*change.key)
    before, after = change.plain_before, change.plain_after
    if before is None and after is not None:
        return f"{frontend} with {_count(len(after[6]))}"
    if before is not None and after is not None:
        details = _differences(before, after)
        if len(details) > _DETAILS_MAX:
            details[_DETAILS_MAX:] = [f"{len(details) - _DETAILS_MAX} more"]
        return f"{frontend}: {', '.join(details)}"
    return frontend


def _differences(before: PlainService, after: PlainService) -> list[str]:
    shown, wanted = _words(before), _words(after)
    details = [
        f"{name} {was} -> {wanted[name]}" for name, was in shown.items() if was != wanted[name]
    ]
    was, now = before[9], after[9]
    if was and now and was[0] == now[0] and now[1] not in (0, was[1]):  # 0: it is gone
        details.append(f"from cgroup {now[0]}, made anew")
    old = {backend[0]: backend for backend in before[6]}
    new = {backend[0]: backend for backend in after[6]}
    details += [f"+{_backend(each)}" for address, each in new.items() if address not in old]
    details += [f"-{_backend(each)}" for address, each in old.items() if address not in new]
    for address, (_, weight, state) in new.items():
        if address in old:
            _, old_weight, old_state = old[address]
            if weight != old_weight:
                details.append(f"{address} weight {old_weight} -> {weight}")
            if state != old_state:
                details.append(f"{address} state {old_state} -> {state}")
    return details or ["backends in another order"]


def _words(service: PlainService) -> dict[str, str]:
    """All but frontend, owner and backends."""
    name, _, algorithm, _, affinity, host_only, subtree, on_removal, ranges = service[3:]
    return {
        "name": name or "-",
        "algorithm": algorithm,
        "affinity": format_duration(affinity) if affinity else "-",
        "host only": "yes" if host_only else "no",
        "from cgroup": subtree[0] if subtree else "-",
        "source ranges": ranges or "-",
        "on removal": on_removal or "-",
    }


def _backend(plain: PlainBackend) -> str:
    """As `Backend` is written."""
    address, weight, state = plain
    return (
        address
        + ("" if weight == 1 else f",weight={weight}")
        + ("" if state == "active" else f",state={state}")
    )


def _count(backends: int) -> str:
    return "1 backend" if backends == 1 else f"{backends or 'no'} backends"
