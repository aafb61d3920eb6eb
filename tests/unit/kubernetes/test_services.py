# SPDX-License-Identifier: Apache-2.0
"""What a Service and its EndpointSlices become: a test for each rule of a service proxy."""

from __future__ import annotations

from typing import Any

import pytest
from kube.objects import (
    endpoint,
    leaving,
    piece,
    port,
    ready,
    service,
    taken_service,
    taken_slice,
    unready,
)

from hostreach.errors import InvalidInput
from hostreach.sources.kubernetes.services import OWNER, Rules, local_ready

from .made import backends, made

# --- which services and slices -----------------------------------------------------------------


def test_a_plain_service() -> None:
    found, problems = made(
        service("web", ports=[port(80, "http")]),
        piece("web-1", "10.0.0.1", ports=[port(8080, "http")]),
    )
    assert not problems
    assert found == {
        "10.96.0.10:80/tcp": (
            *("10.96.0.10", 80, "tcp", "default/web:http", OWNER, "random"),
            *([("10.0.0.1:8080", 1, "active")], 0, False, None, None, None),
        )
    }


@pytest.mark.parametrize("vip", ["None", ""])
def test_headless_is_skipped(vip: str) -> None:
    assert taken_service(service("web", clusterIP=vip, clusterIPs=[vip] if vip else [])) is None


def test_external_name_is_skipped() -> None:
    assert taken_service(service("web", type="ExternalName", externalName="example.org")) is None


def test_another_proxys_service_is_skipped() -> None:
    assert (
        taken_service(service(labels={"service.kubernetes.io/service-proxy-name": "other"})) is None
    )
    # The label's presence counts, not its value.
    assert taken_service(service(labels={"service.kubernetes.io/service-proxy-name": ""})) is None


def test_slices_of_headless_services_are_skipped() -> None:
    assert taken_slice(piece(labels={"service.kubernetes.io/headless": ""})) is None


def test_slices_without_a_service_are_skipped() -> None:
    assert taken_slice(piece(of=None)) is None


def test_slices_of_names_are_skipped() -> None:
    assert taken_slice({**piece("web-1"), "addressType": "FQDN"}) is None


def test_ignored_fields_change_nothing() -> None:
    """loadBalancerClass, loadBalancerIP, appProtocol, and unknown ones of a later version."""
    plain, _ = made(service())
    more, problems = made(
        service(
            loadBalancerClass="example.org/x",
            loadBalancerIP="192.0.2.9",
            ports=[port(appProtocol="h2c", targetPort="named")],
            somethingNew={"a": [1]},
        )
    )
    assert (more, problems) == (plain, [])


# --- ports -------------------------------------------------------------------------------------


def test_ports_are_matched_by_name_and_protocol() -> None:
    ports = [port(53, "dns", "UDP"), port(53, "dns-tcp"), port(9153, "metrics")]
    pieces = [
        piece("web-1", "10.0.0.1", ports=[port(1053, "dns", "UDP"), port(1054, "dns-tcp")]),
        piece("web-2", "10.0.0.2", ports=[port(53, "dns", "TCP"), port(9153, "metrics")]),
    ]
    assert backends(service(ports=ports), *pieces) == {
        "10.96.0.10:53/udp": "10.0.0.1:1053",
        "10.96.0.10:53/tcp": "10.0.0.1:1054",
        "10.96.0.10:9153/tcp": "10.0.0.2:9153",
    }


def test_a_named_port_may_differ_in_each_slice() -> None:
    pieces = [
        piece("web-1", "10.0.0.1", ports=[port(8080, "http")]),
        piece("web-2", "10.0.0.2", ports=[port(9090, "http")]),
    ]
    assert backends(service(ports=[port(80, "http")]), *pieces) == {
        "10.96.0.10:80/tcp": "10.0.0.1:8080 10.0.0.2:9090"
    }


@pytest.mark.parametrize(
    "bad", [{"name": None, "port": 80}, {"name": "", "port": None}, {"name": "", "port": 0}]
)
def test_slice_ports_without_name_or_number_are_ignored(bad: dict[str, object]) -> None:
    assert backends(service(), piece("web-1", "10.0.0.1", ports=[bad])) == {"10.96.0.10:80/tcp": ""}


def test_a_protocol_left_out_is_tcp() -> None:
    bare = {"name": "", "port": 8080}
    found = backends(service(ports=[{"port": 80}]), piece("web-1", "10.0.0.1", ports=[bare]))
    assert found == {"10.96.0.10:80/tcp": "10.0.0.1:8080"}


def test_sctp_ports_are_skipped_and_reported() -> None:
    ports = [port(80, "http"), port(81, "sctp", "SCTP")]
    found, problems = made(service(ports=ports))
    assert [*found] == ["10.96.0.10:80/tcp"]
    assert problems == ["sctp"]


