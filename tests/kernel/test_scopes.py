# SPDX-License-Identifier: Apache-2.0
"""Who sees a service: everyone, the host's processes, or a cgroup's tasks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hostreach import Service, errors
from hostreach.cli.differences import describe

from .harness import Box, Servers, kernel
from .harness.clients import KINDS, TCP, UDP_CONNECTED, V4, V6, Seen, exchange, outcome
from .harness.host import HOST_V4, PORT, Pod, attach_inside, cgroups, give_addresses, move_to, pods
from .harness.subtrees import NO_CGROUPS, REACHED, SERVER, UNSEEN, VIP, by_cgroup, serve

if TYPE_CHECKING:
    from hostreach.node import Node


def test_host_only(box: Box, node: Node) -> None:
    """By the client's network namespace; changed live, both ways.

    Where nobody knows the host's, nobody uses such a service.
    """
    attach_inside(box, node)
    in_host = REACHED if kernel.knows_the_host() else UNSEEN
    serve(box, node, host_only=True)

    def reached() -> list[object]:
        return [outcome(exchange, V4, kind, VIP) for kind in KINDS]

    with pods(box, 1) as (pod,):
        server = _serve_in(pod)
        try:
            for host_only in (True, False, True):
                for protocol in ("tcp", "udp"):
                    frontend = f"10.96.0.10:80/{protocol}"
                    node.services.set(Service.of(frontend, SERVER, host_only=host_only))
                assert box.call(reached) == [in_host if host_only else REACHED] * 3
                assert pod.call(reached) == [UNSEEN if host_only else REACHED] * 3
        finally:
            server.stop()


def _serve_in(pod: Pod) -> Servers:
    return Servers(pod.enter, [f"{SERVER}/tcp", f"{SERVER}/udp"], reuse_port=False)


def test_host_only_node_port(box: Box, node: Node) -> None:
    """A pod does not get it by the node's own address either."""
    give_addresses(box)
    attach_inside(box, node)
    box.serve(f"{SERVER}/tcp")
    node.services.add(Service.of(f"node:{PORT}/tcp", SERVER, host_only=True))

    def attempt() -> object:
        return outcome(exchange, V4, TCP, (HOST_V4, PORT))

    untouched = box.call(attempt, bare=True)
    served = Seen(SERVER, (HOST_V4, PORT))
    assert box.call(attempt) == (served if kernel.knows_the_host() else untouched)
    with pods(box, 1) as (pod,):
        assert pod.call(attempt) == UNSEEN


def test_from_cgroup(box: Box, node: Node, tree: dict[str, Path]) -> None:
    """A cgroup and all below it; no sibling and nobody above."""
    kind = TCP
    box.serve(f"{SERVER}/tcp")
    frontend = "10.96.0.10:80/tcp"
    for below, expected in (
        ("a", {"a", "a/b", "a/b/c"}),
        ("a/b", {"a/b", "a/b/c"}),
        ("a/b/c", {"a/b/c"}),
        ("d", {"d"}),
        ("", {"", "a", "a/b", "a/b/c", "d"}),
    ):
        node.services.set(Service.of(frontend, SERVER, from_cgroup=str(tree[below])))
        assert by_cgroup(box, tree, kind) == expected
    node.services.set(Service.of(frontend, SERVER))
    assert by_cgroup(box, tree, kind) == {*tree}


def test_from_cgroup_and_host_only(box: Box, node: Node, tree: dict[str, Path]) -> None:
    """Both must hold."""
    attach_inside(box, node)
    serve(box, node, host_only=True, from_cgroup=str(tree["a"]))
    below = {"a", "a/b", "a/b/c"}
    assert by_cgroup(box, tree) == (below if kernel.knows_the_host() else set())
    with pods(box, 1) as (pod,):

        def attempt() -> object:
            move_to(tree["a"])
            return outcome(exchange, V4, UDP_CONNECTED, VIP)

        assert pod.call(attempt) == UNSEEN


def test_from_a_cgroup_that_was_made_again(box: Box, node: Node) -> None:
    """The same path is another cgroup: who comes later gets nothing by chance."""
    kernel.need(kernel.knows_cgroups(), NO_CGROUPS)
    box.serve(f"{SERVER}/udp")
    frontend = "10.96.0.10:80/udp"
    with cgroups(box.cgroup, "x") as (x,):
        node.services.add(Service.of(frontend, SERVER, from_cgroup=str(x)))
        assert by_cgroup(box, {"x": x}) == {"x"}
    with cgroups(box.cgroup, "x") as (x,):
        assert by_cgroup(box, {"x": x}) == set()
        assert node.services.get(frontend).from_cgroup == str(x)
    service = Service.of(frontend, SERVER, from_cgroup=str(x), algorithm="maglev")
    for dry_run in (True, False):  # it is gone, and known
        assert node.services.set(service, dry_run=dry_run)
    with cgroups(box.cgroup, "x") as (x,):
        node.services.set(Service.of(frontend, SERVER, from_cgroup=str(x), name="again"))
        assert by_cgroup(box, {"x": x}) == {"x"}


