# SPDX-License-Identifier: Apache-2.0
"""Python functions in forked children, whose result or exception comes back."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from . import linux
from .timing import scaled

T = TypeVar("T")


class ChildTraceback(Exception):
    """The cause of an exception that came from a child: the traceback there."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def start(enter: Callable[[], None], body: Callable[[int], None]) -> tuple[int, int]:
    """Forks, runs enter() and then body(pipe); returns the child's pid and the pipe to read."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return pid, read_end
    status = 1
    try:
        os.close(read_end)
        linux.die_with_parent()
        enter()
        body(write_end)
        status = 0
    except BaseException:  # noqa: BLE001
        # Nothing of the parent's may run here: not its finally blocks, not its atexit handlers.
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


class Pending(Generic[T]):
    """function(*args) under way in a child that has run enter() first."""

    def __init__(
        self, enter: Callable[[], None], function: Callable[..., T], *args: Any, timeout: float
    ) -> None:
        def body(pipe: int) -> None:
            # Says where it hangs, before result() gives up. By a signal: faulthandler's own timer
            # is a thread, which a fork in here would wait for and not have.
            faulthandler.register(signal.SIGALRM, file=2)
            signal.setitimer(signal.ITIMER_REAL, self._seconds * 0.9)
            try:
                answer = pickle.dumps((True, function(*args), ""))
            except BaseException as error:  # noqa: BLE001 - raised again by result()
                answer = _pickled_failure(error)
            while answer:
                answer = answer[os.write(pipe, answer) :]

        self._seconds = scaled(timeout)
        self._what = repr(function)
        self.pid, self._pipe = start(enter, body)

    def result(self) -> T:
        """What the function returned; raises what it raised."""
        try:
            answer = read_all(self._pipe, self._seconds)
        finally:
            self.stop()
        if not answer:
            raise ChildTraceback(f"the child of {self._what} ended without an answer")
        succeeded, value, text = pickle.loads(answer)
        if succeeded:
            result: T = value
            return result
        raise value from ChildTraceback(text)

    def stop(self) -> None:
        """Kills the child if it still runs."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
            stop(self.pid)


def stop(pid: int) -> int:
    """Kills the child if it still runs, and reaps it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, 0)[1]
    return 0


def _pickled_failure(error: BaseException) -> bytes:
    text = "".join(traceback.format_exception(error))
    with contextlib.suppress(Exception):
        answer = pickle.dumps((False, error, text))
        pickle.loads(answer)
        return answer
    return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}"), text))


def read_all(pipe: int, seconds: float) -> bytes:
    """Until the other end is closed; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    answer = b""
    while True:
        readable, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise TimeoutError(f"the child did not answer within {seconds:g} s")
        part = os.read(pipe, 1 << 16)
        if not part:
            return answer
        answer += part
