# SPDX-License-Identifier: Apache-2.0
"""The agent on a real kernel: an API object changes, and a socket reaches the right place."""

from __future__ import annotations

import errno
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kube.objects import leaving, piece, port, ready, service

from .harness import Box, linux, wait_until
from .harness.clients import TCP, UDP_CONNECTED, UDP_UNCONNECTED, V4, Seen, exchange, outcome
from .harness.cluster import Agent, Cluster, agent
from .harness.host import HOST_V4, HOST_V6
from .harness.line import Line
from .harness.reaching import VIP, reaches, says, untouched


def test_a_services_life(box: Box, api: Cluster, running: Agent) -> None:
    box.serve("10.0.0.2:8080/tcp", "10.0.0.3:8080/tcp", "10.0.0.2:8080/udp")
    untouched(box)
    api.put(service(ports=[port(80, "http"), port(80, "dns", "UDP")]))
    says(box, errno.ECONNREFUSED)
    both = [port(8080, "http"), port(8080, "dns", "UDP")]
    api.put(piece("web-1", "10.0.0.2", ports=both))
    reaches(box, "10.0.0.2:8080")
    for kind in (UDP_CONNECTED, UDP_UNCONNECTED):
        reaches(box, "10.0.0.2:8080", kind=kind)
    api.put(piece("web-2", "10.0.0.3", ports=both))
    reaches(box, "10.0.0.2:8080", "10.0.0.3:8080")
    api.put(piece("web-1", leaving("10.0.0.2"), ports=both))
    reaches(box, "10.0.0.3:8080")
    api.put(piece("web-2", leaving("10.0.0.3"), ports=both))
    reaches(box, "10.0.0.2:8080", "10.0.0.3:8080")  # all are leaving, and still serve
    api.delete(piece("web-1"), piece("web-2"))
    says(box, errno.ECONNREFUSED)
    says(box, errno.ECONNREFUSED, kind=UDP_CONNECTED)
    api.put(service(type="ExternalName", clusterIP="", clusterIPs=[]))
    untouched(box)
    assert running.metric("hostreach_watch_connected" + '{kind="Service"}') == 1


def test_rejected_when_no_endpoints_exist(box: Box, api: Cluster, running: Agent) -> None:
    """The upstream test of that name looks for ECONNREFUSED, at once, and nothing else."""
    api.put(service())
    says(box, errno.ECONNREFUSED)
    for kind in (TCP, UDP_CONNECTED, UDP_UNCONNECTED):
        api.put(service(ports=[port(80, "a"), port(80, "b", "UDP")]))
        says(box, errno.ECONNREFUSED, kind=kind)
    assert running.process.poll() is None


def test_node_ports_on_every_address_and_localhost(box: Box, api: Cluster, running: Agent) -> None:
    box.serve("10.0.0.2:8080/tcp", "[fd00::2]:8080/tcp")
    api.put(
        service("web", "10.96.0.10", "fd00:96::a", type="NodePort", ports=[port(nodePort=30080)]),
        piece("web-1", "10.0.0.2"),
        piece("web-2", "fd00::2"),
    )
    for address, server in (
        (HOST_V4, "10.0.0.2:8080"),
        ("127.0.0.1", "10.0.0.2:8080"),
        (HOST_V6, "[fd00::2]:8080"),
        ("::1", "[fd00::2]:8080"),
    ):
        reaches(box, server, vip=(address, 30080))
    reaches(box, "[fd00::2]:8080", vip=("fd00:96::a", 80))
    assert running.process.poll() is None


def test_external_and_load_balancer_addresses(box: Box, api: Cluster, running: Agent) -> None:
    box.serve("10.0.0.2:8080/tcp")
    api.put(
        service(
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            externalIPs=["198.51.100.1"],
            ingress=[{"ip": "198.51.100.2"}, {"ip": "198.51.100.3", "ipMode": "Proxy"}],
        ),
        piece("web-1", ready("10.0.0.2", node="node-b")),
    )
    for address in ("198.51.100.1", "198.51.100.2"):
        reaches(box, "10.0.0.2:8080", vip=(address, 80))
    untouched(box, ("198.51.100.3", 80))
    untouched(box, ("198.51.100.1", 81))  # a port that nobody declared
    assert running.process.poll() is None


