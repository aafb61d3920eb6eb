# SPDX-License-Identifier: Apache-2.0
"""The chart's values: which it takes, and that its schema takes what the agent takes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostreach.agent.settings import parse_listen, parse_node_ports, parse_window
from hostreach.errors import InvalidInput
from hostreach.sources.kubernetes.config import connection

from .chart import CHART, rendered, run


@pytest.mark.parametrize(
    "bad",
    [
        "hostServices.protocols=sctp",
        "hostServices.protocols={tcp,tcp}",
        "hostServices.enabled=maybe",
        "podInfo.enabled=maybe",
        "log.level=loud",
        "pin=/var/lib/hostreach",
        "pin=/sys/fs/bpf/x; reboot",
        "cgroup=/sys/fs/cgroup/../../etc",
        "cgroup=/sys/fs/cgroups",
        "window=soon",
        "window=120m",
        "k8sServiceHost=https://192.0.2.1",
        "k8sServiceHost=192.0.2.1:6443",
        "k8sServicePort=0",
        "k8sServerName=https://api.example",
        "metrics.address=localhost",
        "metrics.address=[::1]",
        "metrics.port=0",
        "nodePortAddresses=node",
        "nodePortAddresses=192.0.2.1",
        "podLabels.k8s-app=other",
        "podLabels.helm\\.sh/chart=other",
        "serviceMonitor.labels.k8s-app=other",
        "cleanup.tolerations[0].operator=Exists",
        "unknown=1",
    ],
)
def test_values_that_cannot_be(helm: str, bad: str) -> None:
    done = run(helm, "template", "hostreach", str(CHART), "--set", bad)
    assert done.returncode
    assert bad.partition("=")[0].partition(".")[0] in done.stderr


@pytest.mark.parametrize(
    "good",
    [
        "k8sServiceHost=api.example",
        "k8sServiceHost=2001:db8::1",
        "k8sServerName=192.0.2.1",
        "metrics.address=::",
        "metrics.address=2001:db8::7",
        "nodePortAddresses=primary",
        "nodePortAddresses=192.0.2.0/24\\,2001:db8::/32",
        "window=1m",
        "podLabels.app=other",
        "serviceMonitor.labels.release=other",
    ],
)
def test_values_that_can_be(helm: str, good: str) -> None:
    assert "DaemonSet/hostreach" in rendered(helm, "--set", good)


def fits(schema: Any, text: str) -> bool:
    """Whether it takes ``text``, as far as our schema goes in what it says of texts."""
    whole = json.loads((CHART / "values.schema.json").read_text())
    checks: dict[str, Callable[[Any], bool]] = {
        "$ref": lambda name: fits(whole["definitions"][name.rpartition("/")[2]], text),
        "allOf": lambda parts: all(fits(part, text) for part in parts),
        "anyOf": lambda parts: any(fits(part, text) for part in parts),
        "enum": lambda values: text in values,
        "type": lambda name: name == "string",
        "pattern": lambda given: re.search(given.replace("$", r"\Z"), text) is not None,
    }
    return all(checks[key](value) for key, value in schema.items() if key != "$comment")


def value(*path: str) -> Any:
    found = json.loads((CHART / "values.schema.json").read_text())
    for key in path:
        found = found["properties"][key]
    return found


def takes(parse: Callable[[str], object], text: str) -> str | None:
    """What the agent has against it."""
    try:
        parse(text)
    except InvalidInput as error:
        return error.message
    return None


PARTS = (
    "::",
    ":",
    ".",
    "0",
    "1",
    "9",
    "00",
    "25",
    "255",
    "256",
    "aF",
    "12345",
    "1.2.3.4",
    "g",
    "%",
)
DURATIONS = ("0", "00", "1", "5", "59", "60", "61", "999", "ms", "s", "m", "h", "d", " ", "-", ".")


def made_of(*parts: str, most: int) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(parts), max_size=most).map("".join)


ADDRESSES = st.one_of(
    made_of(*PARTS, most=6),
    st.lists(st.sampled_from(("", "1", "Fe", "1.2.3.4")), min_size=2, max_size=10).map(":".join),
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda address: address.exploded),
)


@given(ADDRESSES)
def test_addresses_to_listen_on_are_the_agents(text: str) -> None:
    """But for those with an interface, where a kubelet could not ask."""
    at = f"[{text}]:9879" if ":" in text else f"{text}:9879"  # as the chart writes it
    wrong = takes(parse_listen, at)
    assert fits(value("metrics", "address"), text) == (wrong is None and "%" not in text)


PREFIXES = st.integers(0, 140).map(lambda bits: f"/{bits}") | st.sampled_from(
    ("", "/", "/08", "/-1")
)


@given(
    st.lists(st.tuples(ADDRESSES, PREFIXES).map("".join), max_size=3).map(",".join)
    | st.ip_addresses().map(lambda address: f"{address}/{address.max_prefixlen}")
    | st.sampled_from(("all", "primary", "none", "all,primary", "0.0.0.0/0,::/0", "::/0,", ",::/0"))
)
def test_networks_of_node_ports_are_the_agents(text: str) -> None:
    """As far as patterns can tell."""
    wrong = takes(parse_node_ports, text)
    if fits(value("nodePortAddresses"), text):
        beyond = r"bits set beyond its prefix| twice|IPv4 in IPv6 form"
        assert wrong is None or re.search(beyond, wrong)
    else:
        assert wrong is not None


@given(made_of(*DURATIONS, most=3) | st.integers(59_990, 60_010).map(lambda each: f"{each}ms"))
def test_windows_are_the_agents(text: str) -> None:
    assert fits(value("window"), text) == (takes(parse_window, text) is None)


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("", True),
        ("api", True),
        ("API.example.", True),
        ("control_plane.x-1.example", True),
        ("192.0.2.1", True),
        ("2001:db8::1", True),
        ("2001:db8::192.0.2.1", True),
        ("192.0.2.300", False),
        ("192.0.2", False),
        ("https://192.0.2.1", False),
        ("https://api.example", False),
        ("api.example:6443", False),
        ("api.example/x", False),
        ("[2001:db8::1]", False),
        ("fe80::1%eth0", False),
        ("2001:db8::1::", False),
        ("a b", False),
        ("-a.example", False),
        ("a..example", False),
    ],
)
def test_hosts(host: str, good: bool, tmp_path: Path) -> None:
    """An address or a name, and none that the agent would not find in the URL again."""
    for key in ("k8sServiceHost", "k8sServerName"):
        assert fits(value(key), host) == good
    if good and host:
        path = tmp_path / "config"
        path.write_text(
            "{current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}],"
            " users: [{name: u, user: {}}], clusters: [{name: c, cluster: {server: x}}]}"
        )
        url = f"https://[{host}]:6443" if ":" in host else f"https://{host}:6443"
        assert connection(str(path), None, url).server == url
