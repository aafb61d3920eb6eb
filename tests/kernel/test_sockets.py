# SPDX-License-Identifier: Apache-2.0
"""Sockets whose backend is gone: which are ended, which are spared, where they are looked for."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import hostreach
from hostreach import Service

from .harness import Box, Line, cli, linux, wait_until
from .harness.clients import (
    FAMILIES,
    RAW_UNSPEC,
    TCP,
    UDP_CONNECTED,
    UDP_UNCONNECTED,
    V4,
    V6,
    Family,
    ask,
    connect,
    line,
    new_socket,
    outcome,
    protocol_of,
)
from .harness.namespace import NetNamespace

if TYPE_CHECKING:
    from hostreach.node import Node

FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=str)
KIND = pytest.mark.parametrize("kind", [TCP, UDP_CONNECTED])
WAYS = pytest.mark.parametrize("without", ["", "sock_destroy", "btf"], ids=lambda w: w or "bpf")
"""By BPF; by netlink where BPF tells of the sockets; by netlink alone."""
PORT = 53
ENDED = "ECONNABORTED"
ALIVE = "EAGAIN"


class Place:
    """One service with two backends, another that shares them, and a server without a service."""

    def __init__(
        self, box: Box, node: Node, family: Family, kind: str, on_removal: str | None = "reset"
    ) -> None:
        self.family, self.kind, self.node, self.box = family, kind, node, box
        protocol = protocol_of(kind)
        self.backends = [family.endpoint(family.backend(n), 8053) for n in (2, 3)]
        self.lone_server = family.endpoint(family.backend(4), 8053)
        box.serve(*(f"{server}/{protocol}" for server in (*self.backends, self.lone_server)))
        self.frontend = f"{family.endpoint(family.vip(10), PORT)}/{protocol}"
        self.other = f"{family.endpoint(family.vip(11), PORT)}/{protocol}"
        node.services.add(Service.of(self.frontend, *self.backends, on_removal=on_removal))
        node.services.add(Service.of(self.other, *self.backends, on_removal=on_removal))
        self.vip = family.sockaddr(family.vip(10), PORT)
        self.other_vip = family.sockaddr(family.vip(11), PORT)
        self.lone = family.sockaddr(family.backend(4), 8053)

    def direct(self, server: str) -> tuple[str, int]:
        return self.family.sockaddr(server.rpartition(":")[0].strip("[]"), 8053)

    def new(self) -> socket.socket:
        return new_socket(self.family, self.kind)

    def reach(self, client: socket.socket, address: tuple[str, int]) -> str:
        """Connects; the server that answers."""
        connect(client, address)
        return line(client) if self.kind == TCP else ask(client).server

    @contextmanager
    def clients(self, count: int = 8) -> Iterator[tuple[Line, list[str]]]:
        """That many connected sockets in the box, and where each was sent; then ask for fates."""

        def converse(test: Line) -> None:
            sockets = [self.new() for _ in range(count)]
            test.send([self.reach(client, self.vip) for client in sockets])
            while test.recv() == "fates":
                test.send([fate(client) for client in sockets])

        with self.box.talk(converse) as test:
            yield test, test.recv()
            test.send("enough")


def fate(client: socket.socket) -> object:
    """The error that a socket has to tell, or ALIVE."""
    return outcome(client.recv, 100, socket.MSG_DONTWAIT)


def ended(node: Node) -> int:
    """How many sockets the last change ended."""
    return len(node.last_ended.sockets) if node.last_ended else 0


def remove_backend(place: Place) -> None:
    place.node.services.remove_backend(place.frontend, place.backends[0])


def down(place: Place) -> None:
    from hostreach.models import Backend

    backend = Backend(address=place.backends[0], state="down")
    place.node.services.set_backend(place.frontend, backend)


def set_others(place: Place) -> None:
    service = place.node.services.get(place.frontend)
    rest = [backend for backend in service.backends if backend.address != place.backends[0]]
    place.node.services.set(service.model_copy(update={"backends": tuple(rest)}))


def apply_others(place: Place) -> None:
    service = place.node.services.get(place.frontend)
    rest = [backend for backend in service.backends if backend.address != place.backends[0]]
    place.node.services.apply([service.model_copy(update={"backends": tuple(rest)})])


def remove_service(place: Place) -> None:
    place.node.services.remove(place.frontend)


CAUSES = (remove_backend, down, set_others, apply_others, remove_service)


@WAYS
@FAMILY
@KIND
def test_ended_with_their_backend(
    box: Box, node: Node, family: Family, kind: str, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTREACH_WITHOUT", without)
    place = Place(box, node, family, kind)
    with place.clients() as (test, sent_to):
        remove_backend(place)
        gone = [server == place.backends[0] for server in sent_to]
        assert test.ask("fates") == [ENDED if there else ALIVE for there in gone]
        assert ended(node) == sum(gone)
        if any(gone):
            assert node.last_ended
            assert node.last_ended.method == ("netlink" if without else "bpf")
            assert {(s.service, s.backend) for s in node.last_ended.sockets} == {
                (place.frontend, place.backends[0])
            }


@KIND
@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.__name__)
def test_causes(box: Box, node: Node, kind: str, cause: Callable[[Place], None]) -> None:
    place = Place(box, node, V4, kind)
    with place.clients() as (test, sent_to):
        cause(place)
        gone = [cause is remove_service or server == place.backends[0] for server in sent_to]
        assert test.ask("fates") == [ENDED if there else ALIVE for there in gone]
        assert ended(node) == sum(gone)


@KIND
@pytest.mark.parametrize("on_removal", [None, "reset", "keep"])
def test_policy(box: Box, node: Node, kind: str, on_removal: str | None) -> None:
    """UDP is reset and TCP kept, unless it is said otherwise."""
    place = Place(box, node, V4, kind, on_removal)
    reset = on_removal == "reset" or (on_removal is None and kind == UDP_CONNECTED)
    with place.clients() as (test, _):
        remove_service(place)
        assert set(test.ask("fates")) == {ENDED if reset else ALIVE}
        assert ended(node) == (8 if reset else 0)
        assert node.end_sockets().sockets == []
        assert set(test.ask("fates")) <= {ALIVE, "ENOTCONN", 0, b""} if reset else {ALIVE}


def test_policy_changed_while_down(box: Box, node: Node) -> None:
    place = Place(box, node, V4, TCP, "keep")
    with place.clients() as (test, _):
        for backend in place.backends:
            node.services.set_backend(place.frontend, f"{backend},state=down")
        assert set(test.ask("fates")) == {ALIVE}
        service = node.services.get(place.frontend)
        node.services.set(service.model_copy(update={"on_removal": "reset"}))
        assert ended(node) == 8
        assert set(test.ask("fates")) == {ENDED}


@KIND
def test_draining_goes_on(box: Box, node: Node, kind: str) -> None:
    place = Place(box, node, V4, kind)
    with place.clients() as (test, _):
        node.services.set_backend(place.frontend, f"{place.backends[0]},state=draining")
        assert node.last_ended is None
        assert set(test.ask("fates")) == {ALIVE}


def test_nobody_looks_where_nobody_is_connected(box: Box, node: Node) -> None:
    place = Place(box, node, V4, UDP_CONNECTED)
    with place.clients() as (test, _):
        node.services.remove(place.other)
        assert node.last_ended is None
        assert set(test.ask("fates")) == {ALIVE}


@KIND
def test_waiting_client_is_told(box: Box, node: Node, kind: str) -> None:
    place = Place(box, node, V4, kind)

    def converse(test: Line) -> None:
        with place.new() as client:
            place.reach(client, place.vip)
            test.send()
            test.send(outcome(client.recv, 100))
            # and the socket can be used again
            if kind == UDP_CONNECTED:
                assert place.reach(client, place.other_vip) in place.backends
                assert client.getpeername() == place.other_vip

    with box.talk(converse) as test:
        test.recv()
        time.sleep(0.05)
        remove_service(place)
        assert test.recv() == ENDED


def test_connecting_client_is_told(box: Box, node: Node) -> None:
    """A backend that does not answer: connect would try for two minutes."""
    frontend = "10.96.0.10:53/tcp"
    node.services.add(Service.of(frontend, "10.0.0.30:8053", on_removal="reset"))

    def converse(test: Line) -> None:
        with ExitStack() as stack:
            server = stack.enter_context(socket.socket())
            server.bind(("10.0.0.30", 8053))
            server.listen(0)
            for _ in range(3):  # more than it takes
                full = stack.enter_context(new_socket(V4, TCP, blocking=False))
                full.connect_ex(("10.0.0.30", 8053))
            client = stack.enter_context(new_socket(V4, TCP, blocking=False))
            assert client.connect_ex(("10.96.0.10", 53)) == errno.EINPROGRESS
            test.ask()
            test.send(errno.errorcode[client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
            for each in (full, server):
                assert each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

    with box.talk(converse) as test:
        test.recv()
        node.services.remove(frontend)
        assert ended(node) == 1
        assert test.ask() == ENDED


def disconnected(place: Place) -> socket.socket:
    client = place.new()
    place.reach(client, place.vip)
    linux.connect_raw(client.fileno(), RAW_UNSPEC)
    return client


def unused(place: Place) -> socket.socket:
    return place.new()


def straight_there(place: Place) -> socket.socket:
    client = place.new()
    place.reach(client, place.direct(place.backends[0]))
    return client


def straight_there_afterwards(place: Place) -> socket.socket:
    client = disconnected(place)
    place.reach(client, place.direct(place.backends[0]))
    return client


def by_another_service(place: Place) -> socket.socket:
    client = place.new()
    place.reach(client, place.other_vip)
    return client


def by_another_service_afterwards(place: Place) -> socket.socket:
    client = disconnected(place)
    place.reach(client, place.other_vip)
    return client


def elsewhere_afterwards(place: Place) -> socket.socket:
    client = disconnected(place)
    place.reach(client, place.lone)
    return client


def elsewhere_at_once(place: Place) -> socket.socket:
    client = place.new()
    place.reach(client, place.vip)
    if place.kind == UDP_CONNECTED:
        place.reach(client, place.lone)
    return client


def unconnected(place: Place) -> socket.socket:
    client = new_socket(place.family, UDP_UNCONNECTED)
    if place.kind == UDP_CONNECTED:
        for _ in range(4):
            ask(client, place.vip)
    return client


def failed_elsewhere(place: Place) -> socket.socket:
    """Connected by another service; a connect by the one that goes is refused."""
    client = by_another_service(place)
    if place.kind == UDP_CONNECTED:
        unroutable = {V6: "fd00:77::1"}.get(place.family, "10.77.0.1")
        assert client.connect_ex(place.family.sockaddr(unroutable, 9)) == errno.ENETUNREACH
    return client


SPARED = (
    disconnected,
    unused,
    straight_there,
    straight_there_afterwards,
    by_another_service,
    by_another_service_afterwards,
    elsewhere_afterwards,
    unconnected,
    failed_elsewhere,
)


@WAYS
@FAMILY
@KIND
def test_spared(
    box: Box, node: Node, family: Family, kind: str, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTREACH_WITHOUT", without)
    place = Place(box, node, family, kind)

    def converse(test: Line) -> None:
        victim = place.new()
        place.reach(victim, place.vip)
        spared = {make.__name__: make(place) for make in SPARED}
        for client in spared.values():
            fate(client)  # a disconnect of TCP leaves an error to be told
        before = {name: fate(client) for name, client in spared.items()}
        test.ask()
        assert fate(victim) == ENDED
        after = {name: fate(client) for name, client in spared.items()}
        assert after == before
        for name in ("straight_there", "by_another_service", "failed_elsewhere"):
            if kind == UDP_CONNECTED:
                ask(spared[name])
            else:
                spared[name].send(b"still there?")
                assert spared[name].recv(100) == b"still there?"
        # servers' own sockets as well
        with place.new() as late:
            assert place.reach(late, place.other_vip) in place.backends

    with box.talk(converse) as test:
        test.recv()
        remove_service(place)
        assert ended(node) == 1
        test.send()


@FAMILY
def test_reconnected_udp(box: Box, node: Node, family: Family) -> None:
    """Without a disconnect between; and one whose connect elsewhere failed is still there."""
    place = Place(box, node, family, UDP_CONNECTED)
    unroutable = {V6: "fd00:77::1"}.get(family, "10.77.0.1")
    node.services.add(
        Service.of(f"{family.endpoint(family.vip(12), PORT)}/udp", family.endpoint(unroutable, 9))
    )

    def converse(test: Line) -> None:
        elsewhere = elsewhere_at_once(place)
        stayed = place.new()
        place.reach(stayed, place.vip)
        nowhere = family.sockaddr(family.vip(12), PORT)
        assert stayed.connect_ex(nowhere) == errno.ENETUNREACH
        victim = place.new()
        place.reach(victim, place.vip)
        test.ask()
        assert [fate(each) for each in (elsewhere, stayed, victim)] == [ALIVE, ENDED, ENDED]

    with box.talk(converse) as test:
        test.recv()
        remove_service(place)
        assert ended(node) == 2
        test.send()


def many_namespaces(place: Place, test: Line) -> None:
    """A socket in each of several namespaces that this process is in or not in any more."""
    places = [NetNamespace() for _ in range(4)]
    sockets = []
    for namespace in places:
        namespace.enter()
        client = place.new()
        client.connect(place.vip)
        sockets.append(client)
    for namespace in places[2:]:
        namespace.close()  # now only its socket holds it
    test.ask()
    test.send([fate(client) for client in sockets])


@WAYS
def test_every_namespace(
    box: Box, node: Node, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTREACH_WITHOUT", without)
    place = Place(box, node, V4, UDP_CONNECTED)
    with box.talk(lambda test: many_namespaces(place, test)) as test, place.clients() as (main, _):
        test.recv()
        remove_service(place)
        assert ended(node) == 12
        assert node.last_ended
        assert len({each.netns for each in node.last_ended.sockets}) == 5
        assert node.last_ended.namespaces >= 5
        assert set(main.ask("fates")) == {ENDED}
        assert set(test.ask()) == {ENDED}


def test_namespace_out_of_reach(box: Box, node: Node) -> None:
    """A socket that is under way between two processes is in nobody's table of files."""
    place = Place(box, node, V4, UDP_CONNECTED)

    def converse(test: Line) -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        namespace = NetNamespace()
        namespace.enter()
        with place.new() as client:
            client.connect(place.vip)
            socket.send_fds(here, [b"x"], [client.fileno()])
        box._namespace.enter()
        namespace.close()
        test.ask()
        _, fds, _, _ = socket.recv_fds(there, 1, 1)
        with socket.socket(fileno=fds[0]) as client:
            test.send(fate(client))
            test.recv()
            test.send(fate(client))

    with box.talk(converse) as test:
        test.recv()
        remove_service(place)
        result = node.last_ended
        assert result
        assert (result.sockets, result.unreachable, result.left) == ([], 1, 1)
        assert test.ask() == ALIVE
        assert len(node.end_sockets().sockets) == 1  # now it can be found
        assert test.ask() == ENDED


