# SPDX-License-Identifier: Apache-2.0
"""What a change of one object means for the tables."""

from __future__ import annotations

import random
from typing import Any

from kube.objects import NEW, OLD, piece, port, ready, service, taken_service, taken_slice, unready

from hostreach.plain import PlainFrontend, PlainService
from hostreach.sources.kubernetes.intake import Problem
from hostreach.sources.kubernetes.services import Rules
from hostreach.sources.kubernetes.state import HealthPort, State

WEB: PlainFrontend = ("10.96.0.10", 80, "tcp")


class Cluster:
    """A state, and the table that somebody keeps by its batches."""

    def __init__(self) -> None:
        self.state = State(Rules())
        self.table: dict[PlainFrontend, PlainService] = {}
        self.written: list[PlainFrontend] = []

    def put(self, value: dict[str, Any]) -> None:
        key = f"{value['metadata']['namespace']}/{value['metadata']['name']}"
        if value["kind"] == "Service":
            self.state.put_service(key, taken_service(value))
        else:
            self.state.put_slice(key, taken_slice(value))

    def sync(self) -> list[PlainFrontend]:
        """Take all there is; tell which frontends were written or removed."""
        self.written = []
        for put, remove in self.state.take():
            for entry in put:
                self.table[entry[:3]] = entry
                self.written.append(entry[:3])
            for frontend in remove:
                del self.table[frontend]  # nothing is removed that was not there
                self.written.append(frontend)
        return self.written

    def backends(self, frontend: PlainFrontend = WEB) -> list[str]:
        return [backend[0] for backend in self.table[frontend][6]]


def test_services_and_slices_come_in_any_order() -> None:
    cluster = Cluster()
    cluster.put(piece("web-1", "10.0.0.1"))
    assert cluster.sync() == []
    cluster.put(service())
    cluster.sync()
    assert cluster.backends() == ["10.0.0.1:8080"]


def test_one_change_writes_one_service() -> None:
    cluster = Cluster()
    for n in range(50):
        cluster.put(service(f"s{n}", f"10.96.1.{n + 1}"))
        cluster.put(piece(f"s{n}-1", f"10.0.1.{n + 1}", of=f"s{n}"))
    assert len(cluster.sync()) == 50
    cluster.put(piece("s7-1", unready("10.0.1.8"), ready("10.0.2.1"), of="s7"))
    assert cluster.sync() == [("10.96.1.8", 80, "tcp")]
    assert cluster.sync() == []


def test_what_says_the_same_changes_nothing() -> None:
    cluster = Cluster()
    for value in (service(), piece("web-1", "10.0.0.1", changed=OLD)):
        cluster.put(value)
    cluster.sync()
    for value in (service(), piece("web-1", "10.0.0.1", changed=NEW)):
        cluster.put(value)
    assert cluster.state.pending == 0


def test_a_port_that_goes() -> None:
    cluster = Cluster()
    cluster.put(service(ports=[port(80, "a"), port(81, "b")]))
    cluster.sync()
    cluster.put(service(ports=[port(81, "b")]))
    cluster.sync()
    assert [*cluster.table] == [("10.96.0.10", 81, "tcp")]


def test_a_service_that_goes() -> None:
    cluster = Cluster()
    cluster.put(service())
    cluster.put(piece("web-1", "10.0.0.1"))
    cluster.sync()
    cluster.state.put_service("default/web", None)
    cluster.sync()
    assert not cluster.table
    cluster.put(service())  # the slices were kept
    cluster.sync()
    assert cluster.backends() == ["10.0.0.1:8080"]


def test_type_transitions() -> None:
    """To ExternalName and back, to headless and back, to another proxy and back."""
    cluster = Cluster()
    cluster.put(piece("web-1", "10.0.0.1"))
    away = (
        service(type="ExternalName", clusterIP="", clusterIPs=[]),
        service(clusterIP="None", clusterIPs=["None"]),
        service(labels={"service.kubernetes.io/service-proxy-name": "other"}),
    )
    for other in away:
        cluster.put(service())
        cluster.sync()
        assert cluster.backends() == ["10.0.0.1:8080"]
        cluster.put(other)
        cluster.sync()
        assert not cluster.table


