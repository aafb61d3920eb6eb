# SPDX-License-Identifier: Apache-2.0
"""An unconnected UDP socket's only service: in its place, and in storage once there is more."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import NO_STARVING, Box, Line, kernel, wait_until
from .harness.clients import FAMILIES, UDP_UNCONNECTED, V4, Family, Seen, ask, new_socket, receive
from .harness.held import PLACES, UNCONNECTED, Holders, cookie, holders_of

if TYPE_CHECKING:
    from hostreach.node import Node

FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=str)
PORT = 53


@pytest.fixture(autouse=True)
def holders(box: Box, node: Node) -> Iterator[Holders]:  # noqa: ARG001 - it makes the tables
    kernel.need(kernel.holds_places(), "places for connections")
    kernel.need(kernel.has("sock_read"), "way to look at a socket's cookie")
    with holders_of(box) as found:
        yield found


class Ways:
    """Two services, and their servers: one each, or one for both."""

    def __init__(self, box: Box, node: Node, family: Family = V4, *, shared: bool = False) -> None:
        self.family = family
        self.servers = [family.endpoint(family.backend(2 + n), 8053) for n in range(2)]
        box.serve(*(f"{server}/udp" for server in self.servers))
        if shared:
            self.servers[1] = self.servers[0]
        self.frontends = [f"{family.endpoint(family.vip(n), PORT)}/udp" for n in (1, 2)]
        for frontend, server in zip(self.frontends, self.servers, strict=True):
            node.services.add(Service.of(frontend, server))
        self.vips = [family.sockaddr(family.vip(n), PORT) for n in (1, 2)]
        self.direct = [family.sockaddr_of(server) for server in self.servers]

    def ask(self, client: socket.socket, which: int) -> None:
        assert ask(client, self.vips[which]) == Seen(self.servers[which], self.vips[which])

    def new(self) -> socket.socket:
        return new_socket(self.family, UDP_UNCONNECTED)


@FAMILY
def test_held_until_the_last_close(box: Box, node: Node, holders: Holders, family: Family) -> None:
    ways = Ways(box, node, family)

    def converse(test: Line) -> None:
        sockets = [ways.new() for _ in range(3)]
        twin = sockets[0].dup()
        test.ask([cookie(each) for each in sockets])
        for each in sockets:
            for _ in range(2):
                ways.ask(each, 0)
        test.ask()
        for each in sockets:
            each.close()
        test.ask()
        ways.ask(twin, 0)
        twin.close()
        test.ask()

    with box.talk(converse) as test:
        cookies = test.recv()
        assert [holders[each] for each in cookies] == [(0, False)] * 3
        test.ask()
        assert all(holders.is_only(each) for each in cookies)
        assert node.services.active(ways.frontends[0]) == [0]
        test.ask()
        assert [holders.is_only(each) for each in cookies] == [True, False, False]
        test.ask()
        assert [holders[each] for each in cookies] == [(0, False)] * 3
        test.send()


@pytest.mark.parametrize("shared", [False, True], ids=["a-server-each", "one-server"])
@FAMILY
def test_another_service(
    box: Box, node: Node, holders: Holders, family: Family, shared: bool
) -> None:
    """Both in storage, and the first one's answer, fetched late, is shown as before."""
    ways = Ways(box, node, family, shared=shared)

    def converse(test: Line) -> None:
        with ways.new() as client:
            client.sendto(b"late", ways.vips[0])
            test.ask(cookie(client))
            client.sendto(b"later", ways.vips[1])
            test.ask()
            # one server's answers have the name that it was last called by
            names = {source[:2] for _, source in (receive(client), receive(client))}
            assert names == ({ways.vips[1]} if shared else {*ways.vips})
            for which in (0, 1, 1, 0):
                ways.ask(client, which)

    with box.talk(converse) as test:
        own = test.recv()
        assert holders.is_only(own)
        test.ask()
        assert holders[own] == (0, False)
        test.send()


