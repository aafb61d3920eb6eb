# SPDX-License-Identifier: Apache-2.0
"""The kernel's side: the only module that imports the compiled `_core`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from errno import ENOENT
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from . import _core
from .cgroup import find_root
from .ending import EndedSocket, EndResult
from .errors import (
    AbiMismatch,
    HostreachError,
    InvalidInput,
    NotFound,
    Refused,
    TableBusy,
)
from .explain import Facts, Found
from .options import AttachOptions, Capacities
from .plain import PlainFrontend, PlainService, model_of, plain_frontend, plain_service
from .rates import Counters, Survey
from .syntax import parse_frontend
from .table import Row
from .tracing import VERDICTS

if TYPE_CHECKING:
    from .models import Frontend, Service
    from .tracing import Wanted

LOCK_TIMEOUT = 30.0
"""Seconds: longer than any batch takes; who holds the lock longer is stopped or stuck."""
_LOCK_SLICE_MS = 100
_SURVEYED_AT_ONCE = 512
"""Services: so that no writer waits for long."""
ADDRESSES_AGE = 1.0
"""Seconds for which the node's addresses are believed while services change."""


class Description(NamedTuple):
    """What the kernel says of an instance; see `_core.pyi`."""

    hooks: dict[str, Any]
    counts: tuple[int, int, int]
    capacities: tuple[int, int, int]
    traffic: tuple[int, int]
    events: list[int]
    interrupted: bool


_T = TypeVar("_T")

Hooks: TypeAlias = list[str]
Numbers: TypeAlias = list[int]
HookChanges: TypeAlias = list[tuple[str, str]]