def test_local_policies_and_zones(box: Box, api: Cluster, running: Agent) -> None:
    box.serve("10.0.0.2:8080/tcp", "10.0.0.3:8080/tcp")
    here, there = ready("10.0.0.2", node="node-a"), ready("10.0.0.3", node="node-b")
    api.put(service(internalTrafficPolicy="Local"), piece("web-1", here, there))
    reaches(box, "10.0.0.2:8080")
    api.put(piece("web-1", there))
    says(box, errno.ECONNREFUSED)
    near, far = (ready(f"10.0.0.{n}", zones=[f"zone-{z}"]) for n, z in ((2, "a"), (3, "b")))
    api.put(service(), piece("web-1", near, far))
    reaches(box, "10.0.0.2:8080")
    assert running.process.poll() is None


def test_affinity_does_not_outlive_its_endpoint(box: Box, api: Cluster, running: Agent) -> None:
    servers = ["10.0.0.2:8080/tcp", "10.0.0.3:8080/tcp"]
    box.serve(*servers)
    api.put(service(sessionAffinity="ClientIP"), piece("web-1", "10.0.0.2", "10.0.0.3"))

    def at_home() -> set[str]:
        seen = [box.call(outcome, exchange, V4, TCP, VIP) for _ in range(10)]
        return {each.server for each in seen if isinstance(each, Seen)}

    wait_until(lambda: len(at_home()) == 1, "one backend for one client")
    (home,) = at_home()
    other = next(each for each in ("10.0.0.2", "10.0.0.3") if not home.startswith(each))
    api.put(piece("web-1", leaving(home.partition(":")[0]), other))
    wait_until(lambda: at_home() == {f"{other}:8080"}, "the client moving on")
    assert running.process.poll() is None


def in_a_pod(address: str, vip: tuple[str, int]) -> Callable[[Line], None]:
    """A process in a namespace with this address, and a server: who connects there when asked."""

    def live(line: Line) -> None:
        linux.unshare(linux.CLONE_NEWNET)
        for command in (
            "link set lo up",
            *(f"address add {a} dev lo" for a in (address, "10.0.0.2")),
        ):
            subprocess.run(["ip", *command.split()], check=True)
        with socket.create_server(("10.0.0.2", 8080), backlog=128):
            while line.wait():
                line.send(outcome(peer_of, vip))

    return live


def peer_of(vip: tuple[str, int]) -> tuple[str, int]:
    with socket.create_connection(vip) as client:
        return client.getpeername()  # type: ignore[no-any-return]


def test_source_ranges(box: Box, api: Cluster, running: Agent) -> None:
    """Whoever has an address in them is let in, the host too; a pod within a second or so."""
    box.serve("10.0.0.2:8080/tcp")
    lb = ("198.51.100.2", 80)

    def ranged(*ranges: str) -> dict[str, Any]:
        return service(
            type="LoadBalancer", ingress=[{"ip": lb[0]}], loadBalancerSourceRanges=[*ranges]
        )

    def refusals() -> float:
        return running.metric("hostreach_refusals_total")

    api.put(ranged(f"{HOST_V4}/32", "203.0.113.0/24"), piece("web-1", "10.0.0.2"))
    reaches(box, "10.0.0.2:8080", vip=lb)
    with (
        box.talk(in_a_pod("203.0.113.7", lb), timeout=120) as inside,
        box.talk(in_a_pod("203.0.112.7", lb), timeout=120) as outside,
    ):
        wait_until(lambda: inside.ask(True) == lb, "the pod inside being let in")
        before = refusals()
        assert [outside.ask(True) for _ in range(5)] == ["ECONNREFUSED"] * 5
        assert refusals() >= before + 5
        api.put(ranged("203.0.112.0/24"))
        wait_until(lambda: outside.ask(True) == lb, "the other one being let in")
        # each client changes sides by itself: those who are new are let in first
        wait_until(lambda: inside.ask(True) == "ECONNREFUSED", "the pod inside being refused")
        assert [inside.ask(True) for _ in range(5)] == ["ECONNREFUSED"] * 5
        says(box, errno.ECONNREFUSED, vip=lb)
        reaches(box, "10.0.0.2:8080")  # the cluster IP is for all
        assert running.metric("hostreach_source_ranged_services") == 1
        assert "source ranges" not in running.log
        for line in (inside, outside):
            line.send(None)
    api.put(ranged())
    reaches(box, "10.0.0.2:8080", vip=lb)
    wait_until(lambda: running.metric("hostreach_source_ranged_services") == 0, "none having any")


