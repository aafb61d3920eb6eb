# SPDX-License-Identifier: Apache-2.0
"""How things are printed: JSON with a schema version, aligned columns, changes in one line each."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import typer

from hostreach.syntax import format_frontend, parse_frontend

from .differences import describe

if TYPE_CHECKING:
    from hostreach import Node
    from hostreach.changes import Change
    from hostreach.ending import EndResult
    from hostreach.plain import PlainFrontend

SCHEMA = 1
"""Of what ``--json`` prints; rises when a key changes its meaning or goes, not when one comes."""

_VERBS = {"add": "added", "set": "changed", "remove": "removed"}
_SIGNS = {"add": "+", "set": "~", "remove": "-"}
_LEAST = 8
"""Columns of what is cut."""


def print_json(**values: object) -> None:
    """One object; its first key is the schema version."""
    typer.echo(to_json({"schema": SCHEMA, **values}, indent=2))


def to_json(value: object, indent: int | None = None) -> str:
    """As it is read, where all of it can be: JSON itself leaves in what begins C1's sequences."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if text.replace("\n", "").isprintable():
        return text
    return json.dumps(value, indent=indent)


def print_columns(
    header: Sequence[str], rows: Iterable[Sequence[object]], gives_way: int | None = None
) -> None:
    """Left-aligned columns, two spaces apart; None is shown as ``-``.

    On a terminal that is too narrow, what column ``gives_way`` holds is cut.
    """
    lines = [[*header], *(["-" if cell is None else str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if gives_way is not None:
        beyond = sum(widths) + 2 * (len(widths) - 1) - width()
        room = max(widths[gives_way] - beyond, len(header[gives_way]), _LEAST)
        if room < widths[gives_way]:
            widths[gives_way] = room
            for line in lines:
                line[gives_way] = cut(line[gives_way], room)
    text = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    typer.echo(text)


def width() -> int:
    """Columns of the terminal; where there is none, more than any line has: grep wants it whole."""
    return max(60, shutil.get_terminal_size().columns) if sys.stdout.isatty() else 10_000


def cut(text: str, room: int) -> str:
    """Not longer than ``room``; what is missing at the end is told."""
    return text if len(text) <= room else f"{text[: room - 1]}…"


def printable(text: str) -> str:
    """Processes and cgroups are named as their owners like, escape sequences included."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def hang(head: str, text: str, indent: int) -> list[str]:
    """``text`` behind ``head``, broken at the terminal's width; its other lines are indented."""
    return textwrap.wrap(
        text,
        width(),
        initial_indent=head.ljust(indent),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def print_change(
    change: Change | None, frontend: str, as_json: bool, ended: EndResult | None = None
) -> None:
    """What one write did; None is nothing."""
    if as_json:
        print_json(
            changes=[] if change is None else [change_to_dict(change)],
            ended=ended and ended.to_dict(),
        )
        return
    if change is None:
        typer.echo(f"unchanged {format_frontend(*parse_frontend(frontend))}")
    else:
        verb = f"would {change.action}" if ended and ended.dry_run else _VERBS[change.action]
        typer.echo(f"{verb} {describe(change)}")
    print_ended(ended)


def ended_by(node: Node, changes: Iterable[Change | None], *, dry_run: bool) -> EndResult | None:
    """What became, or would become, of the sockets of backends that these changes take away."""
    if dry_run:
        return node.would_end(change for change in changes if change is not None)
    return node.last_ended


def print_ended(ended: EndResult | None) -> None:
    """What became of the sockets of backends that went; nothing is no line."""
    if ended is not None and (ended.sockets or ended.unreachable or ended.problem):
        if ended.dry_run:
            print_sockets(ended)
        typer.echo(summary(ended))


def print_sockets(result: EndResult) -> None:
    """A line for each."""
    if result.sockets:
        print_columns(
            ("SERVICE", "BACKEND", "LOCAL", "NETNS"),
            [(each.service, each.backend, each.local, each.netns) for each in result.sockets],
        )


def warn(message: str) -> None:
    """A line on stderr. Where that cannot be written, what was asked for is done all the same."""
    with suppress(OSError):
        typer.echo(f"hostreach: warning: {message}", err=True)


def warn_about(changes: Iterable[Change], node: Node) -> None:
    """Lines on stderr for what was written and may not do what was meant."""
    written = [change.plain_after for change in changes if change.plain_after is not None]
    _warn_hidden(service[:3] for service in written)
    _warn_host_only([service[:3] for service in written if service[8]], node)


def _warn_hidden(frontends: Iterable[PlainFrontend]) -> None:
    """Servers of this host that local clients no longer reach."""
    from hostreach.listeners import hidden

    for frontend, bound in hidden(frontends):
        warn(
            f"{format_frontend(*frontend)} hides the server bound to {', '.join(bound)} from "
            "clients on this node"
        )


def _warn_host_only(frontends: Sequence[PlainFrontend], node: Node) -> None:
    """Services for the host alone, where the kernel cannot tell it."""
    if frontends and not node.knows_host():
        rest = f" and {len(frontends) - 1} more" if len(frontends) > 1 else ""
        warn(
            f"{format_frontend(*frontends[0])}{rest}: nobody uses a host_only service here, for "
            "this kernel does not tell the host's network namespace (Linux 5.14 does)"
        )


def print_diff(changes: Sequence[Change], as_json: bool, ended: EndResult | None = None) -> None:
    """What many writes did or would do, in lines that begin with ``+``, ``~`` or ``-``."""
    if as_json:
        print_json(
            changes=[change_to_dict(change) for change in changes],
            ended=ended and ended.to_dict(),
        )
        return
    if changes:
        lines = (f"{_SIGNS[change.action]} {describe(change)}" for change in changes)
        typer.echo("\n".join(lines))
    print_ended(ended)


def change_to_dict(change: Change) -> dict[str, Any]:
    """A change as JSON has it."""
    return {
        "action": change.action,
        "frontend": str(change.frontend),
        "before": change.before and change.before.model_dump(mode="json"),
        "after": change.after and change.after.model_dump(mode="json"),
    }


def summary(result: EndResult) -> str:
    """What was ended, in a line; and what could not be, in another."""
    count = {0: "no sockets", 1: "1 socket"}.get(
        len(result.sockets), f"{len(result.sockets)} sockets"
    )
    said = f"{'would end' if result.dry_run else 'ended'} {count}"
    if result.unreachable:
        spaces = f"{result.unreachable} network namespace{'s' * (result.unreachable > 1)}"
        said += f"\n{spaces}, with {result.left} of them, could not be entered"
    if result.problem:
        said += f"\n{result.problem}"
    return said
