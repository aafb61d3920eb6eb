# SPDX-License-Identifier: Apache-2.0
"""A small API server, its objects and their history, and all that can go wrong with it.

`ApiServer.trouble` and the methods below it are for going wrong.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

from .handler import Handler
from .objects import Json


@dataclass
class Trouble:
    """What is wrong with the server.

    Attributes:
        answers: instead of the next requests' answers: a status, and headers.
        gone_in_event: an expired version is told by an ERROR event within a 200.
        stream_error: streamed lists end so, by an ERROR event with this status.
        silent: watches are accepted, and then nothing is ever said.
        twice: each event is sent again, and an older one after it.
        dribble: bytes at a time, with a pause.
        cut: the next event is broken off in its middle, and the connection closed.
        lists: of each list's body, what is there instead; None is left out.
        whole_lists: the status with which lists from the cache are refused.
        any_version: lists from the cache are as old as it is, whatever version was asked for.
    """

    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    gone_in_event: bool = False
    stream_error: int | None = None
    silent: bool = False
    twice: bool = False
    dribble: bool = False
    cut: bool = False
    lists: Json = field(default_factory=dict)
    whole_lists: int | None = None
    any_version: bool = False


class ApiServer:
    """Objects are put and deleted by the test; watches hear of it."""

    def __init__(
        self, *, streamed_lists: bool = True, token: str | None = None, bookmarks: float = 0.2
    ) -> None:
        self.trouble = Trouble()
        self.streamed_lists = streamed_lists
        self.service_fields = True
        """Whether services can be selected by ``spec.clusterIP``, as since Kubernetes 1.31."""
        self.token = token
        self.certificate: str | None = None
        """The common name that a client's certificate has to have."""
        self.bookmarks = bookmarks
        self.requests: list[str] = []
        self.forbidden: set[str] = set()
        self.changed = threading.Condition()
        self.version = 1000
        self.log: list[tuple[int, str, str, bytes, Json]] = []
        self.oldest = self.version
        self.objects: dict[tuple[str, str], Json] = {}
        self.cache: tuple[dict[tuple[str, str], Json], int] | None = None
        self.epoch = 0
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    # --- objects ---------------------------------------------------------------------------------

    def put(self, *values: Json) -> None:
        """Make these objects so, each a change of its own."""
        with self.changed:
            for value in values:
                key = _key(value)
                self.version += 1
                made = {**value, "metadata": {**value["metadata"]}}
                made["metadata"]["resourceVersion"] = str(self.version)
                kind = "MODIFIED" if key in self.objects else "ADDED"
                before = self.objects.get(key)
                self.objects[key] = made
                self._note(kind, key[0], made, before)
            self.changed.notify_all()

    def delete(self, *values: Json) -> None:
        with self.changed:
            for value in values:
                gone = self.objects.pop(_key(value))
                self.version += 1
                made = {**gone, "metadata": {**gone["metadata"]}}
                made["metadata"]["resourceVersion"] = str(self.version)
                self._note("DELETED", value["kind"], made, gone)
            self.changed.notify_all()

    def _note(self, event: str, kind: str, made: Json, before: Json | None) -> None:
        line = json.dumps(made, separators=(",", ":")).encode()
        self.log.append((self.version, event, kind, line, before or {}))

    def forbid(self, kind: str) -> None:
        """Nobody may read these, until `allow`."""
        self.forbidden.add(kind)

    def allow(self, kind: str) -> None:
        self.forbidden.discard(kind)

    def compact(self) -> None:
        """Forget history: a watch from before now is told that it is gone."""
        with self.changed:
            self.log.clear()
            self.oldest = self.version

    def go_back(self) -> None:
        """As where etcd was restored: versions are smaller than they were."""
        with self.changed:
            self.log.clear()
            self.oldest = self.version = 100

    def lag(self) -> None:
        """From now on what is served from the cache is as it is now, until `catch_up`."""
        with self.changed:
            self.cache = {**self.objects}, self.version

    def catch_up(self) -> None:
        self.cache = None

    # --- the server ------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def is_running(self) -> bool:
        return self._server is not None

    def start(self) -> None:
        """Listen, on the same port each time."""
        server = self

        class Answering(Handler):
            api = server

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: Any) -> None:
                """A client that goes away is none."""

        self._server = Server(("127.0.0.1", self._port), Answering)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """As killed: connections end where they are."""
        assert self._server
        listening, self._server = self._server, None
        listening.shutdown()
        listening.server_close()
        self.drop()  # last: nobody can come in between any more

    def drop(self) -> None:
        """End all connections."""
        with self.changed:
            self.epoch += 1
            self.changed.notify_all()

    @contextlib.contextmanager
    def running(self) -> Iterator[ApiServer]:
        self.start()
        try:
            yield self
        finally:
            if self._server:
                self.stop()


def _key(value: Json) -> tuple[str, str]:
    meta = value["metadata"]
    return value["kind"], f"{meta.get('namespace', '')}/{meta['name']}"
