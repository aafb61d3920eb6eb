# SPDX-License-Identifier: Apache-2.0
"""What `top` shows, made of what was seen: rich's renderables, and nothing that is asked for.

Colours are those of the terminal's own palette, so that they can be read on dark and on light.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hostreach.rates import Use

if TYPE_CHECKING:
    from hostreach.rates import BackendUse
    from hostreach.status import Status

_HEAD, _FOOT = 4, 1
"""Lines above and below the services: the summary, the columns' heads; the keys."""
_NAMES = 100
"""Columns from which names have one of their own."""
_NUMBERS = 56
"""What the columns of numbers take."""
_OFF = 0.05
"""How far the open connections' share may be from the weight's before it is shown."""
_OFF_LEAST = 20
"""Connections below which chance explains every difference."""


@dataclass
class View:
    """How the one who looks wants to see it."""

    sort: str = "rate"
    reverse: bool = False
    text: str = ""
    backends: bool = False
    paused: bool = False
    first: int = 0
    """Of the lines, when they are more than fit."""
    typing: bool = False
    """What is typed goes to ``text``."""
    interval: float = 2.0


@dataclass
class Picture:
    """What is to be seen."""

    status: Status
    shown: list[Use]
    """Selected and sorted."""
    all: list[Use]
    problem: str = ""
    """Why what is seen is old."""
    seen_at: float = field(default_factory=time.time)


Backends = Callable[[str], "list[BackendUse]"]
"""Of a frontend; none if it is gone."""


def render(
    picture: Picture, view: View, backends: Backends, width: int, height: int
) -> RenderableType:
    """All of it, for a terminal of this size."""
    room = max(1, height - _HEAD - _FOOT)
    return Group(
        _first_line(picture, view, width),
        _second_line(picture, width),
        Text(),
        _services(picture, view, backends, width, room),
        _keys(view, width),
    )


def table(picture: Picture, view: View, backends: Backends, width: int) -> RenderableType:
    """The same without a terminal: all services, and no keys."""
    lines = sum(1 + (use.counters.backends if view.backends else 0) for use in picture.shown)
    return Group(
        _first_line(picture, view, width),
        _second_line(picture, width),
        Text(),
        _services(picture, view, backends, width, max(1, lines)),
    )


def _fit(text: Text, width: int) -> Text:
    text.no_wrap = True
    text.truncate(width, overflow="ellipsis")
    return text


def _first_line(picture: Picture, view: View, width: int) -> Text:
    status = picture.status
    text = Text("hostreach ", style="bold")
    text.append(status.pin, style="not bold")
    if status.cgroup:
        text.append(f" on {status.cgroup}, {'+'.join(status.protocols)}", style="not bold")
    else:
        text.append("  NOT ATTACHED", style="bold red")
    clock = time.strftime("%H:%M:%S", time.localtime(picture.seen_at))
    end = f"  {'paused ' if view.paused else ''}{clock}"
    _fit(text, max(10, width - len(end)))
    text.pad_right(max(0, width - text.cell_len - len(end)))
    return text.append(end, style="not bold")


def _second_line(picture: Picture, width: int) -> Text:
    if picture.problem:
        return _fit(Text(picture.problem, style="bold red"), width)
    found = picture.all
    refused = sum(use.refused_rate for use in found)
    text = Text()
    hidden = len(found) - len(picture.shown)
    if hidden:
        text.append(f"{len(picture.shown)} of ", style="bold")
    text.append(f"{len(found)} services")
    if picture.status.backends:
        text.append(f"  {picture.status.backends.used} backends")
    text.append(f"  {rate(sum(use.rate for use in found))}/s translated")
    text.append(f"  {rate(refused)}/s refused", style="bold red" if refused else "")
    text.append(f"  {number(sum(use.counters.open for use in found))} open")
    return _fit(text, width)


def rate(value: float) -> str:
    """A number each second, in at most six characters."""
    if value >= 9_999.5:
        return number(round(value))
    return f"{value:.0f}" if value >= 99.5 or not value else f"{value:.1f}"


