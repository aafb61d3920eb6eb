# SPDX-License-Identifier: Apache-2.0
"""The models: what they take, what they refuse and in which words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from hostreach.errors import InvalidInput
from hostreach.models import BACKENDS_MAX, Backend, Frontend, Service, validate

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


def test_backend() -> None:
    backend = Backend.parse("[fd00::2]:53,weight=3")
    assert (backend.host, backend.port, backend.family, backend.weight) == ("fd00::2", 53, 6, 3)
    assert str(backend) == "[fd00::2]:53,weight=3"
    assert str(Backend.parse("10.0.0.2:53")) == "10.0.0.2:53"


def test_service() -> None:
    service = Service.of(VIP, "10.0.0.2:53", "10.0.0.3:53,weight=0", name="a/b:c")
    assert service.owner == "manual"
    assert service.algorithm == "random"
    assert [backend.weight for backend in service.backends] == [1, 0]
    assert Service.of(VIP).backends == ()
    with pytest.raises(ValidationError):
        service.name = "x"


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
        pytest.param({"frontend": VIP, "algorithm": "best"}, "must be random", id="algorithm"),
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
