# SPDX-License-Identifier: Apache-2.0
"""So many connections at once, and no more; who only holds one makes room for who comes.

Each has a task, which whoever ends it cancels. All of this is for the event loop's thread.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

PATIENCE = 0.1
"""Seconds in which nobody is put out: a request comes right after its connection, if it comes, and
an answer is taken as it is given.

While all that are idle are so new, others wait in the kernel's queue, in their order.
"""


class Guests:
    """All connections that there are."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._idle: dict[asyncio.Task[None], float] = {}  # and since when, in that order
        self._asked: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    async def room(self) -> None:
        """For one more: once somebody is done, or has said too little for long enough.

        Where it is waited for at several ports, each has it in turn.
        """
        async with self._turn:
            while len(self._idle) + len(self._asked) >= self._most:
                oldest, came = next(iter(self._idle.items()), (None, 0.0))
                left = came + PATIENCE - asyncio.get_running_loop().time()
                if oldest is not None and left <= 0:
                    oldest.cancel()
                    await asyncio.wait([oldest])
                else:
                    await asyncio.wait(
                        {*self._idle, *self._asked},
                        timeout=None if oldest is None else left,
                        return_when=asyncio.FIRST_COMPLETED,
                    )

    def enter(self, client: socket.socket, serve: Coroutine[Any, Any, None]) -> None:
        """Begin to serve one, for whom there is `room`; closed when that ends, however it does."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(serve)
        self._idle[task] = loop.time()
        task.add_done_callback(partial(self._left, client))

    def asked(self) -> None:
        """Whom the current task serves has said all that he has to: nobody puts him out."""
        task = asyncio.current_task()
        if task is not None and self._idle.pop(task, None) is not None:
            self._asked.add(task)

    def answered(self) -> None:
        """All that is left to him is to take the answer: again he makes room for who comes."""
        task = asyncio.current_task()
        if task is not None and task in self._asked:
            self._asked.discard(task)
            self._idle[task] = asyncio.get_running_loop().time()

    def _left(self, client: socket.socket, task: asyncio.Task[None]) -> None:
        client.close()
        self._idle.pop(task, None)
        self._asked.discard(task)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What takes longer in all, in however many steps, is the end of the current task."""
    task = asyncio.current_task()
    assert task is not None
    late = asyncio.get_running_loop().call_later(seconds, task.cancel)
    try:
        yield
    finally:
        late.cancel()
