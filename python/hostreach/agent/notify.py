# SPDX-License-Identifier: Apache-2.0
"""What systemd wants to hear of a service: sd_notify(3), in a few lines."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress


class Notifier:
    """Says nothing where nobody listens."""

    def __init__(self) -> None:
        self._path = os.environ.get("NOTIFY_SOCKET", "")
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._every = int(microseconds) / 3e6 if microseconds.isdigit() and ours else 0.0
        self._pinged = 0.0
        self._ready = False

    def ready(self, how: str) -> None:
        """Once: the unit has started, and this is how it does."""
        if not self._ready:
            self._ready = True
            self._send(f"READY=1\nSTATUS={how}")

    def waiting(self, why: str) -> None:
        """Not ready yet, and not to be given up."""
        if not self._ready:
            self._send(f"STATUS={why}\nEXTEND_TIMEOUT_USEC=30000000")

    def stopping(self) -> None:
        """The unit is going down."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """To be called often; pings the watchdog when it is time."""
        now = time.monotonic()
        if self._every and now - self._pinged >= self._every:
            self._pinged = now
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._path:
            return
        path = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.sendto(text.encode(), path)
