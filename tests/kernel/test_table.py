# SPDX-License-Identifier: Apache-2.0
"""The table in the kernel: what is put in comes out, and what does not fit changes nothing."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hostreach
from hostreach import Frontend, Service, errors
from hostreach.node import Capacities
from hostreach.sources.file import dump, load

from .harness import Box, strategies
from .harness.bpf import BPFTOOL, bpftool
from .harness.clients import KINDS, TCP, V4, exchange, outcome

SMALL = Capacities(services=4, backends=8, slots=64)


@contextmanager
def unchanged(node: hostreach.Node) -> Iterator[None]:
    before = node.services.list(), used(node)
    yield
    assert (node.services.list(), used(node)) == before


def used(node: hostreach.Node) -> tuple[int, ...]:
    """Services, backends and slots in use."""
    status = node.status()
    return tuple(usage.used for usage in (status.services, status.backends, status.slots) if usage)


def service(number: int, backends: int = 1, weight: int = 1) -> Service:
    endpoints = [f"10.0.{number}.{n + 1}:80,weight={weight}" for n in range(backends)]
    return Service.of(f"10.96.0.{number}:80/tcp", *endpoints)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(table=strategies.tables)
def test_round_trip(
    box: Box, tmp_path_factory: pytest.TempPathFactory, table: list[Service]
) -> None:
    """Any valid table, exported and applied into a fresh instance, exports the same."""
    file = tmp_path_factory.mktemp("export") / "services.yaml"
    capacities = Capacities(services=64, backends=512, slots=64 * 4096)  # whatever the weights
    exports = []
    wanted = table
    for _ in range(2):
        with hostreach.open(str(box.pin), capacities=capacities) as node:
            for owner in {service.owner for service in wanted}:
                node.services.apply([s for s in wanted if s.owner == owner], owner=owner)
            listed = node.services.list()
            exports.append(dump(listed))
            node.detach(purge=True)
        assert sorted(listed, key=lambda s: s.sort_key) == sorted(table, key=lambda s: s.sort_key)
        file.write_text(exports[-1])
        wanted = load(str(file))
    assert exports[0] == exports[1]


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(before=strategies.tables, after=strategies.tables, keep=st.booleans())
def test_apply_turns_any_table_into_any_other(
    box: Box, before: list[Service], after: list[Service], keep: bool
) -> None:
    """And tells just what changed; once more changes nothing; space is given back."""
    before, after = (
        [s.model_copy(update={"owner": "manual"}) for s in table] for table in (before, after)
    )
    if keep:
        after = [*after, *(s for s in before if s.frontend not in {a.frontend for a in after})]
    capacities = Capacities(services=64, backends=512, slots=64 * 4096)  # whatever the weights
    with hostreach.open(str(box.pin), capacities=capacities) as node:
        node.services.apply(before, prune=True)
        was = {s.frontend: s for s in node.services.list()}
        changes = node.services.apply(after, prune=True)
        now = {s.frontend: s for s in node.services.list()}
        assert now == {s.frontend: s for s in after}
        expected = {f for f in was.keys() | now.keys() if was.get(f) != now.get(f)}
        assert {change.frontend for change in changes} == expected
        assert not node.services.apply(after, prune=True)
        assert used(node)[:2] == (len(after), sum(len(s.backends) for s in after))
        node.services.apply([], prune=True)
        assert used(node) == (0, 0, 0)


def test_limits_of_one_service(box: Box) -> None:
    """4,096 backends, names and owners as long as they may be, and the largest weights."""
    capacities = Capacities(services=4, backends=20000, slots=20000)
    many = [f"10.0.{n >> 8}.{n & 255}:{1 + n},weight={65535 - n}" for n in range(1, 4097)]
    with hostreach.open(str(box.pin), capacities=capacities) as node:
        big = Service.of("10.96.0.1:80/tcp", *many, name="n" * 255, owner="o" * 63)
        node.services.add(big)
        assert node.services.get("10.96.0.1:80/tcp") == big
        wide = Service.of("10.96.0.2:80/tcp", name="é" * 127)
        node.services.add(wide)
        assert node.services.get("10.96.0.2:80/tcp") == wide
        assert node.services.list() == [big, wide]


@pytest.mark.parametrize(
    ("what", "too_much"),
    [
        ("services", [service(5)]),
        ("backends", [service(1, backends=7)]),
        ("backends", [service(4, backends=6), service(3, backends=2)]),
        ("slots", [Service.of("10.96.0.1:80/tcp", "10.0.0.1:80", "10.0.0.2:80,weight=4000")]),
    ],
    ids=["services", "backends-of-one", "backends-of-two", "slots"],
)
def test_full_changes_nothing(box: Box, what: str, too_much: list[Service]) -> None:
    with hostreach.open(str(box.pin), capacities=SMALL) as node:
        node.services.apply([service(n) for n in range(1, 5)])
        with unchanged(node):
            with pytest.raises(errors.TableFull) as caught:
                node.services.apply(too_much)
            assert what in str(caught.value)
            assert "\n" not in str(caught.value)
        node.services.remove("10.96.0.4:80/tcp")
        node.services.add(service(4))


def test_full_for_a_batch_changes_nothing(box: Box) -> None:
    """Also when its first services would have fitted."""
    with hostreach.open(str(box.pin), capacities=SMALL) as node:
        node.services.add(service(1))
        with unchanged(node), pytest.raises(errors.TableFull):
            node.services.apply([service(n) for n in range(2, 6)])
        node.services.apply([service(n) for n in range(2, 5)])
        assert len(node.services) == 4


def test_full_table_can_be_filled_again_and_again(box: Box) -> None:
    """Whatever is removed is there to be had again, all of it, however it was cut up."""
    with hostreach.open(str(box.pin), capacities=SMALL) as node:
        for round_number in range(6):
            sizes = [1, 2, 2, 3] if round_number % 2 else [5, 1, 1, 1]
            for number, backends in enumerate(sizes, 1):
                node.services.add(service(number, backends))
            assert used(node)[1] == 8
            for number in (2, 4, 1, 3):
                node.services.remove(f"10.96.0.{number}:80/tcp")
    with hostreach.open(str(box.pin)) as node:
        node.services.apply([service(n, 2) for n in range(1, 5)])
        with unchanged(node), pytest.raises(errors.TableFull):
            node.services.add_backend("10.96.0.1:80/tcp", "10.0.9.9:80")


def test_a_full_table_still_takes_changes_in_place(box: Box) -> None:
    """Replacing needs room for old and new at once, which the table keeps in hand."""
    with hostreach.open(str(box.pin), capacities=SMALL) as node:
        node.services.apply([service(n, 2) for n in range(1, 5)])
        for number in range(1, 5):
            replaced = Service.of(f"10.96.0.{number}:80/tcp", "10.0.9.1:80", "10.0.9.2:80")
            node.services.set(replaced)
            assert node.services.get(f"10.96.0.{number}:80/tcp") == replaced


def test_capacities_are_the_creators(box: Box) -> None:
    with hostreach.open(str(box.pin), capacities=SMALL) as node:
        node.services.add(service(1))
    with hostreach.open(str(box.pin)) as node:
        status = node.status()
        usages = (status.services, status.backends, status.slots)
        assert tuple(usage.capacity for usage in usages if usage) == SMALL
        node.services.add(service(2))
    with (
        hostreach.open(str(box.pin), capacities=Capacities(services=5)) as node,
        unchanged(node),
        pytest.raises(errors.Refused, match="4"),
    ):
        node.services.add(service(3))


@pytest.mark.parametrize("field", Capacities._fields)
@pytest.mark.parametrize("value", [0, -1, 2**32])
def test_impossible_capacities(box: Box, field: str, value: int) -> None:
    with pytest.raises(errors.InvalidInput, match=field):
        hostreach.open(str(box.pin), capacities=Capacities(**{field: value}))
    assert not box.pin.exists()


def test_tables_of_another_version(box: Box) -> None:
    with hostreach.open(str(box.pin)) as node:
        node.services.add(service(1))
        node.attach(cgroup=str(box.cgroup))
    meta = box.pin / "meta"
    value = bpftool("map", "dump", "pinned", str(meta))[0]["value"]
    changed = ["0x63", *value[1:]]
    subprocess.run(
        [BPFTOOL, "map", "update", "pinned", str(meta)]
        + ["key", "hex", "00", "00", "00", "00", "value", "hex"]
        + [byte.removeprefix("0x") for byte in changed],
        check=True,
    )
    with hostreach.open(str(box.pin)) as node:
        for attempt in (
            lambda: node.services.add(service(2)),
            node.services.list,
            lambda: node.attach(cgroup=str(box.cgroup)),
        ):
            with pytest.raises(errors.AbiMismatch) as caught:
                attempt()
            assert "\n" not in str(caught.value)
            assert "99" in str(caught.value)
        assert json.dumps(bpftool("map", "dump", "pinned", str(meta))[0]["value"]) == json.dumps(
            changed
        )
        node.detach(purge=True)
        node.services.add(service(2))


def test_owners(box: Box) -> None:
    with hostreach.open(str(box.pin)) as node:
        mine, theirs = service(1), service(2).model_copy(update={"owner": "agent"})
        node.services.add(mine)
        node.services.apply([theirs], owner="agent")
        with unchanged(node):
            for attempt in (
                lambda: node.services.remove("10.96.0.2:80/tcp"),
                lambda: node.services.set(service(2, 3)),
                lambda: node.services.apply([service(3), service(2)]),
                lambda: node.services.add_backend("10.96.0.2:80/tcp", "10.0.7.7:80"),
            ):
                with pytest.raises(errors.OwnerConflict, match="agent"):
                    attempt()
        node.services.apply([], prune=True)
        assert node.services.list() == [theirs]
        assert node.services.list(owner="manual") == []
        node.services.remove("10.96.0.2:80/tcp", owner="agent")
        assert not node.services.list()


def test_dry_run_changes_nothing(box: Box) -> None:
    with hostreach.open(str(box.pin)) as node:
        node.services.apply([service(1), service(2)])
        with unchanged(node):
            changes = node.services.apply([service(2, 2), service(3)], prune=True, dry_run=True)
        assert [change.action for change in changes] == ["remove", "set", "add"]


def test_a_change_reaches_clients_at_once(box: Box) -> None:
    """No wait, no restart: the next connect sees what the call before it did."""
    servers = [f"10.0.0.{n}:80" for n in range(2, 6)]
    box.serve(*(f"{server}/tcp" for server in servers))
    with hostreach.open(str(box.pin), capacities=SMALL) as node:
        node.attach(cgroup=str(box.cgroup))
        node.services.add(Service.of("10.96.0.1:80/tcp"))
        for turn, server in zip(count(), servers * 3):
            if turn % 2:
                node.services.set(Service.of("10.96.0.1:80/tcp", server))
            else:
                node.services.add_backend("10.96.0.1:80/tcp", server, if_missing=True)
                for other in node.services.get("10.96.0.1:80/tcp").backends:
                    if other.address != server:
                        node.services.remove_backend("10.96.0.1:80/tcp", other.address)
            assert box.call(exchange, V4, TCP, ("10.96.0.1", 80)).server == server


def test_calls_are_counted(box: Box) -> None:
    """A translation for each connect, and each send of an unconnected socket; refusals apart."""
    box.serve("10.0.0.2:80/tcp", "10.0.0.2:80/udp")
    with hostreach.open(str(box.pin), capacities=SMALL) as node:
        node.attach(cgroup=str(box.cgroup))
        for protocol in ("tcp", "udp"):
            node.services.add(Service.of(f"10.96.0.1:80/{protocol}", "10.0.0.2:80"))
        node.services.add(Service.of("10.96.0.2:80/tcp"))
        for kind in KINDS:
            for _ in range(5):
                box.call(exchange, V4, kind, ("10.96.0.1", 80))
        for _ in range(3):
            refused = box.call(outcome, exchange, V4, TCP, ("10.96.0.2", 80))
            assert refused == "ECONNREFUSED"
        box.call(exchange, V4, TCP, ("10.0.0.2", 80))
        status = node.status()
        assert (status.translations, status.refusals) == (15, 3)
        of_tcp = Frontend.parse("10.96.0.1:80/tcp")
        assert node.traffic(
            ["10.96.0.1:80/udp", of_tcp, ("10.96.0.2", 80, "tcp"), "10.96.0.3:80/tcp"]
        ) == [(10, 0), (5, 0), (0, 3), (0, 0)]


def test_room_in_many_pieces(box: Box) -> None:
    """Blocks of many sizes come and go until no free piece is large; then large ones come."""
    chance = random.Random(3)
    capacities = Capacities(services=1000, backends=4400, slots=25000)

    def ordinary(n: int) -> Service:
        place = f"{n // 250}.{n % 250}"
        backends = [
            f"10.{place}.{b}:80,weight={chance.randint(1, 9)}"
            for b in range(1, 1 + chance.randint(1, 8))
        ]
        name = "default/" + "w" * chance.randint(1, 70)
        return Service.of(f"10.96.{place}:80/tcp", *backends, name=name)

    with hostreach.open(str(box.pin), capacities=capacities) as node:
        expected = {n: ordinary(n) for n in range(900)}
        node.services.apply(expected.values())
        for _ in range(60):
            changed = {n: ordinary(n) for n in chance.sample(range(900), 50)}
            expected.update(changed)
            node.services.apply(changed.values())
        small = Service.of("10.98.0.1:80/tcp", "10.0.0.8:80")
        servers = [f"10.201.0.{b}:80" for b in range(1, 41)]
        large = Service.of("10.99.0.1:80/tcp", *servers, algorithm="maglev")
        for _ in range(3):
            node.services.apply([small, large])
            node.services.remove(large.frontend)
            node.services.remove(small.frontend)
        found = sorted(node.services, key=lambda service: service.sort_key)
        assert found == sorted(expected.values(), key=lambda service: service.sort_key)
