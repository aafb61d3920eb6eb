# SPDX-License-Identifier: Apache-2.0
"""load.c from Python: its compilation, its sockets, its calls."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from kernel.harness.namespace import BACKENDS_V4, BACKENDS_V6

from hostreach import Service

FAMILIES = (4, 6)

_PORT = 8000
_PLACE = 28  # sizeof(struct sockaddr_in6)
_IP_PKTINFO = 8

AF = {4: socket.AF_INET, 6: socket.AF_INET6}


class Shape(NamedTuple):
    """How much there is in the tables."""

    services: int = 1000  # of each family, and for TCP and UDP each
    backends: int = 10  # of each service
    families: Sequence[int] = FAMILIES
    protocols: Sequence[str] = ("tcp", "udp")

    def made(self) -> list[Service]:
        """A backend address is many services', as entries of its own."""
        pool = max(_ADDRESSES, 4 * self.backends)
        made = []
        for family in self.families:
            at = [_endpoint(*backend_address(family, n)) for n in range(pool)]
            for n in range(self.services):
                frontend = _endpoint(*service_address(family, n))
                endpoints = [at[(n + b) % pool] for b in range(self.backends)]
                made += [Service.of(f"{frontend}/{proto}", *endpoints) for proto in self.protocols]
        return made

    def service_addresses(self, family: int) -> list[tuple[str, int]]:
        """In an order that has nothing to do with where they lie in the tables."""
        numbers = random.Random(family).sample(range(self.services), self.services)
        return [service_address(family, n) for n in numbers]


def service_address(family: int, number: int) -> tuple[str, int]:
    """Where a service is; no route leads there, so whoever is not translated fails."""
    if family == 4:
        return f"10.{96 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}", 80
    return f"fd00:96::{number + 1:x}", 80


_ADDRESSES = 40  # that backends have in the sandbox as it is, of each family


def backend_address(family: int, number: int) -> tuple[str, int]:
    """Where a backend may be; those beyond the first need `more_addresses`."""
    if number >= _ADDRESSES:
        return f"10.2.{number // 250}.{number % 250 + 1}", _PORT
    prefix, digits = (BACKENDS_V4, "d") if family == 4 else (BACKENDS_V6, "x")
    return f"{prefix}{number + 1:{digits}}", _PORT


def backend_addresses(family: int) -> list[tuple[str, int]]:
    """Those that are always there; also what stands for "no service"."""
    return [backend_address(family, n) for n in range(_ADDRESSES)]


def more_addresses() -> None:
    """Makes 10.2.0.0/16 as a whole local to the calling process's network namespace."""
    subprocess.run(["ip", "address", "add", "10.2.0.1/16", "dev", "lo"], check=True)


class Load(ctypes.Structure):
    """struct load."""

    _fields_ = (
        ("family", ctypes.c_int),
        ("type", ctypes.c_int),
        ("server", ctypes.c_int),
        ("size", ctypes.c_uint),
        ("targets", ctypes.c_uint),
        ("sockets", ctypes.c_uint),
        ("next", ctypes.c_uint),
        ("to", ctypes.c_char_p),
        ("own", ctypes.c_char_p),
        ("fds", ctypes.POINTER(ctypes.c_int)),
    )


def compiled(source: str) -> ctypes.CDLL:
    """A C file of this directory, compiled for this run and loaded; children inherit it."""
    with tempfile.TemporaryDirectory(prefix="hostreach-bench-") as folder:
        return ctypes.CDLL(_compile(source, Path(folder), "-shared", "-fPIC"))


def compiled_program(source: str, folder: Path) -> str:
    """The same as a program that needs no libraries; its path."""
    return _compile(source, folder, "-static")


def _compile(source: str, folder: Path, *options: str) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("bench: no C compiler here: apt-get install gcc")
    made = str(folder / Path(source).stem)
    path = str(Path(__file__).parent / source)
    subprocess.run([compiler, "-O2", "-Wall", "-Werror", *options, "-o", made, path], check=True)
    return made


