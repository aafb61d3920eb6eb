# SPDX-License-Identifier: Apache-2.0
"""The agent on a real kernel: an API object changes, and a socket reaches the right place."""

from __future__ import annotations

import errno
import json
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kube.objects import leaving, piece, port, ready, service

import hostreach
from hostreach import Service

from .harness import Box, cli, linux, wait_until
from .harness.agents import Notified
from .harness.clients import (
    TCP,
    UDP_CONNECTED,
    UDP_UNCONNECTED,
    V4,
    V6,
    Seen,
    exchange,
    outcome,
)
from .harness.cluster import Agent, Cluster, agent, cluster
from .harness.host import HOST_V4, HOST_V6, give_addresses
from .harness.line import Line
from .harness.timing import lag

if TYPE_CHECKING:
    from hostreach.node import Node

VIP = ("10.96.0.10", 80)


@pytest.fixture
def api(box: Box) -> Iterator[Cluster]:
    give_addresses(box)
    with cluster(box) as made:
        made.put(node())
        yield made


@pytest.fixture
def running(box: Box, api: Cluster, tmp_path: Path) -> Iterator[Agent]:
    with agent(box, api.url, directory=tmp_path) as process:
        process.wait_ready()
        yield process


@pytest.fixture
def table(box: Box) -> Iterator[Node]:
    with hostreach.open(str(box.pin)) as opened:
        yield opened


def node(zone: str = "zone-a", address: str = HOST_V4) -> dict[str, Any]:
    labels = {"topology.kubernetes.io/zone": zone}
    status = {"addresses": [{"type": "InternalIP", "address": address}]}
    return {"kind": "Node", "metadata": {"name": "node-a", "labels": labels}, "status": status}


def reaches(box: Box, *servers: str, kind: str = TCP, vip: tuple[str, int] = VIP) -> None:
    """Before long, and then every time; each of them at least once."""
    family = V6 if ":" in vip[0] else V4

    def all_right() -> bool:
        seen = [box.call(outcome, exchange, family, kind, vip) for _ in range(8 * len(servers))]
        return {*seen} == {Seen(server, vip) for server in servers}

    wait_until(all_right, f"{vip} reaching {servers}")


def says(box: Box, error: int, kind: str = TCP, vip: tuple[str, int] = VIP) -> None:
    family = V6 if ":" in vip[0] else V4
    name = errno.errorcode[error]
    wait_until(
        lambda: box.call(outcome, exchange, family, kind, vip) == name, f"{vip} saying {name}"
    )


def untouched(box: Box, vip: tuple[str, int] = VIP) -> None:
    says(box, errno.ENETUNREACH, vip=vip)


# --- objects and sockets -----------------------------------------------------------------------


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


# --- others' entries, restarts, outages --------------------------------------------------------


def test_others_entries_are_left_alone(box: Box, api: Cluster, running: Agent, table: Node) -> None:
    box.serve("10.0.0.2:8080/tcp", "10.0.0.9:8080/tcp")
    by_hand = Service.of("10.96.0.10:80/tcp", "10.0.0.9:8080")
    table.services.add(by_hand)
    api.put(service(), piece("web-1", "10.0.0.2"), service("api", "10.96.0.11"))
    wait_until(lambda: len(table.services.rows()) == 2, "the other service")
    reaches(box, "10.0.0.9:8080")
    assert table.services.get("10.96.0.10:80/tcp") == by_hand
    assert "10.96.0.10:80/tcp is left alone, for 'manual' owns it" in running.log
    assert running.metric("hostreach_conflicting_services") == 1
    table.services.remove("10.96.0.10:80/tcp")
    wait_until(
        lambda: table.services.rows("kubernetes")[0].frontend == "10.96.0.10:80/tcp",
        "the agent taking what was let go of",
    )
    reaches(box, "10.0.0.2:8080")


