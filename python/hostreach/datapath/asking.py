# SPDX-License-Identifier: Apache-2.0
"""What `explain`, `trace` and `top` ask, and which sockets a change ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from hostreach import _core
from hostreach.cgroup import find_root
from hostreach.ending import EndResult
from hostreach.errors import NotFound, Refused
from hostreach.plain import PlainFrontend
from hostreach.syntax import parse_frontend
from hostreach.table import Row

from .kernel import NO_CGROUPS, cgroup_lost, knows_host, mounted_root, programs_know
from .lock import end_result
from .services import ServiceTable

if TYPE_CHECKING:
    from hostreach.explain import Facts, Found
    from hostreach.rates import Counters, Survey
    from hostreach.tracing import Wanted

_AT_ONCE = 512
"""Services that are looked at: so that no writer waits for long."""


class AskedTable(ServiceTable):
    """The tables as those look at them who change nothing."""

    def facts(self, asked: PlainFrontend, netns: int) -> Facts:
        """See `hostreach.explain.Table.facts`."""
        from hostreach.explain import Facts

        try:
            with self.locked(exclusive=False):
                host, _ = self._core.host()
                is_host = bool(host) and host == netns and knows_host()
                hooks = _core.status(self._core, self._cgroup_mount)
                exempt = self._core.exempted()
                exact, node = self._found(asked, asked, netns), None
                may_be = is_host or (not netns and knows_host())
                if asked[0] != "node" and self._is_node_address(asked[0], may_be):
                    node = self._found(("node", *asked[1:]), asked, netns)
        except NotFound:
            return Facts(None, (), None, None, False, knows_host(), [])
        # programs that do not know a task's cgroup leave nobody alone
        known = exempt if programs_know("cgroup_id") else []
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
        from hostreach.explain import is_loopback

        if is_loopback(address):
            return is_host
        return address in self._core.node_addresses()

    def _found(self, key: PlainFrontend, asked: PlainFrontend, netns: int) -> Found | None:
        from hostreach.explain import Found

        service = self._core.get(key)
        if service is None:
            return None
        client = netns if programs_know("netns_cookie") else 0  # the node as a whole
        stuck = self._core.stuck_to(key, client, ":" not in asked[0])
        return Found(
            service,
            self._core.is_admitted(key, netns),
            stuck and (stuck[0], (time.monotonic_ns() - stuck[1]) / 1e9),
            self._core.shares(key),
            self._core.active(key),
            service[9] and cgroup_lost(service[9]),
        )

    def listen(self, wanted: Wanted, size: int) -> _core.Listener:
        """See `hostreach.tracing.Table.listen`."""
        from hostreach.tracing import VERDICTS

        service = parse_frontend(wanted.service) if wanted.service else None
        cgroup = _core.cgroup(wanted.cgroup, find_root()) if wanted.cgroup else None
        if cgroup and not programs_know("cgroup_id"):
            raise Refused(NO_CGROUPS, object=str(wanted.cgroup))
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

    def traffic(self, frontends: Sequence[PlainFrontend]) -> list[tuple[int, int]]:
        """Translations and refusals of each, since it was added; (0, 0) for what is not there."""
        found: list[tuple[int, int]] = []
        with suppress(NotFound):
            for first in range(0, len(frontends), _AT_ONCE):
                with self.locked(exclusive=False):
                    found += map(self._core.traffic, frontends[first : first + _AT_ONCE])
        return found + [(0, 0)] * (len(frontends) - len(found))

    def survey(self) -> Survey:
        """See `hostreach.node.Node.survey`."""
        from hostreach.rates import Survey

        rows = self.rows()
        found: list[Counters] = []
        try:
            for first in range(0, len(rows), _AT_ONCE):
                with self.locked(exclusive=False):
                    found += map(self._counters, rows[first : first + _AT_ONCE])
        except NotFound:
            found = []
        return Survey(time.monotonic(), found)

    def _counters(self, row: Row) -> Counters:
        from hostreach.rates import Counters

        key = parse_frontend(row.frontend)
        return Counters(*row, *self._core.traffic(key), sum(self._core.active(key)))

    def end_sockets(self, dry_run: bool) -> EndResult:
        """See `hostreach.node.Node.end_sockets`; raises `NotFound` if there are no tables."""
        with self.thread:
            with self.locked(exclusive=True):
                pass  # opens the tables, and mends them; writers need not wait for the rest
            ended = self._end_sockets(dry_run)
            self.wrote |= bool(ended.sockets) and not dry_run
            return ended

    def would_end(self, going: Sequence[tuple[PlainFrontend, Sequence[str]]]) -> EndResult:
        """See `hostreach.node.Node.would_end`: services and the addresses of backends that go."""
        ids = set[int]()
        with self.thread:
            try:
                with self.locked(exclusive=False):
                    for key, addresses in going:
                        found = self._core.get(key)
                        had = [address for address, _, _ in found[6]] if found else []
                        numbers = dict(zip(had, self._core.backend_ids(key), strict=True))
                        ids.update(numbers[address] for address in addresses if address in numbers)
            except NotFound:
                return EndResult(dry_run=True)
            return end_result(_core.find_sockets(self._core, ids), dry_run=True)
