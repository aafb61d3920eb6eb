# SPDX-License-Identifier: Apache-2.0
"""The sandbox of one test: a network namespace, two cgroups, and a pin directory."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hostreach.running import DIRECTORY, path_of

from . import cgroup, child, linux
from .line import Line, pair
from .namespace import NetNamespace, packets_sent_out
from .rawmap import MMAPABLE, RawMap
from .servers import Servers
from .timing import scaled, wait_until

T = TypeVar("T")

BPFFS = Path("/sys/fs/bpf")
PREFIX = "hostreach-test-"  # then the pid of the test run, and a number
NO_STARVING = "before Linux 6.8 optmem_max is one for all namespaces, and not ours to set"
_OPTMEM = Path("/proc/sys/net/core/optmem_max")
_numbers = itertools.count(1)


class Place:
    """Where an instance is pinned, and the cgroup for it to be attached to."""

    def __init__(self) -> None:
        root = cgroup.v2_root()
        if root is None:
            raise RuntimeError("no cgroup v2 hierarchy is mounted")
        name = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        self.pin = BPFFS / name
        self.cgroup = cgroup.Cgroup(root / name)

    def close(self) -> None:
        if self.pin.exists():
            shutil.rmtree(self.pin)
        for note in Path(DIRECTORY).glob(f"{Path(path_of(str(self.pin), '')).stem}*"):
            note.unlink(missing_ok=True)  # agents', of which some outlive them
        self.cgroup.remove()


class Box:
    """`cgroup` is for hostreach to be attached to; `bare` is a sibling that stays without."""

    def __init__(self, place: Place | None = None) -> None:
        """The place is the box's own, unless one is lent to it."""
        self._spawned: list[subprocess.Popen[bytes]] = []
        self._servers: list[Servers] = []
        self._pending: list[child.Pending[Any]] = []
        with contextlib.ExitStack() as undo:
            self._namespace = NetNamespace()
            undo.callback(self._namespace.close)
            if place is None:
                place = Place()
                undo.callback(place.close)
            self.pin, self._attached = place.pin, place.cgroup
            path = place.cgroup.path
            self._bare = cgroup.Cgroup(path.with_name(f"{path.name}-bare"))
            undo.callback(self._bare.remove)
            undo.callback(self._stop_processes)
            self._undo = undo.pop_all()
        self.cgroup = self._attached.path
        self.bare = self._bare.path

    def call(
        self, function: Callable[..., T], *args: Any, bare: bool = False, timeout: float = 20
    ) -> T:
        """function(*args) by a process of the box; its result, or its exception, comes back."""
        return self.start(function, *args, bare=bare, timeout=timeout).result()

    def start(
        self, function: Callable[..., T], *args: Any, bare: bool = False, timeout: float = 20
    ) -> child.Pending[T]:
        """The same, under way; result() waits for it."""
        pending = child.Pending(lambda: self.enter(bare=bare), function, *args, timeout=timeout)
        self._pending.append(pending)
        return pending

    @contextmanager
    def talk(self, function: Callable[[Line], object], *, timeout: float = 20) -> Iterator[Line]:
        """function(line) under way in the box, and the other end of its line."""
        here, there = pair()

        def talking() -> None:
            here.close()
            with closing(there):
                function(there)

        with closing(here):
            with closing(there):
                pending = self.start(talking, timeout=timeout)
            try:
                yield here
            except (EOFError, BrokenPipeError, ConnectionResetError):
                pending.result()  # most likely the reason
                raise
        pending.result()

    def enter(self, *, bare: bool = False) -> None:
        """Moves the calling process in. The cgroup first: a socket keeps the one it began in."""
        (self._bare if bare else self._attached).enter()
        self._namespace.enter()

    def run(
        self,
        argv: Sequence[str],
        *,
        bare: bool = False,
        prepare: Callable[[], None] = lambda: None,
        timeout: float = 20,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """A program to its end; prepare() runs in its process before it."""

        def enter() -> None:
            self.enter(bare=bare)
            prepare()

        return subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=scaled(timeout),
            preexec_fn=enter,
            env=environment(),
            check=False,
        )

    def spawn(
        self, argv: Sequence[str], *, listening: Iterable[str] = (), bare: bool = False
    ) -> int:
        """A server program; waits until it has the sockets, such as "tcp/80"; returns its pid."""

        def enter() -> None:
            linux.die_with_parent()
            self.enter(bare=bare)

        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            preexec_fn=enter,  # noqa: PLW1509 - the tests have no threads
            env=environment(),
        )
        self._spawned.append(process)
        for socket in listening:
            protocol, _, port = socket.partition("/")

            def has_socket(protocol: str = protocol, port: int = int(port)) -> bool:
                if process.poll() is not None:
                    raise RuntimeError(f"{argv[0]} ended with status {process.returncode}")
                return port in _local_ports(process.pid, protocol)

            wait_until(has_socket, f"{argv[0]} listening on {socket}", seconds=10)
        return process.pid

    def serve(self, *endpoints: str, reuse_port: bool = False) -> Servers:
        """Identity servers on endpoints such as "10.0.0.2:53/udp" (see servers.py)."""
        servers = Servers(self.enter, endpoints, reuse_port=reuse_port)
        self._servers.append(servers)
        return servers

    def starve(self) -> bool:
        """Lets sockets have no option memory, of which socket storage is made; False: cannot.

        The places that an instance has by now are all taken, by sockets that nobody has.
        """
        holders = self.pin / "holders"
        if holders.exists():
            with RawMap.pinned(holders) as every:
                if every.shape.flags & MMAPABLE:  # else no program takes one
                    with every.mapped(writable=True) as words:
                        words[:] = struct.pack("=Q", 1 << 61) * every.shape.entries

        def limit() -> bool:
            if _OPTMEM.exists():
                _OPTMEM.write_text("1")
            return _OPTMEM.exists()

        return self.call(limit)

    def close(self) -> None:
        """Takes everything away again; fails if a packet could have left the namespace."""
        try:
            sent = self.call(packets_sent_out, bare=True)
        finally:
            self._undo.close()
        assert not sent, f"packets left the test's namespace: {sent}"

    def _stop_processes(self) -> None:
        for servers in self._servers:
            servers.stop()
        for pending in self._pending:
            pending.stop()
        for process in self._spawned:
            process.kill()
            process.wait()


def environment() -> Mapping[str, str]:
    """The caller's, in English, with the directories where Debian keeps daemons."""
    return {**os.environ, "LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}


def as_on_a_node() -> None:
    """Drops settings of Python that containers like this one have, and nodes have not."""
    for name in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name, None)


def mount_bpffs() -> None:
    """Mounts bpffs where it is missing. It stays: to unmount it would drop others' pins."""
    if not os.path.ismount(BPFFS):
        linux.mount("bpf", str(BPFFS), "bpf")


def sweep() -> None:
    """Removes what a test run that was killed left behind."""
    for directory in (cgroup.v2_root(), BPFFS):
        for path in directory.glob(f"{PREFIX}*") if directory else ():
            pid = path.name.removeprefix(PREFIX).partition("-")[0]
            if not Path("/proc", pid).exists():
                if directory == BPFFS:
                    shutil.rmtree(path, ignore_errors=True)  # another run may sweep as well
                else:
                    cgroup.remove(path)


def _local_ports(pid: int, protocol: str) -> set[int]:
    """Ports that have a listening, or a datagram, socket in the namespace of a process."""
    ports = set()
    for table in (protocol, f"{protocol}6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if protocol != "tcp" or state == "0A":
                ports.add(int(local.rpartition(":")[2], 16))
    return ports