def test_protocols_that_are_not_wanted() -> None:
    ports = [port(53, "dns", "UDP"), port(53, "dns-tcp")]
    found, problems = made(service(ports=ports), rules=Rules(frozenset(["tcp"])))
    assert ([*found], problems) == (["10.96.0.10:53/tcp"], [])


# --- endpoints ---------------------------------------------------------------------------------


def test_only_the_first_address_counts() -> None:
    found = backends(service(), piece("web-1", ready("10.0.0.1", more=["10.0.0.2"])))
    assert found == {"10.96.0.10:80/tcp": "10.0.0.1:8080"}


def test_an_endpoint_in_two_slices_is_taken_once_at_its_best() -> None:
    pieces = [
        piece("web-1", leaving("10.0.0.1"), unready("10.0.0.2")),
        piece("web-2", ready("10.0.0.1"), ready("10.0.0.2")),
    ]
    for each in (pieces, pieces[::-1]):
        assert backends(service(), *each) == {"10.96.0.10:80/tcp": "10.0.0.1:8080 10.0.0.2:8080"}


def test_an_endpoint_twice_in_one_slice() -> None:
    twice = piece("web-1", unready("10.0.0.1"), ready("10.0.0.1"))
    assert backends(service(), twice) == {"10.96.0.10:80/tcp": "10.0.0.1:8080"}


def test_the_order_of_slices_does_not_show() -> None:
    pieces = [piece(f"web-{n}", f"10.0.0.{n}") for n in range(1, 6)]
    assert made(service(), *pieces) == made(service(), *pieces[::-1])


def test_an_unready_pod_published_all_the_same() -> None:
    """publishNotReadyAddresses: the controller says ready, so there is nothing to do here."""
    published = endpoint("10.0.0.1", ready=True, serving=False, terminating=False)
    assert backends(service(), piece("web-1", published)) == {"10.96.0.10:80/tcp": "10.0.0.1:8080"}


def test_no_endpoints_refuse() -> None:
    """An entry without backends is what makes connect say ECONNREFUSED."""
    assert backends(service()) == {"10.96.0.10:80/tcp": ""}
    assert backends(service(), piece("web-1", unready("10.0.0.1"))) == {"10.96.0.10:80/tcp": ""}


def test_a_port_without_endpoints_refuses_beside_one_that_has_them() -> None:
    ports = [port(80, "http"), port(443, "https")]
    found = backends(service(ports=ports), piece("web-1", "10.0.0.1", ports=[port(8080, "http")]))
    assert found == {"10.96.0.10:80/tcp": "10.0.0.1:8080", "10.96.0.10:443/tcp": ""}


def test_all_that_serve_while_all_are_leaving() -> None:
    found = backends(
        service(), piece("web-1", leaving("10.0.0.1"), leaving("10.0.0.2", serving=False))
    )
    assert found == {"10.96.0.10:80/tcp": "10.0.0.1:8080"}


def test_leaving_endpoints_drain() -> None:
    found = backends(service(), piece("web-1", leaving("10.0.0.1"), ready("10.0.0.2")))
    assert found == {"10.96.0.10:80/tcp": "10.0.0.2:8080 ~10.0.0.1:8080"}


# --- policies ----------------------------------------------------------------------------------


def test_internal_policy_local_is_for_the_cluster_ip_alone() -> None:
    value = service(type="NodePort", internalTrafficPolicy="Local", ports=[port(nodePort=30080)])
    slices = piece("web-1", ready("10.0.0.1", node="node-a"), ready("10.0.0.2", node="node-b"))
    assert backends(value, slices) == {
        "10.96.0.10:80/tcp": "10.0.0.1:8080",
        "node:30080/tcp": "10.0.0.1:8080 10.0.0.2:8080",
    }


def test_internal_policy_local_without_a_local_endpoint_refuses() -> None:
    value = service(internalTrafficPolicy="Local")
    assert backends(value, piece("web-1", ready("10.0.0.2", node="node-b"))) == {
        "10.96.0.10:80/tcp": ""
    }


def test_internal_policy_local_falls_back_to_what_still_serves_here() -> None:
    value = service(internalTrafficPolicy="Local")
    slices = piece("web-1", leaving("10.0.0.1", node="node-a"), ready("10.0.0.2", node="node-b"))
    assert backends(value, slices) == {"10.96.0.10:80/tcp": "10.0.0.1:8080"}


def test_external_policy_local_is_not_for_local_clients() -> None:
    value = service(
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        ports=[port(nodePort=30080)],
        externalIPs=["192.0.2.8"],
        ingress=[{"ip": "192.0.2.9"}],
    )
    slices = piece("web-1", ready("10.0.0.1", node="node-a"), ready("10.0.0.2", node="node-b"))
    both = "10.0.0.1:8080 10.0.0.2:8080"
    assert backends(value, slices) == {
        "10.96.0.10:80/tcp": both,
        "192.0.2.8:80/tcp": both,
        "192.0.2.9:80/tcp": both,
        "node:30080/tcp": both,
    }


