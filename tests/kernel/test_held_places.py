# SPDX-License-Identifier: Apache-2.0
"""Where connections are kept: by socket cookie, and in socket storage where that place is taken."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from .harness import Box, Line, kernel, wait_until
from .harness.clients import TCP, UDP_CONNECTED, V4, connect
from .harness.fates import ENDED, Place, fate
from .harness.held import PLACES, cookie, holders_of

if TYPE_CHECKING:
    from hostreach.node import Node

KIND = pytest.mark.parametrize("kind", [TCP, UDP_CONNECTED])


@pytest.fixture(autouse=True)
def places(node: Node) -> None:  # noqa: ARG001 - it says what the kernel lacks, if it does
    kernel.need(kernel.holds_places(), "places for connections")


def count(node: Node, place: Place) -> int:
    return sum(node.services.active(place.frontend))


@KIND
def test_held_until_the_last_close(box: Box, node: Node, kind: str) -> None:
    """A place each, which is not held before connect and by nobody after close."""
    place = Place(box, node, V4, kind)

    def converse(test: Line) -> None:
        sockets = [place.new() for _ in range(5)]
        test.ask([cookie(each) for each in sockets])
        for each in sockets:
            place.reach(each, place.vip)
        test.ask()
        for each in sockets:
            each.close()
        test.ask()

    with box.talk(converse) as test, holders_of(box) as holders:
        cookies = test.recv()
        assert [holders[each] for each in cookies] == [(0, False)] * 5
        test.ask()
        assert [holders[each] for each in cookies] == [(each, False) for each in cookies]
        test.ask()
        assert [holders[each] for each in cookies] == [(0, False)] * 5
        test.send()


@KIND
def test_taken(box: Box, node: Node, kind: str) -> None:
    """By another socket, long ago: the place is left alone, and nothing else differs."""
    place = Place(box, node, V4, kind)

    def converse(test: Line) -> None:
        client = place.new()
        test.ask(cookie(client))
        place.reach(client, place.vip)
        assert client.getpeername() == kernel.shown(place.vip, ("", 0))
        test.ask()
        test.ask(fate(client))

    with box.talk(converse) as test, holders_of(box) as holders:
        own = test.recv()
        holders[own] = own + PLACES, False
        test.ask()
        assert holders[own] == (own + PLACES, True)
        assert count(node, place) == 1
        for backend in place.backends:
            node.services.set_backend(place.frontend, f"{backend},state=down")
        became = test.ask()
        assert became == ENDED or not kernel.ends_sockets()
        test.send()
    wait_until(lambda: count(node, place) == 0, "no socket counted")


@pytest.mark.parametrize("taken", [False, True])
def test_detach_looks_at_storage_if_anybody_has_it(
    box: Box, node: Node, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For that it needs the kernel's types; who has a place is counted without."""
    kernel.need(kernel.has("btf") or not taken, "way to go over socket storage")
    place = Place(box, node, V4, TCP)

    def converse(test: Line) -> None:
        first, second = place.new(), place.new()
        test.ask(cookie(first))
        place.reach(first, place.vip)
        place.reach(second, place.vip)
        test.ask()

    with box.talk(converse) as test, holders_of(box) as holders:
        own = test.recv()
        if taken:
            holders[own] = own + PLACES, False
        test.ask()
        with monkeypatch.context() as without:
            kernel.switch_off(without, "btf")
            assert node.detach().sockets == (None if taken else 2)
        node.attach(cgroup=str(box.cgroup))
        assert node.detach().sockets == 2
        test.send()


def test_free_again(box: Box, node: Node) -> None:
    """A socket that has storage stays there, and counts once, when its place becomes free."""
    place = Place(box, node, V4, UDP_CONNECTED)

    def converse(test: Line) -> None:
        client = place.new()
        test.ask(cookie(client))
        place.reach(client, place.vip)
        test.ask()
        for address in (place.other_vip, place.vip):
            place.reach(client, address)
            assert client.getpeername() == kernel.shown(address, ("", 0))
        test.ask()

    with box.talk(converse) as test, holders_of(box) as holders:
        own = test.recv()
        holders[own] = own + PLACES, False
        test.ask()
        holders[own] = 0, True
        test.ask()
        assert holders[own] == (0, True)
        assert count(node, place) == 1
        test.send()
    wait_until(lambda: count(node, place) == 0, "no socket counted")


