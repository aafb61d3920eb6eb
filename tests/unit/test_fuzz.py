# SPDX-License-Identifier: Apache-2.0
"""Texts, files and API objects of any kind: what is not understood is refused, in one line."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hostreach import Service
from hostreach.errors import InvalidInput
from hostreach.models import Backend, Frontend
from hostreach.sources.file import dump, dump_json, load_entries
from hostreach.sources.kubernetes import intake, objects

from .strategies import services

LONG = os.environ.get("HOSTREACH_LONG") == "1"
many = settings(
    max_examples=20_000 if LONG else 100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# Nearly right is where mistakes are.
bits = st.sampled_from(
    [
        *("10.96.0.1", "fd00::1", "[fd00::1]", "node", ":", ":80", "/tcp", "/udp", ",", "weight="),
        *(
            "state=",
            "down",
            "7",
            "-1",
            "65536",
            " ",
            "\n",
            "\0",
            "[",
            "]",
            "%",
            "é",
            "\u0661",
            "0x1",
        ),
    ]
)
nearly = st.lists(bits | st.text(max_size=3), max_size=8).map("".join)
scalars = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), nearly, st.text(max_size=20)),
    st.sampled_from(["random", "maglev", "tcp", "10.96.0.1:80/tcp", "10.0.0.2:80", "1h", "/a"]),
)
KEYS = (
    *("version", "services", "frontend", "backends", "address", "weight", "state", "name", "owner"),
    *("algorithm", "affinity", "host_only", "from_cgroup", "source_ranges", "on_removal", "check"),
    *("kind", "interval", "timeout", "path", "status", "rise", "fall"),
)
keys = st.sampled_from(KEYS) | st.text(max_size=5)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6),
    max_leaves=25,
)
documents = trees | st.fixed_dictionaries(
    {"version": st.just(1), "services": st.lists(trees, max_size=3)}
)


@many
@given(nearly)
def test_texts_of_services(text: str) -> None:
    """Read, written and read again it is the same."""
    with suppress(InvalidInput):
        frontend = Frontend.parse(text)
        assert Frontend.parse(str(frontend)) == frontend
    with suppress(InvalidInput):
        backend = Backend.parse(text)
        assert Backend.parse(str(backend)) == backend
    with suppress(InvalidInput):
        service = Service.of("10.96.0.1:80/tcp", text)
        assert Service.of(str(service.frontend), *map(str, service.backends)) == service


@many
@given(services())
def test_texts_of_parts(service: Service) -> None:
    assert Frontend.parse(str(service.frontend)) == service.frontend
    assert tuple(Backend.parse(str(each)) for each in service.backends) == service.backends


def read(path: Path, text: str) -> None:
    """Understood, it comes back the same from what `export` would write of it."""
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    found, problem = [], ""
    try:
        found = [entry.service for entry in load_entries(str(path))]
    except InvalidInput as error:
        problem = str(error)
    assert "\n" not in problem
    for again in (dump(found), dump_json(found)):
        path.write_text(again)
        entries = load_entries(str(path))
        assert sorted((e.service for e in entries), key=lambda each: each.sort_key) == sorted(
            found, key=lambda each: each.sort_key
        )


@many
@given(text=st.text() | nearly)
@example(text="version: 1\nservices: &a [*a]\n")
@example(text="version: 1\nservices: [{frontend: 10.96.0.1:80/tcp, backends: [{}]}]\n")
@example(text="[" * 5000)
@example(text='{"a":' * 5000)
@example(text="? " * 3000)
@example(text="- " * 3000)
def test_files_of_any_text(tmp_path: Path, text: str) -> None:
    for name in ("any.yaml", "any.json"):
        read(tmp_path / name, text)


@many
@given(document=documents)
@example(document={"\n\U00010000": None})
def test_files_of_any_tree(tmp_path: Path, document: object) -> None:
    read(tmp_path / "any.json", json.dumps(document))
    with suppress(yaml.YAMLError, UnicodeEncodeError):
        read(tmp_path / "any.yaml", yaml.safe_dump(document, allow_unicode=True))


# --- what an API server might send -------------------------------------------------------------

WORDS = (
    *("ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "None", "Local", "Cluster", "TCP"),
    *("UDP", "SCTP", "IPv4", "IPv6", "10.96.0.1", "fd00::1", "10.0.0.2", "::ffff:10.0.0.1", "x"),
    *(
        "true",
        "a/b",
        "999.1.1.1",
        "10.0.0.0/8",
        "0.0.0.0/0,::/0",
        "2026-01-01T00:00:00Z",
        "kubelet",
    ),
)
words = st.sampled_from(WORDS) | st.text(max_size=8)


place = intake.Place("node", "zone")


@many
@given(data=st.data())
@pytest.mark.parametrize("kind", ["Service", "EndpointSlice"])
def test_objects_of_an_api(data: st.DataObject, kind: str) -> None:
    """It is taken, or refused as a whole; anything else would stop the watcher."""
    raw = data.draw(api_trees(kind))
    try:
        found = msgspec.json.decode(json.dumps(raw), type=getattr(objects, kind))
    except (msgspec.ValidationError, UnicodeEncodeError):
        return
    with suppress(InvalidInput):
        if isinstance(found, objects.Service):
            intake.take_service(found)
        else:
            intake.take_slice(found, place)


def api_trees(kind: str) -> st.SearchStrategy[object]:
    """JSON by the types of a struct's fields, as an API server names them."""
    return _json_of(getattr(objects, kind))


def _json_of(wanted: object) -> st.SearchStrategy[object]:
    info = msgspec.inspect.type_info(wanted)
    return _by_info(info)


def _by_info(info: msgspec.inspect.Type) -> st.SearchStrategy[object]:
    i = msgspec.inspect
    if isinstance(info, i.StructType):
        fields = {field.encode_name: _by_info(field.type) for field in info.fields}
        required = {f.encode_name: fields[f.encode_name] for f in info.fields if f.required}
        return st.fixed_dictionaries(
            required, optional={k: v for k, v in fields.items() if k not in required}
        )
    if isinstance(info, i.ListType | i.VarTupleType):
        return st.lists(_by_info(info.item_type), max_size=4)
    if isinstance(info, i.DictType):
        return st.dictionaries(words, _by_info(info.value_type), max_size=3)
    if isinstance(info, i.UnionType):
        return st.one_of(*(_by_info(each) for each in info.types))
    if isinstance(info, i.IntType):
        return st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 53, 80, 30080, 65536])
    if isinstance(info, i.BoolType):
        return st.booleans()
    if isinstance(info, i.NoneType):
        return st.none()
    return words
