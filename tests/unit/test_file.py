# SPDX-License-Identifier: Apache-2.0
"""The file format: what is written is read, and what is wrong is named with its line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given

from hostreach.errors import InvalidInput
from hostreach.models import Service
from hostreach.sources import file
from hostreach.sources.file import dump, dump_json, load

from .strategies import tables

HEAD = "version: 1\nservices:\n"
SERVICE = HEAD + "- frontend: 10.96.0.10:53/udp\n"
BACKENDS = SERVICE + "  backends:\n"
BACKEND = BACKENDS + "  - address: 10.0.0.2:53\n"

EXAMPLE = """\
version: 1
services:
- frontend: 10.96.0.10:53/udp
  name: kube-system/kube-dns:dns
  backends:
  - address: 10.0.0.2:53
  - address: 10.0.0.3:53
    weight: 3
- frontend: "[fd00:96::a]:53/udp"
  owner: web
- frontend: node:30080/tcp
  algorithm: maglev
  affinity: 3h
  host_only: true
  from_cgroup: /sys/fs/cgroup/system.slice
  on_removal: reset
  backends:
  - address: 10.0.0.2:80
    state: draining
  - address: "[fd00::2]:80"
    weight: 2
    state: down
"""
EXAMPLE_SERVICES = [
    Service.of(
        "10.96.0.10:53/udp", "10.0.0.2:53", "10.0.0.3:53,weight=3", name="kube-system/kube-dns:dns"
    ),
    Service.of("[fd00:96::a]:53/udp", owner="web"),
    Service.of(
        "node:30080/tcp",
        "10.0.0.2:80,state=draining",
        "[fd00::2]:80,weight=2,state=down",
        algorithm="maglev",
        affinity="3h",
        host_only=True,
        from_cgroup="/sys/fs/cgroup/system.slice",
        on_removal="reset",
    ),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "f.yaml"


def refusal(path: Path, content: str | bytes) -> str:
    """What `load` says of this content, without the directory."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InvalidInput) as caught:
        load(str(path))
    message = str(caught.value)
    assert message.isprintable()
    assert "Input should" not in message
    return message.removeprefix(f"{path.parent}/")


def test_example(path: Path) -> None:
    path.write_text(EXAMPLE)
    assert load(str(path)) == EXAMPLE_SERVICES
    assert dump(reversed(EXAMPLE_SERVICES)) == EXAMPLE
    assert yaml.safe_load(EXAMPLE) == json.loads(dump_json(EXAMPLE_SERVICES))


def test_defaults_written_out(path: Path) -> None:
    path.write_text(
        BACKEND
        + "    weight: 1\n    state: active\n  algorithm: random\n  owner: manual\n  name: ~\n"
        + "  affinity: ~\n  host_only: false\n  from_cgroup: ~\n  on_removal: ~\n"
    )
    assert load(str(path)) == [Service.of("10.96.0.10:53/udp", "10.0.0.2:53")]


def test_owner_is_for_services_without_one(path: Path) -> None:
    path.write_text(EXAMPLE)
    assert [service.owner for service in load(str(path), owner="me")] == ["me", "web", "me"]
    with pytest.raises(InvalidInput, match="owner 'a b' has white space"):
        load(str(path), owner="a b")


@pytest.mark.parametrize("text", ["version: 1\nservices: []\n", '{"version": 1, "services": []}'])
def test_no_services(path: Path, text: str) -> None:
    path.write_text(text)
    assert load(str(path)) == []


def test_byte_order_mark_and_windows_lines(path: Path) -> None:
    path.write_bytes(EXAMPLE.replace("\n", "\r\n").encode("utf-8-sig"))
    assert load(str(path)) == EXAMPLE_SERVICES


@given(services=tables)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, services: list[Service]) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip"
    for text in (dump(services), dump_json(services)):
        path.write_text(text, encoding="utf-8")
        assert load(str(path)) == services
    # Others read it as we do.
    assert yaml.safe_load(dump(services)) == json.loads(dump_json(services))


