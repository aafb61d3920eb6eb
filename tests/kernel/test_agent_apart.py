# SPDX-License-Identifier: Apache-2.0
"""Agents are exempt themselves: no service stands between them and whom they ask.

The one that follows files where it has checks: more of that in test_checks.py.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kube.objects import piece, service

from hostreach import Service

from .harness import Box, wait_until
from .harness.agents import AgentProcess, running
from .harness.clients import outcome
from .harness.cluster import Cluster, agent
from .harness.reaching import reaches
from .harness.versions import CURRENT, TRIED, turn_back, version

if TYPE_CHECKING:
    from hostreach.node import Node


def test_its_own_cgroup_is_exempt(box: Box, api: Cluster, tmp_path: Path, table: Node) -> None:
    """A service that leads the agent astray cannot: it does not see any."""
    table.attach(cgroup=str(box.cgroup.parent / box.bare.name))
    host, _, number = api.url.removeprefix("http://").partition(":")
    table.services.add(Service.of(f"{host}:{number}/tcp", owner="astray"))
    assert box.call(outcome, socket.create_connection, (host, int(number)), bare=True) == (
        "ECONNREFUSED"
    )
    with agent(box, api.url, f"--cgroup={box.bare}", directory=tmp_path) as process:
        wait_until(lambda: "in step" in process.log, "the first sync")
        (mine,) = table.exempt.list()
        assert mine.startswith(str(box.bare))
        process.stop()
    assert table.exempt.list() == []
    assert box.call(outcome, socket.create_connection, (host, int(number)), bare=True) == (
        "ECONNREFUSED"
    )


def test_from_a_cgroup_namespace_of_its_own(
    box: Box, api: Cluster, tmp_path: Path, table: Node
) -> None:
    """As in a container that has the host's hierarchy mounted, and the host's process ids."""
    box.serve("10.0.0.2:8080/tcp")
    api.put(service(), piece("web-1", "10.0.0.2"))
    inside = ("unshare", "--cgroup", "--mount")
    with agent(box, api.url, directory=tmp_path, wrapper=inside) as process:
        process.wait_ready()
        reaches(box, "10.0.0.2:8080")
        (mine,) = table.exempt.list()
        assert mine.startswith(str(box.bare))


@pytest.mark.parametrize("old", TRIED)
def test_after_an_upgrade_too(
    box: Box, api: Cluster, tmp_path: Path, table: Node, old: int
) -> None:
    """Tables of an older layout take no exemption until `attach` has brought them to this one."""
    with agent(box, api.url, directory=tmp_path) as process:
        process.wait_ready()
        process.stop()
    turn_back(box.pin, old)
    with agent(box, api.url, directory=tmp_path) as process:
        process.wait_ready()
        assert version(box.pin) == CURRENT
        (mine,) = table.exempt.list()
        assert mine.startswith(str(box.bare))
        assert process.log.count("this process cannot be exempt: ") == 1
        assert process.log.count("this process is exempt now") == 1
        process.stop()
    assert table.exempt.list() == []


def test_who_checks_too(box: Box, tmp_path: Path, table: Node) -> None:
    box.serve("10.0.0.2:8080/tcp")
    file = tmp_path / "services.yaml"
    file.write_text(
        "version: 1\nservices:\n- frontend: 10.96.0.20:80/tcp\n"
        "  check: {kind: tcp, interval: 100ms}\n  backends: [address: '10.0.0.2:8080']\n"
    )
    table.attach(cgroup=str(box.cgroup))
    turn_back(box.pin, TRIED[-1])
    with running(AgentProcess(box, "file", str(file), directory=tmp_path)) as process:
        process.wait_ready()
        (mine,) = table.exempt.list()
        assert mine.startswith(str(box.bare))
