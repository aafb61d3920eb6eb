# SPDX-License-Identifier: Apache-2.0
"""What this node's own object says, before the first slice and later."""

from __future__ import annotations

import ssl
import time

import pytest
from kube.apiserver import ApiServer
from kube.objects import piece, ready

from hostreach.sources.kubernetes.client import ApiClient
from hostreach.sources.kubernetes.config import Connection
from hostreach.sources.kubernetes.services import Rules
from hostreach.sources.kubernetes.source import KubernetesSource

from .follower import NODE, Follow


def test_the_zone_is_known_before_the_first_slice(server: ApiServer, follow: Follow) -> None:
    far, near = (ready(f"10.0.0.{n}", zones=[f"zone-{z}"]) for n, z in ((1, "b"), (2, "a")))
    server.put(piece("web-1", far, near))
    following = follow()
    following.until(lambda: following.table)
    assert following.shown() == {"10.96.0.10": "10.0.0.2:8080"}


def test_a_node_that_may_not_be_read(server: ApiServer, follow: Follow) -> None:
    server.delete(NODE)
    following = follow()
    following.shows({"10.96.0.10": "10.0.0.1:8080"})


def test_a_node_that_is_not_there(
    server: ApiServer, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once, for its name may be wrong; and looked for soon again, for it may be coming."""
    server.delete(NODE)
    far, near = (ready(f"10.0.0.{n}", zones=[f"zone-{z}"]) for n, z in ((1, "b"), (2, "a")))
    server.put(piece("web-1", far, near))
    following = follow()
    following.until(lambda: sum("/nodes/" in each for each in server.requests) >= 3)
    said = [each.getMessage() for each in caplog.records if "node-a:" in each.getMessage()]
    assert said == [
        "node node-a: no such Node, so no endpoint counts as local to it; pass --node-name"
    ]
    server.put(NODE)
    following.shows({"10.96.0.10": "10.0.0.2:8080"})


def test_another_zone(server: ApiServer, monkeypatch: pytest.MonkeyPatch, follow: Follow) -> None:
    from hostreach.sources.kubernetes import source

    monkeypatch.setattr(source, "NODE_SECONDS", 0.1)
    far, near = (ready(f"10.0.0.{n}", zones=[f"zone-{z}"]) for n, z in ((1, "b"), (2, "a")))
    server.put(piece("web-1", far, near))
    following = follow()
    following.shows({"10.96.0.10": "10.0.0.2:8080"})
    moved = {
        **NODE,
        "metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": "zone-b"}},
    }
    server.put(moved)
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    assert not following.removed


def test_a_zone_that_comes_late(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch, follow: Follow
) -> None:
    """It is looked for soon, then less and less often; what it alone changes was no slow change."""
    from hostreach.sources.kubernetes import source

    monkeypatch.setattr(source, "NO_ZONE_SECONDS", 0.05)
    server.put({**NODE, "metadata": {"name": "node-a", "labels": {}}})
    far, near = (ready(f"10.0.0.{n}", zones=[f"zone-{z}"]) for n, z in ((1, "b"), (2, "a")))
    server.put(piece("web-1", far, near, changed="2026-01-01T00:00:00Z"))
    following = follow()
    following.shows({"10.96.0.10": "10.0.0.1:8080 10.0.0.2:8080"})
    began = time.monotonic()
    following.until(lambda: time.monotonic() > began + 1.5)
    assert 3 <= sum("/nodes/" in each for each in server.requests) <= 7
    following.source.state.take_changed()
    server.put(NODE)
    following.shows({"10.96.0.10": "10.0.0.2:8080"})
    assert following.source.state.take_changed() == []
    assert not following.removed


def test_a_node_as_a_server_that_lags_knows_it(server: ApiServer) -> None:
    """Read from its cache, unless that is behind what was seen before."""
    client = ApiClient(Connection(server.url, ssl.create_default_context(), None))
    source = KubernetesSource(client, "node-a", Rules())
    assert source._read_node().addresses == ("192.0.2.1",)
    server.lag()
    there = [{"type": "InternalIP", "address": "192.0.2.2"}]
    server.put({**NODE, "status": {"addresses": there}})
    assert source._read_node().addresses == ("192.0.2.1",)
    cache, server.cache = server.cache, None
    assert source._read_node().addresses == ("192.0.2.2",)
    server.cache = cache
    assert source._read_node().addresses == ("192.0.2.2",)
    asked = [each.partition("?")[2] for each in server.requests]
    assert asked == [*["resourceVersion=0"] * 4, ""]
    client.close()
