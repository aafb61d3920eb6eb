# SPDX-License-Identifier: Apache-2.0
"""A process that is stopped after each of its stores to mapped tables, and each system call."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, final

from .box import Box, environment
from .child import ChildTraceback
from .compiled import c_program
from .line import Line
from .rawbpf import SYS_BPF

MKDIR = (83, 34)  # mkdir of x86-64, mkdirat of others
RENAME = (82, 38, 276)
_MAP_UPDATE_ELEM = 2
_ARRAY_OF_MAPS = 12


class Event(NamedTuple):
    """What the process did last: a store, or a system call. `waited`: a grace period went by."""

    call: int | None
    waited: bool


@final
class Stepper:
    """Follows a process that raises SIGSTOP at both ends of what is to be looked at."""

    def __init__(self, pid: int, tables: Iterable[Path]) -> None:
        self.pid = pid
        self._process = subprocess.Popen(
            [c_program("step.c"), str(pid), *map(str, tables)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment(),
        )
        assert self._read() == "ready"

    def __enter__(self) -> Stepper:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """The process goes on."""
        self._process.communicate(timeout=10)

    def steps(self) -> Iterator[Event]:
        """What happens from the next SIGSTOP to the one after; it stands still at each event."""
        assert self._ask("wait") == "stopped"
        while (said := self._ask("step")) != "stopped":
            assert said != "ended", "the process ended on the way"
            call = [*map(int, said.split()[1:])]
            yield Event(call[0], self._is_wait(*call)) if call else Event(None, False)

    def go_on(self) -> None:
        """To the next SIGSTOP, unwatched."""
        assert self._ask("go") == "going"

    def _is_wait(self, number: int, first: int, word: int) -> bool:
        """A map of maps: its update returns after a grace period (maybe_wait_bpf_programs())."""
        if (number, first) != (SYS_BPF, _MAP_UPDATE_ELEM):
            return False
        about = Path(f"/proc/{self.pid}/fdinfo/{word}").read_text()
        return f"map_type:\t{_ARRAY_OF_MAPS}\n" in about

    def _ask(self, what: str) -> str:
        assert self._process.stdin
        self._process.stdin.write(f"{what}\n")
        return self._read()

    def _read(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().rstrip("\n")


def calls_of(
    box: Box,
    action: Callable[[], None],
    kill: int | None = None,
    since: Container[int | None] | None = MKDIR,
) -> list[int | None]:
    """The system calls that it makes, in a process of its own, once it makes one of ``since``.

    ``kill``: it is killed after so many of these.
    """

    def act(test: Line) -> None:
        test.ask(os.getpid())
        os.kill(os.getpid(), signal.SIGSTOP)
        action()
        os.kill(os.getpid(), signal.SIGSTOP)

    made: list[int | None] = []
    with (
        suppress(ChildTraceback, BrokenPipeError),
        box.talk(act, timeout=120) as line,
        Stepper(line.recv(), ()) as stepper,
    ):
        line.send()
        for event in stepper.steps():
            if made or since is None or event.call in since:
                made.append(event.call)
            if len(made) == kill:
                os.kill(stepper.pid, signal.SIGKILL)
                break
    return made
