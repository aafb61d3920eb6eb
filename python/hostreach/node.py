# SPDX-License-Identifier: Apache-2.0
"""One hostreach instance on this node: its programs, its tables, its services."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, final

from .changes import Change
from .datapath import KernelTable, knows_host, mounted_root, netns_cookie
from .ending import EndResult
from .errors import InvalidInput, NotFound
from .exempt import Exemptions
from .options import AttachOptions, Capacities
from .own_mount import root_to_attach
from .plain import PlainFrontend
from .rules import removal
from .services import Services, key_of
from .status import AttachResult, DetachResult, Status, status_of
from .syntax import parse_frontend
from .table import PlainTable

if TYPE_CHECKING:
    from .explain import Explanation, Lost
    from .models import Frontend
    from .rates import Survey
    from .tracing import Tracer, Wanted

__all__ = ["DEFAULT_PIN", "Capacities", "Node", "open"]

DEFAULT_PIN = "/sys/fs/bpf/hostreach"
PIN_VARIABLE = "HOSTREACH_PIN"


@final
class Node:
    """An instance, known by its pin directory: what `hostreach.open` gives.

    Nothing is opened before it is needed. Threads may share one, and so may the child of a fork.

    Attributes:
        pin: the path of the directory.
        services: what there is to balance.
        exempt: the cgroups whose tasks see none of it.
        plain: the services' table, for those who write very many.
    """

    def __init__(
        self,
        pin: str,
        capacities: Capacities = Capacities(),  # noqa: B008 - immutable
        *,
        at_least: bool = False,
    ) -> None:
        self.pin = pin
        self._table = KernelTable(pin, capacities, at_least=at_least)
        self.services = Services(self._table)
        self.exempt = Exemptions(self._table)
        self.plain: PlainTable = self._table

    def __repr__(self) -> str:
        return f"Node({self.pin!r})"

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the maps. The instance stays as it is, and this object can be used again."""
        self._table.close()

    def attach(
        self,
        cgroup: str | PathLike[str] | None = None,
        protocols: Sequence[str] = ("tcp", "udp"),
        *,
        protect_binds: bool = False,
        host_netns: str | PathLike[str] | None = None,
        node_addresses: Sequence[str] | None = None,
        first: bool = False,
    ) -> AttachResult:
        """Attach to ``cgroup`` (default: the cgroup v2 root), or bring what is attached to this.

        The same again changes nothing; another version's programs are replaced in place, without a
        moment in which a service fails. Tables are made if need be, and cgroup v2 is mounted at
        /run/hostreach/cgroupv2 where it is mounted nowhere.

        Args:
            cgroup: path of a cgroup v2 directory.
            protocols: "tcp", "udp" or both.
            protect_binds: refuse, with EADDRINUSE, to bind ports that services have on this node's
                own addresses, in the host's network namespace.
            host_netns: the host's network namespace, as /proc/1/ns/net; default: our own. Refused
                where the kernel does not tell namespaces apart.
            node_addresses: CIDRs; this node's addresses in them are those of ``node:`` frontends.
                Default: all.
            first: run before other vendors' programs on the same hooks, those of cgroups below
                included. What is attached keeps its order until it is detached.

        Raises `InvalidInput` for a path that is no cgroup v2, `AttachedElsewhere`, `Refused` where
        the kernel cannot do it, `ProgramRejected`, `PermissionDenied`.
        """
        wanted = tuple(name for name in ("tcp", "udp") if name in protocols)
        if not wanted or not {*protocols} <= {"tcp", "udp"}:
            raise InvalidInput(f"protocols are tcp and udp, not {', '.join(protocols) or 'none'}")
        if cgroup == "":
            raise InvalidInput("--cgroup is empty")
        asked = None if cgroup is None else os.path.realpath(cgroup)
        netns = None if host_netns is None else os.fspath(host_netns)
        with root_to_attach(asked) as root:
            path = asked or root
            options = AttachOptions(path, root, wanted, protect_binds, netns, node_addresses, first)
            return AttachResult(path, wanted, *self._table.attach(options))

    def check_place(self) -> None:
        """Raise `InvalidInput` if no instance can ever be at this pin, as outside of bpffs."""
        self._table.check_place()

    def check_attach(
        self,
        cgroup: str | None,
        protocols: Sequence[str],
        *,
        protect_binds: bool = False,
        host_netns: str | None = None,
        node_addresses: Sequence[str] | None = None,
    ) -> None:
        """Raise what `attach` would of its arguments and of the pin, and change nothing."""
        self.check_place()
        if cgroup == "":
            raise InvalidInput("--cgroup is empty")
        if cgroup is not None and mounted_root():  # or else `attach` mounts it
            path = os.path.realpath(cgroup)
            self._table.check(
                AttachOptions(path, "", protocols, protect_binds, host_netns, node_addresses)
            )

    def detach(self, purge: bool = False) -> DetachResult:
        """Take our programs off their hooks; with ``purge`` remove the tables too.

        An instance that is not there is detached already.
        """
        try:
            programs, sockets = self._table.detach(purge)
            return DetachResult(programs, purge, sockets)
        except NotFound:
            return DetachResult([], False)

    def admit(self) -> int:
        """Let those clients use services with source ranges that have an address there now.

        A client is a network namespace. Whoever writes such a service looks by itself; for those
        that come later this is to be called, as agents do every second. How many services have
        ranges.
        """
        return self._table.admit()

    def follow_addresses(self, within: Sequence[str] | None = None) -> None:
        """Let ``node:`` frontends be where this network namespace's addresses now are.

        ``within`` is as `attach` takes ``node_addresses``. To be called in the host's namespace,
        when addresses have come or gone. Raises `InvalidInput`, `TableBusy`.
        """
        self._table.follow_addresses(within)

    def networks(self) -> tuple[str, ...] | None:
        """The CIDRs that `attach` or `follow_addresses` was told last; None: all.

        Raises `NotFound` where there are no tables.
        """
        return self._table.networks()

    def addresses(self) -> list[str]:
        """Where ``node:`` frontends are, beside loopback: those of this node's that count."""
        return self._table.addresses()

    def lost_cgroups(self) -> list[tuple[str, str, Lost]]:
        """Services whose cgroup is not there, or was made anew: their frontends, its path, which.

        A cgroup that is made anew is another one: nobody uses the service until it is written
        again.
        """
        return self._table.lost_cgroups()

    def lost_cgroup(self, frontend: str) -> Lost | None:
        """What became of the cgroup of one service; None also if it is for none."""
        return self._table.lost_cgroup(parse_frontend(frontend))

    def traffic(self, frontends: Sequence[str | Frontend | PlainFrontend]) -> list[tuple[int, int]]:
        """Translations and refusals of each, since it was added; (0, 0) for what is not there."""
        return self._table.traffic([*map(key_of, frontends)])

    def survey(self) -> Survey:
        """The counters of all services, for `hostreach.rates.uses`; none if there are no tables."""
        return self._table.survey()

    @property
    def wrote(self) -> bool:
        """Whether anything was changed through this object, whatever was raised since."""
        return self._table.wrote

    @property
    def last_ended(self) -> EndResult | None:
        """What became of the sockets of those backends that the last change took away.

        None if no socket was open to any of them, or if their services keep them.
        """
        return self._table.last_ended

    def knows_host(self) -> bool:
        """Whether this kernel tells the host's network namespace from others (Linux 5.14).

        Where it does not, nobody uses services that are ``host_only``, and ``node`` frontends have
        no loopback.
        """
        return knows_host()

    def end_sockets(self, dry_run: bool = False) -> EndResult:
        """End the sockets whose backend is removed or down, where its service says so.

        Every change does this by itself. Left to do here is what it could not: sockets of a writer
        that was killed, or in a network namespace that could not be entered then. ``dry_run``
        lists them and ends none.

        Raises `PermissionDenied`, `KernelError`.
        """
        try:
            return self._table.end_sockets(dry_run)
        except NotFound:
            return EndResult(dry_run=dry_run)

    def would_end(self, changes: Iterable[Change]) -> EndResult:
        """The sockets that these changes would end; they are not made.

        For what `Services` gives back with ``dry_run``. Raises `PermissionDenied`, `KernelError`.
        """
        going = [(change.key, gone) for change in changes if (gone := _resets(change))]
        return self._table.would_end(going) if going else EndResult(dry_run=True)

    def explain(self, asked: str, from_cgroup: str | None = None) -> Explanation:
        """What a connect to ``asked`` (as in ``10.96.0.10:53/udp``) would do, and why.

        The caller is this process or, with ``from_cgroup``, a task of that cgroup, in the network
        namespace of one that is there. Raises `InvalidInput`, `PermissionDenied`.
        """
        from .caller import caller
        from .explain import explain

        wanted = parse_frontend(asked)
        calls = caller(from_cgroup, mounted_root(), netns_cookie)
        return explain(wanted, calls, self._table.facts(wanted, calls.netns))

    def trace(self, wanted: Wanted | None = None, size: int | None = None) -> Tracer:
        """Hear of each call that is translated or refused, from now on.

        ``wanted``, a `hostreach.tracing.Wanted`, leaves out others; ``size`` is that of the buffer,
        in bytes. Up to eight may listen at once. Raises `NotFound`
        if there are no tables, `Refused` where the kernel has no ring buffer (Linux 5.8) and when
        eight listen, `InvalidInput`, `PermissionDenied`.
        """
        from .tracing import BUFFER, Tracer, Wanted

        return Tracer(self._table, wanted or Wanted(), BUFFER if size is None else size)

    def status(self) -> Status:
        """What is attached and what the tables hold; raises `PermissionDenied`, `AbiMismatch`."""
        try:
            found = self._table.describe(mounted_root())
        except NotFound:
            return Status(self.pin)
        return status_of(self.pin, found)


