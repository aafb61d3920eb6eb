# SPDX-License-Identifier: Apache-2.0
"""``trace``: each call that is translated or refused, as it happens."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from hostreach.errors import InvalidInput

from .completion import choices, frontends
from .options import Pin, open_node, parsed
from .output import SCHEMA, cut, printable, to_json, width

if TYPE_CHECKING:
    from hostreach.tracing import Traced, Tracer

_SLICE = 0.2
"""Seconds after which it is looked whether anybody still reads."""
_TELL_AGAIN = 1.0
"""Seconds between two lines about lost calls."""
_PID_MAX = 2**22
"""The kernel's PID_MAX_LIMIT."""
_CLOCK = len("12:00:00.000")
_WHO = 26
"""Columns that a process may move the others by."""
_WHY = {
    "no-backend": "no usable backend",
    "not-admitted": "no address in the source ranges",
    "unanswerable": "the socket cannot remember it",
}


def trace(
    context: typer.Context,
    service: Annotated[
        str | None,
        typer.Option(
            metavar="FRONTEND", help="Only calls to this service.", autocompletion=frontends
        ),
    ] = None,
    pid: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Only this process, as the host counts them.", min=1, max=_PID_MAX
        ),
    ] = None,
    cgroup: Annotated[
        str | None, typer.Option(metavar="PATH", help="Only tasks in this cgroup or below it.")
    ] = None,
    verdict: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Only translated, or only refused.",
            autocompletion=choices("translated", "refused"),
        ),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="End after so long, as in 30s. Default: never."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, an object a line.")] = False,
    pin: Pin = None,
) -> None:
    """Print calls as they are translated or refused, a line each.

    Ctrl-C ends it. What comes quicker than it is printed is counted, and told on standard error.
    """
    from hostreach.models import Frontend
    from hostreach.syntax import parse_cgroup, parse_duration, parse_frontend
    from hostreach.tracing import VERDICTS, Wanted

    if verdict is not None and verdict not in VERDICTS:
        raise InvalidInput("--verdict is translated or refused")
    wanted = Wanted(
        None if service is None else str(Frontend.parse(service)),
        pid,
        None if cgroup is None else parsed("--cgroup", parse_cgroup, cgroup),
        verdict,  # type: ignore[arg-type]
    )
    seconds = float("inf")
    if duration is not None:
        seconds = parsed("--duration", parse_duration, duration) / 1000
    with suppress(KeyboardInterrupt), open_node(context, pin) as node, _ended_by_signals():
        tracer = node.trace(wanted)
        try:
            if not node.status().cgroup:
                _say("nothing is attached, so there is nothing to see before `attach`")
            if service is not None and node.plain.plain_owner(parse_frontend(service)) is None:
                _say(f"there is no service {wanted.service}, so there is nothing to see before one")
            _follow(tracer, seconds, as_json)
        except BrokenPipeError:
            # Nobody reads on, which is how `trace | head` ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        finally:
            tracer.close()


def _follow(tracer: Tracer, seconds: float, as_json: bool) -> None:
    show = _json_line if as_json else _Line(sys.stdout.isatty())
    deadline = time.monotonic() + seconds
    told, told_at = 0, float("-inf")
    while True:
        left = deadline - time.monotonic()
        found = tracer.read(max(0.0, min(_SLICE, left)))
        if found:
            sys.stdout.write("".join([show(each) for each in found]))
            sys.stdout.flush()
        elif _nobody_reads():
            raise BrokenPipeError
        now = time.monotonic()
        if tracer.lost != told and (now - told_at >= _TELL_AGAIN or left <= 0):
            lost, told, told_at = tracer.lost - told, tracer.lost, now
            _say(f"{lost} calls came quicker than they could be printed, and are lost")
            if as_json:
                sys.stdout.write(json.dumps({"schema": SCHEMA, "lost": lost}) + "\n")
        if left <= 0 and not found:
            return


def _nobody_reads() -> bool:
    """Whether standard output is a pipe or socket whose other end is closed."""
    poll = select.poll()
    with suppress(OSError, ValueError):
        poll.register(sys.stdout, 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end it as Ctrl-C does: so that programs are told at once."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(message: str) -> None:
    print(f"hostreach: {message}", file=sys.stderr, flush=True)


def _json_line(call: Traced) -> str:
    return to_json({"schema": SCHEMA, **call.to_dict()}) + "\n"


class _Line:
    """A call for people: time, who, what was asked for, what came of it, the rest."""

    def __init__(self, is_terminal: bool) -> None:
        colored = is_terminal and "NO_COLOR" not in os.environ
        # Only what comes last is cut, and only where it would break the line.
        self._cut = width if is_terminal else None
        self._who = 0
        self._colors = ("\x1b[31m", "\x1b[2m", "\x1b[0m") if colored else ("", "", "")
        self._second = -1
        self._clock = ""

    def __call__(self, call: Traced) -> str:
        red, dim, plain = self._colors
        second = int(call.time)
        if second != self._second:
            self._second, self._clock = second, time.strftime("%H:%M:%S", time.localtime(second))
        who = f"{printable(call.command)}[{call.pid}]"
        if call.verdict == "refused":
            what = f"refused: {_WHY[call.reason or 'no-backend']}"
        else:
            what = f"-> {call.backend}"
        label = call.name or (call.service if call.service != call.asked else "")
        where = f"pod {call.pod}" if call.pod else printable(call.cgroup or "")
        rest = "  ".join(part for part in (label, where) if part)
        clock = f"{dim}{self._clock}.{int(call.time * 1000) % 1000:03}{plain}"
        self._who = max(self._who, min(len(who), _WHO))
        asked, what = f" {who:<{self._who}} {call.asked:<21} ", f"{what:<20}"
        if self._cut and rest:
            room = self._cut() - _CLOCK - len(asked) - len(what) - 2
            rest = cut(rest, room) if len(rest) <= room or room > 8 else ""
        if call.verdict == "refused":
            what = what.replace("refused", f"{red}refused{plain}", 1)
        return f"{clock}{asked}{what}" + (f"  {dim}{rest}{plain}\n" if rest else "\n")
