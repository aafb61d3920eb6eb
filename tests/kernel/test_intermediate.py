# SPDX-License-Identifier: Apache-2.0
"""Every state that a writer leaves between two of its stores is one that programs can live with.

The writer is stopped after each instruction that changes a table, and after each system call; then
an independent reader goes the ways of a program, from the hash or from a hint to the backends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import hostreach
from hostreach import Service
from hostreach.node import Capacities, Node
from hostreach.slots import service_slots

from .harness import Box, kernel, linux
from .harness.child import ChildTraceback
from .harness.line import Line
from .harness.rawbpf import SYS_BPF
from .harness.reader import NO_SERVICE, Found, Reader, Told, nobodys
from .harness.stepping import Stepper

LONG = os.environ.get("HOSTREACH_LONG") == "1"
CHANGES = 100 if LONG else 8
KILLS = 150 if LONG else 10
SIZES = Capacities(services=3, backends=6, slots=3 * 4096)
# so few that ids and indexes soon come back
# What programs read on their way to a backend; `meta` has the marks and the generation.
MAPPED = ("records", "slots", "backends", "ports", "meta")

V4 = ["10.96.0.1:80/tcp", "10.96.0.1:80/udp", "10.96.0.2:81/tcp"]
V6 = ["[fd00:96::1]:80/tcp"]
NODE = ["node:30080/udp"]
SERVERS4 = [f"10.0.0.{n}:8080" for n in range(2, 10)]
SERVERS6 = [f"[fd00::{n}]:8080" for n in range(2, 10)]

INSIDE, OUTSIDE = (
    "10.0.0.0/24,fd00::/64",
    "198.51.100.0/24",
)  # where the box is, and where it is not
LISTS = kernel.knows_the_host()
STATES = ("active", "active", "draining", "down")
# The last one makes a block of 4,096 slots: of such the table holds eight.
WEIGHTS = (0, 1, 2, 7, 4095) if LONG else (0, 1, 2, 7)

Model = dict[str, Told]


class Batch(NamedTuple):
    """Services to have, and frontends not to have."""

    put: list[Service]
    remove: list[str]


def some_service(chance: random.Random, frontend: str) -> Service:
    servers = SERVERS6 if frontend in V6 else SERVERS4
    if frontend in NODE:
        servers = SERVERS4[:4] + SERVERS6[:4]
    backends = [
        f"{server},weight={chance.choice(WEIGHTS)},state={chance.choice(STATES)}"
        for server in chance.sample(servers, chance.choice([0, 1, 2, 2]))
    ]
    return Service.of(
        frontend,
        *backends,
        name=chance.choice([None, "a/b", "n" * 200]),
        owner=chance.choice(["manual", "kube"]),
        algorithm=chance.choice(["random", "random", "least-conn", "maglev"]),
        affinity=chance.choice([None, None, "3h"]),
        host_only=chance.random() < 0.2,
        # seldom: to find out who is a client takes many steps
        source_ranges=chance.choice([None] * 10 + [INSIDE, OUTSIDE]) if LISTS else None,
        on_removal=chance.choice([None, "keep", "reset"]),
    )


def batches(seed: int) -> Iterator[Batch]:
    """Services that come, change and go, alone and together; few backends, so ids come back."""
    chance = random.Random(seed)
    everything = V4 + V6 + NODE
    there: set[str] = set()
    while True:
        put: list[Service] = []
        remove: list[str] = []
        for frontend in chance.sample(everything, chance.choice([1, 1, 2])):
            if frontend in there and chance.random() < 0.35:
                remove.append(frontend)
            elif frontend in there or len(there) + len(put) < 3:
                put.append(some_service(chance, frontend))
        if put or remove:
            there = (there | {str(each.frontend) for each in put}) - set(remove)
            yield Batch(put, remove)


def told(service: Service) -> Told:
    assert service.from_cgroup is None
    backends = [(backend.address, backend.weight, backend.state) for backend in service.backends]
    return Told(
        service.algorithm,
        service.affinity_ms,
        service.host_only,
        None,
        service.source_ranges,
        service.on_removal,
        service.name,
        service.owner,
        backends,
        service_slots(service.backends, service.algorithm),
    )


def comparable(each: Told) -> Told:
    """A Maglev table gives each its share to within a slot: only whether it has one is compared."""
    if each.algorithm != "maglev":
        return each
    return each._replace(shares=[sum(each.shares), *map(bool, each.shares)])


def after(model: Model, batch: Batch) -> Model:
    model = {**model, **{str(each.frontend): comparable(told(each)) for each in batch.put}}
    return {frontend: each for frontend, each in model.items() if frontend not in batch.remove}


class Witness:
    """Looks at every state, and remembers what a program may have seen on its way here.

    A program that began before may still be on its way, until a grace period has gone by: what it
    has read must go on to lead it right.
    """

    def __init__(self, reader: Reader, client: int) -> None:
        """`client`: the box's network namespace, by its cookie."""
        self._reader = reader
        self._client = client
        self._blocks: dict[range, bytes] = {}
        self._backends: dict[int, tuple[str, int]] = {}
        self._keys: dict[int, bytes] = {}
        self._places: dict[int, range] = {}
        # Of an id, once given out: whose it is. For good: sockets remember both.
        self._given: dict[tuple[int, int], tuple[str, int]] = {}
        self.states = self.graces = self.moves = 0
        self.mended = True  # False: the last writer was killed

    def let_go(self) -> None:
        """A grace period went by: every program that had begun has ended."""
        self.graces += 1
        self._blocks.clear()
        self._backends.clear()
        self._keys.clear()

    def look(self, before: Model, then: Model, changed: set[str]) -> None:
        """`changed`: what has been seen to be as it will be; grows."""
        self._reader.refresh()
        self.states += 1
        self._check_those_on_their_way()
        found = self._reader.services()
        for frontend in before.keys() | then.keys() | found.keys():
            was, will_be = before.get(frontend), then.get(frontend)
            now = comparable(found[frontend].told) if frontend in found else None
            assert now in (will_be, was), frontend
            if now == will_be:
                changed.add(frontend)
            else:
                assert frontend not in changed, f"{frontend} went back to what it had been"
        self._check_who_has_what(found, before, then)
        self._check_who_may(found, before)

    def _check_those_on_their_way(self) -> None:
        for where, block in self._blocks.items():
            assert self._reader.block(where) == block, "a block was overwritten that is being read"
        for number, (address, incarnation) in self._backends.items():
            now = self._reader.backend(number)
            assert (now.address, now.incarnation) == (address, incarnation), f"backend {number}"
        for index, key in self._keys.items():
            assert self._reader.record_key(index) in (key, nobodys(key)), f"record {index}"

    def _check_who_has_what(self, found: dict[str, Found], before: Model, then: Model) -> None:
        end = 0
        for each in sorted(found.values(), key=lambda each: each.block.start):
            assert end <= each.block.start, "two services' blocks overlap"
            end = each.block.stop
        holders: dict[int, str] = {}
        for frontend, each in found.items():
            self.moves += each.record in self._places and self._places[each.record] != each.block
            self._places[each.record] = each.block
            self._blocks[each.block] = self._reader.block(each.block)
            self._keys[each.record] = self._reader.record_key(each.record)
            for number in each.ids:
                assert holders.setdefault(number, frontend) == frontend, f"backend {number}"
                backend = self._reader.backend(number)
                self._backends[number] = backend.address, backend.incarnation
                # one that is about to go with its service, or was, may already be nobody's
                goes = (frontend in before and frontend not in then) or not self.mended
                assert backend.service == each.record or (goes and backend.service == NO_SERVICE)
                self._given[number, backend.incarnation] = backend.address, each.record
        for number, backend in self._reader.all_backends():
            now = backend.address, backend.service
            given = self._given.get((number, backend.incarnation), now)
            assert now in (given, (given[0], NO_SERVICE)), f"backend {number}: {given}, then {now}"

    def _check_who_may(self, found: dict[str, Found], before: Model) -> None:
        """Who was let in may be so a moment longer, but none of whoever had the index before."""
        allowed = self._reader.allowed()
        for frontend, each in found.items():
            is_let_in = (self._client, each.record) in allowed
            if each.told.source_ranges == INSIDE:
                assert is_let_in, f"{frontend} refuses its client"
            elif each.told.source_ranges == OUTSIDE and self.mended:
                was = before.get(frontend)
                assert not is_let_in or (was and was.source_ranges == INSIDE), frontend