def cookies_made(place: Place) -> int:
    """By a connect straight to a backend, and the close; the kernel counts for each processor."""
    least = PLACES
    for _ in range(20):  # somebody else's socket may be given one meanwhile
        with place.new() as before, place.new() as after:
            first = cookie(before)
            with place.new() as client:
                place.reach(client, place.lone)
            least = min(least, cookie(after) - first - 1)
    return least


@KIND
@pytest.mark.parametrize("reads", [True, False])
def test_no_cookie_without_need(
    box: Box, node: Node, kind: str, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who calls no service is not given one, where the programs can look without."""
    place = Place(box, node, V4, kind)
    if reads:
        kernel.need(kernel.has("sock_read"), "way to look at a socket's cookie")
    else:
        with monkeypatch.context() as without:
            kernel.switch_off(without, "sock_read")
            node.attach(cgroup=str(box.cgroup))

    def converse(test: Line) -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        test.send(cookies_made(place))

    with box.talk(converse) as test:
        made = test.recv()
    # without, the server's sockets are given some too, when they are closed
    assert made == 0 if reads else made >= 1


@KIND
def test_swept_when_attached_again(box: Box, node: Node, kind: str) -> None:
    """Who closed while nobody saw it holds no place; who is still there does, and remembers."""
    kernel.need(kernel.counts_sockets(), "way to go over sockets")
    place = Place(box, node, V4, kind)

    def converse(test: Line) -> None:
        sockets = [place.new() for _ in range(4)]
        for each in sockets:
            place.reach(each, place.vip)
        test.ask([cookie(each) for each in sockets])
        for each in sockets[2:]:
            each.close()
        test.ask()
        for each in sockets[:2]:
            assert each.getpeername() == kernel.shown(place.vip, ("", 0))
        test.ask()

    with box.talk(converse) as test, holders_of(box) as holders:
        cookies = test.recv()
        node.detach()
        test.ask()
        node.attach(cgroup=str(box.cgroup))
        assert [holders[each][0] for each in cookies] == [*cookies[:2], 0, 0]
        assert count(node, place) == 2
        test.ask()
        test.send()
    wait_until(lambda: count(node, place) == 0, "no socket counted")


@KIND
def test_programs_without_places_before(
    box: Box, node: Node, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What sockets have in storage since then is found, and new ones get places."""
    place = Place(box, node, V4, kind)
    with monkeypatch.context() as without:
        kernel.switch_off(without, "places")
        node.attach(cgroup=str(box.cgroup))

    def converse(test: Line) -> None:
        before, after = place.new(), place.new()
        connect(before, place.vip)
        test.ask(cookie(before))
        connect(after, place.vip)
        for each in (before, after):
            assert each.getpeername() == kernel.shown(place.vip, ("", 0))
        test.ask(cookie(after))

    with box.talk(converse) as test, holders_of(box) as holders:
        before = test.recv()
        assert holders[before] == (0, True)
        node.attach(cgroup=str(box.cgroup))
        after = test.ask()
        assert holders[before] == (0, True)
        assert holders[after] == (after, True)
        assert count(node, place) == 2
        test.send()
    wait_until(lambda: count(node, place) == 0, "no socket counted")


def test_one_taken_by_chance_changes_no_program(box: Box, node: Node) -> None:
    """The first place of all, say: only where all are marked were there no places before."""
    kernel.need(kernel.has("sock_read"), "way to look at a socket's cookie")
    assert node.attach(cgroup=str(box.cgroup)).changes == []
    with holders_of(box) as holders:
        before = holders[0]
        holders[0] = before[0], True
        assert node.attach(cgroup=str(box.cgroup)).changes == []
        holders[0] = before
