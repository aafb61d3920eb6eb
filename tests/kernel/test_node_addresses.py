# SPDX-License-Identifier: Apache-2.0
"""Where `node:` frontends are: which addresses are this node's, and whose loopback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from hostreach import errors

from .harness import Box, Servers, kernel
from .harness.clients import KINDS, TCP, V4, V6, Seen, exchange, outcome
from .harness.host import HOST_V4, HOST_V6, PORT, Pod, attach_inside, give_addresses, pods
from .harness.node_ways import (
    BACKENDS,
    TYPES,
    WAYS,
    Way,
    add,
    by_way,
    serve_backends,
    try_all,
    try_ways,
    ways,
)

if TYPE_CHECKING:
    from hostreach.node import Node


@pytest.fixture
def pod(box: Box) -> Iterator[Pod]:
    with pods(box, 1) as (made,):
        yield made


def test_loopback_is_shown_as_without_hostreach(box: Box, host: Node) -> None:
    """A listener of our own on loopback is shown under the same addresses."""
    add(host)
    box.serve("127.0.0.1:90/tcp", "127.0.0.1:90/udp", "[::1]:90/tcp", "[::1]:90/udp")
    seen = by_way(box.call(try_ways, 90))
    assert seen == by_way(box.call(try_ways, 90, bare=True))
    for way in ways():
        shown = {each.peer for each in seen[str(way)].values() if isinstance(each, Seen)}
        assert shown <= {(way.shown, 90)}, way


def test_loopback_where_nobody_knows_the_host(
    box: Box, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left alone, and the node's addresses are served all the same."""
    kernel.switch_off(monkeypatch, "netns_cookie")
    give_addresses(box)
    attach_inside(box, node)
    serve_backends(box)
    add(node)
    for way in WAYS:
        seen = box.call(try_all, way)
        if way.loopback:
            assert seen == box.call(try_all, way, bare=True)
        else:
            shown = (way.shown, PORT)
            assert seen == dict.fromkeys(KINDS, Seen(BACKENDS[way.version], shown))


def test_a_pods_loopback_is_its_own(host: Node, pod: Pod) -> None:
    """Nor does the host's service hide what listens there; the node's addresses reach it."""
    servers = [f"{server}/{protocol}" for server in BACKENDS.values() for protocol in TYPES]
    own = [f"{address}:{PORT}/{protocol}" for address in ("127.0.0.1", "127.0.0.2", "[::1]")
           for protocol in TYPES]  # fmt: skip
    add(host)
    there = Servers(pod.enter, [*servers, *own], reuse_port=False)
    try:
        seen = {str(way): pod.call(try_all, way) for way in WAYS}
    finally:
        there.stop()
    for way in WAYS:
        bare = way.shown.removeprefix("::ffff:")
        listener = f"[{bare}]:{PORT}" if ":" in bare else f"{bare}:{PORT}"
        reached = listener if way.loopback else BACKENDS[way.version]
        assert seen[str(way)] == dict.fromkeys(KINDS, Seen(reached, (way.shown, PORT))), way


def test_other_addresses_are_untouched(box: Box, host: Node) -> None:
    """Those that are local without being the node's among them."""
    add(host)
    for address in ("10.0.0.9", "198.51.100.1", "2001:db8::2"):
        v6 = ":" in address
        way = Way(V6 if v6 else V4, address, address, False, 6 if v6 else 4)
        seen = box.call(try_all, way)
        assert seen == box.call(try_all, way, bare=True)
        assert not any(isinstance(each, Seen) for each in seen.values())


def test_addresses_by_cidr(box: Box, node: Node) -> None:
    """Only those of the node's addresses count that lie in one; loopback always does."""
    serve_backends(box)
    add(node)
    give_addresses(box)

    def reached() -> set[str]:
        seen = {way.host: exchange_outcome(way) for way in WAYS}
        return {host for host, each in seen.items() if isinstance(each, Seen)}

    def exchange_outcome(way: Way) -> object:
        return outcome(exchange, way.family, TCP, (way.host, PORT))

    loopback = {way.host for way in ways() if way.loopback}
    v4, v6 = {HOST_V4, f"::ffff:{HOST_V4}"}, {HOST_V6}
    for cidrs, expected in (
        (["192.0.2.0/24"], v4),
        (["2001:db8::/32"], v6),
        (["192.0.2.0/24", "2001:db8::/32"], v4 | v6),
        (["192.0.2.2/32"], set()),
        ([], set()),
        (None, v4 | v6),
    ):
        attach_inside(box, node, node_addresses=cidrs)
        assert box.call(reached) == loopback | expected, cidrs


def test_bad_cidrs_change_nothing(box: Box, host: Node) -> None:
    serve_backends(box)
    add(host)
    for cidr in ("192.0.2.0/33", "nonsense", "", "192.0.2.0/24/1", "::/129"):
        with pytest.raises(errors.InvalidInput) as caught:
            attach_inside(box, host, node_addresses=["198.51.100.0/24", cidr])
        assert "\n" not in str(caught.value)
    assert isinstance(box.call(outcome, exchange, V4, TCP, (HOST_V4, PORT)), Seen)


def test_addresses_on_loopback_links_count(box: Box, host: Node) -> None:
    """Hosts that route by BGP have theirs on lo."""
    serve_backends(box)
    add(host)
    done = box.run(["ip", "address", "add", "203.0.113.5/32", "dev", "lo"], bare=True)
    assert done.returncode == 0, done
    attach_inside(box, host)
    seen = box.call(outcome, exchange, V4, TCP, ("203.0.113.5", PORT))
    assert seen == Seen(BACKENDS[4], ("203.0.113.5", PORT))


def test_another_namespace_as_the_hosts(box: Box, node: Node) -> None:
    """--host-netns: attached from elsewhere, the host's loopback is found all the same."""
    kernel.need(kernel.knows_the_host(), "cookie of a network namespace for user space")
    serve_backends(box)
    add(node)
    loopback = (V4, TCP, ("127.0.0.1", PORT))
    assert box.call(outcome, exchange, *loopback) == "ECONNREFUSED"
    pid = box.serve("10.0.0.8:99/tcp").pid
    node.attach(cgroup=str(box.cgroup), host_netns=f"/proc/{pid}/ns/net")
    assert isinstance(box.call(outcome, exchange, *loopback), Seen)
    node.attach(cgroup=str(box.cgroup))
    assert box.call(outcome, exchange, *loopback) == "ECONNREFUSED"


def test_no_network_namespace(box: Box, host: Node) -> None:
    for path in ("/proc/self/ns/uts", "/proc/self/ns/none", "/proc/self", "x", ""):
        with pytest.raises(errors.InvalidInput) as caught:
            host.attach(cgroup=str(box.cgroup), host_netns=path)
        assert "\n" not in str(caught.value)
    add(host)
    serve_backends(box)
    assert isinstance(box.call(outcome, exchange, V4, TCP, (HOST_V4, PORT)), Seen)
