# SPDX-License-Identifier: Apache-2.0
"""A Service's addresses beside its cluster IP, and the families of all."""

from __future__ import annotations

import pytest
from kube.objects import leaving, piece, port, ready, service, unready

from hostreach.sources.kubernetes.services import Rules

from .made import backends, made


def test_node_port_is_of_its_types_alone() -> None:
    ports = [port(nodePort=30080)]
    assert "node:30080/tcp" in backends(service(type="NodePort", ports=ports))
    assert "node:30080/tcp" in backends(service(type="LoadBalancer", ports=ports))
    assert "node:30080/tcp" not in backends(service(type="ClusterIP", ports=ports))
    assert "node:30080/tcp" not in backends(
        service(type="NodePort", ports=ports), rules=Rules(node_ports=False)
    )


def test_one_node_port_for_two_protocols() -> None:
    ports = [port(53, "a", "UDP", nodePort=30053), port(53, "b", "TCP", nodePort=30053)]
    found = backends(service(type="NodePort", ports=ports))
    assert {"node:30053/udp", "node:30053/tcp"} < found.keys()


def test_no_node_port_allocated() -> None:
    """allocateLoadBalancerNodePorts=false: the load balancer's address works all the same."""
    value = service(
        type="LoadBalancer", allocateLoadBalancerNodePorts=False, ingress=[{"ip": "192.0.2.9"}]
    )
    assert [*backends(value)] == ["10.96.0.10:80/tcp", "192.0.2.9:80/tcp"]


def test_external_ips() -> None:
    value = service(externalIPs=["192.0.2.8", "2001:db8::8"])
    assert [*backends(value)] == ["10.96.0.10:80/tcp", "192.0.2.8:80/tcp"]  # of its families
    assert [*backends(value, rules=Rules(external_ips=False))] == ["10.96.0.10:80/tcp"]


def test_addresses_as_they_may_be_stored() -> None:
    """As ParseIPSloppy reads them."""
    value = service(
        "web",
        "010.96.000.010",
        type="LoadBalancer",
        externalIPs=["192.000.002.008", "::ffff:192.0.2.7"],
        ingress=[{"ip": "192.00.2.09"}],
    )
    assert backends(value, piece("web-1", "010.0.0.01")) == {
        "10.96.0.10:80/tcp": "10.0.0.1:8080",
        "192.0.2.8:80/tcp": "10.0.0.1:8080",
        "192.0.2.7:80/tcp": "10.0.0.1:8080",
        "192.0.2.9:80/tcp": "10.0.0.1:8080",
    }


def test_load_balancer_ingress_by_mode() -> None:
    ingress: list[dict[str, str]] = [
        {"ip": "192.0.2.1"},
        {"ip": "192.0.2.2", "ipMode": "VIP"},
        {"ip": "192.0.2.3", "ipMode": "Proxy"},
        {"hostname": "lb.example.org"},
    ]
    found = [*backends(service(type="LoadBalancer", ingress=ingress))]
    assert found == ["10.96.0.10:80/tcp", "192.0.2.1:80/tcp", "192.0.2.2:80/tcp"]
    assert [*backends(service(type="ClusterIP", ingress=ingress))] == ["10.96.0.10:80/tcp"]


def test_an_address_in_two_roles_is_one_entry() -> None:
    value = service(type="LoadBalancer", externalIPs=["192.0.2.1"], ingress=[{"ip": "192.0.2.1"}])
    assert [*backends(value)] == ["10.96.0.10:80/tcp", "192.0.2.1:80/tcp"]


def test_dual_stack() -> None:
    value = service(
        "web",
        "10.96.0.10",
        "fd00:96::a",
        type="NodePort",
        ports=[port(nodePort=30080)],
        externalIPs=["2001:db8::8"],
    )
    pieces = [piece("web-1", "10.0.0.1"), piece("web-2", "fd00::1")]
    assert backends(value, *pieces) == {
        "10.96.0.10:80/tcp": "10.0.0.1:8080",
        "[fd00:96::a]:80/tcp": "[fd00::1]:8080",
        "[2001:db8::8]:80/tcp": "[fd00::1]:8080",
        "node:30080/tcp": "10.0.0.1:8080 [fd00::1]:8080",
    }


def test_ipv6_alone() -> None:
    value = service("web", "fd00:96::a", type="NodePort", ports=[port(nodePort=30080)])
    assert backends(value, piece("web-1", "10.0.0.1"), piece("web-2", "fd00::1")) == {
        "[fd00:96::a]:80/tcp": "[fd00::1]:8080",
        "node:30080/tcp": "[fd00::1]:8080",
    }


@pytest.mark.parametrize(("fours", "sixes", "kept"), [(5000, 5000, 2048), (5000, 96, 4000)])
def test_neither_family_takes_all_the_room_of_a_node_port(
    fours: int, sixes: int, kept: int
) -> None:
    value = service("web", "10.96.0.10", "fd00:96::a", type="NodePort", ports=[port(nodePort=1)])
    found, problems = made(
        value,
        piece("web-1", *(f"10.{n >> 8}.{n & 255}.1" for n in range(fours))),
        piece("web-2", *(f"fd00::{n + 1:x}" for n in range(sixes))),
    )
    both = [address for address, _, _ in found["node:1/tcp"][6]]
    assert len(both) == 4096
    assert sum("[" not in address for address in both) == kept
    assert "endpoints" in problems


def test_families_choose_on_their_own() -> None:
    value = service("web", "10.96.0.10", "fd00:96::a")
    pieces = [
        piece("web-1", unready("10.0.0.1")),
        piece("web-2", leaving("fd00::1"), ready("fd00::2")),
    ]
    assert backends(value, *pieces) == {
        "10.96.0.10:80/tcp": "",
        "[fd00:96::a]:80/tcp": "[fd00::2]:8080 ~[fd00::1]:8080",
    }
