# SPDX-License-Identifier: Apache-2.0
"""`hostreach` in processes of which a bpf(2) call fails, whichever is wished for.

`python -m kernel.harness.failing` with clients/failing.c preloaded has hostreach imported, and runs
each command line in a fork: hundreds of them take seconds.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from . import forked
from .box import environment
from .compiled import preloading
from .timing import scaled

ALL = -1
"""Of bpf(2)'s commands."""
_PLAN = struct.Struct("@lllll")


def plan(at: int, error: int, *, command: int = ALL, program_type: int = -1) -> bytes:
    """As clients/failing.c has it."""
    return _PLAN.pack(at, error, command, program_type, 0)


class Failed(NamedTuple):
    """What a run came to, and how many calls it made up to its end."""

    status: int
    stdout: str
    stderr: str
    calls: int


class Failing:
    """The process that forks, as its user sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(
        self,
        *arguments: str,
        at: int = 0,
        error: int = 0,
        command: int = ALL,
        program_type: int = -1,
    ) -> Failed:
        """`hostreach ARGUMENTS`, whose call number ``at`` of that command fails; 0: none does.

        And each that loads a program of that type.
        """
        assert self._process.stdin
        assert self._process.stdout
        wanted = {
            "arguments": arguments,
            "plan": plan(at, error, command=command, program_type=program_type).hex(),
        }
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the process that forks has ended"
        return Failed(*json.loads(line))


@contextmanager
def failing() -> Iterator[Failing]:
    variables = {**environment(), "LD_PRELOAD": preloading("failing.c")}
    variables["PYTHONPATH"] = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-m", "kernel.harness.failing"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=variables,
    )
    with process:
        try:
            yield Failing(process)
        finally:
            process.kill()


def main() -> None:
    """A command line on each line of stdin, and what became of it on a line of stdout."""
    shared = mmap.mmap(-1, _PLAN.size)  # with the forks
    place = ctypes.addressof(ctypes.c_char.from_buffer(shared))
    arm = ctypes.CDLL(None).fail_by
    # The forks' stdout is another, and nothing of theirs may get into ours.
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        wanted = json.loads(line)
        shared[: _PLAN.size] = bytes.fromhex(wanted["plan"])
        ran = forked.run(
            ["hostreach", *wanted["arguments"]],
            "",
            lambda: arm(ctypes.c_void_p(place)),
            scaled(30),
        )
        answers.write(json.dumps([*ran, _PLAN.unpack_from(shared)[4]]) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
