# SPDX-License-Identifier: Apache-2.0
"""traffic.c from Python, and the servers that it talks to."""

from __future__ import annotations

import ctypes
import shutil
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kernel.harness import Box

from .load import check, compiled

PROCESSOR = 0
"""Where clients and servers take turns."""
WEB, DNS, OWN = 8080, 53, 8000
"""Ports of nginx, of dnsmasq, and of the bench's own listener and echo."""
_IP_PKTINFO = 8


class Kind(NamedTuple):
    """One kind of traffic: what a person calls it, and load's name for it."""

    text: str
    function: str
    unit: str
    port: int
    protocol: str


KINDS = (
    Kind("HTTP, keep-alive", "http_kept", "requests/s", WEB, "tcp"),
    Kind("HTTP, short connections", "http_new", "requests/s", WEB, "tcp"),
    Kind("TCP, bulk", "bulk", "bytes/s", OWN, "tcp"),
    Kind("UDP, connected", "udp_connected", "packets/s", OWN, "udp"),
    Kind("UDP, unconnected", "udp_unconnected", "packets/s", OWN, "udp"),
    Kind("DNS, a socket each", "dns", "queries/s", DNS, "udp"),
)


class _Traffic(ctypes.Structure):
    """struct traffic."""

    _fields_ = (
        ("to", ctypes.c_char_p),
        ("targets", ctypes.c_uint),
        ("next", ctypes.c_uint),
        ("server", ctypes.c_int),
        ("nanoseconds", ctypes.c_longlong),
        ("took", ctypes.c_longlong),
    )


class TrafficLibrary:
    """traffic.c."""

    def __init__(self) -> None:
        self._loaded = compiled("traffic.c")

    def rate(
        self, kind: Kind, targets: Sequence[tuple[str, int]], server: socket.socket, seconds: float
    ) -> float:
        """Operations a second; raises OSError."""
        traffic = _traffic(targets, server)
        traffic.nanoseconds = round(seconds * 1e9)
        function = self._loaded[kind.function]
        function.restype = ctypes.c_longlong
        operations: int = function(ctypes.byref(traffic))
        check(operations, kind.text)
        return float(operations / traffic.took * 1e9)

    def connect_accept(
        self,
        sockets: Sequence[socket.socket],
        targets: Sequence[tuple[str, int]],
        listener: socket.socket,
    ) -> list[int]:
        """Connect socket n to target n; nanoseconds until each had been accepted."""
        took = (ctypes.c_longlong * len(sockets))()
        fds = (ctypes.c_int * len(sockets))(*(each.fileno() for each in sockets))
        traffic = _traffic(targets, listener)
        function = self._loaded.connect_accept
        check(function(ctypes.byref(traffic), len(sockets), fds, took), "connect")
        return list(took)


def _traffic(targets: Sequence[tuple[str, int]], server: socket.socket) -> _Traffic:
    packed = b"".join(
        struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton(host))
        for host, port in targets
    )
    return _Traffic(to=packed, targets=len(targets), server=server.fileno())


def own_server(kind: socket.SocketKind) -> socket.socket:
    """A listener that does not block, or a datagram socket that knows where it was asked."""
    made = socket.socket(socket.AF_INET, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if kind == socket.SOCK_DGRAM:
        made.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        made.settimeout(None)
    made.bind(("0.0.0.0", OWN))
    if kind == socket.SOCK_STREAM:
        made.setblocking(False)
        made.listen(4096)
    return made


def client_sockets(count: int) -> list[socket.socket]:
    """TCP sockets that end by a reset and wait for nothing for long."""
    made = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    for each in made:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 2, 0))
    return made


def missing() -> list[str]:
    """Server programs that are not here."""
    return [name for name in ("nginx", "dnsmasq") if shutil.which(name) is None]


_NGINX = """\
daemon off; master_process off; error_log stderr crit; pid {folder}/pid;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen {port}; location / {{ return 200 "ok\\n"; }} }}
}}
"""


def serve(box: Box, addresses: Sequence[str], folder: Path) -> None:
    """nginx and dnsmasq in the box, outside the attached cgroup, on the clients' processor."""
    configuration = folder / "nginx.conf"
    configuration.write_text(_NGINX.format(folder=folder, port=WEB))
    pinned = ["taskset", "--cpu-list", str(PROCESSOR)]
    nginx = [*pinned, "nginx", "-c", str(configuration), "-e", "stderr"]
    box.spawn(nginx, listening=[f"tcp/{WEB}"], bare=True)
    names = ["--conf-file=/dev/null", "--no-resolv", "--no-hosts"]
    names += ["--address=/bench.test/192.0.2.1"]
    where = ["--bind-interfaces", *(f"--listen-address={address}" for address in addresses)]
    keep = ["--keep-in-foreground", "--user=root", f"--pid-file={folder}/dnsmasq.pid"]
    dnsmasq = [*pinned, "dnsmasq", *keep, *names, *where]
    box.spawn(dnsmasq, listening=[f"udp/{DNS}"], bare=True)
