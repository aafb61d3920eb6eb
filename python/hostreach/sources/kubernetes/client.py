# SPDX-License-Identifier: Apache-2.0
"""Requests to the API server, and what its answers mean."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import httpx2 as httpx
import msgspec
from lightkube.core.exceptions import ConfigError

from hostreach._version import __version__
from hostreach.errors import HostreachError

from .config import Connection
from .connections import Connections
from .objects import Status

OBJECT_MAX = 16 << 20
"""Bytes of one object; the API server itself takes up to 1.5 MiB."""
PAGE_MAX = 64 << 20
"""Bytes of one page of a list."""
HEAD = 65536
"""Bytes by which an object that is too large is named."""

_status = msgspec.json.Decoder(Status)

Params = Mapping[str, str]


class ApiError(Exception):
    """The API server said no, or nothing that can be understood.

    Attributes:
        code: the HTTP status, or the like within a watch; 0 if there was no answer.
        retry_after: seconds that it asks for, or None.
    """

    def __init__(self, code: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


class Silent(ApiError):
    """Nothing came for longer than may be."""


class TooLarge(Exception):
    """A response is larger than it may be; ``head`` is how it begins."""

    def __init__(self, head: bytes) -> None:
        super().__init__("the response is too large")
        self.head = head


class TooLong(NamedTuple):
    """In place of a line that is longer than an object may be: how it begins."""

    head: bytes


class ApiClient:
    """For several threads, each with a connection of its own.

    ``idle`` is how many seconds of silence there may be within a response. Most watches hear a
    bookmark each minute.
    """

    def __init__(self, connection: Connection, idle: float = 120.0) -> None:
        self._extensions: dict[str, Any] = {}
        self._open_sockets: set[socket.socket] = set()
        self._idle = idle
        if connection.server_name:
            self._extensions["sni_hostname"] = connection.server_name
        self._connections = Connections(connection, self._made)

    def get(self, path: str, params: Params, limit: int = PAGE_MAX) -> bytes:
        """The body of a response; raises `ApiError`, `TooLarge`."""
        with self._open(path, params) as response:
            parts: list[bytes] = []
            size = 0
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise TooLarge(b"".join(parts)[:HEAD])
            return b"".join(parts)

    @contextmanager
    def lines(self, path: str, params: Params) -> Iterator[Iterator[bytes | TooLong]]:
        """The lines of a response while they come; raises `ApiError`, also while they are read."""
        with self._open(path, params) as response:
            yield _lines(response.iter_bytes())

    def abort(self) -> None:
        """End what is under way, in whichever thread: there it fails with `ApiError`."""
        for sock in [*self._open_sockets]:
            with suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of connections that nobody uses."""
        self._connections.close()

    def _made(self, connection: Connection) -> httpx.Client:
        return httpx.Client(
            base_url=connection.server,
            verify=connection.verify,
            auth=connection.auth,
            proxy=connection.proxy,
            timeout=httpx.Timeout(10.0, read=self._idle),
            # Uncompressed: both sides are in one network, and time matters more.
            headers={"User-Agent": f"hostreach/{__version__}", "Accept-Encoding": "identity"},
        )

    @contextmanager
    def _open(self, path: str, params: Params) -> Iterator[httpx.Response]:
        try:
            with (
                self._connections.current() as http,
                http.stream(
                    "GET", path, params=dict(params), extensions=self._extensions
                ) as response,
            ):
                if response.status_code != 200:
                    raise _error(response)
                sock = _socket_of(response)
                if sock is None:
                    yield response
                    return
                _keep_alive(sock)
                self._open_sockets.add(sock)
                try:
                    yield response
                finally:
                    self._open_sockets.discard(sock)
        except httpx.ReadTimeout:
            raise Silent(0, "it fell silent") from None
        except httpx.HTTPError as error:
            raise ApiError(0, _why(error)) from None
        except (HostreachError, ConfigError) as error:  # of a credential's program or file
            raise ApiError(0, str(error)) from None
        except OSError as error:
            raise ApiError(0, (error.strerror or str(error)).lower()) from None


def _socket_of(response: httpx.Response) -> socket.socket | None:
    stream = response.extensions.get("network_stream")
    found = stream and stream.get_extra_info("socket")
    return found if isinstance(found, socket.socket) else None


def _keep_alive(sock: socket.socket) -> None:
    """Let the kernel find out that the other side is gone, within about half a minute."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, 15),
            (socket.TCP_KEEPINTVL, 5),
            (socket.TCP_KEEPCNT, 3),
            (socket.TCP_USER_TIMEOUT, 30_000),
        ):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _lines(parts: Iterable[bytes]) -> Iterator[bytes | TooLong]:
    """What follows the last newline is half an object, and lost."""
    begun: list[bytes] = []
    size = 0
    for part in parts:
        first, *more = part.split(b"\n")
        begun.append(first)
        size += len(first)
        for following in more:
            yield TooLong(b"".join(begun)[:HEAD]) if size > OBJECT_MAX else b"".join(begun)
            begun, size = [following], len(following)
        if size > OBJECT_MAX and len(begun) > 1:
            begun = [b"".join(begun)[:HEAD]]


def _error(response: httpx.Response) -> ApiError:
    after = response.headers.get("Retry-After", "")
    body = b""
    with suppress(httpx.HTTPError):
        for part in response.iter_bytes():
            body += part
            if len(body) > HEAD:
                break
    message = f"{response.status_code} {response.reason_phrase}".strip()
    with suppress(msgspec.DecodeError):
        said = _status.decode(body)
        message = f"{response.status_code} {said.message or said.reason or message}"
    return ApiError(response.status_code, message, float(after) if after.isdigit() else None)


def _why(error: httpx.HTTPError) -> str:
    return str(error).strip() or type(error).__name__
