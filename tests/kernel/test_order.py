# SPDX-License-Identifier: Apache-2.0
"""Beside other vendors' programs on the same hooks: who runs first, and whose rewrite wins."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import hostreach
from hostreach import Node, Service, errors
from hostreach.datapath import kernel_features

from .harness import Box, cli, kernel, rawbpf
from .harness.bpf import attached
from .harness.clients import TCP, V4, Seen, exchange
from .harness.host import cgroups, move_to

VIP = ("10.96.0.10", 80)
OURS, THEIRS = "10.0.0.2:80", "10.0.0.3:80"
THEIRS_REWRITE = rawbpf.Rewrite(VIP[0], ("10.0.0.3", 80))


@pytest.fixture
def serving(box: Box) -> Iterator[Node]:
    """A service on VIP, not attached; the other vendor has a backend of its own for it."""
    box.serve(f"{OURS}/tcp", f"{THEIRS}/tcp")
    with hostreach.open(str(box.pin)) as node:
        node.services.add(Service.of("10.96.0.10:80/tcp", OURS))
        yield node


def ours(box: Box, node: Node, *, first: bool = False) -> None:
    node.attach(cgroup=str(box.cgroup), first=first)


def theirs(box: Box, _: Node) -> None:
    for hook in rawbpf.ATTACH_TYPES:
        rawbpf.attach(box.cgroup, hook, rewrite=THEIRS_REWRITE if hook == "connect4" else None)


def ours_first(box: Box, node: Node) -> None:
    ours(box, node, first=True)


@pytest.mark.parametrize(
    ("steps", "winner"),
    [
        pytest.param((theirs, ours), THEIRS, id="theirs, ours"),
        pytest.param((ours, theirs), OURS, id="ours, theirs"),
        pytest.param((theirs, ours_first), OURS, id="theirs, ours first"),
        pytest.param((ours_first, theirs), OURS, id="ours first, theirs"),
    ],
)
def test_whose_rewrite_wins(
    box: Box, serving: Node, steps: tuple[Callable[[Box, Node], None], ...], winner: str
) -> None:
    """Who sees the service's address first; and the status says so."""
    first = ours_first in steps
    if first and not kernel_features()["preorder"]:
        with pytest.raises(errors.Refused, match="--first"):
            ours_first(box, serving)
        assert not attached(box.cgroup)
        return
    for step in steps:
        step(box, serving)
    assert box.call(exchange, V4, TCP, VIP).server == winner
    status = serving.status()
    assert status.first == first
    programs = {program.name: program for program in status.programs}
    assert "connect4" in programs
    for name, program in programs.items():
        if name in rawbpf.ATTACH_TYPES and program.attached:
            assert [other.before for other in program.others] == [winner == THEIRS]
    said = cli.run(box.pin, "status").stdout
    assert ("their rewrite wins" in said) == (winner == THEIRS)
    assert ("our rewrite wins" in said) == (winner == OURS)
    assert ("before other vendors' programs" in said) == first


def test_others_below(box: Box, serving: Node) -> None:
    """A program of a cgroup below runs before those above it, unless those are first."""

    def from_below() -> Seen:
        move_to(below)
        return exchange(V4, TCP, VIP)

    with cgroups(box.cgroup, "below") as (below,):
        rawbpf.attach(below, "connect4", rewrite=THEIRS_REWRITE)
        ours(box, serving)
        assert box.call(from_below).server == THEIRS
        assert box.call(exchange, V4, TCP, VIP).server == OURS
        if kernel_features()["preorder"]:
            serving.detach()
            ours_first(box, serving)
            assert box.call(from_below).server == OURS


def test_order_is_kept_until_detached(box: Box, serving: Node) -> None:
    """The kernel cannot move a program: attach in the other order is refused, in one line."""
    if not kernel_features()["preorder"]:
        said = cli.run(box.pin, "attach", "--cgroup", str(box.cgroup), "--first")
        assert (said.status, said.stdout, said.stderr.count("\n")) == (1, "", 1)
        assert "--first" in said.stderr
        assert not attached(box.cgroup)
        return
    for first in (False, True):
        options = ["attach", "--cgroup", str(box.cgroup)]
        now, other = (["--first"], []) if first else ([], ["--first"])
        assert cli.run(box.pin, *options, *now).status == 0
        before = attached(box.cgroup)
        assert cli.run(box.pin, *options, *now, "--json").json["changes"] == []
        said = cli.run(box.pin, *options, *other)
        assert (said.status, said.stdout, said.stderr.count("\n")) == (1, "", 1)
        assert "detach first" in said.stderr
        assert attached(box.cgroup) == before
        assert cli.run(box.pin, "status", "--json").json["first"] == first
        serving.detach()


@pytest.mark.parametrize("without", ["preorder", "preorder,bpf_link"])
def test_a_kernel_without_order(
    box: Box, serving: Node, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    kernel.switch_off(monkeypatch, without)
    test_order_is_kept_until_detached(box, serving)
