# SPDX-License-Identifier: Apache-2.0
"""Sockets whose backend is gone are ended, and their clients told."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

import hostreach
from hostreach import Service
from hostreach.node import Capacities

from .harness import Box, Line, kernel, linux, wait_until
from .harness.clients import FAMILIES, TCP, UDP_CONNECTED, V4, Family, new_socket, outcome
from .harness.fates import ALIVE, ENDED, Place, ended

if TYPE_CHECKING:
    from hostreach.node import Node


pytestmark = pytest.mark.usefixtures("ending")

FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=str)

KIND = pytest.mark.parametrize("kind", [TCP, UDP_CONNECTED])

WAYS = pytest.mark.parametrize("without", ["", "sock_destroy", "btf"], ids=lambda w: w or "bpf")


def remove_backend(place: Place) -> None:
    place.node.services.remove_backend(place.frontend, place.backends[0])


def down(place: Place) -> None:
    place.node.services.set_backend(place.frontend, f"{place.backends[0]},state=down")


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
    kernel.switch_off(monkeypatch, without)
    place = Place(box, node, family, kind)
    with place.clients() as (test, sent_to):
        remove_backend(place)
        gone = [server == place.backends[0] for server in sent_to]
        assert test.ask("fates") == [ENDED if there else ALIVE for there in gone]
        assert ended(node) == sum(gone)
        if any(gone):
            assert node.last_ended
            assert node.last_ended.method == ("bpf" if kernel.ends_by_bpf() else "netlink")
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
    """Where connections are not counted, somebody looks, and ends none."""
    place = Place(box, node, V4, UDP_CONNECTED)
    with place.clients() as (test, _):
        node.services.remove(place.other)
        if kernel.counts_connections():
            assert node.last_ended is None
        assert ended(node) == 0
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
                server = place.reach(client, place.other_vip)
                assert server in place.backends
                shown = kernel.shown(place.other_vip, place.direct(server))
                assert client.getpeername() == shown

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


@KIND
def test_where_nobody_counts(box: Box, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without sock_release there are no counts to say where nobody needs to look."""
    kernel.switch_off(monkeypatch, "sock_release")
    with hostreach.open(str(box.pin), capacities=Capacities(256, 1024, 16384)) as node:
        node.attach(cgroup=str(box.cgroup))
        place = Place(box, node, V4, kind)
        with place.clients() as (test, _):
            remove_service(place)
            assert ended(node) == 8
            assert set(test.ask("fates")) == {ENDED}


def test_mptcp(box: Box, node: Node) -> None:
    """The record is the MPTCP socket's, and what is ended is the TCP socket below it."""
    kernel.need(kernel.has_mptcp(), "MPTCP")
    place = Place(box, node, V4, TCP)

    def converse(test: Line) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, linux.IPPROTO_MPTCP) as client:
            place.reach(client, place.vip)
            test.ask()
            if not kernel.ends_sockets():
                assert outcome(client.recv, 100, socket.MSG_DONTWAIT) == ALIVE
                return
            wait_until(lambda: outcome(client.recv, 100, socket.MSG_DONTWAIT) != ALIVE, "an end")
            assert outcome(client.getpeername) == "ENOTCONN"

    with box.talk(converse) as test:
        test.recv()
        remove_service(place)
        assert ended(node) == kernel.ends_sockets()
        test.send()
