# SPDX-License-Identifier: Apache-2.0
"""Lists that are not streamed: from the server's cache, but never from before what is known."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from kube.apiserver import ApiServer
from kube.objects import piece, service

from hostreach.sources.kubernetes import abilities, client, watch
from hostreach.sources.kubernetes.abilities import Abilities
from hostreach.sources.kubernetes.source import SERVICES
from hostreach.sources.kubernetes.watch import is_older

from .follower import NODE, Follower

BOTH = {"10.96.0.10": "10.0.0.1:8080", "10.96.0.11": ""}


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer(streamed_lists=False).running() as running:
        running.put(NODE, service(), piece("web-1", "10.0.0.1"))
        yield running


@pytest.fixture
def follower(server: ApiServer) -> Iterator[Follower]:
    following = Follower(server)
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    yield following
    following.source.close(5)


def lists(server: ApiServer) -> list[dict[str, str]]:
    """What was asked of services, but for selectors and watches."""
    asked = [urlsplit(each) for each in server.requests]
    queries = [parse_qs(each.query) for each in asked if each.path == SERVICES]
    plain = [{key: value[0] for key, value in each.items()} for each in queries]
    return [
        {key: value for key, value in each.items() if "Selector" not in key}
        for each in plain
        if "watch" not in each
    ]


def expire(server: ApiServer) -> None:
    """A service comes and another one's backend changes while all watches are away for too long."""
    server.stop()
    server.put(service("api", "10.96.0.11"))
    server.compact()
    server.start()


def test_the_first_list_is_exact_and_later_ones_are_cached(
    server: ApiServer, follower: Follower
) -> None:
    """Whole, for only so a server asks its cache; and as new as the last thing that was told."""
    assert lists(server) == [{"limit": "500"}]
    server.put(service("api", "10.96.0.12"))
    follower.until(lambda: "10.96.0.12" in follower.shown())
    version = str(server.version)
    follower.until(lambda: follower.source.watchers["Service"]._version == version)
    server.requests.clear()
    expire(server)
    follower.shows(BOTH)
    assert lists(server) == [{"resourceVersion": version, "resourceVersionMatch": "NotOlderThan"}]
    assert follower.removed == [("10.96.0.12", 80, "tcp")]


@pytest.mark.parametrize("how", ["504", "410", "400", "older"])
def test_a_server_that_lags_takes_nobody_back_in_time(
    server: ApiServer, follower: Follower, how: str
) -> None:
    """It is asked for an exact list, whether it says so or not."""
    server.lag()
    server.trouble.any_version = how == "older"
    server.trouble.whole_lists = int(how) if how in ("410", "400") else None
    server.put(service("api", "10.96.0.11"))
    follower.shows(BOTH)
    server.stop()
    server.delete(piece("web-1"))
    server.compact()
    server.requests.clear()
    server.start()
    follower.shows({"10.96.0.10": "", "10.96.0.11": ""})
    follower.until(lambda: len(lists(server)) == 2, "both lists")
    assert not follower.removed
    assert [sorted(each) for each in lists(server)] == [
        ["resourceVersion", "resourceVersionMatch"],
        ["limit"],
    ]


def test_a_cached_list_that_is_too_large_is_read_in_pages(
    server: ApiServer, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held at a time stays as small as it was. It is not tried again at each list."""
    monkeypatch.setattr(watch, "WHOLE_MAX", 20_000)
    monkeypatch.setattr(client.ApiClient.get, "__defaults__", (1_000_000,))
    server.put(*(service(f"s{n:04}", f"10.97.{n >> 8}.{n & 255}") for n in range(1, 603)))
    follower.until(lambda: len(follower.table) == 603, "603 services")
    server.requests.clear()
    for number in (604, 605):
        server.stop()
        server.put(service(f"new-{number}", f"10.98.{number >> 8}.{number & 255}"))
        server.compact()
        server.start()
        follower.until(lambda number=number: len(follower.table) == number)  # type: ignore[misc]
    assert not follower.removed
    asked = [each for each in lists(server) if "continue" not in each]
    assert sum("resourceVersion" in each for each in asked) == 1
    assert sum("limit" in each for each in asked) >= 2


def test_a_server_that_is_upgraded_streams_its_lists(
    server: ApiServer, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abilities, "AWAY", 0.0)
    server.streamed_lists = True
    server.requests.clear()
    expire(server)
    follower.shows(BOTH)
    assert any("sendInitialEvents" in each for each in server.requests)
    assert not lists(server)


@pytest.mark.parametrize("code", [500, 504])
def test_a_server_that_cannot_end_a_streamed_list(server: ApiServer, code: int) -> None:
    """As by an etcd that does not tell how far it is: asked again, it would say so for ever."""
    server.streamed_lists = True
    server.trouble.stream_error = code
    following = Follower(server)
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    assert lists(server) == [{"limit": "500"}]
    assert following.restarts() == {"server": 1}
    following.source.close(5)


def test_bookmarks_do_not_go_back(server: ApiServer, follower: Follower) -> None:
    """As from a server that lags: what follows the older one was told already."""
    watcher = follower.source.watchers["Service"]
    follower.until(lambda: watcher._version == str(server.version))
    watcher._line(b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"}}}')
    assert watcher._version == str(server.version)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_a_server_lacks_is_asked_for_again() -> None:
    """After an hour, or when it was away for long enough to be another one."""
    clock = Clock()
    able = Abilities(clock)
    able.lacks_streams()
    able.lacks_whole()
    clock.now += 3599
    able.renew()
    assert (able.streams, able.whole) == (False, False)
    clock.now += 2
    able.renew()
    assert (able.streams, able.whole) == (True, True)
    able.lacks_streams()
    able.failed()
    clock.now += 29
    able.failed()
    able.answered()
    able.renew()
    assert not able.streams
    able.failed()
    clock.now += 31
    able.failed()
    able.answered()
    able.renew()
    assert able.streams


@pytest.mark.parametrize(
    ("version", "than", "older"),
    [("9", "10", True), ("10", "9", False), ("9", "9", False), ("9", "", False), ("a", "b", False)],
)
def test_versions_are_numbers(version: str, than: str, older: bool) -> None:
    assert is_older(version, than) == older