@FAMILY
def test_sent_straight_to_the_backend(
    box: Box, node: Node, holders: Holders, family: Family
) -> None:
    """Its answers show it until the service is asked again, which goes to the same one."""
    ways = Ways(box, node, family)
    node.services.add_backend(ways.frontends[0], ways.servers[1])

    def converse(test: Line) -> None:
        with ways.new() as client:
            first = ask(client, ways.vips[0])
            assert first.peer == ways.vips[0]
            test.ask(cookie(client))
            direct = family.sockaddr_of(first.server)
            assert ask(client, direct) == Seen(first.server, direct)
            test.ask()
            assert {ask(client, ways.vips[0]) for _ in range(8)} == {first}

    with box.talk(converse) as test:
        own = test.recv()
        assert holders.is_only(own)
        test.ask()
        assert holders[own] == (0, False)
        test.send()


@FAMILY
def test_connects_afterwards(box: Box, node: Node, holders: Holders, family: Family) -> None:
    """The place is the connection's then; what was queued before shows its own service."""
    ways = Ways(box, node, family)

    def converse(test: Line) -> None:
        with ways.new() as client:
            client.sendto(b"late", ways.vips[0])
            test.ask(cookie(client))
            client.connect(ways.vips[1])
            assert client.getpeername()[:2] == kernel.shown(ways.vips[1], ways.direct[1])
            test.ask()
            assert receive(client)[1][:2] == ways.vips[0]
            client.send(b"now")
            assert receive(client)[1][:2] == ways.vips[1]
        test.ask()

    with box.talk(converse) as test:
        own = test.recv()
        assert holders.is_only(own)
        test.ask()
        assert (holders[own], holders.is_only(own)) == ((own, False), False)
        assert node.services.active(ways.frontends[1]) == [1]
        test.ask()
        assert holders[own] == (0, False)
        test.send()
    assert node.services.active(ways.frontends[1]) == [0]


def test_connects_straight_afterwards(box: Box, node: Node, holders: Holders) -> None:
    """To what is no service: what it had asked for before is still its own."""
    ways = Ways(box, node)

    def converse(test: Line) -> None:
        with ways.new() as client:
            ways.ask(client, 0)
            client.connect(ways.direct[1])
            assert client.getpeername() == ways.direct[1]
            client.send(b"straight")
            assert receive(client)[1] == ways.direct[1]
            test.ask(cookie(client))

    with box.talk(converse) as test:
        assert holders.is_only(test.recv())
        test.send()


@FAMILY
def test_taken(box: Box, node: Node, holders: Holders, family: Family) -> None:
    """By another socket: its place is left as it is."""
    ways = Ways(box, node, family)

    def converse(test: Line) -> None:
        with ways.new() as client:
            test.ask(cookie(client))
            for which in (0, 0, 1, 0):
                ways.ask(client, which)
            test.ask()

    with box.talk(converse) as test:
        own = test.recv()
        holders[own] = own + PLACES, False
        test.ask()
        assert holders[own] == (own + PLACES, False)
        test.send()


def test_marked(box: Box, node: Node, holders: Holders) -> None:
    """For a connection in storage, of which this socket has none; and the mark stays."""
    ways = Ways(box, node)

    def converse(test: Line) -> None:
        with ways.new() as client:
            test.ask(cookie(client))
            ways.ask(client, 0)
            test.ask()
            client.connect(ways.vips[1])
            assert client.getpeername() == kernel.shown(ways.vips[1], ways.direct[1])
            test.ask()
        test.ask()

    with box.talk(converse) as test:
        own = test.recv()
        holders[own] = 0, True
        test.ask()
        assert holders.is_only(own)
        assert holders[own] == (own, True)
        test.ask()
        assert holders[own][1]
        assert node.services.active(ways.frontends[1]) == [1]
        test.ask()
        assert holders[own] == (0, True)
        test.send()
    assert node.services.active(ways.frontends[1]) == [0]


