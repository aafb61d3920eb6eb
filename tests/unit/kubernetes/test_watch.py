# SPDX-License-Identifier: Apache-2.0
"""Listing and watching, through all that an API server and a network may do meanwhile."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from kube.apiserver import ApiServer
from kube.objects import Json, piece, pod, port, ready, service

from hostreach.plain import PlainFrontend, PlainService
from hostreach.sources.kubernetes.client import ApiClient, ApiError
from hostreach.sources.kubernetes.config import Connection
from hostreach.sources.kubernetes.patience import Backoff, Patience
from hostreach.sources.kubernetes.services import Rules
from hostreach.sources.kubernetes.source import KubernetesSource

Follow = Callable[..., "Follower"]
EMPTY = b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":""}}}'
QUICK = Patience(first=0.02, longest=0.2)
SECONDS = 30.0

NODE: Json = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": "zone-a"}},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
}


class Follower:
    """A source, and the table that somebody keeps by what it says."""

    def __init__(
        self,
        server: ApiServer,
        *,
        idle: float = 5.0,
        patience: Patience = QUICK,
        pods: bool = False,
    ) -> None:
        connection = Connection(server.url, ssl.create_default_context(), None)
        self.source = KubernetesSource(
            ApiClient(connection, idle=idle), "node-a", Rules(), patience, pods=pods
        )
        self.table: dict[PlainFrontend, PlainService] = {}
        self.removed: list[PlainFrontend] = []
        self.source.start()

    def sync(self) -> None:
        self.source.poll(0.02)
        if not self.source.freshness.synced:
            return
        for put, remove in self.source.state.take():
            for entry in put:
                self.table[entry[:3]] = entry
            for frontend in remove:
                self.table.pop(frontend)
                self.removed.append(frontend)

    def until(self, condition: Callable[[], object], what: str = "it is so") -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"waited for: {what}; there is {self.shown()}"
            self.sync()

    def shows(self, expected: dict[str, str]) -> None:
        self.until(lambda: self.shown() == expected, f"{expected}")

    def shown(self) -> dict[str, str]:
        """Each address with its backends, in short."""
        return {at[0]: " ".join(b[0] for b in entry[6]) for at, entry in self.table.items()}

    def restarts(self, kind: Any = "Service") -> dict[str, int]:
        return dict(self.source.watchers[kind].state.restarts)

    def counted(self, why: str) -> int:
        return sum(watcher.state.restarts[why] for watcher in self.source.watchers.values())


@pytest.fixture(params=["streamed", "paged"])
def server(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """Both with WatchList and without: all that follows holds either way."""
    with ApiServer(streamed_lists=request.param == "streamed").running() as running:
        running.put(NODE, service(), piece("web-1", "10.0.0.1"))
        yield running


@pytest.fixture
def follow(server: ApiServer) -> Iterator[Follow]:
    made: list[Follower] = []

    def follow(**options: Any) -> Follower:
        made.append(Follower(server, **options))
        return made[-1]

    yield follow
    for each in made:
        each.source.close(5)
        assert not any(thread.is_alive() for thread in each.source._threads)


@pytest.fixture
def follower(follow: Follow) -> Follower:
    following = follow()
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    return following


def test_changes_are_followed(server: ApiServer, follower: Follower) -> None:
    server.put(piece("web-1", "10.0.0.2"))
    follower.shows({"10.96.0.10": "10.0.0.2:8080"})
    server.put(service("api", "10.96.0.11"), piece("api-1", "10.0.0.3", of="api"))
    follower.shows({"10.96.0.10": "10.0.0.2:8080", "10.96.0.11": "10.0.0.3:8080"})
    server.delete(service(), piece("web-1"))
    follower.shows({"10.96.0.11": "10.0.0.3:8080"})


def test_nothing_is_written_before_both_lists_are_complete(
    server: ApiServer, follow: Follow
) -> None:
    server.trouble.answers = []
    server.put(*(service(f"s{n}", f"10.96.1.{n + 1}") for n in range(20)))
    following = follow()
    following.until(lambda: following.table)
    assert len(following.table) == 21
    assert following.shown()["10.96.0.10"] == "10.0.0.1:8080"  # never without its endpoints


def test_selectors_are_the_servers_work(server: ApiServer, follower: Follower) -> None:
    """A service that no longer matches is told as deleted."""
    server.put(service(labels={"service.kubernetes.io/service-proxy-name": "other"}))
    follower.shows({})
    server.put(service())
    follower.shows({"10.96.0.10": "10.0.0.1:8080"})
    asked = " ".join(server.requests)
    assert "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name" in asked
    assert "fieldSelector=spec.clusterIP%21%3DNone" in asked
    assert "labelSelector=%21service.kubernetes.io%2Fheadless" in asked


def test_a_server_before_1_31(server: ApiServer, follow: Follow) -> None:
    """It cannot leave out headless services, so it is done here."""
    server.service_fields = False
    server.put(service("none", "None"))
    following = follow()
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    assert not following.source.state.problems
    server.drop()
    server.put(service("api", "10.96.0.11"), service("nil", "None"))
    following.shows({"10.96.0.10": "10.0.0.1:8080", "10.96.0.11": ""})
    assert len([each for each in server.requests if "clusterIP" in each]) == 2  # watch, and list


def test_a_server_that_becomes_older(server: ApiServer, follower: Follower) -> None:
    """As of several that are upgraded one by one: what was learned stands."""
    server.service_fields = False
    server.drop()
    server.put(service("api", "10.96.0.11"))
    follower.shows({"10.96.0.10": "10.0.0.1:8080", "10.96.0.11": ""})
    assert not follower.removed


def test_lists_of_many_pages(server: ApiServer, follow: Follow) -> None:
    server.put(*(service(f"s{n:04}", f"10.97.{n >> 8}.{n & 255}") for n in range(1, 1203)))
    following = follow()
    following.until(lambda: len(following.table) == 1203, "1,203 services")
    assert any("continue=" in each for each in server.requests) != server.streamed_lists


def test_a_page_that_expires(server: ApiServer, follow: Follow) -> None:
    if server.streamed_lists:
        server.streamed_lists = False
    server.put(*(service(f"s{n:04}", f"10.97.{n >> 8}.{n & 255}") for n in range(1, 603)))
    following = follow()
    following.until(lambda: any("continue=" in each for each in server.requests))
    server.put(service("late", "10.98.0.1"))
    server.compact()
    following.until(lambda: len(following.table) == 604, "604 services")


@pytest.mark.parametrize("in_event", [False, True], ids=["HTTP 410", "ERROR event"])
def test_a_version_that_is_gone(server: ApiServer, follower: Follower, in_event: bool) -> None:
    """What was deleted meanwhile goes, what was not never does."""
    server.put(service("api", "10.96.0.11"))
    follower.until(lambda: "10.96.0.11" in follower.shown())
    server.trouble.gone_in_event = in_event
    server.stop()
    server.delete(service("api", "10.96.0.11"))
    server.put(piece("web-1", "10.0.0.2"))
    server.compact()
    server.start()
    follower.shows({"10.96.0.10": "10.0.0.2:8080"})
    assert follower.removed == [("10.96.0.11", 80, "tcp")]
    assert follower.restarts()["expired"] >= 1


def test_connections_that_end(server: ApiServer, follower: Follower) -> None:
    for n in range(2, 6):
        server.drop()
        server.put(piece("web-1", f"10.0.0.{n}"))
        follower.shows({"10.96.0.10": f"10.0.0.{n}:8080"})
    assert not follower.removed


def test_an_event_broken_off_in_its_middle(server: ApiServer, follower: Follower) -> None:
    server.trouble.cut = True
    server.put(piece("web-1", "10.0.0.2"))
    follower.shows({"10.96.0.10": "10.0.0.2:8080"})
    assert not server.trouble.cut
    assert not follower.removed


def test_a_list_broken_off(server: ApiServer, follow: Follow) -> None:
    server.trouble.cut = server.streamed_lists
    following = follow()
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    assert not server.trouble.cut


def test_a_server_that_is_away_for_a_while(server: ApiServer, follower: Follower) -> None:
    server.stop()
    follower.until(lambda: not follower.source.freshness.connected)
    time.sleep(0.3)
    follower.sync()
    assert follower.shown() == {"10.96.0.10": "10.0.0.1:8080"}
    server.put(piece("web-1", "10.0.0.2"))
    server.start()
    follower.shows({"10.96.0.10": "10.0.0.2:8080"})
    follower.until(lambda: follower.source.freshness.connected)
    assert not follower.removed


def test_a_half_open_connection(server: ApiServer, follow: Follow) -> None:
    """Nothing is heard, no bookmark either: it is given up, and made anew."""
    following = follow(idle=2.0)
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    server.trouble.silent = True
    server.put(piece("web-1", "10.0.0.2"))
    asked = len(server.requests)
    following.until(lambda: following.restarts("EndpointSlice").get("connection"))
    following.until(lambda: any("slices" in each for each in server.requests[asked:]))
    time.sleep(0.1)
    server.trouble.silent = False
    following.shows({"10.96.0.10": "10.0.0.2:8080"})


def test_slow_events(server: ApiServer, follower: Follower) -> None:
    server.trouble.dribble = True
    server.put(piece("web-1", *(f"10.0.1.{n}" for n in range(1, 100))))
    follower.until(lambda: len(follower.table[("10.96.0.10", 80, "tcp")][6]) == 99)


def test_events_that_come_twice_and_late(server: ApiServer, follower: Follower) -> None:
    server.trouble.twice = True
    for n in range(2, 6):
        server.put(piece("web-1", f"10.0.0.{n}"))
    follower.shows({"10.96.0.10": "10.0.0.5:8080"})
    time.sleep(0.1)
    follower.sync()
    assert follower.shown() == {"10.96.0.10": "10.0.0.5:8080"}
    server.delete(piece("web-1"))
    follower.shows({"10.96.0.10": ""})
    time.sleep(0.1)
    follower.sync()
    assert follower.shown() == {"10.96.0.10": ""}


@pytest.mark.parametrize(
    ("code", "why"),
    [(500, "server"), (503, "server"), (403, "forbidden"), (401, "unauthorized"), (404, None)],
)
def test_answers_that_say_no(
    server: ApiServer, follower: Follower, code: int, why: str | None
) -> None:
    server.trouble.answers = [(code, {})] * 4
    server.drop()
    server.put(piece("web-1", "10.0.0.2"))
    follower.shows({"10.96.0.10": "10.0.0.2:8080"})
    assert not follower.removed
    if why:
        follower.until(lambda: follower.counted(why) == 4)


def test_a_server_that_asks_for_time(server: ApiServer, follower: Follower) -> None:
    server.trouble.answers = [(429, {"Retry-After": "1"})] * 2
    server.drop()
    server.put(piece("web-1", "10.0.0.2"), service("api", "10.96.0.11"))
    began = time.monotonic()
    follower.shows({"10.96.0.10": "10.0.0.2:8080", "10.96.0.11": ""})
    assert time.monotonic() - began > 0.9
    follower.until(lambda: follower.counted("throttled") == 2)


def test_the_log_says_it_once(
    server: ApiServer, follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    server.trouble.answers = [(403, {})] * 20
    server.drop()
    follower.until(lambda: not server.trouble.answers)
    follower.until(lambda: follower.source.freshness.connected)
    said = [
        each.getMessage()
        for each in caplog.records
        if each.name == "hostreach.kubernetes" and "403" in each.getMessage()
    ]
    assert len(said) <= 2  # one for each kind


# --- pods --------------------------------------------------------------------------------------


def test_pods_of_this_node_that_ask_for_it(server: ApiServer, follow: Follow) -> None:
    server.put(pod("a"), pod("b", exempt=None), pod("c", node="node-b"), pod("d", exempt="maybe"))
    following = follow(pods=True)

    def exempt() -> dict[str, str]:
        return {each.key: each.uid for each in following.source.exempt_pods.values()}

    following.until(lambda: following.source.pods_known)
    assert exempt() == {"default/a": "uid-default-a"}
    assert following.source.pods_changed
    assert following.source.state.problems["Pod", "default/d"][0].reason == "invalid"
    server.put(pod("b"), pod("a", exempt=None), pod("d"))
    following.until(lambda: set(exempt()) == {"default/b", "default/d"})
    assert not following.source.state.problems
    server.stop()
    server.delete(pod("b"))
    server.compact()
    server.start()
    following.until(lambda: set(exempt()) == {"default/d"})
    server.put(pod("d", phase="Succeeded"))
    following.until(lambda: not exempt())
    assert all("nodeName%3Dnode-a" in each for each in server.requests if "/pods?" in each)


def test_pods_are_nobodys_business_unless_asked_for(server: ApiServer, follow: Follow) -> None:
    following = follow()
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    assert not [each for each in server.requests if "/pods" in each]


def test_services_do_not_wait_for_pods(server: ApiServer, follow: Follow) -> None:
    """As where RBAC does not allow to read them."""
    server.forbid("Pod")
    following = follow(pods=True)
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    following.until(lambda: following.restarts("Pod").get("forbidden"))
    following.until(lambda: following.source.freshness.connected)
    assert following.source.freshness.synced
    assert not following.source.pods_known


# --- bad objects -------------------------------------------------------------------------------


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


# --- this node ---------------------------------------------------------------------------------


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


def test_waits_double_and_differ() -> None:
    backoff = Backoff(Patience(first=1.0, longest=5.0), draw=lambda: 1.0)
    assert [backoff.take() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    backoff.reset()
    assert backoff.take() == 1.0
    low = Backoff(Patience(first=1.0), draw=lambda: 0.0)
    assert low.take() == 0.5
    assert low.take(at_least=7.0) == 7.0
    assert low.take(at_least=100_000.0) == 300.0


def test_a_stream_that_breaks_after_each_word_is_asked_for_less_and_less(
    server: ApiServer, follow: Follow
) -> None:
    """What it says is no reason to hurry: until a watch goes well for a while, waits double."""
    following = follow(patience=Patience(first=0.02, longest=30.0))
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    waits = following.source.watchers["EndpointSlice"]._backoff
    for n in range(2, 6):
        server.trouble.cut = True
        server.put(piece("web-1", f"10.0.0.{n}"))
        following.shows({"10.96.0.10": f"10.0.0.{n}:8080"})
    assert waits.take() >= 0.02 * 2**4 / 2


def test_a_watch_that_went_well_for_a_while_is_forgiven(server: ApiServer, follow: Follow) -> None:
    following = follow(patience=Patience(first=0.02, longest=30.0, settled=0.1))
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    waits = following.source.watchers["EndpointSlice"]._backoff
    for n in range(2, 6):
        time.sleep(0.2)
        server.trouble.cut = True
        server.put(piece("web-1", f"10.0.0.{n}"))
        following.shows({"10.96.0.10": f"10.0.0.{n}:8080"})
    assert waits.take() <= 0.02 * 2


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