def number(value: int) -> str:
    """In at most six characters: 99999, 123k, 12.3M."""
    if value < 100_000:
        return str(value)
    for unit, size in (("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)):
        scaled = value / size
        if scaled < 999.5:
            return f"{scaled:.0f}{unit}" if scaled >= 99.5 else f"{scaled:.1f}{unit}"
    return f"{value / 1e12:.1f}T"


def _services(
    picture: Picture, view: View, backends: Backends, width: int, room: int
) -> RenderableType:
    heads = {"open": "OPEN", "rate": "RATE/s", "refused": "REFUSED/s", "total": "TOTAL"}
    named = width >= _NAMES
    grid = Table(
        box=None,
        expand=not named,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="reverse",
        show_edge=False,
    )
    if named:
        grid.add_column("SERVICE", no_wrap=True, overflow="ellipsis", min_width=24)
        most = width - _NUMBERS - 50  # an IPv6 frontend is no longer
        grid.add_column("NAME", no_wrap=True, overflow="ellipsis", min_width=24, max_width=most)
    else:
        grid.add_column("SERVICE", no_wrap=True, overflow="ellipsis", ratio=1)
    grid.add_column("WEIGHT" if view.backends else "BACKENDS", justify="right", no_wrap=True)
    if view.backends:
        grid.add_column("SHARE", justify="right", no_wrap=True, min_width=6)
        grid.add_column("HOLDS", justify="right", no_wrap=True, min_width=5)
    for key in ("rate", "refused", "open", "total"):
        head = Text(heads[key], style="bold underline" if view.sort == key else "")
        grid.add_column(head, justify="right", no_wrap=True, min_width=6)
    left = room
    skip = view.first
    for use in picture.shown:
        lines = [_service_row(use, view, named)]
        if view.backends and (skip < 1 + use.counters.backends):
            lines += [_backend_row(each, named) for each in backends(use.counters.frontend)]
        for line in lines:
            if skip:
                skip -= 1
                continue
            if not left:
                return grid
            grid.add_row(*line)
            left -= 1
        if view.backends and len(lines) == 1 and skip:
            skip = max(0, skip - use.counters.backends)
    if not picture.shown:
        grid.add_row(Text("no services" if not picture.all else "none of them matches"))
        left -= 1
    for _ in range(left if view.interval else 0):
        grid.add_row("")
    return grid


def _service_row(use: Use, view: View, named: bool) -> list[RenderableType]:
    counters = use.counters
    shown = Text(counters.frontend, style="bold")
    if not named and counters.name:
        shown.append(f" {counters.name}", style="not bold")
    if not counters.backends:
        count = Text("none", style="red")
    else:
        count = Text("" if view.backends else str(counters.backends))
    refused = Text(rate(use.refused_rate), style="bold red" if use.refused_rate else "")
    row: list[RenderableType] = [shown]
    if named:
        row.append(Text(counters.name or "-"))
    row.append(count)
    if view.backends:
        row += [Text(), Text()]
    return [
        *row,
        Text(rate(use.rate)),
        refused,
        Text(number(counters.open)),
        Text(number(counters.translations)),
    ]


_STYLES = {"active": "", "draining": "magenta", "down": "red"}


def _backend_row(use: BackendUse, named: bool) -> list[RenderableType]:
    backend = use.backend
    shown = Text(f"  {backend.address}", style=_STYLES[backend.state])
    state = "" if backend.state == "active" else backend.state
    if not named and state:
        shown.append(f" {state}")
    off = use.open >= _OFF_LEAST and abs(use.holds - use.share) > _OFF
    held = f"{use.holds:.1%}" if use.open else "-"
    row: list[RenderableType] = [shown]
    if named:
        row.append(Text(state, style=_STYLES[backend.state]))
    return [
        *row,
        Text(str(backend.weight)),
        Text(f"{use.share:.1%}"),
        Text(held, style="bold magenta" if off else ""),
        Text(),
        Text(),
        Text(number(use.open)),
        Text(),
    ]


def _keys(view: View, width: int) -> Text:
    if view.typing:
        text = Text("filter: ", style="bold")
        return _fit(text.append(f"{view.text}_", style="not bold"), width)
    text = Text()
    for key, what in (
        ("q", "quit"),
        ("s", f"sort: {view.sort}"),
        ("r", "reversed" if view.reverse else "reverse"),
        ("b", "backends"),
        ("space", "go on" if view.paused else "pause"),
        ("+-", f"{view.interval:g}s"),
        ("/", view.text or "filter"),
    ):
        text.append(f" {key} ", style="reverse").append(f"{what} ")
    return _fit(text, width)
