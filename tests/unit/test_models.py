# SPDX-License-Identifier: Apache-2.0
"""The models: what they take, what they refuse and in which words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from hostreach.errors import InvalidInput
from hostreach.models import Backend, Frontend, Service, validate
from hostreach.rules import BACKENDS_MAX

from .strategies import services

VIP = "10.96.0.10:53/udp"


def test_frontend() -> None:
    frontend = Frontend.parse("[FD00:96::000A]:53/udp")
    assert (frontend.address, frontend.port, frontend.protocol) == ("fd00:96::a", 53, "udp")
    assert str(frontend) == "[fd00:96::a]:53/udp"
    assert frontend.family == 6
    assert Frontend.model_validate(str(frontend)) == frontend
    assert frontend.model_dump_json() == f'"{frontend}"'
    assert hash(frontend) == hash(Frontend.parse(str(frontend)))


def test_node_frontend() -> None:
    frontend = Frontend.parse("node:30080/tcp")
    assert (frontend.address, frontend.port, frontend.protocol) == ("node", 30080, "tcp")
    assert str(frontend) == "node:30080/tcp"
    assert frontend.family == 0
    assert Frontend.model_validate(str(frontend)) == frontend
    assert frontend.sort_key > Frontend.parse("[fdff::1]:65535/udp").sort_key


def test_node_frontend_takes_both_families() -> None:
    service = Service.of("node:30080/tcp", "10.0.0.2:80", "[fd00::2]:80")
    assert [backend.family for backend in service.backends] == [4, 6]


def test_backend() -> None:
    backend = Backend.parse("[fd00::2]:53,weight=3")
    assert (backend.host, backend.port, backend.family, backend.weight) == ("fd00::2", 53, 6, 3)
    assert str(backend) == "[fd00::2]:53,weight=3"
    assert str(Backend.parse("10.0.0.2:53")) == "10.0.0.2:53"
    assert Backend.parse("10.0.0.2:53").state == "active"
    for text in ("10.0.0.2:53,state=draining", "10.0.0.2:53,weight=0,state=down"):
        assert str(Backend.parse(text)) == text
    assert str(Backend.parse("10.0.0.2:53,state=active,weight=2")) == "10.0.0.2:53,weight=2"


def test_service() -> None:
    service = Service.of(VIP, "10.0.0.2:53", "10.0.0.3:53,weight=0", name="a/b:c")
    assert service.owner == "manual"
    assert service.algorithm == "random"
    assert (service.affinity, service.affinity_ms) == (None, 0)
    assert not service.host_only
    assert service.from_cgroup is None
    assert service.on_removal is None
    assert [backend.weight for backend in service.backends] == [1, 0]
    assert Service.of(VIP).backends == ()
    with pytest.raises(ValidationError):
        service.name = "x"


def test_service_with_all_options() -> None:
    service = Service.of(
        VIP,
        algorithm="least-conn",
        affinity="180m",
        host_only=True,
        from_cgroup="/sys/fs/cgroup//system.slice/",
        on_removal="keep",
    )
    assert service.algorithm == "least-conn"
    assert (service.affinity, service.affinity_ms) == ("3h", 10_800_000)
    assert service.host_only
    assert service.from_cgroup == "/sys/fs/cgroup/system.slice"
    assert service.on_removal == "keep"


def test_copy() -> None:
    service = Service.of(VIP, "10.0.0.2:53", name="a")
    other = Backend.parse("10.0.0.3:53")
    copy = service.model_copy(update={"backends": [other.model_copy(update={"weight": 3})]})
    assert copy == Service.of(VIP, "10.0.0.3:53,weight=3", name="a")
    assert hash(copy) == hash(Service.of(VIP, "10.0.0.3:53,weight=3", name="a"))
    assert service.model_copy() == service == service.model_copy(update={})


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"backends": [Backend.parse("10.0.0.2:53")] * 2}, "backend 10.0.0.2:53 is given twice"),
        (
            {"backends": [Backend.parse("[fd00::2]:53")]},
            f"backend [fd00::2]:53 is IPv6, but frontend {VIP} is IPv4",
        ),
        ({"algorithm": "rr"}, "algorithm must be random, maglev or least-conn, not 'rr'"),
        ({"host_only": "no"}, "host_only must be true or false, not 'no'"),
        ({"weight": 3}, "unknown key 'weight'"),
    ],
)
def test_bad_copy(update: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        Service.of(VIP, "10.0.0.2:53").model_copy(update=update)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("frontend", "on_removal", "removal"),
    [
        (VIP, None, "reset"),
        (VIP, "keep", "keep"),
        ("10.96.0.10:53/tcp", None, "keep"),
        ("node:53/tcp", "reset", "reset"),
    ],
)
def test_removal(frontend: str, on_removal: str | None, removal: str) -> None:
    assert Service.of(frontend, on_removal=on_removal).removal == removal


@given(services())
def test_dump_and_validate(service: Service) -> None:
    assert Service.model_validate(service.model_dump(mode="json")) == service
    assert Service.model_validate_json(service.model_dump_json()) == service


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.2",
        "10.0.0.2:0",
        "10.0.0.2:53,",
        "10.0.0.2:53,weight",
        "10.0.0.2:53,weight=",
        "10.0.0.2:53,weight=-1",
        "10.0.0.2:53,weight=65536",
        "10.0.0.2:53,weight=x",
        "10.0.0.2:53,weight=1,weight=1",
        "10.0.0.2:53,wieght=1",
        "10.0.0.2:53,state",
        "10.0.0.2:53,state=",
        "10.0.0.2:53,state=drain",
        "10.0.0.2:53,state=Down",
        "10.0.0.2:53,state=1",
        "10.0.0.2:53,state=down,state=down",
        "10.0.0.2:53,draining",
        "node:53",
        "10.0.0.2:53,weight=" + "9" * 5000,
        "10.0.0.2:53/udp",
        "224.0.0.1:53",
        "0.0.0.0:53",
        "[fe80::1]:53",
    ],
)
def test_bad_backend(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Backend.parse(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({}, "frontend is missing", id="no frontend"),
        pytest.param({"frontend": VIP, "nmae": "x"}, "unknown key 'nmae'", id="unknown key"),
        pytest.param({"frontend": 53}, "frontend must be a string such as", id="number"),
        pytest.param({"frontend": VIP, "name": 1}, "name must be a string, not 1;", id="name"),
        pytest.param({"frontend": VIP, "name": "x" * 10_000}, "10000 bytes long", id="long name"),
        pytest.param({"frontend": VIP, "owner": None}, "owner must be a string", id="owner"),
        pytest.param({"frontend": VIP, "owner": "x" * 64}, "64 bytes long", id="long owner"),
        pytest.param({"frontend": VIP, "algorithm": "best"}, "random, maglev or", id="algorithm"),
        pytest.param(
            {"frontend": VIP, "algorithm": None}, "algorithm must be random", id="empty algorithm"
        ),
        pytest.param({"frontend": VIP, "affinity": 30}, "affinity must be a duration", id="30"),
        pytest.param(
            {"frontend": VIP, "affinity": "30"}, "affinity '30' is no duration", id="'30'"
        ),
        pytest.param({"frontend": VIP, "affinity": ""}, "affinity '' is no duration", id="no time"),
        pytest.param({"frontend": VIP, "affinity": "1.5h"}, "'1.5h' is no duration", id="fraction"),
        pytest.param({"frontend": VIP, "affinity": "-3h"}, "'-3h' is no duration", id="negative"),
        pytest.param({"frontend": VIP, "affinity": "0s"}, "at least 1ms", id="0s"),
        pytest.param({"frontend": VIP, "affinity": "50d"}, "too long; at most 49d", id="50 days"),
        pytest.param(
            {"frontend": VIP, "host_only": 1}, "must be true or false, not 1", id="host 1"
        ),
        pytest.param({"frontend": VIP, "host_only": "yes"}, "not 'yes'", id="host yes"),
        pytest.param({"frontend": VIP, "host_only": None}, "not empty", id="host null"),
        pytest.param(
            {"frontend": VIP, "from_cgroup": "system.slice"},
            "from_cgroup 'system.slice' is no absolute path",
            id="relative cgroup",
        ),
        pytest.param(
            {"frontend": VIP, "from_cgroup": "/sys/../x"}, "without . and ..", id="cgroup upwards"
        ),
        pytest.param(
            {"frontend": VIP, "from_cgroup": 7}, "a string such as /sys/fs", id="cgroup 7"
        ),
        pytest.param(
            {"frontend": VIP, "on_removal": "close"},
            "on_removal must be reset or keep, not 'close'",
            id="on_removal",
        ),
        pytest.param({"frontend": "node:0/tcp"}, "'0' is no port", id="node's port 0"),
        pytest.param({"frontend": "Node:1/tcp"}, "is no IPv4 or IPv6 address", id="Node"),
        pytest.param(
            {"frontend": "node:1/tcp", "backends": [{"address": "node:1"}]},
            "is no IPv4 or IPv6 address",
            id="node as a backend",
        ),
        pytest.param(
            {
                "frontend": "node:1/tcp",
                "backends": [
                    {"address": "10.0.0.2:1"},
                    {"address": "[fd00::2]:1"},
                    {"address": "10.0.0.2:1", "state": "down"},
                ],
            },
            "backend 10.0.0.2:1 is given twice",
            id="node's duplicate",
        ),
        pytest.param(
            {"frontend": VIP, "backends": [{"address": "10.0.0.2:53", "state": "drain"}]},
            "state must be active, draining or down, not 'drain'",
            id="state",
        ),
        pytest.param(
            {"frontend": VIP, "backends": [{"address": "10.0.0.2:53", "state": None}]},
            "not empty",
            id="null state",
        ),
        pytest.param(
            {"frontend": VIP, "backends": [{"address": "10.0.0.2:53", "state": True}]},
            "not true",
            id="true state",
        ),
        pytest.param({"frontend": VIP, "backends": 1}, "backends must be a list", id="backends"),
        pytest.param({"frontend": VIP, "backends": ["x"]}, "entry of backends", id="text backend"),
        pytest.param(
            {"frontend": VIP, "backends": [{"weight": 1}]}, "address is missing", id="no address"
        ),
        pytest.param(
            {"frontend": VIP, "backends": [{"address": "[fd00::1]:53"}]},
            "backend [fd00::1]:53 is IPv6, but frontend 10.96.0.10:53/udp is IPv4",
            id="IPv6 behind IPv4",
        ),
        pytest.param(
            {"frontend": "[fd00::1]:53/udp", "backends": [{"address": "10.0.0.2:53"}]},
            "backend 10.0.0.2:53 is IPv4, but frontend [fd00::1]:53/udp is IPv6",
            id="IPv4 behind IPv6",
        ),
        pytest.param(
            {"frontend": VIP, "backends": [{"address": "10.0.0.2:53"}, {"address": "10.0.0.2:53"}]},
            "backend 10.0.0.2:53 is given twice",
            id="duplicate",
        ),
        pytest.param(
            {
                "frontend": "[fd00::1]:1/tcp",
                "backends": [{"address": "[fd00:0::2]:1"}, {"address": "[FD00::2]:1", "weight": 2}],
            },
            "backend [fd00::2]:1 is given twice",
            id="duplicate in other words",
        ),
    ],
)
def test_bad_service(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        validate(Service, values, "here")
    assert str(caught.value).startswith("here: ")
    assert message in str(caught.value)
    assert "Input should" not in str(caught.value)


@pytest.mark.parametrize("weight", [-1, 65536, True, "3", 1.0, None, [], 10**30])
def test_bad_weight(weight: object) -> None:
    with pytest.raises(InvalidInput, match="weight must be an integer from 0 to 65535, not "):
        validate(Backend, {"address": "10.0.0.2:53", "weight": weight})


def test_backends_are_limited() -> None:
    addresses = [f"10.0.{i >> 8}.{i & 255}:53" for i in range(1, BACKENDS_MAX + 2)]
    assert len(Service.of(VIP, *addresses[:-1]).backends) == BACKENDS_MAX
    with pytest.raises(InvalidInput, match="at most 4096 backends, not a list of 4097"):
        Service.of(VIP, *addresses)


def test_maglev_takes_no_more_than_slots() -> None:
    addresses = [f"10.0.{i >> 8}.{i & 255}:53" for i in range(1, 4095)]
    assert Service.of(VIP, *addresses[:-1], algorithm="maglev").algorithm == "maglev"
    with pytest.raises(InvalidInput, match="maglev takes at most 4093 backends, not 4094"):
        Service.of(VIP, *addresses, algorithm="maglev")
