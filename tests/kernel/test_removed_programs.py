# SPDX-License-Identifier: Apache-2.0
"""A program of ours that somebody took off its hook: `status` says so, `attach` mends it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import hostreach
from hostreach.status import ProgramStatus

from .harness import Box, cli, rawbpf, wait_until
from .harness.bpf import attached
from .harness.host import opened


def unpin(link: Path, hook: str) -> None:  # noqa: ARG001
    """`rm`: with the last descriptor the kernel detaches it."""
    link.unlink()


def detach(link: Path, hook: str) -> None:  # noqa: ARG001
    """`bpftool link detach`: the pin stays, of a link without a cgroup."""
    rawbpf.detach(link)


def replace(link: Path, hook: str) -> None:
    """Another program in our link: attached, but not ours."""
    assert rawbpf.replace(link, hook)


def program(node: hostreach.Node, hook: str) -> ProgramStatus:
    return next(each for each in node.status().programs if each.name == hook)


def row(text: str, hook: str) -> list[str]:
    """What the table of programs says of a hook."""
    return next(line for line in text.splitlines() if line.startswith(f"{hook} ")).split()


@pytest.mark.parametrize(
    ("way", "hook"),
    [(unpin, "connect4"), (detach, "connect6"), (detach, "recvmsg4"), (replace, "recvmsg6")],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_reported(box: Box, way: Callable[[Path, str], None], hook: str) -> None:
    """As JSON and in words; what the others do goes on; and so does attach."""
    with opened(box) as node:
        node.attach(cgroup=str(box.cgroup))
        assert row(cli.run(box.pin, "status").stdout, hook)[1:3] == ["yes", "yes"]
        way(box.pin / "links" / hook, hook)
        wait_until(lambda: not program(node, hook).attached, f"{hook} being gone")
        said = cli.run(box.pin, "status", "--json").json
        assert [each["name"] for each in said["programs"] if not each["attached"]] == [hook]
        assert said["cgroup"] == str(box.cgroup)
        assert said["protocols"] == ["tcp", "udp"]
        text = cli.run(box.pin, "status").stdout
        assert row(text, hook)[1:3] == ["no", "-"]
        if way is not unpin:  # else nothing tells it from one that was never there
            assert f"{hook}: ours is gone from there; attach puts it back" in text.splitlines()
        assert dict(node.attach(cgroup=str(box.cgroup)).changes).keys() == {hook}
        assert all(each.attached and each.effective for each in node.status().programs)
        assert "gone" not in cli.run(box.pin, "status").stdout
    assert len(attached(box.cgroup)) == 9


def test_all_of_them(box: Box) -> None:
    """The instance is then attached to nothing, and says so."""
    with opened(box) as node:
        node.attach(cgroup=str(box.cgroup))
        for link in sorted((box.pin / "links").iterdir()):
            rawbpf.detach(link)
        said = cli.run(box.pin, "status", "--json").json
        assert not any(each["attached"] for each in said["programs"])
        assert len(node.attach(cgroup=str(box.cgroup)).changes) == 9
        assert all(each.effective for each in node.status().programs)
