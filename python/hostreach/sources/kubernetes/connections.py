# SPDX-License-Identifier: Apache-2.0
"""Clients by which the API server is asked: another one whenever certificates were rotated.

A new one, for a context is not to be changed while others make connections by it, and those that
were made with the old certificate must not be used again. Whoever reads by an old one may go on:
the server looks at a certificate when a request begins, and not again.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2 as httpx
from lightkube.core.exceptions import ConfigError

from hostreach.errors import HostreachError

from .config import Connection

log = logging.getLogger("hostreach.kubernetes")


class Connections:
    """For several threads."""

    def __init__(self, connection: Connection, make: Callable[[Connection], httpx.Client]) -> None:
        self._connection = connection
        self._make = make
        self._http = make(connection)
        self._lock = threading.Lock()
        self._users: Counter[httpx.Client] = Counter()
        self._told = ""

    @contextmanager
    def current(self) -> Iterator[httpx.Client]:
        """For one request; an old client is closed when the last one that it reads has ended."""
        with self._lock:
            self._renew()
            http = self._http
            self._users[http] += 1
        try:
            yield http
        finally:
            with self._lock:
                self._users[http] -= 1
                self._drop(http)

    def close(self) -> None:
        """Let go of connections that nobody uses."""
        self._http.close()

    def _renew(self) -> None:
        try:
            renewed = self._connection.renewed()
        except (OSError, ValueError, ConfigError, HostreachError) as error:
            # As while there is a new certificate, and not yet its key.
            why = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
            if why != self._told:
                log.warning("certificates have changed, to what cannot be used: %s", why)
            self._told = why
            return
        self._told = ""
        if renewed is not None:
            log.info("certificates have changed, and are used from now on")
            old, self._http = self._http, self._make(renewed)
            self._connection = renewed
            self._drop(old)

    def _drop(self, http: httpx.Client) -> None:
        if not self._users[http]:
            del self._users[http]
            if http is not self._http:
                http.close()
