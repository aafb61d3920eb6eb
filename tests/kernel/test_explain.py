# SPDX-License-Identifier: Apache-2.0
"""`explain` says what then happens."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from hostreach import Service
from hostreach.explain import Explanation

from .harness import Box, cli, kernel
from .harness.clients import TCP, V4, Seen, exchange, outcome
from .harness.host import HOST_V4, Pod, attach_inside, cgroups, give_addresses, opened, pods

if TYPE_CHECKING:
    from hostreach.node import Node

VIP, FRONTEND = ("10.96.0.10", 80), "10.96.0.10:80/tcp"
SERVERS = ("10.0.0.2:8080", "10.0.0.3:8080")


def happens(box: Box, vip: tuple[str, int] = VIP, *, bare: bool = False) -> str:
    """What `explain` calls what happens."""
    said = box.call(outcome, exchange, V4, TCP, vip, bare=bare)
    if isinstance(said, Seen):
        return "translated"
    return {"ECONNREFUSED": "refused", "ENETUNREACH": "untouched"}[str(said)]


def explained(box: Box, node: Node, asked: str = FRONTEND, *, bare: bool = False) -> Explanation:
    """As one of the box's own processes is told."""

    def ask() -> Explanation:
        node.close()
        return node.explain(asked)

    return box.call(ask, bare=bare)


@pytest.fixture
def servers(box: Box, node: Node) -> Node:
    box.serve(*(f"{server}/tcp" for server in SERVERS))
    return node


CASES = {
    "active": Service.of(FRONTEND, *SERVERS),
    "draining alone": Service.of(FRONTEND, f"{SERVERS[0]},state=draining"),
    "down": Service.of(FRONTEND, f"{SERVERS[0]},state=down"),
    "empty": Service.of(FRONTEND),
    "least-conn": Service.of(FRONTEND, *SERVERS, algorithm="least-conn"),
    "maglev": Service.of(FRONTEND, *SERVERS, algorithm="maglev"),
}


@pytest.mark.parametrize("case", CASES)
def test_as_it_happens(box: Box, servers: Node, case: str) -> None:
    servers.services.add(CASES[case])
    assert explained(box, servers).outcome == happens(box)
    assert explained(box, servers, bare=True).outcome == "untouched"
    assert happens(box, bare=True) == "untouched"


def test_no_service_and_no_tables(box: Box, servers: Node) -> None:
    assert explained(box, servers).outcome == happens(box) == "untouched"
    servers.detach(purge=True)
    assert explained(box, servers).outcome == "untouched"
    assert not box.pin.exists()


@pytest.mark.parametrize("protocols", [("tcp",), ("udp",)])
def test_protocols(box: Box, servers: Node, protocols: tuple[str, ...]) -> None:
    servers.services.add(CASES["active"])
    servers.attach(cgroup=str(box.cgroup), protocols=protocols)
    found = explained(box, servers)
    assert found.outcome == happens(box)
    assert ("protocols" in dict(found.reasons)) == (protocols == ("udp",))
    assert len(found.backends) == 2


def test_exempt(box: Box, servers: Node) -> None:
    kernel.need(kernel.knows_cgroups(), "cgroup of the caller's for programs")
    servers.services.add(CASES["active"])
    servers.exempt.add(str(box.cgroup))
    found = explained(box, servers)
    assert found.outcome == happens(box) == "untouched"
    assert str(box.cgroup) in dict(found.reasons)["exempt"]


def test_scopes(box: Box, servers: Node) -> None:
    kernel.need(kernel.knows_cgroups(), "cgroup of the caller's for programs")
    for scope in (box.bare, box.cgroup):
        servers.services.set(Service.of(FRONTEND, *SERVERS, from_cgroup=str(scope)))
        found = explained(box, servers)
        assert found.outcome == happens(box)
        assert found.in_scope == (scope == box.cgroup)
        assert len(found.backends) == 2


@pytest.mark.parametrize("ranges", ["10.0.0.0/24", "198.51.100.0/24"])
def test_source_ranges(box: Box, servers: Node, ranges: str) -> None:
    kernel.need(kernel.knows_the_host(), "network namespaces told apart by processes too")
    servers.services.add(Service.of(FRONTEND, *SERVERS, source_ranges=ranges))
    assert explained(box, servers).outcome == happens(box)


def test_affinity(box: Box, servers: Node) -> None:
    kernel.need(kernel.knows_the_host(), "network namespaces told apart by processes too")
    servers.services.add(Service.of(FRONTEND, *SERVERS, affinity="3h"))
    assert explained(box, servers).goes_to is None
    seen = box.call(exchange, V4, TCP, VIP)
    assert explained(box, servers).goes_to == seen.server
    servers.services.set_backend(FRONTEND, f"{seen.server},state=draining")
    assert explained(box, servers).goes_to == seen.server == box.call(exchange, V4, TCP, VIP).server
    servers.services.set_backend(FRONTEND, f"{seen.server},state=down")
    (other,) = {*SERVERS} - {seen.server}
    assert explained(box, servers).goes_to == other == box.call(exchange, V4, TCP, VIP).server


