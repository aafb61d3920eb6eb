# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the kernel tests, and their rule for skips."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from vm.subset import SUBSET

from .harness import Box, as_on_a_node, kernel, mount_bpffs, sweep
from .harness.bpf import attached
from .harness.cgroup import v2_root
from .harness.forked import FORKS
from .harness.kept import KEEPS, Kept

if TYPE_CHECKING:
    from hostreach.node import Node

    from .harness.cluster import Agent, Cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid in SUBSET:
            item.add_marker(pytest.mark.vm)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if FORKS:
        config.pluginmanager.register(_AtOnce(config))


class _AtOnce:
    """In guests, which may be stopped before they come to their summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write(f"\n{report.longreprtext}\n")


@pytest.fixture(scope="session", autouse=True)
def machine() -> None:
    """What every test here needs, and a clean start after a run that was killed."""
    if os.geteuid() != 0:
        pytest.skip("the kernel tests need root")
    if v2_root() is None:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    as_on_a_node()
    # A shell's background job ignores Ctrl-C, and so would all that it starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    mount_bpffs()
    sweep()


@pytest.fixture(scope="session")
def kept() -> Iterator[Kept]:
    instance = Kept()
    yield instance
    instance.close()


@pytest.fixture
def box(request: pytest.FixtureRequest, kept: Kept) -> Iterator[Box]:
    # unless a module's own `node` hides the one below
    lent = KEEPS and "node" in request.fixturenames and not hasattr(request.module, "node")
    failed = request.session.testsfailed
    sandbox = Box(kept.borrow() if lent else None)
    try:
        yield sandbox
    finally:
        try:
            sandbox.close()
        finally:
            if lent:
                kept.give_back(failed=request.session.testsfailed > failed)


@pytest.fixture
def node(box: Box) -> Iterator[Node]:
    """An instance with small tables, attached to the box."""
    # Imported late: the harness's own tests run without the compiled module.
    import hostreach
    from hostreach.node import Capacities

    capacities = Capacities(services=256, backends=1024, slots=16384)
    with hostreach.open(str(box.pin), capacities=capacities) as opened:
        if not attached(box.cgroup):
            opened.attach(cgroup=str(box.cgroup))
        yield opened


@pytest.fixture
def table(box: Box) -> Iterator[Node]:
    """An instance as an agent leaves it: neither made nor attached by the test."""
    import hostreach

    with hostreach.open(str(box.pin)) as opened:
        yield opened


@pytest.fixture
def api(box: Box) -> Iterator[Cluster]:
    """An API server that knows the node."""
    from .harness.cluster import cluster, node_object
    from .harness.host import give_addresses

    give_addresses(box)
    with cluster(box) as made:
        made.put(node_object())
        yield made


@pytest.fixture
def running(box: Box, api: Cluster, tmp_path: Path) -> Iterator[Agent]:
    """An agent that follows it, and is in step."""
    from .harness.cluster import agent

    with agent(box, api.url, directory=tmp_path) as process:
        process.wait_ready()
        yield process


@pytest.fixture
def host(box: Box) -> Iterator[Node]:
    """The node, whose host network namespace is the box's."""
    from .harness.host import attach_inside, give_addresses, opened

    give_addresses(box)
    with opened(box) as node:
        attach_inside(box, node)
        yield node


@pytest.fixture
def tree(box: Box) -> Iterator[dict[str, Path]]:
    """Cgroups below the box's own, which is ""."""
    from .harness.host import cgroups
    from .harness.subtrees import NO_CGROUPS

    kernel.need(kernel.knows_cgroups(), NO_CGROUPS)
    names = ["a", "a/b", "a/b/c", "d"]
    with cgroups(box.cgroup, *names) as paths:
        yield {"": box.cgroup, **dict(zip(names, paths, strict=True))}


@pytest.fixture
def counting() -> None:
    """For tests of what counts connections; test_algorithms says what happens without."""
    kernel.need(kernel.counts_connections(), "hook at a socket's last close")


@pytest.fixture
def ending() -> None:
    """For tests of what ends sockets; test_sockets_unended says what happens without."""
    kernel.need(kernel.ends_sockets(), "way to end sockets")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """HOSTREACH_NO_SKIP=1 turns skips into failures: CI must run what it says it runs."""
    report = yield
    if (
        os.environ.get("HOSTREACH_NO_SKIP") == "1"
        and report.skipped
        and not hasattr(report, "wasxfail")
    ):
        report.outcome = "failed"
        report.longrepr = f"skipped where HOSTREACH_NO_SKIP=1 allows none: {report.longrepr}"
    return report
