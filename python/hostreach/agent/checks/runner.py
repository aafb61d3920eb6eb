# SPDX-License-Identifier: Apache-2.0
"""When each backend is checked, in a thread of its own, and what the checks came to."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from .probes import NotDone, ProbeError, Target, probe

log = logging.getLogger("hostreach.agent")

COMPLAIN = 60.0
"""Seconds from one complaint to the next."""

Result = Literal["pass", "fail", "not-done"]
Told = Callable[[str, Result, float], None]
"""Of each check: its kind, what it came to, and seconds."""


@dataclass
class Health:
    """What is thought of one target.

    Attributes:
        passes: None as long as there was no result.
        why: what was wrong with the last check that failed.
        streak: results one after the other that say the opposite of ``passes``.
        since: when ``passes`` last changed, by time.time().
        known: when the first check that was done ended, and
        undone: when the last one began that could not be done here; both by time.monotonic().
    """

    passes: bool | None = None
    why: str = ""
    streak: int = 0
    since: float = 0.0
    known: float = math.inf
    undone: float = 0.0

    def take(self, problem: str | None, rise: int, fall: int) -> bool:
        """A check's result; whether that changes what is thought. The first one decides alone."""
        self.known = min(self.known, time.monotonic())
        passed = problem is None
        if problem is not None:
            self.why = problem
        if self.passes is None or passed != self.passes:
            self.streak += 1
            if self.passes is None or self.streak >= (rise if passed else fall):
                self.passes, self.streak, self.since = passed, 0, time.time()
                return True
        else:
            self.streak = 0
        return False


class Runner:
    """All but its thread may be called from one other thread.

    Attributes:
        health: what is thought of each target that is followed.
    """

    def __init__(self, at_once: int, changed: Callable[[], None], told: Told) -> None:
        """``changed`` and ``told`` are called in the runner's thread."""
        self.health: dict[Target, Health] = {}
        self._news: set[Target] = set()
        self._changed = changed
        self._told = told
        self._complained = float("-inf")
        self._tasks: dict[Target, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(at_once)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def follow(
        self, add: Iterable[Target], drop: Iterable[Target], failing: Iterable[Target]
    ) -> None:
        """Check these too, and those no longer; ``failing`` are thought to fail already."""
        failing = {*failing}
        for target in drop:
            self.health.pop(target, None)
            self._call(self._stop, target)
        for target in add:
            if target not in self.health:
                failed = target in failing
                self.health[target] = Health(False, "it did so far") if failed else Health()
                self._call(self._start, target, self.health[target])

    def news(self) -> set[Target]:
        """Targets of which something else is thought since the last call."""
        with self._lock:
            news, self._news = self._news, set()
        return news

    def close(self) -> None:
        """End all checks, and the thread."""
        if self._thread is None:
            self._loop.close()
            return
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
            self._thread.start()
        self._loop.call_soon_threadsafe(function, *arguments)

    # --- in the thread ---------------------------------------------------------------------------

    def _start(self, target: Target, health: Health) -> None:
        task = self._tasks[target] = self._loop.create_task(self._keep_checking(target, health))
        task.add_done_callback(_tell_of_end)

    def _stop(self, target: Target) -> None:
        if (task := self._tasks.pop(target, None)) is not None:
            task.cancel()

    async def _keep_checking(self, target: Target, health: Health) -> None:
        """The first check is due soon, yet not all of them at one moment."""
        check = target.check
        await asyncio.sleep(random.uniform(0, check.jitter_s))
        while True:
            due = self._loop.time() + check.interval_s + random.uniform(0, check.jitter_s)
            async with self._slots:
                began = time.monotonic()
                result: Result
                problem: str | None = None
                try:
                    await probe(target)
                    result = "pass"
                except ProbeError as error:
                    problem, result = str(error), "fail"
                except NotDone as error:
                    self._complain(str(error))
                    result = "not-done"
            if self._tasks.get(target) is not asyncio.current_task():
                return  # wait_for loses what cancels it as the probe ends (Python before 3.12)
            self._told(check.kind, result, time.monotonic() - began)
            if result == "not-done":
                health.undone = began
                news = health.passes is None  # it need not be waited for, perhaps
            else:
                news = health.take(problem, check.rise, check.fall)
            if news:
                with self._lock:
                    self._news.add(target)
                self._changed()
            await asyncio.sleep(max(0.0, due - self._loop.time()))

    def _complain(self, problem: str) -> None:
        """Now and then: it concerns all checks, not one backend."""
        now = time.monotonic()
        if now - self._complained > COMPLAIN:
            self._complained = now
            log.error("checks cannot be done: %s; what was found before stays", problem)

    async def _cancel(self) -> None:
        tasks = [*self._tasks.values()]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tell_of_end(task: asyncio.Task[None]) -> None:
    """A check goes on until it is cancelled. If it does not, that is our mistake, and is seen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a check goes on no longer", exc_info=error)
