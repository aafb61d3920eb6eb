# SPDX-License-Identifier: Apache-2.0
"""Whether a task in the attached cgroup is served: one of ours goes there and connects.

It asks for a service of its own, on a loopback address that nobody uses and for its own cgroup
alone, whose backend is a server of its own; so no packet leaves this machine, whatever is found. A
child does all of it and takes it back: it lives on if whoever asked is killed. What a child leaves
that was killed itself, the next one removes.
"""

from __future__ import annotations

import errno
import os
import pickle
import random
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING

from .checkup import Finding, attach_again
from .errors import HostreachError
from .syntax import format_frontend, parse_frontend

if TYPE_CHECKING:
    from .node import Node
    from .status import Status

OWNER = "hostreach-doctor"
PREFIX = "hostreach-doctor-"
"""Of cgroups, before the process's number."""
SECONDS = 10.0
"""More than it takes; who needs longer waits for a lock."""
_NAME = "attachment in effect"
_ANSWER = b"hostreach"
_SERVED, _SHOWS_BACKEND = "served", "shows the backend"
_WAIT = 2.0
_SLICE = 0.2


def probe(open_node: Callable[[], Node], status: Status) -> Finding:
    """What became of the connections; ``open_node`` opens the instance anew, in a child."""
    cgroup = status.cgroup
    if cgroup is None or not cgroup.startswith("/"):
        return Finding(_NAME, "note", "not tried: there is no cgroup that is attached")
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        # Nothing of the parent's may run here: neither its finally blocks, nor what ends it.
        try:
            os.close(reader)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            found = _tell(open_node, cgroup, status)
            os.write(writer, pickle.dumps(found))
        finally:
            os._exit(0)
    os.close(writer)
    try:
        answer = _read(reader, SECONDS)
    finally:
        os.close(reader)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0 if answer else os.WNOHANG)
    if not answer:
        return Finding(_NAME, "note", "not known: the probe did not answer in time")
    found = pickle.loads(answer)
    assert isinstance(found, Finding)
    return found


def _tell(open_node: Callable[[], Node], cgroup: str, status: Status) -> Finding:
    try:
        with open_node() as node:
            sweep(node, cgroup)
            return _try(node, cgroup, status.protocols, attach_again(status))
    except (OSError, HostreachError) as error:
        return Finding(_NAME, "note", f"not known: {error}")


def sweep(node: Node, cgroup: str) -> None:
    """Remove what probes left that were killed: their services and cgroups."""
    for row in node.services.rows(OWNER):
        pid = (row.name or "").removeprefix(PREFIX)
        if not os.path.exists(f"/proc/{pid}"):  # noqa: PTH110 - as short as can be
            node.services.remove(row.frontend, if_exists=True, owner=OWNER)
    for name in os.listdir(cgroup):  # noqa: PTH208
        pid = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and not os.path.exists(f"/proc/{pid}"):  # noqa: PTH110
            with suppress(OSError):
                os.rmdir(f"{cgroup}/{name}")  # noqa: PTH106


def _try(node: Node, cgroup: str, protocols: tuple[str, ...], fix: str) -> Finding:
    own = f"{PREFIX}{os.getpid()}"
    with ExitStack() as undo:
        place = f"{cgroup}/{own}"
        try:
            os.mkdir(place)  # noqa: PTH102
        except OSError as error:
            why = (error.strerror or "").lower()
            return Finding(_NAME, "note", f"not known: no cgroup can be made below {cgroup}: {why}")
        undo.callback(_remove, place)
        exempt = [path for path in node.exempt if f"{place}/".startswith(f"{path.rstrip('/')}/")]
        if exempt:
            return Finding(_NAME, "note", f"not tried: {exempt[0]} is exempt")
        results = {}
        for protocol in protocols:
            server = undo.enter_context(closing(_server(protocol)))
            vip = undo.enter_context(_service(node, own, place, protocol, server))
            results[protocol] = _in(place, lambda p=protocol, s=server, v=vip: _ask(p, s, v))  # type: ignore[misc]
    return _judge(cgroup, results, fix)