@pytest.mark.parametrize("then", ["connects", "sends"])
def test_programs_that_do_not_know_of_it(
    box: Box, node: Node, holders: Holders, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a while, as those of an older version: what they put into storage is found too."""
    ways = Ways(box, node)

    def converse(test: Line) -> None:
        with ways.new() as client:
            ways.ask(client, 0)
            test.ask(cookie(client))
            if then == "connects":
                client.connect(ways.vips[1])
                test.ask()
                assert client.getpeername() == kernel.shown(ways.vips[1], ways.direct[1])
                client.send(b"now")
                assert receive(client)[1] == ways.vips[1]
            else:
                ways.ask(client, 1)
                assert ask(client, ways.direct[1]) == Seen(ways.servers[1], ways.direct[1])
                test.ask()
                for which in (1, 0, 1):
                    ways.ask(client, which)
            test.ask()

    connected = int(then == "connects")
    with box.talk(converse) as test:
        own = test.recv()
        assert holders.is_only(own)
        with monkeypatch.context() as without:
            kernel.switch_off(without, "places")
            node.attach(cgroup=str(box.cgroup))
        test.ask()
        assert node.services.active(ways.frontends[1]) == [connected]
        node.attach(cgroup=str(box.cgroup))
        test.ask()
        test.send()
    wait_until(lambda: node.services.active(ways.frontends[1]) == [0], "no socket counted")


@pytest.mark.parametrize("shared", [False, True], ids=["a-server-each", "one-server"])
def test_no_memory_for_storage(box: Box, node: Node, holders: Holders, shared: bool) -> None:
    """The LRU has both then."""
    ways = Ways(box, node, shared=shared)

    def converse(test: Line) -> None:
        with ways.new() as client:
            ways.ask(client, 0)
            test.ask(cookie(client))
            for which in (1, 0, 0, 1):
                ways.ask(client, which)
            assert ask(client, ways.direct[0]) == Seen(ways.servers[0], ways.direct[0])
            ways.ask(client, 0)

    with box.talk(converse) as test:
        own = test.recv()
        assert holders.is_only(own)
        if not box.starve():
            test.send()
            pytest.skip(NO_STARVING)
        holders[own] = own | UNCONNECTED, False
        test.send()
    assert node.status().unremembered == 0


def test_no_memory_and_straight_to_the_backend(box: Box, node: Node, holders: Holders) -> None:
    """The LRU has which backend it was."""
    ways = Ways(box, node)
    node.services.add_backend(ways.frontends[0], ways.servers[1])

    def converse(test: Line) -> None:
        with ways.new() as client:
            first = ask(client, ways.vips[0])
            test.ask(cookie(client))
            direct = V4.sockaddr_of(first.server)
            for _ in range(12):
                assert ask(client, direct) == Seen(first.server, direct)
                assert ask(client, ways.vips[0]) == first

    with box.talk(converse) as test:
        own = test.recv()
        if not box.starve():
            test.send()
            pytest.skip(NO_STARVING)
        holders[own] = own | UNCONNECTED, False
        test.send()


def test_another_backend(box: Box, node: Node, holders: Holders) -> None:
    """When its own goes: the same place has the new one."""
    ways = Ways(box, node)

    def converse(test: Line) -> None:
        with ways.new() as client:
            ways.ask(client, 0)
            test.ask(cookie(client))
            assert ask(client, ways.vips[0]) == Seen(ways.servers[1], ways.vips[0])
            test.ask()

    with box.talk(converse) as test:
        own = test.recv()
        node.services.set(Service.of(ways.frontends[0], ways.servers[1]))
        test.ask()
        assert holders.is_only(own)
        test.send()


def test_swept_when_attached_again(box: Box, node: Node, holders: Holders) -> None:
    """Who closed while nobody saw it holds no place; who is still there does, and remembers."""
    kernel.need(kernel.counts_sockets(), "way to go over sockets")
    ways = Ways(box, node)

    def converse(test: Line) -> None:
        sockets = [ways.new() for _ in range(4)]
        for each in sockets:
            each.sendto(b"late", ways.vips[0])
        test.ask([cookie(each) for each in sockets])
        for each in sockets[2:]:
            each.close()
        test.ask()
        for each in sockets[:2]:
            assert receive(each)[1] == ways.vips[0]
        test.ask()

    with box.talk(converse) as test:
        cookies = test.recv()
        assert node.detach().sockets in (0, None)
        test.ask()
        node.attach(cgroup=str(box.cgroup))
        assert [holders[each][0] for each in cookies] == [*cookies[:2], 0, 0]
        test.ask()
        test.send()
    wait_until(lambda: not holders[cookies[0]][0], "a place held by nobody")