class Halting:
    """The compiled table, which raises SIGSTOP before a batch's first store and after its last."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._locked = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def write(self, *batch: Any) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        self._table.write(*batch)
        self._table.unlock()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._locked = False

    def unlock(self) -> None:
        if self._locked:
            self._table.unlock()
        self._locked = True


def write(node: Node, batch: Batch) -> None:
    put = [Service.model_validate(each) for each in batch.put]
    node._table.write(put, [Service.of(frontend).frontend for frontend in batch.remove])


def write_on(pin: Path, test: Line) -> None:
    """A writer of batches, each of which begins and ends with SIGSTOP."""
    with hostreach.open(str(pin)) as node:
        node._table._core = Halting(node._table._core)  # type: ignore[assignment]
        test.send(os.getpid())
        while batch := test.recv():
            write(node, batch)
            test.send()


@pytest.fixture(params=["mapped", "by system calls"])
def is_mapped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param != "mapped":
        kernel.switch_off(monkeypatch, "mmap")
    return bool(request.param == "mapped")


@contextlib.contextmanager
def new_tables(box: Box, is_mapped: bool, sizes: Capacities) -> Iterator[Reader]:
    with hostreach.open(str(box.pin), capacities=sizes) as node:
        write(node, Batch([Service.of(V4[0])], []))
        write(node, Batch([], [V4[0]]))
    with contextlib.closing(Reader(box.pin)) as opened:
        assert opened.is_mapped == is_mapped
        yield opened


@pytest.fixture
def reader(box: Box, is_mapped: bool) -> Iterator[Reader]:
    """Of tables just made."""
    with new_tables(box, is_mapped, SIZES) as opened:
        yield opened


@pytest.fixture
def witness(box: Box, reader: Reader) -> Witness:
    return Witness(reader, client_of(box))


def client_of(box: Box) -> int:
    """0 where the kernel does not tell."""
    cookie: int = box.call(linux.netns_cookie) if LISTS else 0
    return cookie


@contextlib.contextmanager
def writer(box: Box, reader: Reader) -> Iterator[tuple[Line, Stepper]]:
    tables = [box.pin / name for name in MAPPED] if reader.is_mapped else []
    with (
        box.talk(lambda test: write_on(box.pin, test), timeout=900) as line,
        Stepper(line.recv(), tables) as stepper,
    ):
        yield line, stepper


def write_watched(
    line: Line, stepper: Stepper, witness: Witness, model: Model, batch: Batch, stores: int | None
) -> bool:
    """Looks at each state of a batch; False if the writer stands at its last of so many stores."""
    line.send(batch)
    then, changed = after(model, batch), set[str]()
    for number, event in enumerate(stepper.steps(), 1):
        if event.waited:
            witness.let_go()
        if event.call in (None, SYS_BPF):  # no other call changes a table
            witness.look(model, then, changed)
        if number == stores:
            return False
    return True


def test_every_state(box: Box, reader: Reader, witness: Witness) -> None:
    model: Model = {}
    with writer(box, reader) as (line, stepper):
        for batch in itertools.islice(batches(1), CHANGES):
            assert write_watched(line, stepper, witness, model, batch, None)
            model = after(model, batch)
            witness.look(model, model, set())
            stepper.go_on()
            line.recv()
        line.send()
    print(f"{witness.states} states of {CHANGES} changes, {witness.graces} grace periods")
    assert witness.states > 10 * CHANGES
    assert witness.graces, "nothing came back"


def kill_on_the_way(
    box: Box, reader: Reader, witness: Witness, model: Model, batch: Batch, stores: int
) -> bool:
    """A writer of its own, that is killed after so many stores; True if it was done by then."""
    with contextlib.suppress(ChildTraceback), writer(box, reader) as (line, stepper):
        done = write_watched(line, stepper, witness, model, batch, stores)
        os.kill(stepper.pid, signal.SIGKILL)
    return done


def test_killed_at_any_store(box: Box, reader: Reader, witness: Witness) -> None:
    """Each writer is killed at some store, and watched as it mends what the last one left."""
    model: Model = {}
    chance = random.Random(5)
    left_halfway = 0
    for batch in itertools.islice(batches(2), KILLS):
        done = kill_on_the_way(box, reader, witness, model, batch, chance.randint(1, 40))
        model = {name: comparable(found.told) for name, found in reader.services().items()}
        left_halfway += not done
        witness.mended = done
    assert left_halfway > KILLS // 5, "hardly any writer was killed at work"
    with hostreach.open(str(box.pin)) as node:
        assert {str(each.frontend): comparable(told(each)) for each in node.services} == model
        write(node, Batch([], list(model)))
        reader.refresh()
        assert not reader.keys()
        assert {backend.service for _, backend in reader.all_backends()} <= {NO_SERVICE, 0}


def of_slots(frontend: str, slots: int) -> Service:
    """A block of so many words and some more."""
    n = frontend.partition(":")[0].partition(".")[2]
    return Service.of(frontend, f"10.{n}:80,weight={slots - 1}", f"10.{n}:81")


def test_blocks_that_make_room(box: Box, is_mapped: bool) -> None:
    """There is room for a block, but between small ones, which have to move: at each store all are
    whole. The writer is killed on the way, again and again, until one comes to the end."""
    sizes = Capacities(services=100, backends=300, slots=48_000)
    with new_tables(box, is_mapped, sizes) as reader, hostreach.open(str(box.pin)) as node:
        posts = [of_slots(f"10.96.2.{n}:80/tcp", 2) for n in range(1, 47)]
        between = [of_slots(f"10.96.1.{n}:80/tcp", 1000) for n in range(1, 47)]
        for pair in zip(posts, between, strict=True):
            write(node, Batch([*pair], []))
        write(node, Batch([], [str(each.frontend) for each in between]))
        reader.refresh()
        behind: list[Service] = []
        while (room := reader.words_behind()) > 1000:  # as if it were full to its end
            behind.append(of_slots(f"10.96.3.{len(behind) + 1}:80/tcp", min(4000, room - 100)))
            write(node, Batch([behind[-1]], []))
            reader.refresh()
        model = {str(each.frontend): comparable(told(each)) for each in [*posts, *behind]}
        witness = Witness(reader, client_of(box))
        witness.look(model, model, set())
        batch, stores = Batch([of_slots("10.96.4.1:80/tcp", 1500)], []), 20
        while not kill_on_the_way(box, reader, witness, model, batch, stores):
            stores *= 2 if LONG else 8
            witness.mended = False
        assert witness.moves
        model = after(model, batch)
        witness.look(model, model, set())