def test_a_restart_writes_nothing(box: Box, api: Cluster, tmp_path: Path, table: Node) -> None:
    for n in range(1, 40):
        api.put(service(f"s{n}", f"10.96.1.{n}"), piece(f"s{n}-1", f"10.0.0.{n}", of=f"s{n}"))
    with agent(box, api.url, directory=tmp_path) as first:
        first.wait_ready()
        assert first.metric('hostreach_table_writes_total{action="put"}') == 39
        assert first.stop() < 2 + 10 * lag()
    before = table.services.list()
    programs = [each.program_id for each in table.status().programs]
    with agent(box, api.url, directory=tmp_path) as second:
        second.wait_ready()
        assert second.metric('hostreach_table_writes_total{action="put"}') == 0
        assert second.metric('hostreach_table_writes_total{action="remove"}') == 0
    assert table.services.list() == before
    assert [each.program_id for each in table.status().programs] == programs


def test_what_went_while_nobody_looked(box: Box, api: Cluster, tmp_path: Path, table: Node) -> None:
    """The stale are pruned, but not before both lists are complete; nobody else's are."""
    api.put(service(), service("api", "10.96.0.11"), piece("web-1", "10.0.0.2"))
    with agent(box, api.url, directory=tmp_path) as first:
        first.wait_ready()
        first.stop()
    table.services.add(Service.of("10.96.0.99:80/tcp"))
    api.delete(service("api", "10.96.0.11"))
    api.trouble(answers=[(500, {})] * 10_000)
    with agent(box, api.url, directory=tmp_path) as second:
        wait_until(lambda: "500" in second.log, "an answer that says no")
        wait_until(lambda: "attached to" in second.log, "the programs being attached")
        assert len(table.services.rows()) == 3
        api.trouble(answers=[])
        second.wait_ready()
        names = [row.frontend for row in table.services.rows()]
        assert names == ["10.96.0.10:80/tcp", "10.96.0.99:80/tcp"]


def test_nothing_flaps_while_the_server_is_away(
    box: Box, api: Cluster, running: Agent, table: Node
) -> None:
    box.serve("10.0.0.2:8080/tcp", "10.0.0.3:8080/tcp")
    api.put(service(), piece("web-1", "10.0.0.2"))
    reaches(box, "10.0.0.2:8080")
    api.do("stop")
    for _ in range(50):
        assert box.call(exchange, V4, TCP, VIP) == Seen("10.0.0.2:8080", VIP)
    api.put(piece("web-1", "10.0.0.3"))
    api.do("compact")
    api.do("start")
    reaches(box, "10.0.0.3:8080")
    assert len(table.services.rows()) == 1
    assert running.ask("/readyz")[0] == 200


def test_sigterm_leaves_everything(box: Box, api: Cluster, running: Agent, table: Node) -> None:
    box.serve("10.0.0.2:8080/tcp")
    api.put(service(), piece("web-1", "10.0.0.2"))
    reaches(box, "10.0.0.2:8080")
    assert running.stop() < 2 + 10 * lag()
    assert running.process.returncode == 0
    reaches(box, "10.0.0.2:8080")
    assert all(each.attached for each in table.status().programs)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_while_the_server_cannot_be_reached(box: Box, tmp_path: Path, number: int) -> None:
    with agent(box, "http://10.0.0.1:1", directory=tmp_path) as process:
        wait_until(lambda: "trying again" in process.log, "the first failure")
        wait_until(lambda: "attached to" in process.log, "the programs being attached")
        assert process.ask("/readyz")[0] == 503
        assert process.ask("/healthz")[0] == 200
        assert process.stop(number) < 2 + 10 * lag()
        assert process.process.returncode == 0


def test_detach_on_exit(box: Box, api: Cluster, tmp_path: Path, table: Node) -> None:
    api.put(service())
    with agent(box, api.url, "--detach-on-exit", directory=tmp_path) as process:
        process.wait_ready()
        process.stop()
    assert not any(each.attached for each in table.status().programs)
    assert len(table.services.rows()) == 1
    untouched(box)


def test_tables_that_are_too_small_grow(
    box: Box, api: Cluster, tmp_path: Path, table: Node
) -> None:
    small = ("--max-services=4", "--max-backends=8", "--max-slots=64")
    for n in range(1, 60):
        api.put(service(f"s{n}", f"10.96.1.{n}"), piece(f"s{n}-1", f"10.0.0.{n}", of=f"s{n}"))
    with agent(box, api.url, *small, directory=tmp_path) as process:
        process.wait_ready()
        wait_until(lambda: len(table.services.rows()) == 59, "all of them being there")
        assert "the tables have grown" in process.log
        api.put(*(service(f"t{n}", f"10.96.2.{n}") for n in range(1, 60)))
        wait_until(lambda: len(table.services.rows()) == 118, "those that came later")
    with agent(box, api.url, *small, directory=tmp_path) as process:  # which it has outgrown
        process.wait_ready()