class KernelTable:
    """The pinned tables as a `hostreach.table.Table`.

    Reading tables that were never made finds nothing; the first write makes them.
    """

    def __init__(self, pin: str, capacities: Capacities) -> None:
        self._pin = pin
        self._cgroup_mount = mounted_root()
        self._core = _core.Table(pin, _LOCK_SLICE_MS, self._cgroup_mount)
        self._capacities = capacities
        self._checked = not any(capacities)
        self._thread = threading.RLock()
        self._grown = False
        self._migrated = False
        self._addresses_read = float("-inf")
        self._depth = 0
        self._exclusive = False
        self.last_ended: EndResult | None = None

    @property
    def _sizes(self) -> tuple[int, int, int]:
        services, backends, slots = (size or 0 for size in self._capacities)
        return services, backends, slots

    def _create(self) -> bool:
        made = self._retry(lambda: self._core.create(*self._sizes))
        self._checked = True
        return made

    def _retry(self, take: Callable[[], _T]) -> _T:
        """Wait for the lock, but let Ctrl-C through every now and then."""
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                return take()
            except TableBusy:  # noqa: PERF203 - it waits anyway
                if time.monotonic() >= deadline:
                    raise

    @contextmanager
    def locked(self, *, exclusive: bool) -> Iterator[None]:
        """Hold the lock; reentrant, and within an exclusive lock a shared one is had already.

        Raises `NotFound` if there are no tables, `TableBusy`, `AbiMismatch`.
        """
        with self._thread:
            if not self._depth:
                self._retry(lambda: self._core.lock(exclusive))
                self._exclusive = exclusive
            elif exclusive and not self._exclusive:
                raise RuntimeError("an exclusive lock cannot be had inside a shared one")
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    self._core.unlock()

    @contextmanager
    def exclusive(self, *, grow: Callable[[], None] | None = None) -> Iterator[None]:
        """See `hostreach.table.Table.exclusive`; makes the tables if need be.

        Raises `Refused` if they are there and their size is not the one that was asked for; with
        ``grow`` only if it is larger, and otherwise lets them grow, unless ``grow`` raises. Tables
        made for a batch that then fails are removed again: a failure changes nothing.

        Sockets whose backend went with the batch are ended after it, with the lock given back:
        `last_ended` tells.
        """
        with self._thread:
            if not self._depth:
                self.last_ended = None
            with self._batch(grow):
                yield
            if not self._depth and self._core.ends_due():
                try:
                    self.last_ended = self._end_sockets(dry_run=False)
                except HostreachError as error:  # the batch is done all the same
                    self.last_ended = EndResult(problem=str(error))

    @contextmanager
    def _batch(self, grow: Callable[[], None] | None) -> Iterator[None]:
        with ExitStack() as stack:
            check = not self._depth and not self._checked and not grow
            made = check and self._create()
            try:
                stack.enter_context(self.locked(exclusive=True))
            except NotFound:
                made = self._create()
                stack.enter_context(self.locked(exclusive=True))
            except AbiMismatch:
                if not grow:
                    raise
                self._migrate(grow)
                stack.enter_context(self.locked(exclusive=True))
            try:
                if grow:
                    grow()
                    self._grown = any(self._capacities) and self._core.grow(*self._sizes)
                    self._checked = True
                yield
            except HostreachError:
                if made and not self._core.rows(None) and not self._core.is_attached():
                    self._core.purge()
                    self._checked = not any(self._capacities)
                raise

    def _migrate(self, check: Callable[[], None]) -> None:
        """Bring tables of an older layout to this version's."""
        self._retry(lambda: self._core.lock_only())
        try:
            check()
            self._migrated = self._core.migrate()
        finally:
            self._core.unlock()

    def get(self, frontend: Frontend) -> Service | None:
        try:
            with self.locked(exclusive=False):
                found = self._core.get(plain_frontend(frontend))
        except NotFound:
            return None
        return model_of(found) if found else None

    def rows(self, owner: str | None = None) -> list[Row]:
        try:
            with self.locked(exclusive=False):
                return [Row(*row) for row in self._core.rows(owner)]
        except NotFound:
            return []

    def differing(self, services: Sequence[Service]) -> list[Service]:
        """See `hostreach.table.Table.differing`; raises `Refused` as `write` does."""
        _refuse_subtrees(services)
        try:
            with self.locked(exclusive=False):
                indexes = self._core.differing(
                    [plain_service(service, _cgroup) for service in services]
                )
        except NotFound:
            return [*services]
        return [services[i] for i in indexes]

    def shares(self, frontend: Frontend) -> Numbers:
        """See `hostreach.table.Table.shares`."""
        try:
            with self.locked(exclusive=False):
                return self._core.shares(plain_frontend(frontend))
        except NotFound:
            return []

    def active(self, frontend: Frontend) -> Numbers:
        """See `hostreach.table.Table.active`."""
        try:
            with self.locked(exclusive=False):
                return self._core.active(plain_frontend(frontend))
        except NotFound:
            return []

    def exempt(self, cgroup: str) -> bool:
        """Leave this cgroup's tasks alone; False if that was so before.

        Raises `InvalidInput`, and `Refused` where programs do not know a task's cgroup.
        """
        root = find_root()
        cgroup_id, level = _core.cgroup(cgroup, root)
        if not _programs_know("cgroup_id"):
            raise Refused(f"cannot be exempt: {_NO_CGROUPS}", object=cgroup)
        with self.exclusive():
            for other in self._core.exempted():  # pods come and go: theirs must not pile up
                if _core.cgroup_path(other, root) is None:
                    self._core.unexempt(other)
            return self._core.exempt(cgroup_id, level)

    def unexempt(self, cgroup: str) -> bool:
        """False if it was not exempt, or is gone."""
        try:
            cgroup_id, _ = _core.cgroup(cgroup, find_root())
        except InvalidInput:
            return False
        try:
            with self.locked(exclusive=True):
                return self._core.unexempt(cgroup_id)
        except NotFound:
            return False

    def exempted(self) -> Hooks:
        """Paths of the cgroups that are exempt, sorted; those that are gone are left out."""
        try:
            with self.locked(exclusive=False):
                ids = self._core.exempted()
        except NotFound:
            return []
        root = mounted_root()
        paths = (_core.cgroup_path(cgroup_id, root) for cgroup_id in ids)
        return sorted(path for path in paths if path is not None)

    def write(self, put: Sequence[Service], remove: Sequence[Frontend] = ()) -> None:
        """See `hostreach.table.Table.write`.

        Raises `Refused` for ``from_cgroup`` where programs do not know a task's cgroup.
        """
        _refuse_subtrees(put)
        with self.exclusive():
            self._refresh_addresses(put)
            self._core.write(
                [plain_service(s, _cgroup) for s in put], [plain_frontend(f) for f in remove]
            )

    def _refresh_addresses(self, put: Sequence[Service]) -> None:
        """Of this node, which may have changed; for a stream of changes now and then will do."""
        due = time.monotonic() - self._addresses_read > ADDRESSES_AGE
        if put and (due or any(service.frontend.address == "node" for service in put)):
            self._core.refresh_node_addresses()
            self._addresses_read = time.monotonic()

    def plain(self, service: Service) -> PlainService:
        """See `hostreach.table.PlainTable.plain`."""
        _refuse_subtrees([service])
        return plain_service(service, _cgroup)

    def plain_owner(self, frontend: PlainFrontend) -> str | None:
        """See `hostreach.table.PlainTable.plain_owner`."""
        try:
            with self.locked(exclusive=False):
                found = self._core.get(frontend)
        except NotFound:
            return None
        return found[4] if found else None

    def plain_differing(self, services: Sequence[PlainService]) -> Numbers:
        """See `hostreach.table.PlainTable.plain_differing`."""
        try:
            with self.locked(exclusive=False):
                return self._core.differing([*services])
        except NotFound:
            return [*range(len(services))]

    def plain_write(
        self, put: Sequence[PlainService], remove: Sequence[PlainFrontend] = ()
    ) -> None:
        """See `hostreach.table.PlainTable.plain_write`; `follow_addresses` is the caller's."""
        with self.exclusive():
            self._core.write([*put], [*remove])

    def follow_addresses(self, within: Sequence[str] | None) -> None:
        """Let node frontends be where this network namespace's addresses now are.

        ``within``: those in these CIDRs. The namespace must be the host's.
        """
        networks = _networks(within)
        with self.exclusive():
            netns, before = self._core.host()
            if before == networks:
                self._core.refresh_node_addresses()
            else:
                self._core.set_host(netns, networks, _core.local_addresses(None))

    def traffic(self, frontends: Sequence[PlainFrontend]) -> list[tuple[int, int]]:
        """Translations and refusals of each, since it was added; (0, 0) for what is not there."""
        try:
            with self.locked(exclusive=False):
                return [self._core.traffic(frontend) for frontend in frontends]
        except NotFound:
            return [(0, 0)] * len(frontends)

    def survey(self) -> Survey:
        """See `hostreach.node.Node.survey`."""
        rows = self.rows()
        found: list[Counters] = []
        try:
            for first in range(0, len(rows), _SURVEYED_AT_ONCE):
                with self.locked(exclusive=False):
                    found += [
                        self._counters(row) for row in rows[first : first + _SURVEYED_AT_ONCE]
                    ]
        except NotFound:
            found = []
        return Survey(time.monotonic(), found)

    def _counters(self, row: Row) -> Counters:
        key = parse_frontend(row.frontend)
        return Counters(*row, *self._core.traffic(key), sum(self._core.active(key)))

    def attach(self, options: AttachOptions) -> tuple[HookChanges, bool, bool]:
        """Bring the hooks to this; also whether tables grew, or were an older version's.

        See `hostreach.node.Node.attach`.
        """
        o = options
        if self._cgroup_mount != o.cgroup_mount and not self._depth:  # it was mounted since
            self._cgroup_mount = o.cgroup_mount
            self._core = _core.Table(self._pin, _LOCK_SLICE_MS, o.cgroup_mount)
        tcp, udp = "tcp" in o.protocols, "udp" in o.protocols
        _core.check(o.cgroup, tcp, udp, o.protect_binds, o.first)
        netns = _core.netns_cookie(o.host_netns)
        if o.host_netns is not None and not knows_host():
            raise Refused(
                "network namespaces are not told apart here (Linux 5.14 does); leave out "
                "--host-netns",
                object="kernel",
            )
        networks = _networks(o.node_addresses)
        addresses = _core.local_addresses(o.host_netns)
        self._migrated = False
        with self.exclusive(grow=lambda: _core.check_attached(self._core, o.cgroup)):
            # First: programs must not run without.
            before = self._core.host()
            try:
                self._core.set_host(netns, networks, addresses)
                changes = _core.attach(
                    self._core, o.cgroup, tcp, udp, o.protect_binds, o.first, o.cgroup_mount
                )
            except HostreachError:
                self._core.set_host(*before, addresses)
                raise
            return changes, self._grown, self._migrated

    def facts(self, asked: PlainFrontend, netns: int) -> Facts:
        """See `hostreach.explain.Table.facts`."""
        try:
            with self.locked(exclusive=False):
                host, _ = self._core.host()
                is_host = bool(host) and host == netns and knows_host()
                hooks = _core.status(self._core, self._cgroup_mount)
                exempt = self._core.exempted()
                exact, node = self._found(asked, asked, netns), None
                if asked[0] != "node" and self._is_node_address(asked[0], is_host):
                    node = self._found(("node", *asked[1:]), asked, netns)
        except NotFound:
            return Facts(None, (), None, None, False, knows_host(), [])
        # programs that do not know a task's cgroup leave nobody alone
        known = exempt if _programs_know("cgroup_id") else []
        paths = (_core.cgroup_path(each, self._cgroup_mount) for each in known)
        return Facts(
            hooks["cgroup"],  # type: ignore[arg-type]
            tuple(name for name in ("tcp", "udp") if hooks[name]),
            exact,
            node,
            is_host,
            knows_host(),
            sorted(path for path in paths if path is not None),
        )

    def _is_node_address(self, address: str, is_host: bool) -> bool:
        if address == "::1" or address.startswith("127."):
            return is_host
        return address in self._core.node_addresses()

    def _found(self, key: PlainFrontend, asked: PlainFrontend, netns: int) -> Found | None:
        service = self._core.get(key)
        if service is None:
            return None
        client = netns if _programs_know("netns_cookie") else 0  # the node as a whole
        stuck = self._core.stuck_to(key, client, ":" not in asked[0])
        return Found(
            service,
            self._core.is_admitted(key, netns),
            stuck and (stuck[0], (time.monotonic_ns() - stuck[1]) / 1e9),
            self._core.shares(key),
            self._core.active(key),
        )

    def listen(self, wanted: Wanted, size: int) -> _core.Listener:
        """See `hostreach.tracing.Table.listen`."""
        service = parse_frontend(wanted.service) if wanted.service else None
        cgroup = _core.cgroup(wanted.cgroup, find_root()) if wanted.cgroup else None
        if cgroup and not _programs_know("cgroup_id"):
            raise Refused(_NO_CGROUPS, object=str(wanted.cgroup))
        verdicts = VERDICTS[wanted.verdict] if wanted.verdict else ()
        with self.locked(exclusive=True):
            return _core.Listener(self._core, service, wanted.pid or 0, cgroup, [*verdicts], size)

    def plain_name(self, frontend: PlainFrontend) -> str | None:
        """See `hostreach.tracing.Table.plain_name`."""
        try:
            with self.locked(exclusive=False):
                found = self._core.get(frontend)
        except NotFound:
            return None
        return found[3] if found else None

    def cgroup_path(self, cgroup_id: int) -> str | None:
        """See `hostreach.tracing.Table.cgroup_path`."""
        root = mounted_root()
        path = _core.cgroup_path(cgroup_id, root) if root else None
        return path and (path.removeprefix(root) or "/")

    def admit(self) -> int:
        """See `hostreach.node.Node.admit`."""
        try:
            with self._thread:
                with self.locked(exclusive=False):
                    if not self._core.admits():
                        return 0
                self._core.look_for_clients()  # writers need not wait for it
                with self.locked(exclusive=True):
                    return self._core.admit()
        except NotFound:
            return 0

    def end_sockets(self, dry_run: bool) -> EndResult:
        """See `hostreach.node.Node.end_sockets`; raises `NotFound` if there are no tables."""
        with self._thread:
            with self.locked(exclusive=True):
                pass  # opens the tables, and mends them; writers need not wait for the rest
            return self._end_sockets(dry_run)

    def would_end(self, going: Sequence[tuple[Frontend, Sequence[str]]]) -> EndResult:
        """See `hostreach.node.Node.would_end`: services and the addresses of backends that go."""
        ids = set[int]()
        with self._thread:
            try:
                with self.locked(exclusive=False):
                    for frontend, addresses in going:
                        key = plain_frontend(frontend)
                        found = self._core.get(key)
                        had = [address for address, _, _ in found[6]] if found else []
                        numbers = dict(zip(had, self._core.backend_ids(key), strict=True))
                        ids.update(numbers[address] for address in addresses if address in numbers)
            except NotFound:
                return EndResult(dry_run=True)
            return _end_result(_core.find_sockets(self._core, ids), dry_run=True)

    def _end_sockets(self, dry_run: bool) -> EndResult:
        return _end_result(_core.end_sockets(self._core, dry_run), dry_run)

    def detach(self, purge: bool) -> tuple[Hooks, int | None]:
        """Remove the programs and, with ``purge``, the tables, of any version.

        Also how many sockets are open that a service's connect sent somewhere.
        Raises `NotFound` if there is no such instance.
        """
        with self._thread:
            self._retry(lambda: self._core.lock_only())
            try:
                hooks = _core.detach(self._core)
                sockets = _count_sockets(self._core) if hooks else 0
                if purge:
                    self._core.purge()
            finally:
                self._core.unlock()
        return hooks, sockets

    def close(self) -> None:
        """Let go of the maps; the next use opens them again."""
        with self._thread:
            self._core.close()

    def describe(self, cgroup_mount: str) -> Description:
        """Everything that a status is made of, from one moment; raises `NotFound`."""
        with self.locked(exclusive=False):
            return Description(
                _core.status(self._core, cgroup_mount),
                self._core.counts(),
                self._core.capacities(),
                self._core.traffic(None),
                self._core.events(),
                self._core.is_interrupted(),
            )

    def list(self, owner: str | None = None) -> list[Service]:
        try:
            with self.locked(exclusive=False):
                return [model_of(found) for found in self._core.list(owner)]
        except NotFound:
            return []


