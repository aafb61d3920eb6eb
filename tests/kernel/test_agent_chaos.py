# SPDX-License-Identifier: Apache-2.0
"""The agent through a storm: it ends where the API is, nothing flaps, and memory stays flat."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from kube.chaos import STEADY, steady
from kube.objects import HERE, Json, taken_service, taken_slice

import hostreach
from hostreach.models import Service
from hostreach.plain import model_of
from hostreach.sources.kubernetes.services import Rules
from hostreach.sources.kubernetes.state import State

from .harness import Box, Line, wait_until
from .harness.clients import TCP, V4, Seen, exchange, outcome
from .harness.cluster import agent, cluster
from .harness.host import HOST_V4, give_addresses

NODE: Json = {
    "kind": "Node",
    "metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": "zone-a"}},
    "status": {"addresses": [{"type": "InternalIP", "address": HOST_V4}]},
}
PER_SECOND = 2_000
SECONDS = 60 if os.environ.get("HOSTREACH_LONG") == "1" else 10


def test_a_storm(box: Box, tmp_path: Path) -> None:
    give_addresses(box)
    box.serve(*(f"10.0.0.{n}:8080/tcp" for n in range(1, STEADY + 1)))
    with (
        cluster(box, timeout=SECONDS * 3 + 120) as api,
        hostreach.open(str(box.pin)) as node,
        agent(box, api.url, directory=tmp_path) as running,
    ):
        api.put(NODE, *steady())
        running.wait_ready()
        wait_until(lambda: len(node.services.rows()) == STEADY, "the steady services")
        with box.talk(watch_steady, timeout=SECONDS * 3 + 60) as watching:
            watching.recv()
            api.start("storm", SECONDS, PER_SECOND, 20260601)
            memory = []
            while not api.answered():
                time.sleep(0.25)
                memory.append(resident(running.process.pid))
            happened = api.recv()
            wait_until(
                lambda: as_text(node.services.list("kubernetes")) == expected(api.do("objects")),
                "the tables being what the API says",
                seconds=60,
            )
            watching.send()
            tries, wrong = watching.recv()
        assert wrong == []
        # Of a machine with much else to do, little can be asked.
        assert tries > 2 * SECONDS
        assert happened["changes"] > PER_SECOND * SECONDS / 20
        assert len(happened) > 5, happened
        settled = memory[len(memory) // 3]
        assert memory[-1] < settled * 1.15 + 8 * 1024, f"KiB: {memory}"
        assert "Traceback" not in running.log
        assert "unexpected failure" not in running.log


def watch_steady(line: Line) -> None:
    """Connects to each of the steady services again and again: each answer must be right."""
    line.send()
    tries, wrong = 0, list[object]()
    while not line.poll():
        for n in range(1, STEADY + 1):
            vip = (f"10.96.9.{n}", 80)
            tries += 1
            seen = outcome(exchange, V4, TCP, vip)
            if seen != Seen(f"10.0.0.{n}:8080", vip):
                wrong.append((time.monotonic(), vip, seen))
        time.sleep(0.005)
    line.recv()
    line.send((tries, wrong[:5]))


def expected(objects: dict[tuple[str, str], Json]) -> list[dict[str, Any]]:
    """What a fresh start would make of what the API holds now."""
    state = State(Rules(host_addresses=(HOST_V4,)))
    for (kind, key), value in objects.items():
        if kind == "Service":
            state.put_service(key, taken_service(value))
        elif kind == "EndpointSlice":
            state.put_slice(key, taken_slice(value, HERE))
    return as_text([model_of(entry) for batch in state.take() for entry in batch.put])


def as_text(services: list[Service]) -> list[dict[str, Any]]:
    return [each.model_dump(mode="json") for each in sorted(services, key=lambda s: s.sort_key)]


def resident(pid: int) -> int:
    """KiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])
