# SPDX-License-Identifier: Apache-2.0
"""Short answers to short questions over HTTP, on any number of ports, from one thread.

An answer that may take its time is made in another: nobody else is to wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, NamedTuple, TypeAlias

from hostreach.errors import Refused
from hostreach.syntax import format_endpoint

log = logging.getLogger("hostreach.agent")

_HEAD_MAX = 8192
_SECONDS = 5.0
"""For one question, and for taking its answer."""
_AT_ONCE = 64
"""Connections of one port: whoever opens more is turned away."""


class Answer(NamedTuple):
    code: int
    body: bytes
    headers: Mapping[str, str] = {"Content-Type": "text/plain; charset=utf-8"}


Ask: TypeAlias = Callable[[str], Answer | Callable[[], Answer]]
"""From a path to what is said there, or to what finds it out, which may take its time."""


class WebServer:
    """Answers GET and HEAD; each connection has one question.

    Other threads may call all of this. What answers runs in the server's thread, unless it may take
    its time.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._servers: dict[object, asyncio.Server] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def listen(self, name: object, host: str | None, port: int, ask: Ask) -> int:
        """On ``host`` (None: everywhere) from now on; the port, which 0 leaves to the kernel.

        Raises OSError if somebody else listens there.
        """
        return int(self._run(self._listen(name, host, port, ask)))

    def listen_at(self, where: tuple[str, int], ask: Ask) -> int:
        """As `listen`, where the user said; raises `Refused`."""
        try:
            return self.listen(where, *where, ask)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            at = format_endpoint(*where)
            raise Refused(f"--listen {at}: {reason.lower()}", errno=error.errno) from None

    def stop(self, name: object) -> None:
        """Listen there no longer."""
        self._run(self._stop(name))

    def close(self) -> None:
        """Listen nowhere, and end the thread."""
        for name in [*self._servers]:
            self.stop(name)
        self._run(self._cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self, name: object, host: str | None, port: int, ask: Ask) -> int:
        busy: set[object] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                if len(busy) < _AT_ONCE:
                    busy.add(writer)
                    await asyncio.wait_for(_serve(reader, writer, ask), _SECONDS)
            except (OSError, asyncio.TimeoutError, EOFError, asyncio.LimitOverrunError):
                pass  # a client that is slow, gone or no client
            finally:
                busy.discard(writer)
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

        server = await asyncio.start_server(serve, host, port, limit=_HEAD_MAX)
        self._servers[name] = server
        return int(server.sockets[0].getsockname()[1])

    async def _stop(self, name: object) -> None:
        server = self._servers.pop(name, None)
        if server is not None:
            server.close()

    async def _cancel(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ask: Ask) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    method, path = (words[0], words[1].partition("?")[0]) if len(words) == 3 else ("", "")
    if not method:
        answer = Answer(400, b"bad request\n")
    elif method not in ("GET", "HEAD"):
        answer = Answer(405, b"method not allowed\n")
    else:
        said = ask(path)
        answer = said if isinstance(said, Answer) else await _in_a_thread(said)
    lines = [f"HTTP/1.1 {answer.code} {HTTPStatus(answer.code).phrase}"]
    lines += [f"{key}: {value}" for key, value in answer.headers.items()]
    lines += [f"Content-Length: {len(answer.body)}", "Connection: close", "", ""]
    writer.write("\r\n".join(lines).encode("latin-1"))
    if method != "HEAD":
        writer.write(answer.body)
    await writer.drain()


async def _in_a_thread(find: Callable[[], Answer]) -> Answer:
    """Of its own, and a daemon: a process that ends does not wait for it."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Answer] = loop.create_future()

    def tell(answer: Answer) -> None:
        if not found.done():
            found.set_result(answer)

    def work() -> None:
        try:
            answer = find()
        except Exception:
            log.exception("unexpected failure")
            answer = Answer(500, b"this could not be told\n")
        with suppress(RuntimeError):  # the server was closed meanwhile
            loop.call_soon_threadsafe(tell, answer)

    threading.Thread(target=work, daemon=True).start()
    return await found
