# SPDX-License-Identifier: Apache-2.0
"""Sockets are looked for in every network namespace, whatever holds it."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import hostreach

from .harness import Box, Line, kernel, linux
from .harness.clients import UDP_CONNECTED, V4
from .harness.fates import ALIVE, ENDED, Place, ended, fate
from .harness.namespace import NetNamespace

if TYPE_CHECKING:
    from hostreach.node import Node


pytestmark = pytest.mark.usefixtures("ending")

WAYS = pytest.mark.parametrize("without", ["", "sock_destroy", "btf"], ids=lambda w: w or "bpf")


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
    kernel.switch_off(monkeypatch, without)
    place = Place(box, node, V4, UDP_CONNECTED)
    with box.talk(lambda test: many_namespaces(place, test)) as test, place.clients() as (main, _):
        test.recv()
        node.services.remove(place.frontend)
        assert ended(node) == 12
        assert node.last_ended
        assert len({each.netns for each in node.last_ended.sockets}) == 5
        assert node.last_ended.namespaces >= 5
        assert set(main.ask("fates")) == {ENDED}
        assert set(test.ask()) == {ENDED}


def test_namespace_out_of_reach(box: Box, node: Node) -> None:
    """A socket that is under way between two processes is in nobody's table of files.

    The LRU knows no namespaces: where it alone remembers, nobody hears of one that was not found.
    """
    place = Place(box, node, V4, UDP_CONNECTED)

    def converse(test: Line) -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        namespace = NetNamespace()
        namespace.enter()
        with place.new() as client:
            client.connect(place.vip)
            socket.send_fds(here, [b"x"], [client.fileno()])
        box.enter()
        namespace.close()
        test.ask()
        _, fds, _, _ = socket.recv_fds(there, 1, 1)
        with socket.socket(fileno=fds[0]) as client:
            test.send(fate(client))
            test.recv()
            test.send(fate(client))

    with box.talk(converse) as test:
        test.recv()
        node.services.remove(place.frontend)
        result = node.last_ended
        assert result
        told = int(kernel.remembers_on_sockets())
        assert (result.sockets, result.unreachable, result.left) == ([], told, told)
        assert test.ask() == ALIVE
        assert len(node.end_sockets().sockets) == 1  # now it can be found
        assert test.ask() == ENDED


HOLDERS = ("a mount of ours", "a mount elsewhere", "a thread", "a descriptor")


def held_only_by(box: Box, place: Place, holder: str, target: Path, test: Line) -> None:
    """A socket that is under way, as above; but its namespace can be found in another way."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    namespace = NetNamespace()
    namespace.enter()
    with place.new() as client:
        client.connect(place.vip)
        socket.send_fds(here, [b"x"], [client.fileno()])
    enough = threading.Event()
    thread = threading.Thread(target=enough.wait)
    if holder == "a mount of ours":
        test.ask(f"/proc/{os.getpid()}/ns/net")
    elif holder == "a mount elsewhere":
        linux.private_mounts()
        linux.mount("/proc/self/ns/net", str(target), flags=linux.MS_BIND)
    elif holder == "a thread":
        thread.start()
    box.enter()
    if holder != "a descriptor":
        namespace.close()
    test.ask()
    _, fds, _, _ = socket.recv_fds(there, 1, 1)
    with socket.socket(fileno=fds[0]) as client:
        test.send(fate(client))
    enough.set()


def remove_elsewhere(box: Box, place: Place, target: Path, test: Line) -> None:
    """A writer in a mount namespace of its own, where a file is to hold a namespace."""
    linux.private_mounts()
    if source := test.recv():
        linux.mount(source, str(target), flags=linux.MS_BIND)
    test.ask()
    with hostreach.open(str(box.pin)) as own:
        own.services.remove(place.frontend)
        test.send(own.last_ended)


@pytest.mark.parametrize("holder", HOLDERS)
def test_whatever_holds_it(box: Box, node: Node, holder: str, tmp_path: Path) -> None:
    place = Place(box, node, V4, UDP_CONNECTED)
    target = tmp_path / "a name with blanks"
    target.touch()
    with (
        box.talk(lambda test: held_only_by(box, place, holder, target, test)) as client,
        box.talk(lambda test: remove_elsewhere(box, place, target, test)) as writer,
    ):
        writer.send(client.recv() if holder == "a mount of ours" else None)
        writer.recv()
        if holder == "a mount of ours":
            client.send()
        client.recv()
        result = writer.ask()
        assert result
        assert (len(result.sockets), result.unreachable, result.left) == (1, 0, 0)
        assert client.ask() == ENDED