def _resets(change: Change) -> list[str]:
    """The addresses of those backends whose sockets the change ends."""
    before, after = change.plain_before, change.plain_after
    rule = after or before
    if before is None or rule is None or removal(rule[2], rule[10]) == "keep":
        return []
    left = {address for address, _, state in after[6] if state != "down"} if after else ()
    return [address for address, _, _ in before[6] if address not in left]


def open(  # noqa: A001 - as in hostreach.open()
    pin: str | PathLike[str] | None = None,
    *,
    capacities: Capacities = Capacities(),  # noqa: B008 - immutable
    at_least: bool = False,
) -> Node:
    """The instance pinned at ``pin`` (default: $HOSTREACH_PIN, or /sys/fs/bpf/hostreach).

    ``capacities`` are for tables that are made; tables that are there must have them, and grow to
    them when `Node.attach` is called. With ``at_least`` they may have more by then. Raises
    `InvalidInput` for an empty or relative path, or a capacity that no table can have.
    """
    capacities.check()
    path = os.environ.get(PIN_VARIABLE) or DEFAULT_PIN if pin is None else os.fspath(pin)
    if not path.startswith("/"):
        raise InvalidInput("a pin path is absolute", object=path)
    return Node(os.path.normpath(path), capacities, at_least=at_least)