@WAYS
def test_dry_run(box: Box, node: Node, without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTREACH_WITHOUT", without)
    place = Place(box, node, V4, UDP_CONNECTED)
    with place.clients() as (test, sent_to):
        write_unended(node, remove=[place.frontend])
        result = node.end_sockets(dry_run=True)
        assert result.dry_run
        assert sorted(each.backend for each in result.sockets) == sorted(sent_to)
        assert {each.service for each in result.sockets} == {place.frontend}
        assert set(test.ask("fates")) == {ALIVE}
        assert sorted(node.end_sockets().sockets) == sorted(result.sockets)
        assert set(test.ask("fates")) == {ENDED}


def write_unended(node: Node, **changes: Any) -> None:
    """As a writer that is killed before it comes to the sockets."""
    from hostreach.models import Frontend

    table = node._table
    with table.locked(exclusive=True):
        keys = [Frontend.parse(frontend) for frontend in changes.get("remove", [])]
        table._core.write([], [(key.address, key.port, key.protocol) for key in keys])


@KIND
def test_a_killed_writers_sockets(box: Box, node: Node, kind: str) -> None:
    """The next writer ends them, whatever it writes; it may have taken the ids already."""
    place = Place(box, node, V4, kind)
    with place.clients() as (test, _):
        write_unended(node, remove=[place.frontend])
        assert set(test.ask("fates")) == {ALIVE}
        with hostreach.open(str(box.pin)) as other:
            other.services.add(Service.of("10.96.0.20:1/udp", "10.0.0.2:1", "10.0.0.3:1"))
            assert ended(other) == 8
        assert set(test.ask("fates")) == {ENDED}


@KIND
def test_kept_for_good(box: Box, node: Node, kind: str) -> None:
    """Sockets that were kept stay so when their backend's id is another one's."""
    place = Place(box, node, V4, kind, "keep")
    with place.clients() as (test, _):
        remove_service(place)
        for n in range(1200):  # more than there are ids
            frontend = f"10.96.1.{n % 200}:1/udp"
            node.services.set(Service.of(frontend, f"10.0.0.{n % 250}:{1 + n // 250}"))
        assert node.end_sockets().sockets == []
        assert set(test.ask("fates")) == {ALIVE}


def test_where_the_kernel_cannot(box: Box, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTREACH_WITHOUT", "sock_destroy,sock_diag")
    place = Place(box, node, V4, UDP_CONNECTED)
    with place.clients() as (test, _):
        remove_service(place)
        result = node.last_ended
        assert result
        assert (result.sockets, result.method) == ([], None)
        assert result.problem == "this kernel has no way to end sockets"
        assert set(test.ask("fates")) == {ALIVE}


def test_connecting_while_backends_go(box: Box, node: Node) -> None:
    """No socket may be left at a backend that went while it was being connected."""
    place = Place(box, node, V4, UDP_CONNECTED)
    first, second = place.backends

    def converse(test: Line) -> None:
        sockets: list[socket.socket] = []
        while not test._connection.poll():
            client = new_socket(V4, UDP_CONNECTED)
            client.connect(place.vip)
            sockets.append(client)
            if len(sockets) > 300:
                sockets.pop(0).close()
        test.recv()
        left = [client for client in sockets if fate(client) == ALIVE]
        test.send((len(sockets), [ask(client).server for client in left]))

    with box.talk(converse) as test:
        for n in range(100):
            node.services.set(Service.of(place.frontend, (first, second)[n % 2]))
        node.services.set(Service.of(place.frontend, second))
        time.sleep(0.02)
        opened, servers = test.ask()
        assert opened > 100
        assert set(servers) <= {second}


def counts(node: Node, frontend: str) -> int:
    return sum(node.services.active(frontend))


@KIND
def test_counted_anew(box: Box, node: Node, kind: str) -> None:
    """What closed while nobody was attached is not counted any more."""
    place = Place(box, node, V4, kind)

    def converse(test: Line) -> None:
        sockets = [place.new() for _ in range(5)]
        for client in sockets:
            place.reach(client, place.vip)
        while sockets:
            test.ask()
            sockets.pop().close()
        test.ask()

    with box.talk(converse) as test:
        test.recv()
        assert counts(node, place.frontend) == 5
        assert node.detach().sockets == 5
        for _ in range(2):
            test.ask()
        assert counts(node, place.frontend) == 5
        node.attach(cgroup=str(box.cgroup))
        assert counts(node, place.frontend) == 3
        for left in (2, 1, 0):
            test.ask()
            assert counts(node, place.frontend) == left
        test.send()


@FAMILY
@KIND
def test_detach_counts(box: Box, node: Node, family: Family, kind: str) -> None:
    place = Place(box, node, family, kind)

    def converse(test: Line) -> None:
        first, second = place.new(), place.new()
        place.reach(first, place.vip)
        place.reach(second, place.other_vip)
        spared = [disconnected(place), unused(place), straight_there(place), unconnected(place)]
        test.ask(len(spared))

    with box.talk(converse) as test:
        test.recv()
        assert node.detach().sockets == 2
        assert node.detach().sockets == 0
        test.send()


def test_ended_and_counted(box: Box, node: Node) -> None:
    """An ended socket is no open connection, though the client has yet to close it."""
    place = Place(box, node, V4, UDP_CONNECTED)
    with place.clients() as (test, _):
        for backend in place.backends:
            node.services.set_backend(place.frontend, f"{backend},state=down")
        assert counts(node, place.frontend) == 0
        assert set(test.ask("fates")) == {ENDED}
    wait_until(lambda: counts(node, place.frontend) == 0, "no count below zero")


def test_command_line(box: Box, node: Node) -> None:
    place = Place(box, node, V4, UDP_CONNECTED)
    with place.clients() as (test, sent_to):
        write_unended(node, remove=[place.frontend])
        shown = cli.run(box.pin, "sockets", "end", "--dry-run")
        assert shown.status == 0
        assert shown.stdout.count("10.96.0.10:53/udp") == 8
        assert set(test.ask("fates")) == {ALIVE}
        found = cli.run(box.pin, "sockets", "end", "--json").json
        assert sorted(each["backend"] for each in found["sockets"]) == sorted(sent_to)
        assert set(test.ask("fates")) == {ENDED}
        assert cli.run(box.pin, "sockets", "end").stdout == "ended no sockets\n"
