# SPDX-License-Identifier: Apache-2.0
"""``top``: services and backends at work."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from hostreach.errors import HostreachError, InvalidInput

from .completion import choices
from .options import Json, Pin, open_node, parsed
from .output import print_json

if TYPE_CHECKING:
    from rich.live import Live

    from hostreach import Node
    from hostreach.rates import BackendUse, Survey

    from .screen import Picture, View

_INTERVALS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_SORTS = ("rate", "refused", "open", "total", "backends", "name", "frontend")
"""`hostreach.rates.SORTS`, for whom completes: it is not loaded before it is needed."""
_LOOK = 0.25
"""Seconds after which the terminal's size is looked at."""


def top(
    context: typer.Context,
    sort: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="By rate, refused, open, total, backends, name or frontend.",
            autocompletion=choices(*_SORTS),
        ),
    ] = "rate",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    text: Annotated[
        str,
        typer.Option(
            "--filter", metavar="TEXT", help="Those with this in frontend, name or owner."
        ),
    ] = "",
    backends: Annotated[
        bool, typer.Option("--backends", help="Show each service's backends too.")
    ] = False,
    interval: Annotated[
        str, typer.Option(metavar="DURATION", help="Between two looks, as in 500ms.")
    ] = "2s",
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="With --once: so many services. Default: all."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Look twice, print what happened between, and end.")
    ] = False,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Show what services do: rates, connections, shares.

    Keys: q ends, s and S choose what is sorted by, r reverses, b shows backends, / filters, space
    pauses, + and - change the interval, arrows and page keys scroll.
    """
    from hostreach.rates import SORTS
    from hostreach.syntax import parse_duration

    from .screen import View

    if sort not in SORTS:
        raise InvalidInput(f"--sort is {', '.join([*SORTS][:-1])} or {[*SORTS][-1]}")
    seconds = parsed("--interval", parse_duration, interval) / 1000
    if not 0.1 <= seconds <= 3600:
        raise InvalidInput("--interval is 100ms to 1h")
    if as_json and not once:
        raise InvalidInput("--json goes with --once")
    if not once and not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise InvalidInput("there is no terminal to show it on; use --once")
    if not once and os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        raise InvalidInput("this terminal cannot show it (TERM says so); use --once")
    view = View(sort, reverse, text, backends, interval=seconds)
    with open_node(context, pin) as node:
        if once:
            _once(node, view, limit, as_json)
        else:
            _Live(node, view).run()


def _once(node: Node, view: View, limit: int | None, as_json: bool) -> None:
    before = node.survey()
    time.sleep(view.interval)
    picture = _picture(node, view, before, node.survey())
    picture.shown = picture.shown[:limit]
    if as_json:
        _print_json(node, picture)
        return
    from rich.console import Console

    from .screen import table

    view.interval = 0
    # Elsewhere nobody cares how wide it is.
    asked = os.environ.get("COLUMNS", "")
    width = None if sys.stdout.isatty() or asked.strip("0").isdigit() else 160
    console = Console(highlight=False, width=width)
    console.on_broken_pipe = _nobody_reads_on  # type: ignore[method-assign]
    console.print(table(picture, view, lambda f: _backends(node, f), console.width))


def _nobody_reads_on() -> NoReturn:
    """As for every other command; rich itself would exit with another status."""
    raise BrokenPipeError


def _print_json(node: Node, picture: Picture) -> None:
    status = picture.status
    services = []
    for use in picture.shown:
        found = [each.to_dict() for each in _backends(node, use.counters.frontend)]
        services.append({**use.to_dict(), "backends": found})
    print_json(
        pin=status.pin,
        cgroup=status.cgroup,
        protocols=status.protocols,
        translations_per_second=round(sum(use.rate for use in picture.all), 3),
        refusals_per_second=round(sum(use.refused_rate for use in picture.all), 3),
        open=sum(use.counters.open for use in picture.all),
        services=services,
    )


def _picture(node: Node, view: View, before: Survey, after: Survey) -> Picture:
    from hostreach.rates import select as choose
    from hostreach.rates import uses

    from .screen import Picture

    found = uses(before, after)
    shown = choose(found, view.sort, reverse=view.reverse, text=view.text)
    return Picture(node.status(), shown, found)


def _backends(node: Node, frontend: str) -> list[BackendUse]:
    from hostreach.rates import backend_uses

    try:
        found = node.services.inspect(frontend)
    except HostreachError:  # it went just now, or a writer has the lock for long
        return []
    return backend_uses(found.service.backends, found.shares, found.active)


class _Live:
    """The screen, its clock and its keys."""

    def __init__(self, node: Node, view: View) -> None:
        from rich.console import Console

        self._node = node
        self._view = view
        self._console = Console(highlight=False)
        self._before = self._after = node.survey()
        self._picture = _picture(node, view, self._before, self._after)
        self._seen_at = self._picture.seen_at

    def run(self) -> None:
        """Until q, Ctrl-C, SIGTERM, or the terminal goes."""
        from rich.live import Live

        with (
            suppress(KeyboardInterrupt),
            _one_key_at_a_time(),
            Live(console=self._console, screen=True, auto_refresh=False) as live,
        ):
            self._show(live)

    def _show(self, live: Live) -> None:
        from .screen import render

        next_look = time.monotonic() + min(1.0, self._view.interval)  # first rates come soon
        size = None
        stale = True
        while True:
            if stale or size != self._console.size:
                size = self._console.size
                live.update(
                    render(
                        self._picture,
                        self._view,
                        lambda frontend: _backends(self._node, frontend),
                        size.width,
                        size.height,
                    ),
                    refresh=True,
                )
                stale = False
            wait = max(0.0, min(_LOOK, next_look - time.monotonic()))
            if keys := _read_keys(wait):
                if any(self._press(key, size.height) for key in keys):
                    return
                self._select()
                stale = True
            elif time.monotonic() >= next_look:
                next_look = time.monotonic() + self._view.interval
                if not self._view.paused:
                    self._look()
                    stale = True

    def _look(self) -> None:
        try:
            self._before, self._after = self._after, self._node.survey()
            self._seen_at = time.time()
        except HostreachError as error:  # a writer has the lock for long: show what there is
            self._picture.problem = str(error)
        else:
            self._select()

    def _select(self) -> None:
        """What is seen, as the view is now."""
        try:
            self._picture = _picture(self._node, self._view, self._before, self._after)
            self._picture.seen_at = self._seen_at
        except HostreachError as error:
            self._picture.problem = str(error)

    def _press(self, key: str, height: int) -> bool:
        """Whether that was the end."""
        from hostreach.rates import SORTS

        view = self._view
        if view.typing:
            self._type(key)
            return False
        if key in ("q", "Q", "\x1b"):
            return True
        names = [*SORTS]
        page = max(1, height - 6)
        if key in ("s", "S", "right", "left"):
            step = 1 if key in ("s", "right") else -1
            view.sort = names[(names.index(view.sort) + step) % len(names)]
        elif key == "r":
            view.reverse = not view.reverse
        elif key == "b":
            view.backends, view.first = not view.backends, 0
        elif key == "/":
            view.typing, view.text = True, ""
        elif key in (" ", "p"):
            view.paused = not view.paused
        elif key in ("+", "-"):
            view.interval = _step(view.interval, slower=key == "+")
        elif key in ("up", "down", "page up", "page down", "home", "end"):
            self._scroll(key, page)
        return False

    def _scroll(self, key: str, page: int) -> None:
        view = self._view
        lines = sum(
            1 + (use.counters.backends if view.backends else 0) for use in self._picture.shown
        )
        by = {"up": -1, "down": 1, "page up": -page, "page down": page, "home": -lines}
        last = max(0, lines - page)
        view.first = last if key == "end" else max(0, min(last, view.first + by[key]))

    def _type(self, key: str) -> None:
        view = self._view
        if key in ("\r", "\n"):
            view.typing = False
        elif key == "\x1b":
            view.typing, view.text = False, ""
        elif key in ("\x7f", "\b"):
            view.text = view.text[:-1]
        elif len(key) == 1 and key.isprintable():
            view.text += key
        view.first = 0


def _step(interval: float, *, slower: bool) -> float:
    if slower:
        return next((each for each in _INTERVALS if each > interval), interval)
    return next((each for each in _INTERVALS[::-1] if each < interval), interval)


@contextmanager
def _one_key_at_a_time() -> Iterator[None]:
    """The terminal gives each key at once and shows none; SIGTERM and SIGHUP end as Ctrl-C does."""
    import termios
    import tty

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    handlers = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setcbreak(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


_ESCAPES = {
    "[A": "up",
    "[B": "down",
    "[C": "right",
    "[D": "left",
    "OA": "up",
    "OB": "down",
    "OC": "right",
    "OD": "left",
    "[5~": "page up",
    "[6~": "page down",
    "[H": "home",
    "[F": "end",
    "[1~": "home",
    "[4~": "end",
}


_KEY = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Z])|.", re.DOTALL)


def _read_keys(seconds: float) -> list[str]:
    """Characters, and names of `_ESCAPES`; raises KeyboardInterrupt when input ends."""
    fd = sys.stdin.fileno()
    if not select.select([fd], [], [], seconds)[0]:
        return []
    found = os.read(fd, 1024).decode("utf-8", "ignore")
    if not found:
        raise KeyboardInterrupt
    return [
        key if len(key) == 1 else _ESCAPES.get(key[1:], "unknown") for key in _KEY.findall(found)
    ]
