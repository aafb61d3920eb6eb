# SPDX-License-Identifier: Apache-2.0
"""Services for clients whose network namespace has an address in their source ranges."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hostreach import Service, errors

from .harness import Box, kernel, linux
from .harness.clients import (
    FAMILIES,
    KINDS,
    TCP,
    UDP_UNCONNECTED,
    V4,
    Family,
    Seen,
    ask,
    exchange,
    new_socket,
    outcome,
    protocol_of,
    refusals,
)
from .harness.line import Line

if TYPE_CHECKING:
    from hostreach.node import Node

PORT = 53
INSIDE = "10.0.0.0/24"  # where the box's own namespace has its addresses
OUTSIDE = "198.51.100.0/24"
LISTING = pytest.mark.usefixtures("listing")


@pytest.fixture
def listing() -> None:
    """For tests of who is let in; test_without_cookies says what happens without."""
    kernel.need(kernel.knows_the_host(), "cookies of network namespaces for user space too")


def add(box: Box, node: Node, family: Family, kind: str, ranges: str | None) -> tuple[str, int]:
    server = family.endpoint(family.backend(2), 8053)
    box.serve(f"{server}/{protocol_of(kind)}")
    frontend = f"{family.endpoint(family.vip(), PORT)}/{protocol_of(kind)}"
    node.services.set(Service.of(frontend, server, source_ranges=ranges))
    return family.sockaddr(family.vip(), PORT)


@LISTING
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_who_is_inside_and_who_is_not(box: Box, node: Node, family: Family, kind: str) -> None:
    vip = add(box, node, family, kind, f"{INSIDE},fd00::/64")
    assert isinstance(box.call(outcome, exchange, family, kind, vip), Seen)
    frontend = f"{family.endpoint(family.vip(), PORT)}/{protocol_of(kind)}"
    service = node.services.get(frontend)
    node.services.set(service.model_copy(update={"source_ranges": OUTSIDE}))
    refused = node.status().refusals
    assert box.call(outcome, exchange, family, kind, vip) == refusals()[kind]
    assert node.status().refusals > refused
    node.services.set(service.model_copy(update={"source_ranges": None}))
    assert isinstance(box.call(outcome, exchange, family, kind, vip), Seen)


@LISTING
def test_a_socket_that_was_inside(box: Box, node: Node) -> None:
    """An unconnected one is asked at each send."""
    vip = add(box, node, V4, UDP_UNCONNECTED, INSIDE)

    def converse(test: Line) -> None:
        with new_socket(V4, UDP_UNCONNECTED) as client:
            assert isinstance(ask(client, vip), Seen)
            test.send("asked")
            test.recv()
            assert outcome(ask, client, vip) == refusals()[UDP_UNCONNECTED]

    with box.talk(converse) as client:
        assert client.recv() == "asked"
        service = node.services.get(f"{vip[0]}:{PORT}/udp")
        node.services.set(service.model_copy(update={"source_ranges": OUTSIDE}))
        client.send("changed")


@LISTING
def test_who_comes_later(box: Box, node: Node) -> None:
    """Another namespace is refused until somebody looks anew, and then by its own addresses."""
    vip = add(box, node, V4, TCP, "192.0.2.0/24")

    def elsewhere(test: Line) -> None:
        linux.unshare(linux.CLONE_NEWNET)
        for command in ("ip link set lo up", "ip address add 192.0.2.7/32 dev lo"):
            subprocess.run(command.split(), check=True)
        for _ in range(2):
            test.send(outcome(exchange, V4, TCP, vip))
            test.recv()

    with box.talk(elsewhere) as client:
        assert client.recv() == "ECONNREFUSED"
        assert node.admit() == 1
        client.send("look again")
        # translated, though the backend is in the other namespace
        assert client.recv() == "ENETUNREACH"
        client.send("done")
    assert box.call(outcome, exchange, V4, TCP, vip) == "ECONNREFUSED"


@LISTING
def test_a_removed_service_lets_nobody_into_the_next(box: Box, node: Node) -> None:
    """The next service may have the same index in the tables."""
    vip = add(box, node, V4, TCP, INSIDE)
    for n in range(300):  # more than there are indexes
        node.services.remove(f"{vip[0]}:{PORT}/tcp")
        node.services.add(
            Service.of(f"{vip[0]}:{PORT}/tcp", "10.0.0.2:8053", source_ranges=OUTSIDE)
        )
        if n % 50 == 0:
            assert box.call(outcome, exchange, V4, TCP, vip) == "ECONNREFUSED"


@pytest.mark.parametrize("without", ["netns_cookie", "host_netns", "sk_storage", "global_data"])
def test_without_cookies(node: Node, monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    kernel.switch_off(monkeypatch, without)
    with pytest.raises(errors.Refused, match=r"source ranges: .*5\.14"):
        node.services.add(Service.of("10.96.0.10:53/tcp", source_ranges=INSIDE))
    assert not node.services.list()


@pytest.mark.parametrize("ranges", ["10.0.0.0/", "10.0.0.0/4294967296", "10.0.0.0/8,fd00::/x"])
def test_what_is_no_network_lets_nobody_in(node: Node, ranges: str) -> None:
    """By the table itself, whoever looked before: a prefix of no length is all addresses."""
    service = node.plain.plain(Service.of("10.96.0.10:53/tcp", source_ranges=INSIDE))
    with pytest.raises(errors.InvalidInput, match="no network"):
        node.plain.plain_write([(*service[:-1], ranges)])
    assert not len(node.services)


@LISTING
def test_a_namespace_with_very_many_addresses(box: Box, node: Node) -> None:
    """Any user can make one: those that the kernel tells first are looked at."""
    vip = add(box, node, V4, TCP, "fd00:7::/64")
    lines = [f"link add a{n} type veth peer name b{n}" for n in range(18)]
    lines += [f"link set {end}{n} up" for n in range(18) for end in "ab"]
    lines += [  # on one device it takes minutes to add them
        f"addr add fd00:8::{end}:{n:x}:{i:x}/128 dev {end}{n} nodad noprefixroute"
        for n in range(18)
        for end in "ab"
        for i in range(500)
    ]

    def elsewhere(test: Line) -> None:
        linux.unshare(linux.CLONE_NEWNET)
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
        for device in ("a17", "b0"):
            last = f"ip addr add fd00:7::1/128 dev {device} nodad"
            subprocess.run(last.split(), check=True)
            test.ask("look")
            test.send(outcome(exchange, V4, TCP, vip))

    with box.talk(elsewhere) as client:
        for seen in ("ECONNREFUSED", "ENETUNREACH"):  # translated, and the backend is elsewhere
            assert client.recv() == "look"
            node.admit()
            assert client.ask("looked") == seen
    assert box.call(outcome, exchange, V4, TCP, vip) == "ECONNREFUSED"


@LISTING
def test_a_namespace_that_answers_for_the_kernel(box: Box, node: Node) -> None:
    """Who has rights in a namespace may send to any netlink socket there."""
    vip = add(box, node, V4, TCP, "192.0.2.0/24")
    failed = struct.pack("=IHHIIi16x", 36, 2, 0, 0, 0, -1)  # NLMSG_ERROR, EPERM

    def elsewhere(test: Line) -> None:
        linux.unshare(linux.CLONE_NEWNET)
        lines = [f"addr add 192.0.2.{n}/32 dev lo" for n in range(1, 255)]
        lines += [f"addr add fd00:8::{n:x}/128 dev lo nodad" for n in range(1000)]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
        who, done = test.ask("made"), threading.Event()

        def lie() -> None:
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as liar:
                while not done.is_set():
                    with suppress(ConnectionRefusedError, BlockingIOError):
                        liar.sendto(failed, socket.MSG_DONTWAIT, (who, 0))

        lying = threading.Thread(target=lie)
        lying.start()
        while test.ask(outcome(exchange, V4, TCP, vip)):
            pass
        done.set()
        lying.join()

    with box.talk(elsewhere) as client:
        assert client.recv() == "made"
        assert client.ask(os.getpid()) == "ECONNREFUSED"
        for _ in range(20):
            node.admit()
            assert client.ask("looked") == "ENETUNREACH"
        client.send("")


@LISTING
def test_very_many_namespaces_that_a_user_made(box: Box, node: Node, tmp_path: Path) -> None:
    """He gives them any address; those that are root's are let in all the same."""
    many = [f"10.96.1.1:{port}/tcp" for port in range(1, 221)]
    node.services.apply([Service.of(each, source_ranges="192.0.2.0/24") for each in many])
    (tmp_path / "kept").mkdir()

    def made(test: Line) -> None:
        linux.private_mounts()
        for n in range(155):
            kept = tmp_path / "kept" / str(n)
            kept.touch()
            pid = os.fork()
            if not pid:
                linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNET)
                Path("/proc/self/uid_map").write_text("0 0 1")
                add_address()
                os.kill(os.getpid(), signal.SIGSTOP)
                os._exit(0)
            os.waitpid(pid, os.WUNTRACED)
            linux.mount(f"/proc/{pid}/ns/net", str(kept), flags=linux.MS_BIND)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        test.ask("made")

    def later(test: Line) -> None:
        linux.unshare(linux.CLONE_NEWNET)
        add_address()
        test.ask("there")
        test.send(outcome(exchange, V4, TCP, ("10.96.2.1", 80)))

    def add_address() -> None:
        for command in ("ip link set lo up", "ip address add 192.0.2.7/32 dev lo"):
            subprocess.run(command.split(), check=True)

    with box.talk(made, timeout=120) as crowd, box.talk(later) as client:
        assert client.recv() == "there"
        assert crowd.recv() == "made"
        with pytest.raises(errors.TableFull, match="user namespaces of their own"):
            node.admit()
        last = Service.of("10.96.2.1:80/tcp", "10.0.0.2:80", source_ranges="192.0.2.0/24")
        node.services.add(last)
        assert client.ask("added") == "ENETUNREACH"  # translated, and the backend is elsewhere
        crowd.send("done")