def test_setting_again_finds_a_new_cgroup_of_that_path(box: Box, node: Node) -> None:
    """The same words, but what they mean has changed: no change would leave it broken."""
    kernel.need(kernel.knows_cgroups(), NO_CGROUPS)
    box.serve(f"{SERVER}/udp")
    with cgroups(box.cgroup, "x") as (x,):
        service = Service.of("10.96.0.10:80/udp", SERVER, from_cgroup=str(x))
        node.services.add(service)
    with cgroups(box.cgroup, "x") as (x,):
        (change,) = node.services.apply([service])
        assert describe(change) == f"{service.frontend}: from cgroup {x}, made anew"
        assert by_cgroup(box, {"x": x}) == {"x"}


def test_from_no_cgroup(box: Box, node: Node) -> None:
    kernel.need(kernel.knows_cgroups(), NO_CGROUPS)
    with pytest.raises(errors.InvalidInput, match=r"without \. and \.\."):
        Service.of("10.96.0.10:80/udp", SERVER, from_cgroup="/sys/fs/cgroup/../../../etc/passwd")
    for path in (box.cgroup / "none", Path("/tmp")):
        service = Service.of("10.96.0.10:80/udp", SERVER, from_cgroup=str(path))
        said = set()
        for put in (
            partial(node.services.add, service),
            partial(node.services.set, service, dry_run=True),
            partial(node.services.apply, [service], dry_run=True),
        ):
            with pytest.raises(errors.InvalidInput) as caught:
                put()
            said.add(str(caught.value))
        assert len(said) == 1
        assert "\n" not in said.pop()
    assert node.services.list() == []


@pytest.mark.parametrize("level", [6, 31, 32, 40])
def test_deep_cgroups(box: Box, node: Node, level: int) -> None:
    """Alone to see a service, however deep; exempt down to level 31, and refused below."""
    kernel.need(kernel.knows_cgroups(), NO_CGROUPS)
    serve(box, node)
    names = ["/".join(["x"] * n) for n in range(1, level)]  # below the box's, which is at level 1
    with cgroups(box.cgroup, *names) as paths:
        tree = {"": box.cgroup, "above": paths[-2], "deep": paths[-1]}
        if level > 31:
            with pytest.raises(errors.Refused) as caught:
                node.exempt.add(str(paths[-1]))
            assert "\n" not in str(caught.value)
            assert node.exempt.list() == []
            node.exempt.add(str(paths[29]))  # at level 31
            assert by_cgroup(box, tree) == {""}
            node.exempt.remove(str(paths[29]))
        else:
            node.exempt.add(str(paths[-1]))
            assert by_cgroup(box, tree) == {"", "above"}
            node.exempt.remove(str(paths[-1]))
        assert by_cgroup(box, tree) == {*tree}
        service = Service.of("10.96.0.10:80/udp", SERVER, from_cgroup=str(paths[-1]))
        node.services.set(service)
        assert by_cgroup(box, tree) == {"deep"}


def test_a_narrow_exact_service_does_not_hide_the_node_port(
    box: Box, node: Node, tree: dict[str, Path]
) -> None:
    """To those who may not use the exact one it is not there."""
    give_addresses(box)
    attach_inside(box, node)
    box.serve(f"{SERVER}/udp", "10.0.0.3:8080/udp")
    node.services.add(Service.of(f"node:{PORT}/udp", SERVER))
    narrow = Service.of(f"{HOST_V4}:{PORT}/udp", "10.0.0.3:8080", from_cgroup=str(tree["a"]))
    node.services.add(narrow)

    def server(path: Path) -> object:
        move_to(path)
        return outcome(lambda: exchange(V4, UDP_CONNECTED, (HOST_V4, PORT)).server)

    assert box.call(server, tree["a/b"]) == "10.0.0.3:8080"
    assert box.call(server, tree["d"]) == SERVER


def test_ipv6_too(box: Box, node: Node, tree: dict[str, Path]) -> None:
    box.serve("[fd00::2]:8080/udp")
    service = Service.of("[fd00:96::a]:80/udp", "[fd00::2]:8080", from_cgroup=str(tree["a"]))
    node.services.add(service)
    node.exempt.add(str(tree["a/b"]))

    def attempt(path: Path) -> object:
        move_to(path)
        return outcome(lambda: exchange(V6, UDP_CONNECTED, ("fd00:96::a", 80)).server)

    seen = {name: box.call(attempt, path) for name, path in tree.items()}
    assert seen == dict.fromkeys(tree, UNSEEN) | {"a": "[fd00::2]:8080"}
