# SPDX-License-Identifier: Apache-2.0
"""Programs on their hooks, and what they know of the host."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from hostreach import _core
from hostreach.errors import HostreachError, InvalidInput, NotFound, Refused
from hostreach.options import AttachOptions

from .kernel import knows_host
from .lock import LOCK_SLICE_MS, LockedTable


class Description(NamedTuple):
    """What the kernel says of an instance; see `_core.pyi`."""

    hooks: dict[str, Any]
    counts: tuple[int, int, int]
    capacities: tuple[int, int, int]
    traffic: tuple[int, int]
    events: list[int]
    interrupted: bool


class AttachedTable(LockedTable):
    """The tables and the programs that read them."""

    def attach(self, options: AttachOptions) -> tuple[list[tuple[str, str]], bool, bool]:
        """Bring the hooks to this; also whether tables grew, or were an older version's.

        See `hostreach.node.Node.attach`.
        """
        o = options
        if self._cgroup_mount != o.cgroup_mount and not self.depth:  # it was mounted since
            self._cgroup_mount = o.cgroup_mount
            self._core = _core.Table(self._pin, LOCK_SLICE_MS, o.cgroup_mount)
        netns, networks = self.check(options)
        tcp, udp = "tcp" in o.protocols, "udp" in o.protocols
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
            self.wrote = True
            return changes, self._grown, self._migrated

    def check(self, options: AttachOptions) -> tuple[int, list[tuple[str, int]]]:
        """Raise what `attach` would of what is asked for; the host's namespace, and networks."""
        o = options
        _core.check(o.cgroup, "tcp" in o.protocols, "udp" in o.protocols, o.protect_binds, o.first)
        netns = _core.netns_cookie(o.host_netns)
        if o.host_netns is not None and not knows_host():
            raise Refused(
                "network namespaces are not told apart here (Linux 5.14 does); leave out "
                "--host-netns",
                object="kernel",
            )
        return netns, _networks(o.node_addresses)

    def check_place(self) -> None:
        """Raise `InvalidInput` if no instance can ever be at this pin."""
        with suppress(Refused), self.locked(exclusive=False):
            pass

    def detach(self, purge: bool) -> tuple[list[str], int | None]:
        """Remove the programs and, with ``purge``, the tables, of any version.

        Also how many sockets are open that a service's connect sent somewhere.
        Raises `NotFound` if there is no such instance.
        """
        with self.thread:
            self._retry(lambda: self._core.lock_only())
            try:
                hooks = _core.detach(self._core)
                self.wrote |= bool(hooks)
                sockets = _count_sockets(self._core) if hooks else 0
                if purge:
                    self._core.purge()
                    self.wrote = True
            finally:
                self._core.unlock()
        return hooks, sockets

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

    def networks(self) -> tuple[str, ...] | None:
        """See `hostreach.node.Node.networks`."""
        with self.locked(exclusive=False):
            _, found = self._core.host()
        named = [each for each in found if each != _NO_NETWORK]
        return tuple(f"{address}/{bits}" for address, bits in named) if found else None

    def addresses(self) -> list[str]:
        """See `hostreach.node.Node.addresses`."""
        with self.locked(exclusive=False):
            return self._core.node_addresses()

    def admit(self) -> int:
        """See `hostreach.node.Node.admit`."""
        try:
            with self.thread:
                with self.locked(exclusive=False):
                    if not self._core.admits():
                        return 0
                self._core.look_for_clients()  # writers need not wait for it
                with self.locked(exclusive=True):
                    return self._core.admit()
        except NotFound:
            return 0


def _count_sockets(table: _core.Table) -> int | None:
    try:
        return _core.count_sockets(table)
    except HostreachError:
        return None  # whatever it is, the programs are off


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
