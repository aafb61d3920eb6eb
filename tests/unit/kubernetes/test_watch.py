# SPDX-License-Identifier: Apache-2.0
"""Listing and watching, through all that an API server and a network may do meanwhile."""

from __future__ import annotations

import time

import pytest
from kube.apiserver import ApiServer
from kube.objects import piece, pod, service

from hostreach.sources.kubernetes.patience import Backoff, Patience

from .follower import Follow, Follower


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


def test_a_half_open_connection(
    server: ApiServer, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is heard, no bookmark either: it is given up, and made anew.

    That may as well be a server that has nothing to say, so nobody is told.
    """
    following = follow(idle=2.0)
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    server.trouble.silent = True
    server.put(piece("web-1", "10.0.0.2"))
    asked = len(server.requests)
    following.until(lambda: following.restarts("EndpointSlice").get("ended"))
    following.until(lambda: any("slices" in each for each in server.requests[asked:]))
    time.sleep(0.1)
    server.trouble.silent = False
    following.shows({"10.96.0.10": "10.0.0.2:8080"})
    assert not following.counted("connection")
    assert not [each for each in caplog.records if each.levelname == "WARNING"]


def test_a_server_whose_versions_go_back(server: ApiServer, follow: Follow) -> None:
    """It says nothing to a watch from a version that is yet to come, and then too little."""
    following = follow(idle=0.5, patience=Patience(first=0.02, longest=0.2, settled=0.1))
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    server.stop()
    server.delete(service())
    server.put(service("api", "10.96.0.11"))
    server.go_back()
    server.start()
    following.shows({"10.96.0.11": ""})
    server.put(service("new", "10.96.0.12"))
    following.shows({"10.96.0.11": "", "10.96.0.12": ""})


def test_a_quiet_server_is_asked_for_little(server: ApiServer, follow: Follow) -> None:
    following = follow(idle=0.3, patience=Patience(first=0.02, longest=0.2, settled=0.1))
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    server.requests.clear()
    following.until(lambda: following.restarts().get("ended", 0) >= 3)
    asked = [each for each in server.requests if "watch" not in each and "/services" in each]
    assert asked
    assert all("limit=1&" in f"{each}&" for each in asked)
    assert not following.removed


def test_a_quiet_server_that_does_not_say_how_far_it_is(server: ApiServer, follow: Follow) -> None:
    """As while etcd is away: it is watched all the same."""
    following = follow(idle=0.3, patience=Patience(first=0.02, longest=0.2, settled=0.1))
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    server.trouble.lists = {"kind": "Status"}
    following.until(lambda: following.restarts().get("ended", 0) >= 3)
    server.put(service("api", "10.96.0.11"))
    following.shows({"10.96.0.10": "10.0.0.1:8080", "10.96.0.11": ""})


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