def test_a_node_port_that_changes() -> None:
    cluster = Cluster()
    cluster.put(service(type="NodePort", ports=[port(nodePort=30080)]))
    cluster.sync()
    cluster.put(service(type="NodePort", ports=[port(nodePort=30081)]))
    cluster.sync()
    assert sorted(cluster.table) == [WEB, ("node", 30081, "tcp")]


def test_a_slice_that_moves_to_another_service() -> None:
    cluster = Cluster()
    cluster.put(service())
    cluster.put(service("api", "10.96.0.11"))
    cluster.put(piece("x", "10.0.0.1"))
    cluster.sync()
    cluster.put(piece("x", "10.0.0.1", of="api"))
    cluster.sync()
    assert cluster.backends() == []
    assert cluster.backends(("10.96.0.11", 80, "tcp")) == ["10.0.0.1:8080"]


def test_the_older_of_two_claims_wins_whatever_comes_first() -> None:
    older = service("b", created=OLD, namespace="one")
    newer = service("a", created=NEW, namespace="two")
    for first, second in ((older, newer), (newer, older)):
        cluster = Cluster()
        for value in (first, second):
            cluster.put(value)
            cluster.sync()
        assert cluster.table[WEB][3] == "one/b"
        assert cluster.state.problems == {
            ("Service", "two/a"): (Problem("claimed", "10.96.0.10:80/tcp is one/b's"),)
        }


def test_a_cluster_ip_is_not_for_others_to_claim() -> None:
    """However old they are: anybody may write an external IP."""
    cluster = Cluster()
    thief = service("a", "10.96.0.66", created=OLD, externalIPs=["10.96.0.10"])
    balanced = service(
        "b", "10.96.0.67", created=NEW, type="LoadBalancer", ingress=[{"ip": "198.51.100.2"}]
    )
    other = service("c", "10.96.0.68", created=OLD, externalIPs=["198.51.100.2"])
    for value in (thief, other):
        cluster.put(value)
    cluster.sync()
    assert cluster.table[WEB][3] == "default/a"
    for value in (service("web", created=NEW), balanced):
        cluster.put(value)
    cluster.sync()
    assert cluster.table[WEB][3] == "default/web"
    assert cluster.table["198.51.100.2", 80, "tcp"][3] == "default/b"
    assert {key for _, key in cluster.state.problems} == {"default/a", "default/c"}


def test_a_claim_is_inherited() -> None:
    cluster = Cluster()
    for n, created in enumerate((OLD, NEW, NEW)):
        cluster.put(service(f"s{n}", created=created))
    cluster.sync()
    assert cluster.table[WEB][3] == "default/s0"
    for gone, heir in ((0, 1), (1, 2)):
        cluster.state.put_service(f"default/s{gone}", None)
        cluster.sync()
        assert cluster.table[WEB][3] == f"default/s{heir}"
    cluster.state.put_service("default/s2", None)
    cluster.sync()
    assert not cluster.table
    assert not cluster.state.problems


def test_claimants_that_go_together() -> None:
    cluster = Cluster()
    cluster.put(service("a"))
    cluster.put(service("b", created=NEW))
    cluster.sync()
    for key in ("default/a", "default/b"):
        cluster.state.put_service(key, None)
    cluster.sync()
    assert not cluster.table


def test_a_service_made_anew_is_young() -> None:
    cluster = Cluster()
    cluster.put(service("a", created="2026-02-01T00:00:00Z"))
    cluster.put(service("b", created="2026-03-01T00:00:00Z"))
    cluster.sync()
    cluster.put(service("a", created="2026-04-01T00:00:00Z"))
    cluster.sync()
    assert cluster.table[WEB][3] == "default/b"


def test_refused_objects_are_as_good_as_gone() -> None:
    cluster = Cluster()
    cluster.put(service())
    cluster.put(piece("web-1", "10.0.0.1"))
    cluster.sync()
    bad = Problem("invalid", "it is not")
    cluster.state.refuse("EndpointSlice", "default/web-1", bad)
    cluster.sync()
    assert cluster.backends() == []
    cluster.state.refuse("Service", "default/web", bad)
    cluster.sync()
    assert not cluster.table
    assert cluster.state.problems == {
        ("EndpointSlice", "default/web-1"): (bad,),
        ("Service", "default/web"): (bad,),
    }
    assert cluster.state.keys("Service") == ["default/web"]
    cluster.put(service())
    cluster.put(piece("web-1", "10.0.0.1"))
    cluster.sync()
    assert cluster.backends() == ["10.0.0.1:8080"]
    assert not cluster.state.problems