def test_source_ranges_that_the_tables_had(box: Box, api: Cluster, tmp_path: Path) -> None:
    """Clients are looked for though the API server is away."""
    lb = ("198.51.100.2", 80)
    balanced: dict[str, Any] = {"type": "LoadBalancer", "ingress": [{"ip": lb[0]}]}
    api.put(service(loadBalancerSourceRanges=["203.0.113.0/24"], **balanced))
    api.put(piece("web-1", "10.0.0.2"))
    with agent(box, api.url, directory=tmp_path) as first:
        first.wait_ready()
    with box.talk(in_a_pod("203.0.113.7", lb), timeout=120) as inside:
        assert inside.ask(True) == "ECONNREFUSED"
        with agent(box, "http://10.0.0.1:1", directory=tmp_path) as second:
            wait_until(lambda: inside.ask(True) == lb, "the pod being let in")
            assert second.ask("/readyz")[0] == 503
        inside.send(None)


def test_source_ranges_that_cannot_be_enforced(box: Box, api: Cluster, tmp_path: Path) -> None:
    """The kernel does not tell clients apart: nobody is translated, and that is told."""
    box.serve("10.0.0.2:8080/tcp")
    lb = ("198.51.100.2", 80)
    balanced: dict[str, Any] = {"type": "LoadBalancer", "ingress": [{"ip": lb[0]}]}
    api.put(service(loadBalancerSourceRanges=["0.0.0.0/2"], **balanced), piece("web-1", "10.0.0.2"))
    old = {"HOSTREACH_WITHOUT": "netns_cookie"}
    with agent(box, api.url, directory=tmp_path, variables=old) as process:
        process.wait_ready()
        reaches(box, "10.0.0.2:8080")
        untouched(box, lb)
        assert process.log.count("does not tell clients apart") == 1
        assert process.metric('hostreach_left_out{kind="Service",reason="source-ranges"}') == 1


def test_an_address_that_comes_to_the_node(box: Box, api: Cluster, running: Agent) -> None:
    box.serve("10.0.0.2:8080/tcp")
    api.put(service(type="NodePort", ports=[port(nodePort=30080)]), piece("web-1", "10.0.0.2"))
    reaches(box, "10.0.0.2:8080", vip=(HOST_V4, 30080))
    added = box.run(["ip", "address", "add", "192.0.2.77/32", "dev", "node0"], bare=True)
    assert added.returncode == 0, added
    reaches(box, "10.0.0.2:8080", vip=("192.0.2.77", 30080))
    box.run(["ip", "address", "del", "192.0.2.77/32", "dev", "node0"], bare=True)
    wait_until(
        lambda: isinstance(box.call(outcome, exchange, V4, TCP, ("192.0.2.77", 30080)), str),
        "the address being given up",
    )
    assert running.process.poll() is None


def test_primary_addresses_outlive_a_restart(box: Box, api: Cluster, tmp_path: Path) -> None:
    """The API server, which alone knows them, may be away by then."""
    box.serve("10.0.0.2:8080/tcp")
    api.put(service(type="NodePort", ports=[port(nodePort=30080)]), piece("web-1", "10.0.0.2"))
    box.run(["ip", "address", "add", "192.0.2.77/32", "dev", "node0"], bare=True)
    primary = "--nodeport-addresses=primary"
    with agent(box, api.url, primary, directory=tmp_path) as process:
        process.wait_ready()
        says(box, errno.ECONNREFUSED, vip=("192.0.2.77", 30080))
        reaches(box, "10.0.0.2:8080", vip=(HOST_V4, 30080))
    with agent(box, "http://10.0.0.1:1", primary, directory=tmp_path) as process:
        wait_until(lambda: "attached to" in process.log, "the programs being attached")
        box.run(["ip", "address", "add", "192.0.2.78/32", "dev", "node0"], bare=True)
        for _ in range(10):
            assert box.call(exchange, V4, TCP, (HOST_V4, 30080)).server == "10.0.0.2:8080"
            time.sleep(0.1)  # more than a tick, together
        says(box, errno.ECONNREFUSED, vip=("192.0.2.77", 30080))


def test_node_ports_on_chosen_addresses(box: Box, api: Cluster, tmp_path: Path) -> None:
    box.serve("10.0.0.2:8080/tcp")
    api.put(service(type="NodePort", ports=[port(nodePort=30080)]), piece("web-1", "10.0.0.2"))
    box.run(["ip", "address", "add", "192.0.2.77/32", "dev", "node0"], bare=True)
    for chosen in ("primary", f"{HOST_V4}/32"):
        with agent(box, api.url, f"--nodeport-addresses={chosen}", directory=tmp_path) as process:
            process.wait_ready()
            reaches(box, "10.0.0.2:8080", vip=(HOST_V4, 30080))
            reaches(box, "10.0.0.2:8080", vip=("127.0.0.1", 30080))
            says(box, errno.ECONNREFUSED, vip=("192.0.2.77", 30080))
