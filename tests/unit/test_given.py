# SPDX-License-Identifier: Apache-2.0
"""What command lines say is taken, or refused, as the models do it, with them or without."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostreach.cli.given import backend_of, service_of
from hostreach.cli.options import of_option
from hostreach.errors import InvalidInput
from hostreach.models import Backend, Service
from hostreach.plain import plain_service
from hostreach.syntax import parse_backend

frontends = st.sampled_from(
    ["10.96.0.1:80/tcp", "[fd00::a]:53/udp", "[FD00::a]:53/udp", "node:30080/tcp", "10.96.0.1:80"]
)
backends = st.sampled_from(
    [
        *("10.0.0.1:80", "10.0.0.2:80,weight=3", "10.0.0.3:80,state=down,weight=0", "[fd00::1]:1"),
        *("10.0.0.1:80,weight=-1", "10.0.0.1:80,weight=65536", "10.0.0.1:80,state=up", "x", ""),
        *("10.0.0.1:80,weight=1,weight=1", "10.0.0.1:80,w=1", "10.0.0.1", "10.0.0.1:80,"),
    ]
)
options = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from([None, "a", "ns/web:http", "", "é", "a b", "a" * 256]),
        "algorithm": st.sampled_from(["random", "maglev", "least-conn", "rr"]),
        "affinity": st.sampled_from([None, "3h", "0", "x"]),
        "host_only": st.booleans(),
        "from_cgroup": st.sampled_from([None, "/sys/fs/cgroup/a", "a"]),
        "source_ranges": st.sampled_from([None, "10.0.0.0/8", "10.0.0.1/8"]),
        "on_removal": st.sampled_from([None, "reset", "keep", "none"]),
    },
)


def outcome(made: Any) -> object:
    """What a call gives, whichever form it has, or says."""
    try:
        found = made()
    except InvalidInput as error:
        return str(error)
    if isinstance(found, Service):
        return plain_service(found, lambda _: (0, 0))
    return (found.address, found.weight, found.state) if isinstance(found, Backend) else found


@given(frontends, st.lists(backends, max_size=3), options)
def test_services(frontend: str, said: list[str], more: dict[str, Any]) -> None:
    """What is wrong with a field is told of the option that is named like it."""

    def by_model() -> Service:
        try:
            return Service.of(frontend, *said, owner="web", **more)
        except InvalidInput as error:
            raise of_option(error, *more) from None

    assert outcome(lambda: service_of(frontend, said, owner="web", **more)) == outcome(by_model)


@given(
    frontends,
    st.sampled_from(
        ["10.0.0.1:80", "[fd00::1]:80", "[FD00::1]:80", "10.0.0.1", "x", "224.0.0.1:1"]
    ),
    st.integers(-1, 65536),
    st.sampled_from(["active", "draining", "down", "up"]),
)
def test_backends(frontend: str, address: str, weight: int, state: str) -> None:
    """Whether the service takes it is another question."""
    made = outcome(lambda: backend_of(frontend, address, weight, state))
    text = f"{address},weight={weight},state={state}"
    if weight >= 0 and not isinstance(made, str):
        assert made == outcome(lambda: Backend.parse(text))
    else:
        with pytest.raises(InvalidInput):
            Backend.parse(text)


@pytest.mark.usefixtures("compiled")
def test_what_most_lines_say_needs_no_model() -> None:
    said = ["10.0.0.1:80", "10.0.0.2:80,weight=3,state=draining"]
    service = service_of("10.96.0.1:80/tcp", said, owner="web", algorithm="maglev", name=None)
    assert isinstance(service, tuple)
    assert isinstance(backend_of("10.96.0.1:80/tcp", "10.0.0.1:80", 3, "down"), tuple)


def test_values_are_not_checked_when_they_are_split() -> None:
    assert parse_backend("x,weight=y,state=") == {"address": "x", "weight": "y", "state": ""}
    assert parse_backend("x,weight=07") == {"address": "x", "weight": 7}