def test_health_follows() -> None:
    cluster = Cluster()
    local: dict[str, Any] = {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32000,
    }
    cluster.put(service(**local))
    cluster.sync()
    assert cluster.state.health == {"default/web": HealthPort(32000, 0)}
    cluster.put(piece("web-1", ready("10.0.0.1", node="node-a")))
    cluster.sync()
    assert cluster.state.health == {"default/web": HealthPort(32000, 1)}
    cluster.put(service(**{**local, "externalTrafficPolicy": "Cluster"}))
    cluster.sync()
    assert not cluster.state.health


def test_when_changes_began() -> None:
    cluster = Cluster()
    cluster.put(piece("web-1", "10.0.0.1", changed="2026-06-01T00:00:01Z"))  # before its service
    cluster.put(service())
    cluster.put(piece("web-1", "10.0.0.1", changed="2026-06-01T00:00:02Z"))  # says the same
    assert cluster.state.take_changed() == [1780272001.0]
    assert cluster.state.take_changed() == []


def test_changes_are_timed_once_and_from_the_beginning_on() -> None:
    """Neither what was so before anybody followed it, nor what only this node sees differently."""
    began = 1780272000.0  # 2026-06-01T00:00:00Z
    cluster = Cluster()
    cluster.state = State(Rules(), since=began + 0.7)

    def timed(second: str, *endpoints: Any) -> list[float]:
        cluster.put(piece("web-1", *endpoints, changed=f"2026-{second}Z"))
        return cluster.state.take_changed()

    assert timed("03-01T00:00:00", "10.0.0.1") == []
    assert timed("03-01T00:00:00", "10.0.0.1", "10.0.0.2") == []
    assert timed("06-01T00:00:00", "10.0.0.1") == [began]  # it was in this second
    assert timed("06-01T00:00:09", "10.0.0.2") == [began + 9]
    assert timed("06-01T00:00:09", ready("10.0.0.2", node="node-a")) == []
    assert cluster.state.pending == 1
    cluster.state.put_slice("default/web-1", None)
    assert cluster.state.take_changed() == []


def test_new_rules_are_for_all() -> None:
    cluster = Cluster()
    cluster.put(service(externalIPs=["192.0.2.8"]))
    cluster.sync()
    assert len(cluster.table) == 2
    cluster.state.rules = Rules(external_ips=False)
    cluster.state.touch_all()
    cluster.sync()
    assert [*cluster.table] == [WEB]


def test_any_history_ends_where_a_fresh_start_would() -> None:
    """Random changes, synced now and then, against a state that sees only the last of each."""
    draw = random.Random(20260601)
    cluster = Cluster()
    last: dict[str, dict[str, Any]] = {}
    for step in range(3000):
        name = f"s{draw.randrange(12)}"
        if draw.random() < 0.5:
            value = service(
                name,
                f"10.96.0.{draw.randrange(1, 9)}",
                created=draw.choice((OLD, NEW)),
                type=draw.choice(("ClusterIP", "NodePort", "ExternalName")),
                ports=[
                    port(n, f"p{n}", nodePort=30000 + draw.randrange(4))
                    for n in range(80, 80 + draw.randrange(1, 3))
                ],
                externalIPs=[f"192.0.2.{draw.randrange(1, 5)}"] * draw.randrange(2),
            )
        else:
            endpoints = [f"10.0.0.{draw.randrange(1, 99)}" for _ in range(draw.randrange(4))]
            ports = [port(8080, "p80"), port(8081, "p81")]
            value = piece(f"x{draw.randrange(12)}", *endpoints, of=name, ports=ports)
        key = f"{value['kind']}/default/{value['metadata']['name']}"
        if draw.random() < 0.25:
            last.pop(key, None)
            if value["kind"] == "Service":
                cluster.state.put_service(key.partition("/")[2], None)
            else:
                cluster.state.put_slice(key.partition("/")[2], None)
        else:
            last[key] = value
            cluster.put(value)
        if step % 7 == 0:
            cluster.sync()
            fresh = Cluster()
            for each in last.values():
                fresh.put(each)
            fresh.sync()
            assert cluster.table == fresh.table
            assert cluster.state.problems == fresh.state.problems
            assert cluster.state.health == fresh.state.health