def kernel_features() -> dict[str, bool]:
    """What `attach` looks at, by the names that HOSTREACH_WITHOUT takes.

    Raises `PermissionDenied`, as `socket_features` does.
    """
    return {**_core.features(), "host_netns": _core.netns_cookie(None) != 0}


def socket_features() -> dict[str, bool]:
    """What ending and counting sockets look at, the same; slower."""
    return _core.socket_features()


def netns_cookie(path: str | None) -> int:
    """Of the network namespace there, or of our own; 0 where the kernel does not tell."""
    return _core.netns_cookie(path)


_NO_CGROUPS = "this kernel does not tell programs which cgroup a task is in (Linux 5.7 does)"


def _programs_know(feature: str) -> bool:
    """The programs for kernels without socket storage know nothing of those who call."""
    has = _core.features()
    return has[feature] and has["global_data"] and has["sk_storage"]


def _end_result(found: _core.Ended, dry_run: bool) -> EndResult:
    sockets, namespaces, unreachable, left, method, problem = found
    return EndResult(
        [EndedSocket(*socket) for socket in sockets],
        dry_run,
        method or None,
        namespaces,
        unreachable,
        left,
        problem or None,
    )


def knows_host() -> bool:
    """Whether programs can tell the host's network namespace from others."""
    return _programs_know("netns_cookie") and _core.netns_cookie(None) != 0