NAMED = [
    # of the whole
    ("empty", "", "f.yaml: is empty"),
    ("blank", " \n\t\n", "f.yaml: is empty"),
    ("comment", "# nothing\n", "f.yaml: is empty"),
    ("scalar", "hello\n", "f.yaml: must be a mapping with version and services, not 'hello'"),
    ("list", "- 1\n", "f.yaml: must be a mapping with version and services, not a list of 1"),
    ("no version", "services: []\n", "f.yaml: version is missing"),
    ("no services", "version: 1\n", "f.yaml: services is missing"),
    ("null services", HEAD, "f.yaml:2: services must be a list ([] for none), not empty"),
    ("version 2", "version: 2\nservices: []\n", "f.yaml:1: version must be 1, not 2"),
    ("version '1'", "version: '1'\nservices: []\n", "f.yaml:1: version must be 1, not '1'"),
    ("version true", "version: true\nservices: []\n", "f.yaml:1: version must be 1, not true"),
    ("version 1.0", "services: []\nversion: 1.0\n", "f.yaml:2: version must be 1, not 1.0"),
    ("unknown key", "version: 1\nservice: []\n", "f.yaml:2: unknown key 'service'"),
    # of YAML
    ("not UTF-8", b"version: 1\n# \xe9\n", "f.yaml:2: is not UTF-8 (byte 0xe9)"),
    ("UTF-16", HEAD.encode("utf-16"), "f.yaml:1: is not UTF-8 (byte 0xff)"),
    ("control character", "version: 1\nx\x01: 1\n", "f.yaml:2: has a character that YAML does not"),
    ("NUL", "version: 1\n\0", "f.yaml:2: has a character that YAML does not allow"),
    ("tab", HEAD + "\t- x\n", "f.yaml:3: is no YAML: found character that cannot start any token"),
    ("unclosed quote", "version: 'x\n", "f.yaml:2: is no YAML: found unexpected end of stream"),
    (
        "IPv6 unquoted",
        HEAD + "- frontend: [fd00::1]:53/udp\n",
        "f.yaml:3: is no YAML: did not find",
    ),
    ("bomb", "a: &a [x, x]\nb: &b [*a, *a]\n", "f.yaml:1: anchors (&) are not allowed here"),
    ("anchored scalar", "version: &v 1\n", "f.yaml:1: anchors (&) are not allowed here"),
    ("anchored key", "version: 1\n&k services: []\n", "f.yaml:2: anchors (&) are not allowed here"),
    ("alias", "version: 1\nservices: *s\n", "f.yaml:2: aliases (*) are not allowed here"),
    ("tag", "version: !!python/name:os.system 1\n", "f.yaml:1: tags (!) are not allowed here"),
    ("tagged list", "version: 1\nservices: !!set {}\n", "f.yaml:2: tags (!) are not allowed here"),
    ("tagged key", "!!int 1: 2\n", "f.yaml:1: tags (!) are not allowed here"),
    ("list as key", "? [a]\n: b\n", "f.yaml:1: a key must be a plain word"),
    ("duplicate key", SERVICE + "  name: a\n  name: b\n", "f.yaml:5: key 'name' is given twice"),
    ("nesting", "version: " + "[" * 100 + "]" * 100, "f.yaml:1: is nested too deeply"),
    ("deep nesting", "version: " + "[" * 100_000, "f.yaml:1: is nested too deeply"),
    ("documents", "version: 1\n---\nservices: []\n", "f.yaml:2: a second document begins here"),
    # of services
    ("text service", HEAD + "- 10.96.0.10:53/udp\n", "f.yaml:3: a service must be a mapping, not"),
    ("no frontend", HEAD + "- name: x\n", "f.yaml:3: frontend is missing"),
    (
        "split frontend",
        HEAD + "- frontend: {port: 1}\n",
        "f.yaml:3: frontend must be a string such",
    ),
    ("port 0", HEAD + "- name: x\n  frontend: 10.0.0.1:0/udp\n", "f.yaml:4: '10.0.0.1:0': '0' is"),
    ("sctp", HEAD + "- frontend: 10.0.0.1:1/sctp\n", "f.yaml:3: '10.0.0.1:1/sctp': 'sctp' is no"),
    ("frontend's key", HEAD + "- fronted: 10.0.0.1:1/tcp\n", "f.yaml:3: unknown key 'fronted'"),
    ("address's key", BACKENDS + "  - adress: 10.0.0.1:1\n", "f.yaml:5: unknown key 'adress'"),
    (
        "affinity 0",
        SERVICE + "  affinity: 0\n",
        "f.yaml:4: affinity must be a duration such as 3h (leave it",
    ),
    ("service's key", SERVICE + "  nmae: x\n", "f.yaml:4: unknown key 'nmae'"),
    ("merge key", SERVICE + "  <<: {}\n", "f.yaml:4: unknown key '<<'"),
    (
        "number as name",
        SERVICE + "  name: 80\n",
        "f.yaml:4: name must be a string, not 80; write it",
    ),
    ("yes as name", SERVICE + "  name: yes\n", "f.yaml:4: name must be a string, not true; write"),
    ("date as name", SERVICE + "  name: 2024-01-01\n", "f.yaml:4: name must be a string, not 2024"),
    (
        "base 60",
        SERVICE + "  name: 12:30\n",
        "f.yaml:4: name must be a string, not 12:30; write it",
    ),
    ("long name", SERVICE + f"  name: {'x' * 10_000}\n", "f.yaml:4: name 'xxx"),
    ("blank in name", SERVICE + "  name: a b\n", "f.yaml:4: name 'a b' has white space"),
    ("null owner", SERVICE + "  owner:\n", "f.yaml:4: owner must be a string, not empty"),
    (
        "algorithm",
        SERVICE + "  algorithm: best\n",
        "f.yaml:4: algorithm must be random, maglev or least-conn, not 'best'",
    ),
    (
        "bare affinity",
        SERVICE + "  affinity: 30\n",
        "f.yaml:4: affinity must be a duration such as 3h (leave it out for none), not 30",
    ),
    ("affinity 0", SERVICE + "  affinity: 0s\n", "f.yaml:4: affinity must be at least 1ms; leave"),
    ("affinity 50d", SERVICE + "  affinity: 50d\n", "f.yaml:4: affinity '50d' is too long; at mo"),
    (
        "host_only 1",
        SERVICE + "  host_only: 1\n",
        "f.yaml:4: host_only must be true or false, not 1",
    ),
    (
        "host_only in quotes",
        SERVICE + "  host_only: 'true'\n",
        "f.yaml:4: host_only must be true or false, not 'true'",
    ),
    (
        "relative cgroup",
        SERVICE + "  from_cgroup: system.slice\n",
        "f.yaml:4: from_cgroup 'system.slice' is no absolute path; write it as /sys/fs/cgroup/",
    ),
    (
        "on_removal",
        SERVICE + "  on_removal: close\n",
        "f.yaml:4: on_removal must be reset or keep, not 'close'",
    ),
    (
        "node as a backend",
        BACKENDS + "  - address: node:53\n",
        "f.yaml:5: 'node:53': 'node' is no IPv4",
    ),
    ("node alone", HEAD + "- frontend: node\n", "f.yaml:3: 'node' has no protocol; write it as"),
    (
        "state",
        BACKEND + "    state: drain\n",
        "f.yaml:6: state must be active, draining or down, not 'drain'",
    ),
    ("null state", BACKEND + "    state:\n", "f.yaml:6: state must be active, draining or down, n"),
    (
        "null backends",
        BACKENDS,
        "f.yaml:4: backends must be a list of at most 4096 backends, not e",
    ),
    (
        "mapped backends",
        BACKENDS + "    a: b\n",
        "f.yaml:4: backends must be a list of at most 4096",
    ),
    (
        "text backend",
        BACKENDS + "  - 10.0.0.2:53\n",
        "f.yaml:5: an entry of backends must be a map",
    ),
    ("no address", BACKENDS + "  - weight: 1\n", "f.yaml:5: address is missing"),
    ("backend's key", BACKEND + "    wieght: 1\n", "f.yaml:6: unknown key 'wieght'"),
    ("text weight", BACKEND + "    weight: '3'\n", "f.yaml:6: weight must be an integer from 0 to"),
    (
        "true weight",
        BACKEND + "    weight: true\n",
        "f.yaml:6: weight must be an integer from 0 to",
    ),
    (
        "1.0 weight",
        BACKEND + "    weight: 1.0\n",
        "f.yaml:6: weight must be an integer from 0 to 6",
    ),
    ("hex weight", BACKEND + "    weight: 0x10\n", "f.yaml:6: weight must be an integer from 0 to"),
    (
        "octal weight",
        BACKEND + "    weight: 010\n",
        "f.yaml:6: weight must be an integer from 0 to",
    ),
    (
        "weight -1",
        BACKEND + "    weight: -1\n",
        "f.yaml:6: weight must be an integer from 0 to 655",
    ),
    ("weight 65536", BACKEND + "    weight: 65536\n", "f.yaml:6: weight must be an integer from 0"),
    (
        "huge weight",
        BACKEND + "    weight: " + "9" * 9999,
        "f.yaml:6: weight must be an integer fr",
    ),
    (
        "IPv6 behind IPv4",
        BACKEND + "  - address: '[fd00::1]:53'\n",
        "f.yaml:6: backend [fd00::1]:53 is IPv6, but frontend 10.96.0.10:53/udp is IPv4",
    ),
    (
        "duplicate backend",
        BACKEND + "  - address: 10.0.0.2:53\n    weight: 2\n",
        "f.yaml:6: backend 10.0.0.2:53 is given twice",
    ),
    (
        "duplicate frontend",
        SERVICE + "- frontend: 10.0.0.1:1/tcp\n- frontend: 10.96.0.10:53/udp\n",
        "f.yaml:5: 10.96.0.10:53/udp is given twice; first on line 3",
    ),
    # of JSON
    ("JSON cut off", '{"version": 1,\n', "f.yaml:2: is no JSON: "),
    ("YAML in braces", "{version: 1, services: []}", "f.yaml:1: is no JSON: "),
    ("JSON and more", '{"version": 1}\n{}', "f.yaml:2: is no JSON: Extra data"),
    ("JSON duplicate", '{"version": 1,\n"version": 1}', "f.yaml:2: key 'version' is given twice"),
    ("JSON NaN", '{"version": NaN, "services": []}', "f.yaml:1: version must be 1, not NaN"),
    ("JSON huge", '{"version": ' + "1" * 9999 + "}", "f.yaml: is no JSON: a number is too long"),
    ("JSON nesting", '{"a": ' + "[" * 100_000, "f.yaml: is nested too deeply"),
    (
        "JSON weight",
        (
            '{"version": 1, "services": [\n{"frontend": "10.0.0.1:1/tcp", "backends": [\n'
            '{"address": "10.0.0.2:1", "weight": 1.5}]}]}'
        ),
        "f.yaml:3: weight must be an integer from 0 to 65535, not 1.5",
    ),
    (
        "JSON surrogate",
        '{"version": 1, "services": [{"frontend": "10.0.0.1:1/tcp", "name": "\\ud800"}]}',
        "f.yaml: services[0].name: name '\\ud800' has white space",
    ),
]


