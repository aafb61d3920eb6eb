# SPDX-License-Identifier: Apache-2.0
"""What the compiled module takes without the models is what the models make of it, or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from hostreach.errors import InvalidInput
from hostreach.models import Service
from hostreach.plain import plain_service
from hostreach.services import Services
from hostreach.sources.compiled import common_form, count_keys
from hostreach.sources.file import load_changes
from hostreach.testing import MemoryTable

pytestmark = pytest.mark.usefixtures("compiled")

PLAIN = {
    "frontend": "10.96.0.1:80/tcp",
    "backends": [{"address": "10.0.0.1:80"}, {"address": "10.0.0.2:80", "weight": 3}],
}
ODD: list[Any] = [None, True, False, 0, 1, -1, 1.0, 65535, 65536, 1 << 64, "", " ", "x", [], {}]

addresses = st.sampled_from(
    [
        *("10.0.0.1", "10.0.0.2", "0.0.0.0", "0.0.0.1", "127.0.0.1", "224.0.0.1", "240.0.0.1"),
        *("255.255.255.255", "010.0.0.1", "10.0.0", "node", "[fd00::1]", "[fd00::2]", "[FD00::1]"),
        *("[fd00:0::1]", "[::]", "[::1]", "[fe80::1]", "[ff02::1]", "[::ffff:10.0.0.1]", "fd00::1"),
        *("[2001:db8::1]", "[10.0.0.1]", "[fd00::1%eth0]", ""),
    ]
)
ports = st.sampled_from(["1", "80", "65535", "0", "65536", "080", "+80", "", " 80", "8_0", "٣"])
endpoints = st.builds("{}:{}".format, addresses, ports)
frontends = st.builds("{}/{}".format, endpoints, st.sampled_from(["tcp", "udp", "TCP", "", "sctp"]))
odd = st.sampled_from(ODD)
labels = st.one_of(st.text(max_size=4), st.sampled_from(["a" * 63, "a" * 64, "a" * 256, "é"]))
backends = st.one_of(
    odd,
    st.fixed_dictionaries(
        {"address": st.one_of(endpoints, st.just("10.0.0.1:80"), odd)},
        optional={
            "weight": odd,
            "state": st.one_of(st.sampled_from(["active", "draining", "down", "up"]), odd),
            "port": odd,
        },
    ),
)
services = st.one_of(
    odd,
    st.fixed_dictionaries(
        {"frontend": st.one_of(frontends, st.just("10.96.0.1:80/tcp"), odd)},
        optional={
            "name": st.one_of(labels, odd),
            "owner": st.one_of(labels, odd),
            "algorithm": st.one_of(st.sampled_from(["random", "maglev", "least-conn"]), odd),
            "host_only": odd,
            "on_removal": st.one_of(st.sampled_from(["reset", "keep", "none"]), odd),
            "affinity": st.one_of(st.just("3h"), odd),
            "source_ranges": st.one_of(st.just("10.0.0.0/8"), odd),
            "backends": st.one_of(st.lists(backends, max_size=4), odd),
            "check": odd,
        },
    ),
)


def by_models(entry: object) -> object:
    if not isinstance(entry, dict):
        return None
    try:
        model = Service.model_validate({"owner": "web", **entry})
    except ValidationError:
        return None
    return plain_service(model, lambda _: (0, 0))


@given(services)
@example(PLAIN)
@example({**PLAIN, "on_removal": "none"})
@example({**PLAIN, "backends": [PLAIN, PLAIN]})
def test_as_the_models_have_it(entry: object) -> None:
    (plain,) = common_form([entry], "web")
    assert plain is None or plain == by_models(entry)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"name": "kube-system/dns:dns", "owner": "a", "algorithm": "maglev", "host_only": True},
        {"on_removal": "keep", "algorithm": "least-conn"},
        {"frontend": "[fd00:96::1]:53/udp", "backends": [{"address": "[fd00::1]:53"}]},
        {"backends": [{"address": "10.0.0.1:80", "weight": 0, "state": "draining"}]},
        {"backends": []},
    ],
    ids=str,
)
def test_what_most_files_have_is_taken(more: dict[str, object]) -> None:
    """Or all would be as slow as before."""
    entry = {**PLAIN, **more}
    assert common_form([entry], "web") == [by_models(entry)]


@pytest.mark.parametrize(
    "text",
    [
        '{"frontend": "10.96.0.1:80/tcp", "owner": "a", "owner": "b"}',
        '{"frontend": "10.96.0.1:80/tcp", "owner" : "a", "owner": "b"}',
        '{"frontend": "10.96.0.1:80/tcp", "owner"\t: "a", "owner"\t:"b"}',
        '{"frontend": "10.96.0.1:80/tcp", "o\\u0077ner": "a", "owner": "b"}',
        '{"frontend": "10.96.0.1:80/tcp", "owner": "a", "owner": "\\":"}',
        '{"frontend": "10.96.0.1:80/tcp"} {"frontend": "10.96.0.2:80/tcp"}',
        '{"frontend": "10.96.0.1:80/tcp", "backends": [\n]}',
        '{"frontend": "10.96.0.1:80/tcp", "backends": [{"address": "10.0.0.1:80", "weight": 1e0}]}',
        '{"frontend": "10.96.0.1:80/tcp", "backends": [{"address": "10.0.0.1:80", "weight": NaN}]}',
    ],
)
def test_no_quick_way_past_the_rules(tmp_path: Path, text: str) -> None:
    file = tmp_path / "lines"
    file.write_text(text)
    with pytest.raises(InvalidInput):
        load_changes(str(file))


def test_quotes_and_colons_in_values_are_no_keys(tmp_path: Path) -> None:
    """They only make it slow."""
    named = {**PLAIN, "name": '":":":'}
    spaced = json.dumps(PLAIN, separators=(", ", " : "))
    for number, text in enumerate((json.dumps(named), spaced, json.dumps(PLAIN))):
        file = tmp_path / str(number)
        file.write_text(text)
        table = Services(MemoryTable())
        table.apply(load_changes(str(file)).services)
        assert len(table.list()[0].backends) == 2


def test_keys_are_counted() -> None:
    assert count_keys({"a": [{"b": {"c": 1}}, {"d": "e"}], "f": None}) == 5
    assert count_keys("a") == 0