def _judge(cgroup: str, results: dict[str, str], fix: str) -> Finding:
    failed = {p: why for p, why in results.items() if why not in (_SERVED, _SHOWS_BACKEND)}
    if not failed:
        shows = _SHOWS_BACKEND in results.values()
        shown = "; getpeername(2) shows the backend" if shows else ""
        return Finding(
            _NAME, "ok", f"a task below {cgroup} was served over {' and '.join(results)}{shown}"
        )
    said = ", ".join(f"{protocol}: {why}" for protocol, why in failed.items())
    if all(why.startswith("cannot") for why in failed.values()):
        return Finding(_NAME, "note", f"not known: {said}")
    return Finding(
        _NAME,
        "broken",
        f"a task below {cgroup} was not served ({said})",
        f"{fix}; if that does not help, `hostreach status` shows what else is there",
    )


def _remove(cgroup: str) -> None:
    """Its last task has ended; the kernel may need a moment to know."""
    for _ in range(50):
        try:
            os.rmdir(cgroup)  # noqa: PTH106
        except OSError as error:  # noqa: PERF203
            if error.errno != errno.EBUSY:
                return
            time.sleep(0.02)
        else:
            return


def _server(protocol: str) -> socket.socket:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    made = socket.socket(socket.AF_INET, kind)
    made.bind(("127.0.0.1", 0))
    if protocol == "tcp":
        made.listen(1)
    return made


@contextmanager
def _service(
    node: Node, name: str, cgroup: str, protocol: str, server: socket.socket
) -> Iterator[tuple[str, int]]:
    from .models import Service

    address, port = f"127.83.{random.randrange(256)}.{random.randrange(1, 255)}", 1
    frontend = format_frontend(address, port, protocol)
    backend = f"127.0.0.1:{server.getsockname()[1]}"
    options = {"name": name, "owner": OWNER}
    try:
        node.services.add(Service.of(frontend, backend, **options, from_cgroup=cgroup))  # type: ignore[arg-type]
    except HostreachError as error:
        if "from_cgroup" not in str(error):
            raise
        # A kernel that does not tell cgroups apart: the address is nobody's all the same.
        node.services.add(Service.of(frontend, backend, **options))  # type: ignore[arg-type]
    try:
        yield parse_frontend(frontend)[:2]
    finally:
        node.services.remove(frontend, if_exists=True, owner=OWNER)


def _in(cgroup: str, function: Callable[[], str]) -> str:
    """function() by a process in the cgroup, that ends with it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reader)
            with open(f"{cgroup}/cgroup.procs", "w", encoding="ascii") as procs:  # noqa: PTH123
                procs.write("0")
            os.write(writer, function().encode())
        except OSError as error:
            os.write(writer, f"cannot be tried: {(error.strerror or '').lower()}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    try:
        return _read(reader, _WAIT * 3).decode() or "cannot be tried"
    finally:
        os.close(reader)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _ask(protocol: str, server: socket.socket, vip: tuple[str, int]) -> str:
    """_SERVED, or _SHOWS_BACKEND if the peer is not the service's address, or what went wrong."""
    with socket.socket(socket.AF_INET, server.type) as client:
        client.settimeout(_WAIT)
        server.settimeout(_WAIT)
        try:
            client.connect(vip)
            client.send(_ANSWER)
            if protocol == "tcp":
                accepted = server.accept()[0]
                with accepted:
                    accepted.settimeout(_WAIT)
                    said = accepted.recv(64)
            else:
                said = server.recv(64)
        except TimeoutError:
            return "no answer"
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "failed")
        if said != _ANSWER:
            return "another answered"
        return _SERVED if client.getpeername() == vip else _SHOWS_BACKEND


def _read(pipe: int, seconds: float) -> bytes:
    deadline = time.monotonic() + seconds
    found = b""
    while (left := deadline - time.monotonic()) > 0:
        # In slices: Python tells of a signal that came just before only when select returns.
        if not select.select([pipe], [], [], min(left, _SLICE))[0]:
            continue
        part = os.read(pipe, 1 << 16)
        if not part:
            return found
        found += part
    return b""