@pytest.mark.parametrize(
    ("content", "message"), [pytest.param(c, m, id=name) for name, c, m in NAMED]
)
def test_refused(path: Path, content: str | bytes, message: str) -> None:
    assert refusal(path, content).startswith(message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/nonexistent/f", "/nonexistent/f: cannot be read: no such file or directory"),
        ("/", "/: cannot be read: is a directory"),
        ("", "'': cannot be read: no such file or directory"),
        ("a\0b", "'a\\x00b': is no path"),
        ("/proc/self/mem", "/proc/self/mem: cannot be read: input/output error"),
    ],
)
def test_unreadable(name: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(name)
    assert str(caught.value) == message


def test_too_large(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "SIZE_MAX", 1 << 20)
    assert refusal(path, "#" * ((1 << 20) + 1)) == "f.yaml: is larger than 1 MiB"


def test_one_wrong_line_among_50_000_services(path: Path) -> None:
    lines = ["version: 1", "services:"]
    for i in range(50_000):
        lines.append(f"- frontend: 10.{i >> 16}.{i >> 8 & 255}.{i & 255}:53/udp")
        lines.append("  backends:")
        lines.append(f"  - address: 192.168.{i >> 8}.{i & 255}:53")
    wrong = 2 + 3 * 44_444 + 2
    lines[wrong] = "  - address: 192.168.1.1:70000"
    began = time.monotonic()
    message = refusal(path, "\n".join(lines))
    assert message.startswith(f"f.yaml:{wrong + 1}: '192.168.1.1:70000': '70000' is no port;")
    assert time.monotonic() - began < 60, "a few seconds are normal"
