# SPDX-License-Identifier: Apache-2.0
"""Short answers to short questions over HTTP, on any number of ports, from one thread.

An answer that may take its time is made in another: nobody else is to wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, NamedTuple, TypeAlias

from hostreach.errors import Refused
from hostreach.syntax import format_endpoint

from .guests import PATIENCE, Guests, within

log = logging.getLogger("hostreach.agent")

_HEAD_MAX = 8192
_HEAD_SECONDS = 2.0
"""For all of a question, in however small parts it comes."""
_SECONDS = 5.0
"""For finding an answer, and for taking it."""
_AT_ONCE = 64
"""Connections, of all ports together."""
_SLOW_AT_ONCE = 8
"""Answers that take their time: each has a thread, which ends no sooner for a client that went."""
_QUEUE = 512
"""Connections that wait in the kernel to be accepted; net.core.somaxconn may make it fewer."""


class Answer(NamedTuple):
    code: int
    body: bytes
    headers: Mapping[str, str] = {"Content-Type": "text/plain; charset=utf-8"}


Ask: TypeAlias = Callable[[str], Answer | Callable[[], Answer]]
"""From a path to what is said there, or to what finds it out, which may take its time."""


class WebServer:
    """Answers GET and HEAD; each connection has one question.

    Who opens connections and says nothing, or takes no answer, keeps nobody out: see `Guests`.
    Other threads may call all of this. What answers runs in the server's thread, unless it may take
    its time.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ports: dict[object, asyncio.Task[None]] = {}
        self._guests = Guests(_AT_ONCE)
        self._slow = 0
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
        for name in [*self._ports]:
            self.stop(name)
        self._run(self._cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self, name: object, host: str | None, port: int, ask: Ask) -> int:
        server = _listener(host, port)
        found = int(server.getsockname()[1])
        self._ports[name] = self._loop.create_task(self._accept(server, ask))
        self._ports[name].add_done_callback(lambda _: server.close())
        return found

    async def _stop(self, name: object) -> None:
        port = self._ports.pop(name, None)
        if port is not None:
            port.cancel()
            await asyncio.wait([port])

    async def _cancel(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, server: socket.socket, ask: Ask) -> None:
        while True:
            try:
                client, _ = await self._loop.sock_accept(server)
            except OSError:  # it went again, or no descriptor is left: not at once, then
                await asyncio.sleep(PATIENCE)
                continue
            try:
                await self._guests.room()
            except asyncio.CancelledError:
                client.close()
                raise
            self._guests.enter(client, self._serve(client, ask))
            await asyncio.sleep(0)  # who was let in is heard before the next one is

    async def _serve(self, client: socket.socket, ask: Ask) -> None:
        with suppress(OSError, EOFError):  # a client that is gone or no client
            with within(_HEAD_SECONDS):
                head = await self._head(client)
            self._guests.asked()
            with within(_SECONDS):
                reply = await self._reply(head, ask)
                self._guests.answered()
                await self._loop.sock_sendall(client, reply)

    async def _head(self, client: socket.socket) -> bytes:
        head = bytearray()
        while b"\r\n\r\n" not in head:
            part = await self._loop.sock_recv(client, _HEAD_MAX - len(head))
            if not part:  # it says no more, or has said too much
                raise EOFError
            head += part
        return bytes(head)

    async def _reply(self, head: bytes, ask: Ask) -> bytes:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        method, path = (words[0], words[1].partition("?")[0]) if len(words) == 3 else ("", "")
        if not method:
            answer = Answer(400, b"bad request\n")
        elif method not in ("GET", "HEAD"):
            answer = Answer(405, b"method not allowed\n")
        else:
            said = ask(path)
            answer = said if isinstance(said, Answer) else await self._in_a_thread(said)
        lines = [f"HTTP/1.1 {answer.code} {HTTPStatus(answer.code).phrase}"]
        lines += [f"{key}: {value}" for key, value in answer.headers.items()]
        lines += [f"Content-Length: {len(answer.body)}", "Connection: close", "", ""]
        return "\r\n".join(lines).encode("latin-1") + (answer.body if method != "HEAD" else b"")

    async def _in_a_thread(self, find: Callable[[], Answer]) -> Answer:
        """Of its own, and a daemon: a process that ends does not wait for it."""
        if self._slow >= _SLOW_AT_ONCE:
            return Answer(503, b"too many ask at once\n")
        self._slow += 1
        found: asyncio.Future[Answer] = self._loop.create_future()

        def tell(answer: Answer) -> None:
            self._slow -= 1
            if not found.done():
                found.set_result(answer)

        def work() -> None:
            try:
                answer = find()
            except Exception:
                log.exception("unexpected failure")
                answer = Answer(500, b"this could not be told\n")
            with suppress(RuntimeError):  # the server was closed meanwhile
                self._loop.call_soon_threadsafe(tell, answer)

        threading.Thread(target=work, daemon=True).start()
        return await found


def _listener(host: str | None, port: int) -> socket.socket:
    """Not blocking; at ``None`` of both families, where there are both."""
    both = host is None and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in (host or "") else socket.AF_INET
    server = socket.create_server(
        (host or "", port), family=family, backlog=_QUEUE, dualstack_ipv6=both
    )
    server.setblocking(False)
    return server