# --- what it says of itself --------------------------------------------------------------------


def test_health_check_node_ports(api: Cluster, running: Agent) -> None:
    value = service(
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        healthCheckNodePort=32123,
        namespace="shop",
    )
    api.put(value, piece("web-1", ready("10.0.0.2", node="node-b"), namespace="shop"))
    wait_until(lambda: running.ask("/", 32123)[0] == 503, "the health check port")
    api.put(piece("web-1", ready("10.0.0.2", node="node-a"), namespace="shop"))
    wait_until(lambda: running.ask("/healthz", 32123)[0] == 200, "a local endpoint")
    _, headers, body = running.ask("/", 32123)
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Load-Balancing-Endpoint-Weight"] == "1"
    assert body == (
        '{\n\t"service": {\n\t\t"namespace": "shop",\n\t\t"name": "web"\n\t},\n'
        '\t"localEndpoints": 1,\n\t"serviceProxyHealthy": true\n}'
    )
    api.delete(value)
    wait_until(lambda: running.ask("/", 32123)[0] == 0, "nobody listening there")


def test_a_health_check_port_that_is_taken(box: Box, api: Cluster, running: Agent) -> None:
    box.serve("0.0.0.0:32123/tcp")
    local: dict[str, Any] = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    api.put(service(**local, healthCheckNodePort=32123))
    wait_until(
        lambda: running.metric("hostreach_health_check_ports_failed") == 1, "the metric of it"
    )
    assert "cannot listen on healthCheckNodePort 32123" in running.log
    assert running.ask("/readyz")[0] == 200


def test_what_it_tells(box: Box, api: Cluster, running: Agent) -> None:
    box.serve("10.0.0.2:8080/tcp")
    bad = service("bad", "10.96.0.66")
    bad["spec"]["ports"] = "none"
    sctp = service("sctp", "10.96.0.12", ports=[port(80, "s", "SCTP")])
    changed = "2026-06-01T00:00:00Z"
    api.put(service(), bad, sctp, piece("web-1", "10.0.0.2", changed=changed))
    reaches(box, "10.0.0.2:8080")
    wait_until(lambda: "Service default/bad" in running.log, "the log line")
    text = running.ask("/metrics")[2]
    for line in (
        'hostreach_left_out{kind="Service",reason="invalid"} 1.0',
        'hostreach_left_out{kind="Service",reason="sctp"} 1.0',
        'hostreach_left_out_object{kind="Service",object="default/bad",reason="invalid"} 1.0',
        'hostreach_table_used{table="services"} 1.0',
        "hostreach_attached 1.0",
        "hostreach_cluster_services 2.0",
        "hostreach_network_programming_duration_seconds_count 1.0",
        "hostreach_queue_length 0.0",
    ):
        assert line in text.splitlines(), text
    dashboard = Path(__file__).resolve().parents[2] / "deploy/grafana/hostreach.json"
    for asked in {*re.findall(r"hostreach_\w+", dashboard.read_text())}:
        assert f"# TYPE {asked.removesuffix('_bucket')} " in text, asked
    name = '{frontend="10.96.0.10:80/tcp",service="default/web"}'
    assert running.metric(f"hostreach_service_translations_total{name}") >= 8
    assert running.log.count("Service default/bad") == 1
    wait_until(lambda: 0 <= running.metric("hostreach_last_sync_age_seconds") < 3, "being in step")
    shown = cli.run(box.pin, "status", "--json").json["agent"]
    assert shown["pid"] == running.process.pid
    assert shown["alive"]
    wait_until(lambda: "in step" in cli.run(box.pin, "status").stdout, "status knowing of it")
    running.stop()
    assert cli.run(box.pin, "status", "--json").json["agent"] is None