def test_node_ports(box: Box) -> None:
    """On this node's addresses and loopback for the host, and not on a pod's own loopback."""
    give_addresses(box)
    with opened(box) as node, pods(box, 1) as (pod,):
        attach_inside(box, node)
        box.serve(f"{SERVERS[0]}/tcp")
        node.services.add(Service.of("node:30080/tcp", SERVERS[0]))
        for address in (HOST_V4, "127.0.0.1", "10.96.0.10"):
            found = explained(box, node, f"{address}:30080/tcp")
            assert (found.outcome == "translated") == (
                isinstance(box.call(outcome, exchange, V4, TCP, (address, 30080)), Seen)
            ), address
        assert explained_in(pod, node, f"{HOST_V4}:30080/tcp").goes_to == SERVERS[0]
        if kernel.knows_the_host():
            assert explained_in(pod, node, "127.0.0.1:30080/tcp").outcome == "untouched"


def explained_in(pod: Pod, node: Node, asked: str) -> Explanation:
    def ask() -> Explanation:
        node.close()
        return node.explain(asked)

    return pod.call(ask)


def test_from_a_cgroup(box: Box, servers: Node) -> None:
    """Its network namespace is that of a task that is there."""
    kernel.need(kernel.knows_the_host(), "network namespaces told apart by processes too")
    servers.services.add(Service.of(FRONTEND, *SERVERS, source_ranges="10.0.0.0/24"))
    waiting = box.start(signal.pause)
    found = servers.explain(FRONTEND, str(box.cgroup))
    assert (found.outcome, found.caller.cgroup) == ("translated", str(box.cgroup))
    assert found.caller.netns_of is not None
    assert found.caller.namespaces == 1
    waiting.stop()
    assert servers.explain(FRONTEND, str(box.bare)).outcome == "untouched"


def test_a_cgroup_that_was_made_anew(box: Box, servers: Node) -> None:
    """To the programs it is another one: whoever is in it sees no service until doctor's fix."""
    kernel.need(kernel.knows_cgroups(), "cgroup of the caller's for programs")
    path = box.cgroup / "unit"

    def told() -> tuple[str, str, str]:
        checks = cli.run(box.pin, "doctor", "--no-probe", "--json").json["checks"]
        (scopes,) = (each for each in checks if each["name"] == "scopes")
        shown = cli.run(box.pin, "svc", "show", FRONTEND)
        asked = cli.run(box.pin, "explain", FRONTEND, "--from-cgroup", str(path))
        return scopes["state"], shown.stdout.split("scope")[1].split("\n")[0], asked.stdout

    with cgroups(box.cgroup, "unit"):
        servers.services.add(Service.of(FRONTEND, *SERVERS, from_cgroup=str(path)))
        state, scope, asked = told()
        assert (state, "anew" in scope, "translated" in asked) == ("ok", False, True)
    assert told()[:2] == ("note", f"       everyone, from {path} (which is not there)")
    with cgroups(box.cgroup, "unit"):
        state, scope, asked = told()
        assert (state, "made anew since: nobody" in scope) == ("broken", True)
        assert "made anew since" in asked
        assert "untouched" in asked
        exported = cli.run(box.pin, "export").stdout
        assert cli.run(box.pin, "apply", "-f", "-", stdin=exported).status == 0
        assert told()[0] == "ok"


def test_the_command(box: Box, servers: Node) -> None:
    servers.services.add(CASES["active"])
    cgroup = ("--from-cgroup", str(box.cgroup))
    said = cli.run(box.pin, "explain", FRONTEND, *cgroup)
    assert (said.status, said.stderr) == (0, "")
    assert "outcome        translated to one of these:" in said.stdout
    assert f"{SERVERS[0]}  1       active  50.0%  0" in said.stdout
    found = cli.run(box.pin, "explain", FRONTEND, *cgroup, "--json").json
    assert (found["schema"], found["outcome"]) == (1, "translated")
    assert [each["share"] for each in found["backends"]] == [0.5, 0.5]
    for wrong in (
        ["10.96.0.10:80"],
        ["web:80/tcp"],
        [FRONTEND, "--from-cgroup", "/proc"],
        [FRONTEND, "--from-cgroup", "system.slice"],
    ):
        said = cli.run(box.pin, "explain", *wrong)
        assert (said.status, said.stdout, said.stderr.count("\n")) == (2, "", 1), said
    assert os.path.exists(box.pin)  # noqa: PTH110