def test_hints_are_looked_at_for_each_port() -> None:
    ports = [port(80, "http"), port(443, "https")]
    pieces = [
        piece(
            "web-1",
            ready("10.0.0.1", zones=["zone-a"]),
            ready("10.0.0.2", zones=["zone-b"]),
            ports=[port(8080, "http")],
        ),
        piece(
            "web-2",
            ready("10.0.0.3", zones=["zone-a"]),
            ready("10.0.0.4"),
            ports=[port(8443, "https")],
        ),
    ]
    assert backends(service(ports=ports), *pieces) == {
        "10.96.0.10:80/tcp": "10.0.0.1:8080",
        "10.96.0.10:443/tcp": "10.0.0.3:8443 10.0.0.4:8443",
    }


def test_what_is_far_now_still_serves_its_udp_sockets() -> None:
    """Their backend is not to go, which would reset them; nothing new comes to it."""
    ports = [port(53, "dns", "UDP"), port(53, "dns-tcp")]
    pieces = [
        piece(
            "web-1",
            ready("10.0.0.1", zones=["zone-a"]),
            ready("10.0.0.2", zones=["zone-b"]),
            unready("10.0.0.3", zones=["zone-b"]),
            ports=ports,
        )
    ]
    assert backends(service(ports=ports), *pieces) == {
        "10.96.0.10:53/udp": "10.0.0.1:53 ~10.0.0.2:53",
        "10.96.0.10:53/tcp": "10.0.0.1:53",
    }
    sticky = service(ports=ports, sessionAffinity="ClientIP")
    assert backends(sticky, *pieces) == {
        "10.96.0.10:53/udp": "10.0.0.1:53",
        "10.96.0.10:53/tcp": "10.0.0.1:53",
    }


def test_traffic_distribution_itself_is_not_read() -> None:
    value = service(trafficDistribution="PreferSameNode")
    slices = piece("web-1", "10.0.0.1", "10.0.0.2")
    assert backends(value, slices) == backends(service(), slices)


# --- affinity ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "milliseconds"),
    [
        ({}, 10_800_000),
        ({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}}}, 10_000),
        ({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86400}}}, 86_400_000),
    ],
)
def test_client_ip_affinity(config: dict[str, Any], milliseconds: int) -> None:
    found, _ = made(service(sessionAffinity="ClientIP", **config))
    assert found["10.96.0.10:80/tcp"][7] == milliseconds
    assert made(service(sessionAffinity="None", **config))[0]["10.96.0.10:80/tcp"][7] == 0


@pytest.mark.parametrize("seconds", [0, -1, 86401])
def test_an_affinity_that_cannot_be(seconds: int) -> None:
    config = {"clientIP": {"timeoutSeconds": seconds}}
    with pytest.raises(InvalidInput, match="timeout"):
        taken_service(service(sessionAffinity="ClientIP", sessionAffinityConfig=config))


def test_affinity_never_keeps_to_a_leaving_endpoint() -> None:
    """A draining backend keeps its sticky clients, so it is not there at all."""
    value = service(sessionAffinity="ClientIP")
    assert backends(value, piece("web-1", leaving("10.0.0.1"), ready("10.0.0.2"))) == {
        "10.96.0.10:80/tcp": "10.0.0.2:8080"
    }
    assert backends(value, piece("web-1", leaving("10.0.0.1"))) == {
        "10.96.0.10:80/tcp": "10.0.0.1:8080"
    }


# --- healthCheckNodePort -----------------------------------------------------------------------


def test_health_check_node_port_is_for_local_external_policy() -> None:
    def of(**spec: Any) -> int:
        kube = taken_service(service(healthCheckNodePort=32000, **spec))
        assert kube is not None
        return kube.health_port

    assert of(type="LoadBalancer", externalTrafficPolicy="Local") == 32000
    assert of(type="LoadBalancer", externalTrafficPolicy="Cluster") == 0
    assert of(type="NodePort", externalTrafficPolicy="Local") == 0


def test_health_counts_ready_endpoints_of_this_node_once() -> None:
    pieces = [
        piece("web-1", ready("10.0.0.1", node="node-a"), ready("10.0.0.2", node="node-b")),
        piece("web-2", ready("10.0.0.1", node="node-a"), leaving("10.0.0.3", node="node-a")),
    ]
    slices = [taken for each in pieces if (taken := taken_slice(each))]
    assert local_ready(slices) == 1
    both = [
        piece(f"web-{n}", ready(at, node="node-a")) for n, at in enumerate(("10.0.0.1", "fd::1"))
    ]
    slices = [taken for each in both if (taken := taken_slice(each))]
    assert local_ready(slices) == 1
