# SPDX-License-Identifier: Apache-2.0
"""What a server says wrongly: objects, lists and words."""

from __future__ import annotations

import msgspec
import pytest
from kube.apiserver import ApiServer
from kube.objects import Json, piece, port, service

from hostreach.sources.kubernetes.client import ApiError

from .follower import Follow, Follower

EMPTY = b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":""}}}'


@pytest.mark.parametrize(
    "spec",
    [
        {"ports": "none"},
        {"ports": [{"port": "80"}]},
        {"ports": [{"port": 99999}]},
        {"clusterIPs": [7]},
        {"externalIPs": {"a": 1}},
        {"sessionAffinity": 3},
    ],
    ids=str,
)
def test_a_service_of_the_wrong_types(server: ApiServer, follower: Follower, spec: Json) -> None:
    bad = service("bad", "10.96.0.66")
    bad["spec"].update(spec)
    server.put(bad, service("good", "10.96.0.11"))
    follower.shows({"10.96.0.10": "10.0.0.1:8080", "10.96.0.11": ""})
    problem = follower.source.state.problems["Service", "default/bad"][0]
    assert problem.reason == "invalid"
    (line,) = follower.source.problems_to_log()
    assert line.startswith("Service default/bad: ")
    assert line.isprintable()
    assert follower.source.problems_to_log() == []
    server.delete(bad)
    follower.until(lambda: not follower.source.state.problems)


def test_bad_objects_in_the_first_list(server: ApiServer, follow: Follow) -> None:
    worst = service("worst", "10.96.0.66")
    worst["metadata"]["name"] = 7
    server.objects["Service", "default/worst"] = worst
    bad = service("bad", "10.96.0.67", ports=[{"port": []}])
    server.put(bad, {**piece("bad-1"), "endpoints": "many"})
    following = follow()
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    assert set(following.source.state.problems) == {
        ("Service", "?/?"),
        ("Service", "default/bad"),
        ("EndpointSlice", "default/bad-1"),
    }


def test_an_object_that_turns_bad_is_as_good_as_gone(server: ApiServer, follower: Follower) -> None:
    server.put({**piece("web-1"), "endpoints": [{"addresses": "10.0.0.1"}]})
    follower.shows({"10.96.0.10": ""})
    server.put(piece("web-1", "10.0.0.1"))
    follower.shows({"10.96.0.10": "10.0.0.1:8080"})
    assert not follower.source.state.problems


def test_an_object_that_is_far_too_large(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch, follow: Follow
) -> None:
    """It is read past, never held: here a small one stands for it."""
    from hostreach.sources.kubernetes import client

    monkeypatch.setattr(client, "OBJECT_MAX", 20_000)
    monkeypatch.setattr(client.ApiClient.get, "__defaults__", (20_000,))
    huge = service("huge", "10.96.0.66")
    huge["metadata"]["annotations"] = {"x": "y" * 100_000}
    server.put(huge, service("zoo", "10.96.0.11"))
    following = follow()
    following.shows({"10.96.0.10": "10.0.0.1:8080", "10.96.0.11": ""})
    (problem,) = following.source.state.problems["Service", "default/huge"]
    assert problem.reason == "too-large"
    huge["metadata"]["annotations"]["x"] = "z" * 90_000
    server.put(huge, piece("web-1", "10.0.0.2"))
    following.until(lambda: following.shown()["10.96.0.10"] == "10.0.0.2:8080")


def test_a_hundred_thousand_ports(server: ApiServer, follower: Follower) -> None:
    many = [port(n % 65535 + 1, f"p{n}") for n in range(100_000)]
    server.put(service("many", "10.96.0.66", ports=many), service("good", "10.96.0.11"))
    follower.shows({"10.96.0.10": "10.0.0.1:8080", "10.96.0.11": ""})
    (problem,) = follower.source.state.problems["Service", "default/many"]
    assert "100000 ports" in problem.message


def relist(server: ApiServer) -> None:
    """What was learned is compared with a list, not with one that is streamed."""
    server.streamed_lists = False
    server.stop()
    server.put(piece("web-1", "10.0.0.2"))
    server.compact()
    server.start()


def refused_lists(follower: Follower) -> int:
    """Of the kind of which there were fewest."""
    kinds = ("Service", "EndpointSlice")
    return min(follower.restarts(kind).get("connection", 0) for kind in kinds)


@pytest.mark.parametrize(
    "lists",
    [
        {"kind": "Table", "items": None},
        {"kind": "Status", "metadata": {}, "items": None},
        {"kind": None, "items": []},
        {"items": None},
        {"metadata": {}, "items": []},
        {"metadata": {"resourceVersion": ""}, "items": []},
    ],
    ids=str,
)
def test_what_is_no_list_is_no_empty_one(
    server: ApiServer, follower: Follower, lists: Json
) -> None:
    """As of a proxy, or a server that is just starting: nothing is removed for it."""
    server.trouble.lists = lists
    relist(server)
    follower.until(lambda: refused_lists(follower) >= 3)
    assert follower.shown() == {"10.96.0.10": "10.0.0.1:8080"}
    server.trouble.lists = {}
    follower.shows({"10.96.0.10": "10.0.0.2:8080"})
    assert not follower.removed


@pytest.mark.parametrize("last", [False, True], ids=["more follow", "the last one"])
def test_a_list_whose_largest_object_has_a_long_name(
    server: ApiServer, follow: Follow, monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    """By its name the next page is asked for: taken for the last one, the rest would go."""
    from hostreach.sources.kubernetes import client

    name = ("z" if last else "a") * 253
    server.streamed_lists = False
    monkeypatch.setattr(client.ApiClient.get, "__defaults__", (20_000,))
    huge = {**piece(name, "10.0.0.3"), "padding": "y" * 100_000}
    server.put(huge)
    following = follow()
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    (problem,) = following.source.state.problems["EndpointSlice", f"default/{name}"]
    assert problem.reason == "too-large"


def test_what_is_too_large_and_no_list(
    server: ApiServer, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hostreach.sources.kubernetes import client

    monkeypatch.setattr(client.ApiClient.get, "__defaults__", (20_000,))
    server.trouble.lists = {
        "kind": "Table",
        "metadata": {"resourceVersion": "7", "x": "y" * 70_000},
    }
    relist(server)
    follower.until(lambda: refused_lists(follower) >= 3)
    server.trouble.lists = {}
    follower.shows({"10.96.0.10": "10.0.0.2:8080"})
    assert not follower.removed


def test_garbled_words_are_a_bad_connection(server: ApiServer, follower: Follower) -> None:
    """As of a proxy that answers in its own words: nothing is learned from it."""
    watcher = follower.source.watchers["Service"]
    for line in (b"<html>", b'{"type":"ADDED"', b'{"type":"BOOKMARK","object":{}}', EMPTY):
        with pytest.raises((ApiError, msgspec.DecodeError)):
            watcher._line(line)
    server.put(piece("web-1", "10.0.0.2"))
    follower.shows({"10.96.0.10": "10.0.0.2:8080"})
    assert not follower.removed
