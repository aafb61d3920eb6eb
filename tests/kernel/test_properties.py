# SPDX-License-Identifier: Apache-2.0
"""Any sequence of operations: the kernel's table does what the one in memory does."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import hostreach
from hostreach import Service, errors
from hostreach.node import Capacities
from hostreach.services import Services
from hostreach.testing import MemoryTable

from .harness.box import BPFFS, PREFIX

LONG = os.environ.get("HOSTREACH_LONG") == "1"
SIZES = Capacities(services=5, backends=12, slots=700)
_numbers = itertools.count(1)
seen: set[tuple[str, str]] = set()  # what each method came to

V4 = [f"10.96.0.{n}:80/tcp" for n in range(3)] + ["10.96.0.0:80/udp", "10.96.0.0:81/tcp"]
V6 = ["[fd00:96::1]:80/tcp", "[fd00:96::2]:80/udp"]
NODE = ["node:30080/tcp", "node:30080/udp"]
FRONTENDS = V4 + V6 + NODE
# Few, so that services share them and they come back.
ENDPOINTS4 = [f"10.0.0.{n}:8080" for n in range(1, 6)]
ENDPOINTS6 = [f"[fd00::{n}]:8080" for n in range(1, 6)]

owners = st.sampled_from(["manual", "manual", "manual", "kube"])
frontends = st.sampled_from(FRONTENDS)


def endpoints_for(frontend: str) -> list[str]:
    if frontend in NODE:
        return ENDPOINTS4 + ENDPOINTS6
    return ENDPOINTS6 if frontend in V6 else ENDPOINTS4


@st.composite
def backends(draw: st.DrawFn, frontend: str) -> str:
    address = draw(st.sampled_from(endpoints_for(frontend)))
    weight = draw(st.sampled_from([0, 1, 1, 2, 3, 100, 400, 65535]))
    state = draw(st.sampled_from(["active", "active", "draining", "down"]))
    return f"{address},weight={weight},state={state}"


@st.composite
def services(draw: st.DrawFn) -> Service:
    frontend = draw(frontends)
    return Service.of(
        frontend,
        *draw(
            st.lists(backends(frontend), max_size=5, unique_by=lambda text: text.partition(",")[0])
        ),
        name=draw(st.sampled_from([None, None, "a/b:c", "n" * 255])),
        owner=draw(owners),
        algorithm=draw(st.sampled_from(["random", "random", "least-conn", "maglev"])),
        affinity=draw(st.sampled_from([None, None, "1ms", "3h", "49d"])),
        host_only=draw(st.booleans()),
        on_removal=draw(st.sampled_from([None, "keep", "reset"])),
    )


class Tables(RuleBasedStateMachine):
    """Two handles on one kernel table, in turns, beside one in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.pin = BPFFS / f"{PREFIX}{os.getpid()}-table{next(_numbers)}"
        self.nodes = [hostreach.open(str(self.pin), capacities=SIZES) for _ in range(2)]
        self.turn = 0
        assert SIZES.services
        assert SIZES.backends
        assert SIZES.slots
        self.memory = Services(
            MemoryTable(
                max_services=SIZES.services, max_backends=SIZES.backends, max_slots=SIZES.slots
            )
        )

    def teardown(self) -> None:
        for node in self.nodes:
            node.close()
        shutil.rmtree(self.pin, ignore_errors=True)

    def same(self, method: str, *args: Any, **options: Any) -> None:
        """Calls it on both; results and errors must be alike."""
        self.turn += 1
        ours = self.nodes[self.turn // 2 % 2].services
        results = [_outcome(getattr(table, method), args, options) for table in (ours, self.memory)]
        seen.add((method, _kind(results[1])))
        assert results[0] == results[1]

    @rule(service=services(), if_missing=st.booleans())
    def add(self, service: Service, if_missing: bool) -> None:
        self.same("add", service, if_missing=if_missing)

    @rule(service=services())
    def set(self, service: Service) -> None:
        self.same("set", service)

    @rule(frontend=frontends, if_exists=st.booleans(), owner=owners)
    def remove(self, frontend: str, if_exists: bool, owner: str) -> None:
        self.same("remove", frontend, if_exists=if_exists, owner=owner)

    @rule(data=st.data(), frontend=frontends, flag=st.booleans(), owner=owners)
    def add_backend(self, data: st.DataObject, frontend: str, flag: bool, owner: str) -> None:
        backend = data.draw(backends(frontend))
        self.same("add_backend", frontend, backend, if_missing=flag, owner=owner)

    @rule(data=st.data(), frontend=frontends, owner=owners)
    def set_backend(self, data: st.DataObject, frontend: str, owner: str) -> None:
        self.same("set_backend", frontend, data.draw(backends(frontend)), owner=owner)

    @rule(data=st.data(), frontend=frontends, flag=st.booleans(), owner=owners)
    def remove_backend(self, data: st.DataObject, frontend: str, flag: bool, owner: str) -> None:
        address = data.draw(st.sampled_from(endpoints_for(frontend)))
        self.same("remove_backend", frontend, address, if_exists=flag, owner=owner)

    @rule(
        wanted=st.lists(services(), max_size=6, unique_by=lambda each: each.frontend),
        prune=st.booleans(),
        dry_run=st.sampled_from([False, False, False, True]),
        owner=owners,
    )
    def apply(self, wanted: list[Service], prune: bool, dry_run: bool, owner: str) -> None:
        self.same("apply", wanted, prune=prune, dry_run=dry_run, owner=owner)

    @invariant()
    def same_contents(self) -> None:
        """Whole dumps, rows, and what the writer counts."""
        expected = self.memory.list()
        for node in self.nodes:
            assert node.services.list() == expected
        (node, *_) = self.nodes
        assert node.services.rows() == self.memory.rows()
        assert node.services.list("kube") == self.memory.list("kube")
        status = node.status()
        if status.services is None or status.backends is None or status.slots is None:
            assert not expected
            return
        assert status.services.used == len(expected)
        assert status.backends.used == sum(len(each.backends) for each in expected)
        assert status.slots.used == sum(sum(self.memory.shares(s.frontend)) for s in expected)

    @invariant()
    def same_shares(self) -> None:
        """To the slot; a Maglev table's by its permutations, so only in all."""
        for service in self.memory:
            ours = self.nodes[0].services.inspect(service.frontend)
            theirs = self.memory.shares(service.frontend)
            if service.algorithm == "maglev":
                assert sum(ours.shares) == sum(theirs)
                assert [share > 0 for share in ours.shares] == [share > 0 for share in theirs]
            else:
                assert ours.shares == theirs
            assert ours.active == [0] * len(service.backends)


def _outcome(method: Any, args: tuple[Any, ...], options: dict[str, Any]) -> object:
    try:
        return method(*args, **options)
    except errors.TableFull:
        return "TableFull"  # they word it differently
    except errors.HostreachError as error:
        return type(error).__name__, str(error)


def _kind(result: object) -> str:
    if isinstance(result, tuple) and result and isinstance(result[0], str):
        return result[0]
    return "TableFull" if result == "TableFull" else "done"


def test_the_kernels_table_is_the_one_in_memory() -> None:
    hypothesis.stateful.run_state_machine_as_test(
        Tables,
        settings=hypothesis.settings(
            max_examples=300 if LONG else 25,
            stateful_step_count=60 if LONG else 40,
            deadline=None,
            derandomize=not LONG,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
    assert {(method, "TableFull") for method in ("add", "set", "add_backend", "apply")} <= seen
    assert {(method, "OwnerConflict") for method in ("set", "remove", "apply")} <= seen
    assert not list(Path(BPFFS).glob(f"{PREFIX}{os.getpid()}-table*"))
