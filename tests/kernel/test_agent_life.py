# SPDX-License-Identifier: Apache-2.0
"""The agent's own life: others' entries, restarts, outages, and what it says of itself."""

from __future__ import annotations

import json
import re
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kube.objects import piece, port, ready, service

from hostreach import Service
from hostreach.cli.agent import ENDING

from .harness import Box, cli, wait_until
from .harness.agents import Notified
from .harness.clients import TCP, V4, Seen, exchange
from .harness.cluster import Agent, Cluster, agent, cluster
from .harness.reaching import VIP, reaches, untouched
from .harness.timing import lag, scaled

if TYPE_CHECKING:
    from hostreach.node import Node


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


def test_a_second_one_is_refused(
    box: Box, api: Cluster, running: Agent, tmp_path: Path, table: Node
) -> None:
    """It would take the first one's services for stale, as of a cluster that has none."""
    api.put(service(), piece("web-1", "10.0.0.2"))
    wait_until(lambda: len(table.services) == 1, "the service")
    (tmp_path / "other").mkdir()
    with (
        cluster(box) as empty,
        agent(box, empty.url, "--listen=off", directory=tmp_path / "other") as second,
    ):
        assert second.process.wait(ENDING + scaled(30)) == 1
        pid = f"pid {running.process.pid}"
        assert f"{pid} is this instance's agent still: waiting for its end" in second.log
        assert f"{box.pin}: {pid} is this instance's agent 'kubernetes' already" in second.log
    assert len(table.services) == 1


def test_one_that_ends_is_followed(box: Box, api: Cluster, tmp_path: Path, table: Node) -> None:
    """As where a pod is replaced by force: the old one may not have ended yet."""
    api.put(service(), piece("web-1", "10.0.0.2"))
    with agent(box, api.url, directory=tmp_path) as first:
        first.wait_ready()
        with agent(box, api.url, directory=tmp_path) as second:
            wait_until(lambda: "waiting for its end" in second.log, "the second one's waiting")
            first.stop()
            second.wait_ready()
    assert len(table.services) == 1


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
        assert "cannot be exempt" not in process.log


# --- what it says of itself --------------------------------------------------------------------


def is_closed(running: Agent, port: int) -> bool:
    try:
        return running.ask("/", port)[0] == 0
    except (ConnectionResetError, TimeoutError):
        return False  # who comes while it is being closed


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
    wait_until(lambda: is_closed(running, 32123), "nobody listening there")


def test_a_health_check_port_that_is_taken(box: Box, api: Cluster, running: Agent) -> None:
    box.serve("0.0.0.0:32123/tcp")
    local: dict[str, Any] = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    api.put(service(**local, healthCheckNodePort=32123))
    wait_until(
        lambda: running.metric("hostreach_health_check_ports_failed") == 1, "the metric of it"
    )
    assert "cannot listen on healthCheckNodePort 32123" in running.log
    assert running.ask("/readyz")[0] == 200


def test_health_check_ports_are_left_to_kube_proxy(box: Box, api: Cluster, running: Agent) -> None:
    """Whenever it is there."""
    local: dict[str, Any] = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    proxy = box.serve("127.0.0.1:10256/tcp")
    api.put(service(**local, healthCheckNodePort=32123))
    wait_until(lambda: "are left to kube-proxy" in running.log, "the log line")
    assert running.ask("/", 32123)[0] == 0
    assert running.metric("hostreach_health_check_ports_failed") == 0
    proxy.stop()
    wait_until(lambda: running.ask("/", 32123)[0] == 503, "the health check port")
    box.serve("127.0.0.1:10256/tcp")
    wait_until(lambda: is_closed(running, 32123), "nobody listening there")


def test_what_it_tells(box: Box, api: Cluster, running: Agent) -> None:
    box.serve("10.0.0.2:8080/tcp")
    bad = service("bad", "10.96.0.66")
    bad["spec"]["ports"] = "none"
    sctp = service("sctp", "10.96.0.12", ports=[port(80, "s", "SCTP")])
    changed = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
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
        ("--metrics-services=-1", "--metrics-services must be"),
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
