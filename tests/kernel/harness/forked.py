# SPDX-License-Identifier: Apache-2.0
"""`hostreach` in forks of the test run, which has imported it: emulated, a start takes seconds."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import cache

from . import child

FORKS = os.environ.get("HOSTREACH_FORKED_CLI") == "1"
"""Wished for by tests/vm. It stays the exception: who uses hostreach has a fresh interpreter."""

_USED = (
    *("hostreach.cli.app", "hostreach.doctor", "hostreach.listeners", "hostreach.models"),
    *("hostreach.running", "hostreach.sources.file", "typer.main"),
)
_LAST_FD = 1 << 16


def run(
    argv: Sequence[str], stdin: str, prepare: Callable[[], None] | None, seconds: float
) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `hostreach` with these arguments."""
    _preload()
    with contextlib.ExitStack() as stack:
        files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
        for file in files:
            stack.callback(os.close, file)
        os.pwrite(files[0], stdin.encode(), 0)

        def body(pipe: int) -> None:
            if prepare:
                prepare()
            for number, file in enumerate(files):
                os.dup2(file, number)
            os.closerange(3, pipe)
            os.closerange(pipe + 1, _LAST_FD)
            os.write(pipe, str(_become(argv)).encode())

        pid, pipe = child.start(lambda: None, body)
        try:
            status = child.read_all(pipe, seconds)
        finally:
            os.close(pipe)
            child.stop(pid)
        said = [os.pread(file, os.fstat(file).st_size, 0).decode() for file in files]
    return int(status or 1), said[1], said[2]


@cache
def _preload() -> None:
    for name in _USED:
        importlib.import_module(name)


def _become(argv: Sequence[str]) -> int:
    """What the script does in a new interpreter; the exit status."""
    from hostreach.cli import main

    warnings.simplefilter("ignore")  # those of the test run are errors
    sys.argv = [*argv]
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
    try:
        return main()
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        return 1
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