def test_systemd_hears_of_it(box: Box, api: Cluster, tmp_path: Path) -> None:
    variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
    api.trouble(answers=[(503, {})] * 4)
    with (
        closing(Notified(tmp_path / "notify")) as notified,
        agent(box, api.url, directory=tmp_path, variables=variables) as process,
    ):
        wait_until(
            lambda: any("READY=1" in each for each in notified.listen()), "READY=1", seconds=40
        )
        assert process.ask("/readyz")[0] == 200
        assert any("EXTEND_TIMEOUT_USEC" in each for each in notified.said)
        pings = notified.said.count("WATCHDOG=1")
        wait_until(
            lambda: notified.listen().count("WATCHDOG=1") >= pings + 3, "the watchdog's pings"
        )
        process.stop()
        assert "STOPPING=1" in notified.listen()


def test_logs_as_json(box: Box, api: Cluster, tmp_path: Path) -> None:
    api.put(service(externalIPs=["127.0.0.1"]))
    options = ("--log-format=json", "--log-level=warning")
    with agent(box, api.url, *options, directory=tmp_path) as process:
        process.wait_ready()
        lines = [json.loads(line) for line in process.log.splitlines()]
        assert [line["level"] for line in lines] == ["warning"]
        assert "default/web" in lines[0]["message"]


def test_its_own_cgroup_is_exempt(box: Box, api: Cluster, tmp_path: Path, table: Node) -> None:
    """A service that leads the agent astray cannot: it does not see any."""
    table.attach(cgroup=str(box.cgroup.parent / box.bare.name))
    host, _, number = api.url.removeprefix("http://").partition(":")
    table.services.add(Service.of(f"{host}:{number}/tcp", owner="astray"))
    assert box.call(outcome, socket.create_connection, (host, int(number)), bare=True) == (
        "ECONNREFUSED"
    )
    bare = f"--cgroup={box.bare}"
    with agent(box, api.url, bare, directory=tmp_path) as process:
        wait_until(lambda: "refused" in process.log.lower(), "it being led astray")
    with agent(box, api.url, bare, f"--api-server={api.url}", directory=tmp_path) as process:
        wait_until(lambda: "in step" in process.log, "the first sync")
    assert table.exempt.list() == [str(box.bare)]


def test_from_a_cgroup_namespace_of_its_own(
    box: Box, api: Cluster, tmp_path: Path, table: Node
) -> None:
    """As in a container that has the host's hierarchy mounted, and the host's process ids."""
    box.serve("10.0.0.2:8080/tcp")
    api.put(service(), piece("web-1", "10.0.0.2"))
    inside = ("unshare", "--cgroup", "--mount")
    named = f"--api-server={api.url}"
    with agent(box, api.url, named, directory=tmp_path, wrapper=inside) as process:
        process.wait_ready()
        reaches(box, "10.0.0.2:8080")
    assert table.exempt.list() == [str(box.bare)]


# --- bad usage ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--listen=nowhere", "--listen: 'nowhere' is no address"),
        ("--window=soon", "--window: 'soon' is no duration"),
        ("--window=2h", "at most 1m"),
        ("--nodeport-addresses=10.0.0.1", "--nodeport-addresses: '10.0.0.1' has no prefix"),
        ("--node-name=a b", "--node-name: 'a b' is no node's name"),
        ("--log-level=loud", "--log-level is debug, info, warning or error"),
        ("--log-format=xml", "--log-format is text or json"),
        ("--metrics-services=-1", "metrics_services must be"),
        ("--protocols=sctp", "'sctp' is no protocol"),
        ("--api-server=ftp://x", "--api-server ftp://x: is no URL"),
        ("--kubeconfig=/nonexistent", "/nonexistent: cannot be read"),
        ("--context=elsewhere", "'elsewhere' not found"),
    ],
)
def test_bad_options(tmp_path: Path, option: str, message: str) -> None:
    config = tmp_path / "config"
    config.write_text(
        "{current-context: a, contexts: [{name: a, context: {cluster: c}}],"
        " clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]}"
    )
    said = cli.run(None, "agent", "kubernetes", f"--kubeconfig={config}", option)
    assert said.status == 2, said
    assert message in said.stderr
    assert said.stderr.count("\n") == 1
