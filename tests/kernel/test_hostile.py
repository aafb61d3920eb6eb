# SPDX-License-Identifier: Apache-2.0
"""Whatever is passed to the compiled module, it raises: it does not crash.

scripts/test-sanitized runs this with a module that ends at the first wrong access to memory.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest

import hostreach
from hostreach import Service, _core, errors  # noqa: TID251 - it is what is tested
from hostreach.plain import PlainService, plain_service

from .harness import Box

LONG = os.environ.get("HOSTREACH_LONG") == "1"
CALLS = 100_000 if LONG else 4_000
SEEDS = 10 if LONG else 2
EXPECTED = (errors.HostreachError, TypeError, ValueError, OverflowError)

NUMBERS = (0, 1, 2, 31, 32, 80, 255, 256, -1, 65535, 65536, 2**31, 2**32 - 1, 2**32, 2**64 - 1)
TEXTS = (
    *(
        "",
        "node",
        "tcp",
        "udp",
        "10.0.0.1",
        "10.0.0.1:80",
        "[fd00::1]:80",
        "fd00::1",
        "::",
        "[",
        "]:",
    ),
    *("[::1]:", "1.2.3.4:99999", "a" * 300, "x" * 5000, "\0", "10.0.0.1\0", "\ud800", "é" * 200),
    *("10.0.0.0/8", "10.0.0.0/99", "fd00::/129", "10.0.0.0/8," * 400, ",", "/", "random", "maglev"),
    *("least-conn", "active", "draining", "down", "reset", "keep", "[" * 2000, "%s%n", "-1"),
)
# of those that take no text which could name a cgroup or change the machine
METHODS = (
    *("get", "rows", "list", "differing", "write", "backend_ids", "shares", "active", "host"),
    *("set_host", "admits", "node_addresses", "is_admitted", "stuck_to", "look_for_clients"),
    *("admit", "is_attached", "is_interrupted", "refresh_node_addresses", "exempt", "unexempt"),
    *("exempted", "counts", "capacities", "traffic", "events", "ends_due", "close", "unlock"),
    *("lock", "lock_only", "migrate"),
)


def anything(chance: random.Random, depth: int = 0) -> Any:
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: chance.choice(NUMBERS),
        lambda: chance.choice(TEXTS),
        lambda: None,
        lambda: chance.random() < 0.5,
        lambda: chance.choice((b"", b"\xff", 1.5, float("nan"), object(), {}, set())),
        lambda: [anything(chance, depth + 1) for _ in range(chance.randrange(4))],
        lambda: tuple(anything(chance, depth + 1) for _ in range(chance.randrange(13))),
        lambda: frontend(chance),
        lambda: [a_service(chance) for _ in range(chance.randrange(3))],
        lambda: [frontend(chance) for _ in range(chance.randrange(3))],
    )
    return chance.choice(kinds[:5] if depth > 2 else kinds)()


def frontend(chance: random.Random) -> Any:
    address = chance.choice(("10.96.0.1", "10.96.0.2", "node", "fd00::1", chance.choice(TEXTS)))
    return (address, chance.choice((80, 53, chance.choice(NUMBERS))), chance.choice(("tcp", "udp")))


def a_service(chance: random.Random) -> Any:
    """A valid one, of which a part or two may be something else."""
    fields: list[Any] = [*VALID]
    for _ in range(chance.choice((0, 1, 1, 2))):
        fields[chance.randrange(len(fields))] = anything(chance, 1)
    return tuple(fields)


def plain(service: Service) -> PlainService:
    return plain_service(service, lambda _: (0, 0))


VALID = plain(Service.of("10.96.0.1:80/tcp", "10.0.0.2:80", "10.0.0.3:80,weight=7"))


def barrage(pin: str, seed: int) -> int:
    """How many calls went through; the rest raised what may be raised."""
    chance, through = random.Random(seed), 0
    table = _core.Table(pin, 50, "/nowhere")
    for _ in range(CALLS):
        name = chance.choice(METHODS)
        if name == "migrate" and chance.random() < 0.99:  # it takes long
            continue
        few: tuple[Any, ...] = chance.choice(
            ((), (anything(chance),), (anything(chance),) * 2, (1, [], []))
        )
        if name == "lock" and chance.random() < 0.8:
            few = (True,)
        if name == "write" and chance.random() < 0.8:
            few = ([a_service(chance)], [frontend(chance)] * chance.randrange(2))
        try:
            getattr(table, name)(*few)
            through += 1
        except EXPECTED:
            pass
    return through


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("exists", [True, False], ids=["tables", "none"])
def test_any_argument(box: Box, seed: int, exists: bool) -> None:
    """Afterwards the tables are whole, and take a service."""
    if exists:
        with hostreach.open(str(box.pin)) as node:
            node.services.add(Service.of("10.96.0.1:80/tcp", "10.0.0.2:80"))
    assert box.call(barrage, str(box.pin), seed, bare=True, timeout=600) > CALLS // 100
    with hostreach.open(str(box.pin)) as node:
        node.services.set(Service.of("10.96.7.7:80/tcp", "10.0.0.2:80"))
        usage = node.status().services
        assert usage
        assert usage.used == len(node.services.list())
        assert node.services.get("10.96.7.7:80/tcp").backends


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("lock", "lock_only")])
def test_without_the_lock(box: Box, name: str) -> None:
    """Found by the barrage: tables that were never opened were looked into all the same."""

    def call() -> bool:
        table = _core.Table(str(box.pin), 50, "/nowhere")
        key = ("10.96.0.1", 80, "tcp")
        arguments: dict[str, tuple[Any, ...]] = {
            **dict.fromkeys(("get", "backend_ids", "shares", "active", "traffic"), (key,)),
            **dict.fromkeys(("rows", "list"), (None,)),
            "differing": ([VALID],),
            "write": ([VALID], []),
            "set_host": (0, [], []),
            "is_admitted": (key, 1),
            "stuck_to": (key, 1, True),
            "exempt": (1, 1),
            "unexempt": (1,),
        }
        try:
            getattr(table, name)(*arguments.get(name, ()))
        except errors.Refused:
            return False
        return True

    without = ("ends_due", "close", "unlock", "look_for_clients", "is_attached")
    assert box.call(call, bare=True) == (name in without)
