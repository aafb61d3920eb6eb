# SPDX-License-Identifier: Apache-2.0
"""A bar for what takes longer than a moment."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

PATIENCE = 1.0
"""Seconds, before which nothing is shown; nor is rich imported."""


@final
class Progress:
    """On standard error, if that is a terminal; called with how much is done, from 0 to 1."""

    def __init__(self, what: str) -> None:
        self._what = "standard input" if what == "-" else what
        self._due = time.monotonic() + PATIENCE if _is_terminal() else float("inf")
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        return self

    def __call__(self, done: float) -> None:
        if self._bar is None:
            if time.monotonic() < self._due:
                return
            self._begin()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)

    def _begin(self) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress as Bar

        self._bar = Bar(console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(escape(self._what), total=1.0)
        self._bar.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
