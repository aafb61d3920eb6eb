# SPDX-License-Identifier: Apache-2.0
"""Pods that are to see no service: by their annotation, and cgroups as the kubelet lays them out.

The service has no endpoints: it refuses whoever sees it, and its address leads nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kube.objects import pod, service

from hostreach.agent.pods import file_of

from .harness import Box, wait_until
from .harness.clients import TCP, V4, exchange, outcome
from .harness.cluster import Agent, Cluster, agent, cluster
from .harness.host import cgroups, give_addresses, move_to

if TYPE_CHECKING:
    from hostreach.node import Node

VIP = ("10.96.0.10", 80)
UID, OTHER = "0f9d3c1e-7c0b-4d5e-9a51-2f8f4f0c8a11", "6d1d9b1e-1111-4d5e-9a51-2f8f4f0c8a11"
SYSTEMD = ("kubepods.slice", "kubepods-burstable.slice")
CGROUPFS = ("kubepods", "burstable")
SEES, IS_EXEMPT = "ECONNREFUSED", "ENETUNREACH"


@pytest.fixture
def api(box: Box) -> Iterator[Cluster]:
    give_addresses(box)
    with cluster(box) as made:
        made.put({"kind": "Node", "metadata": {"name": "node-a"}, "status": {}}, service())
        yield made
    file_of(str(box.pin)).unlink(missing_ok=True)


@contextmanager
def running(box: Box, api: Cluster, directory: Path) -> Iterator[Agent]:
    with agent(box, api.url, "--pod-info", directory=directory) as process:
        process.wait_ready()
        yield process


@contextmanager
def kubepods(box: Box, uid: str = UID, above: tuple[str, ...] = SYSTEMD) -> Iterator[Path]:
    """A container's cgroup, in the pod's; the agent may find the pod's a moment earlier."""
    name = f"kubepods-burstable-pod{uid.replace('-', '_')}.slice"
    parts = [*above, name if above == SYSTEMD else f"pod{uid}", "container"]
    paths = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    new = [each for each in paths if not (box.cgroup / each).exists()]
    with cgroups(box.cgroup, *new) as made:
        yield made[-1]


def said(box: Box, container: Path) -> object:
    def inside() -> object:
        move_to(container)
        return outcome(exchange, V4, TCP, VIP)

    return box.call(inside)


def becomes(box: Box, container: Path, what: str) -> None:
    wait_until(lambda: said(box, container) == what, f"{container} saying {what}")


@pytest.mark.parametrize("above", [SYSTEMD, CGROUPFS], ids=["systemd", "cgroupfs"])
def test_a_pods_life(box: Box, api: Cluster, tmp_path: Path, above: tuple[str, ...]) -> None:
    with running(box, api, tmp_path) as process:
        api.put(pod(uid=UID, phase="Pending"))
        wait_until(lambda: process.metric("hostreach_exempt_pods_missing") == 1, "it being known")
        with (
            kubepods(box, UID, above) as container,
            kubepods(box, OTHER, above) as neighbour,
        ):
            becomes(box, container, IS_EXEMPT)
            assert said(box, neighbour) == SEES
            assert process.metric("hostreach_exempt_pods") == 1
            assert process.metric("hostreach_exempt_pods_missing") == 0
            api.put(pod(uid=UID, exempt="false"))
            becomes(box, container, SEES)
            api.put(pod(uid=UID))
            becomes(box, container, IS_EXEMPT)
            api.put(pod(uid=UID, phase="Succeeded"))
            becomes(box, container, SEES)
            api.put(pod(uid=UID), pod("else", uid=OTHER, node="node-b"))
            becomes(box, container, IS_EXEMPT)
            api.delete(pod(uid=UID))
            becomes(box, container, SEES)
            assert said(box, neighbour) == SEES


def exempt_pods(box: Box, table: Node) -> list[str]:
    """All but the agent itself, which is in the bare cgroup or below it."""
    return [path for path in table.exempt.list() if not path.startswith(str(box.bare))]


def test_a_cgroup_that_comes_again(box: Box, api: Cluster, tmp_path: Path, table: Node) -> None:
    with running(box, api, tmp_path) as process:
        api.put(pod(uid=UID))
        for _ in range(2):
            with kubepods(box) as container:
                becomes(box, container, IS_EXEMPT)
            wait_until(
                lambda: process.metric("hostreach_exempt_pods_missing") == 1, "it being gone"
            )
        assert not exempt_pods(box, table)


def test_others_exemptions_stay(box: Box, api: Cluster, tmp_path: Path, table: Node) -> None:
    with (
        running(box, api, tmp_path) as process,
        kubepods(box) as ours,
        kubepods(box, OTHER) as theirs,
    ):
        table.exempt.add(str(theirs.parent))
        api.put(pod(uid=UID), pod("theirs", uid=OTHER))
        becomes(box, ours, IS_EXEMPT)
        wait_until(lambda: process.metric("hostreach_exempt_pods") == 2, "both being settled")
        api.put(pod(uid=UID, exempt=None), pod("theirs", uid=OTHER, exempt=None))
        becomes(box, ours, SEES)
        wait_until(lambda: process.metric("hostreach_exempt_pods") == 0, "none being settled")
        assert said(box, theirs) == IS_EXEMPT
        assert exempt_pods(box, table) == [str(theirs.parent)]


def test_after_a_restart(box: Box, api: Cluster, tmp_path: Path, table: Node) -> None:
    """The agent knows which exemptions are its own, and takes none back before the list is read."""
    with kubepods(box) as stays, kubepods(box, OTHER) as goes:
        api.put(pod(uid=UID), pod("goes", uid=OTHER))
        with running(box, api, tmp_path) as first:
            becomes(box, stays, IS_EXEMPT)
            becomes(box, goes, IS_EXEMPT)
            first.stop()
        with kubepods(box, "f" * 32) as by_hand:
            table.exempt.add(str(by_hand.parent))
            api.delete(pod("goes", uid=OTHER))
            api.do("forbid", "Pod")
            with running(box, api, tmp_path) as second:
                wait_until(lambda: "/pods: 403" in second.log, "the pods being forbidden")
                assert said(box, goes) == IS_EXEMPT
                api.do("allow", "Pod")
                becomes(box, goes, SEES)
                assert said(box, stays) == IS_EXEMPT
                assert said(box, by_hand) == IS_EXEMPT
                assert len(second.log.split("no longer exempt")) == 2


def test_what_the_annotation_cannot_say(box: Box, api: Cluster, tmp_path: Path) -> None:
    with running(box, api, tmp_path) as process, kubepods(box) as container:
        api.put(pod(uid=UID))
        becomes(box, container, IS_EXEMPT)
        api.put(pod(uid=UID, exempt="of course"))
        becomes(box, container, SEES)
        wait_until(lambda: "Pod default/web-0: hostreach.io/exempt is" in process.log, "the line")
        assert process.metric('hostreach_left_out{kind="Pod",reason="invalid"}') == 1


def test_without_pod_info_nobody_looks(box: Box, api: Cluster, tmp_path: Path) -> None:
    api.put(pod(uid=UID))
    with agent(box, api.url, directory=tmp_path) as process, kubepods(box) as container:
        process.wait_ready()
        assert said(box, container) == SEES
        assert not [each for each in api.do("requests") if "/pods" in each]
        assert not os.path.lexists(file_of(str(box.pin)))