def _refuse_subtrees(services: Sequence[Service]) -> None:
    named = [service for service in services if service.from_cgroup is not None]
    if named and not _programs_know("cgroup_id"):
        raise Refused(f"{_NO_CGROUPS}; leave out from_cgroup", object=str(named[0].frontend))


def _count_sockets(table: _core.Table) -> int | None:
    try:
        return _core.count_sockets(table)
    except HostreachError:
        return None  # whatever it is, the programs are off


def _cgroup(path: str) -> tuple[int, int]:
    """Id and depth; 0 for a cgroup that is gone, which the table accepts where it knew it."""
    try:
        return _core.cgroup(path, find_root())
    except InvalidInput as error:
        if error.errno == ENOENT:
            return 0, 0
        raise


def mounted_root() -> str:
    """Where cgroup v2 is mounted, or "": then nothing is attached either."""
    try:
        return find_root()
    except Refused:
        return ""


def mount_cgroup2(path: str) -> None:
    """On a directory that is there."""
    _core.mount_cgroup2(path)


def unmount_cgroup2(path: str) -> None:
    """What `mount_cgroup2` mounted."""
    _core.unmount_cgroup2(path)


_NO_NETWORK = ("0.0.0.0", 32)
"""No interface has this address: for those who name none, which is not all."""


def _networks(cidrs: Sequence[str] | None) -> list[tuple[str, int]]:
    """As address and prefix length; none are all."""
    if cidrs is None:
        return []
    from ipaddress import ip_network

    try:
        networks = [ip_network(cidr) for cidr in cidrs]
    except ValueError as error:
        raise InvalidInput(f"--node-addresses: {error}") from None
    found = [(str(network.network_address), network.prefixlen) for network in networks]
    return found or [_NO_NETWORK]
