# SPDX-License-Identifier: Apache-2.0
"""The exporter: the tables' metrics without any agent that writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import hostreach
from hostreach import Capacities, Service
from hostreach.node import Node

from .harness import Box, cli, wait_until
from .harness.agents import AgentProcess, Notified, running
from .harness.clients import TCP, V4, exchange


def test_it_tells_what_the_tables_hold(box: Box, node: Node, tmp_path: Path) -> None:
    box.serve("10.0.0.2:8080/tcp")
    names = [f"shop/s{number}" for number in range(1, 6)]
    for number, name in enumerate(names, 1):
        backends = ("10.0.0.2:8080", "10.0.0.3:8080,state=draining")
        node.services.add(Service.of(f"10.96.0.{number}:80/tcp", *backends, name=name))
    for _ in range(3):
        box.call(exchange, V4, TCP, ("10.96.0.1", 80))
    with running(
        AgentProcess(box, "metrics", "--metrics-services=2", directory=tmp_path)
    ) as exporter:
        wait_until(lambda: exporter.ask("/healthz")[0] == 200, "it answering")
        code, headers, text = exporter.ask("/metrics")
        assert (code, headers["Content-Type"][:10]) == (200, "text/plain")
        lines = text.splitlines()
        labels = 'frontend="10.96.0.1:80/tcp",service="shop/s1"'
        for line in (
            "hostreach_tables_readable 1.0",
            "hostreach_attached 1.0",
            'hostreach_table_used{table="services"} 5.0',
            'hostreach_table_used{table="backends"} 10.0',
            "hostreach_translations_total 3.0",
            f"hostreach_service_translations_total{{{labels}}} 3.0",
            f'hostreach_service_backends{{{labels},state="draining"}} 1.0',
        ):
            assert line in lines, text
        assert named(exporter) == {"shop/s1", "shop/s2"}  # of five: their number has a bound
        assert "hostreach_table_writes" not in text  # it writes nothing
        node.services.remove("10.96.0.1:80/tcp")
        assert exporter.metric('hostreach_table_used{table="services"}') == 4
        assert exporter.metric("hostreach_translations_total") == 3
        box.call(exchange, V4, TCP, ("10.96.0.2", 80))
        assert exporter.metric("hostreach_translations_total") == 4
        node.detach(purge=True)
        assert exporter.metric("hostreach_tables_readable") == 0
        assert not box.pin.exists()  # nor does it make tables
        assert exporter.ask("/readyz")[0] == 200
        assert exporter.ask("/")[0] == 404
        assert exporter.stop() < 10


@pytest.mark.parametrize("kind", ["metrics", "file"])
def test_a_place_that_is_none(box: Box, tmp_path: Path, kind: str) -> None:
    """Neither waits for ever, nor says first that it listens."""
    paths = [str(tmp_path / "one.yaml")] if kind == "file" else []
    command = [cli.SCRIPT, "agent", kind, *paths]
    done = box.run([*command, f"--pin={tmp_path / 'pin'}"], bare=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"hostreach: {tmp_path / 'pin'}: no directory of a BPF file system; use a path below "
        "/sys/fs/bpf\n"
    )
    if kind == "file":
        for option in ("--cgroup", "--host-netns"):
            given = [f"--cgroup={box.cgroup}", f"{option}={tmp_path / 'none'}"]
            done = box.run([*command, f"--pin={box.pin}", *given], bare=True)
            assert done.returncode == 2
            assert done.stderr.startswith(f"hostreach: {tmp_path / 'none'}: ")
            assert done.stderr.count("\n") == 1
    assert not box.pin.exists()


def named(exporter: AgentProcess) -> set[str]:
    """The services that have metrics of their own."""
    found = re.findall(r'service_translations_total{.*service="(.*)"}', exporter.ask("/metrics")[2])
    return {*found}


@pytest.fixture
def large(box: Box) -> Iterator[Node]:
    with hostreach.open(str(box.pin), capacities=Capacities(2048, 2048, 8192)) as found:
        found.attach(str(box.cgroup))
        yield found


def test_those_that_are_used_most(box: Box, large: Node, tmp_path: Path) -> None:
    """Whatever their names and addresses: of many, and those that refuse as well."""
    box.serve("10.0.0.2:8080/tcp")
    large.services.apply(
        Service.of(f"10.96.{n // 256}.{n % 256}:80/tcp", "10.0.0.2:8080", name=f"s{n}")
        for n in range(1, 1100)
    )
    large.services.apply([Service.of("10.97.0.1:80/tcp", name="empty")])

    def use(number: int, times: int) -> None:
        for _ in range(times):
            box.call(exchange, V4, TCP, (f"10.96.{number // 256}.{number % 256}", 80))

    def refuse(times: int) -> None:
        for _ in range(times):
            with pytest.raises(OSError, match="ECONNREFUSED"):
                box.call(exchange, V4, TCP, ("10.97.0.1", 80))

    use(1099, 3)
    refuse(2)
    with running(
        AgentProcess(box, "metrics", "--metrics-services=2", directory=tmp_path)
    ) as exporter:
        wait_until(lambda: exporter.ask("/healthz")[0] == 200, "it answering")
        assert named(exporter) == {"s1099", "empty"}
        labels = 'frontend="10.97.0.1:80/tcp",service="empty"'
        assert exporter.metric(f"hostreach_service_refusals_total{{{labels}}}") == 2
        refuse(3)  # which is told at once, whether or not it is time to choose again
        assert exporter.metric(f"hostreach_service_refusals_total{{{labels}}}") == 5
        use(500, 9)
        wait_until(lambda: named(exporter) == {"s500", "empty"}, "the one that is used most")
        exporter.stop()


def test_no_tables_yet(box: Box, tmp_path: Path) -> None:
    with running(AgentProcess(box, "metrics", directory=tmp_path)) as exporter:
        wait_until(lambda: exporter.ask("/readyz")[0] == 200, "it answering")
        assert exporter.metric("hostreach_tables_readable") == 0
        assert not box.pin.exists()


def test_systemd_hears_of_it(box: Box, tmp_path: Path) -> None:
    variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
    with (
        closing(Notified(tmp_path / "notify")) as notified,
        running(AgentProcess(box, "metrics", directory=tmp_path, variables=variables)) as process,
    ):
        wait_until(lambda: any("READY=1" in each for each in notified.listen()), "READY=1")
        pings = notified.said.count("WATCHDOG=1")
        wait_until(lambda: notified.listen().count("WATCHDOG=1") >= pings + 2, "the watchdog")
        process.stop()
        assert "STOPPING=1" in notified.listen()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--listen=off", "--listen is an address and port: there is nothing else to do"),
        ("--listen=x", "--listen: 'x' is no address with a port"),
        ("--metrics-services=-1", "--metrics-services must be an integer from 0 to 100000, not -1"),
    ],
)
def test_bad_options(box: Box, option: str, message: str) -> None:
    said = cli.run(box.pin, "agent", "metrics", option)
    assert said.status == 2, said
    assert message in said.stderr
    assert said.stderr.count("\n") == 1