class Library:
    """load.c."""

    def __init__(self) -> None:
        self._loaded = compiled("load.c")

    def call(self, name: str, load: Load, count: int) -> None:
        """Make so many calls; raises OSError."""
        check(self._loaded[name](ctypes.byref(load), ctypes.c_uint(count)), name)

    def connect_timed(self, load: Load) -> list[int]:
        """Connect each of the load's sockets once; nanoseconds of each call."""
        took = (ctypes.c_longlong * load.sockets)()
        check(self._loaded.connect_timed(ctypes.byref(load), load.sockets, took), "connect")
        self._loaded.drain(ctypes.byref(load))
        return list(took)


class Sockets:
    """A load of one family and type, with its server. Made in the cgroup that it is to be in."""

    def __init__(
        self,
        family: int,
        kind: socket.SocketKind,
        targets: Sequence[tuple[str, int]],
        serves: bool,
    ) -> None:
        self._stack = ExitStack()
        self._family = family
        self._kind = kind
        server = self._socket()
        if serves:
            self._serve(server)
        self.load = Load(
            family=AF[family],
            type=kind,
            server=server.fileno(),
            size=_PLACE if family == 6 else 16,
        )
        self.aim(targets)

    def aim(self, targets: Sequence[tuple[str, int]]) -> None:
        """From now on call these."""
        self.load.targets = len(targets)
        self.load.to = b"".join(map(self._packed, targets))
        self._targets = targets

    def open(self, count: int) -> list[socket.socket]:
        """So many more sockets, bound, so that their own address is known."""
        made = [self._socket() for _ in range(count)]
        if self._kind == socket.SOCK_DGRAM:
            for each in made:
                each.bind((backend_addresses(self._family)[0][0], 0))
        return made

    def use(self, sockets: Sequence[socket.socket]) -> None:
        """From now on call with these."""
        self.load.sockets = len(sockets)
        self.load.fds = (ctypes.c_int * len(sockets))(*(each.fileno() for each in sockets))
        self.load.own = b"".join(self._packed(each.getsockname()[:2]) for each in sockets)
        self.load.next = 0

    def connect(self, sockets: Sequence[socket.socket]) -> None:
        """Socket n to target n."""
        for n, each in enumerate(sockets):
            each.connect(self._targets[n % len(self._targets)])

    def close(self) -> None:
        """All of them, and the server."""
        self._stack.close()

    def _serve(self, server: socket.socket) -> None:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._kind == socket.SOCK_STREAM:
            server.setblocking(False)
        elif self._family == 4:
            server.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        server.bind(("::" if self._family == 6 else "0.0.0.0", _PORT))
        if self._kind == socket.SOCK_STREAM:
            server.listen(4096)

    def _socket(self) -> socket.socket:
        made = self._stack.enter_context(socket.socket(AF[self._family], self._kind))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 2, 0))
        if self._kind == socket.SOCK_STREAM:  # reset at the end: no TIME_WAIT fills the ports
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return made

    def _packed(self, address: tuple[str, int]) -> bytes:
        host = socket.inet_pton(AF[self._family], address[0])
        port = struct.pack("!H", address[1])
        head = struct.pack("=H", AF[self._family]) + port
        return (head + host if self._family == 4 else head + bytes(4) + host).ljust(_PLACE, b"\0")


@contextmanager
def sockets(
    family: int,
    kind: socket.SocketKind,
    targets: Sequence[tuple[str, int]],
    *,
    serves: bool = True,
) -> Iterator[Sockets]:
    """A `Sockets` until the end of the block; without a server if datagrams are never sent."""
    made = Sockets(family, kind, targets, serves)
    try:
        yield made
    finally:
        made.close()


def allow_many_files() -> None:
    """As many descriptors as this process may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check(result: int, what: str) -> None:
    """Raises OSError for what C returned as -errno."""
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
