# SPDX-License-Identifier: Apache-2.0
"""Pin directories as users name them, and whom the kernel says that it is locked by."""

from __future__ import annotations

from pathlib import Path

import pytest

import hostreach

from .harness import Box, cli, linux
from .test_cli import bpffs


@pytest.mark.parametrize("below", ["x", "x/y", "links"])
def test_inside_another_instance(box: Box, below: str) -> None:
    """Its directory is its own; and nothing is made there."""
    assert cli.run(box.pin, "svc", "add", "10.96.0.10:80/tcp").status == 0
    pin = box.pin / below
    before = {*box.pin.iterdir()}
    for command in (f"attach --cgroup {box.cgroup}", "svc add 10.96.0.10:80/tcp"):
        said = cli.run(pin, *command.split())
        where = f"lies inside the instance at {box.pin}; use another --pin"
        assert said == (1, "", f"hostreach: {pin}: {where}\n")
    assert {*box.pin.iterdir()} == before
    beside = box.pin.with_name(f"{box.pin.name}x")
    assert cli.run(beside, "svc", "add", "10.96.0.10:80/tcp").status == 0
    assert cli.run(beside, "detach", "--purge").status == 0


@pytest.mark.parametrize("command", ["status", "attach", "svc ls", "svc add 10.96.0.10:80/tcp"])
def test_a_name_with_a_dot(box: Box, command: str) -> None:
    """bpffs refuses even to look for it, with EPERM: that is no want of rights."""
    pin = box.pin.with_name(f"{box.pin.name}.d")
    said = cli.run(pin, *command.split())
    assert said == (2, "", f"hostreach: {pin}: a BPF file system takes no name with a dot\n")


@pytest.mark.parametrize("pin", ["", "here"])
def test_not_absolute(pin: str) -> None:
    """An empty one is none that was meant: least of all the node's own instance."""
    with pytest.raises(hostreach.InvalidInput, match=r"a pin path is absolute$"):
        hostreach.open(pin)


def test_shown(box: Box) -> None:
    assert repr(hostreach.open(box.pin)) == f"Node('{box.pin}')"


def test_bpffs_below_a_dot(box: Box, tmp_path: Path) -> None:
    """It refuses dots in its own names, and has no say in those above it."""
    where = tmp_path / "some.dir"
    where.mkdir()

    def prepare() -> None:
        linux.private_mounts()
        linux.mount("bpf", str(where), "bpf")

    add = ("svc", "add", "10.96.0.10:80/tcp")
    for pin in (where / "x", where / "x" / "y"):
        assert cli.run(pin, *add, prepare=prepare).status == 0
    for pin in (where / "x.y", where / "x.y" / "z"):
        said = cli.run(pin, *add, prepare=prepare)
        assert said == (2, "", f"hostreach: {pin}: a BPF file system takes no name with a dot\n")
    assert not box.pin.exists()


@pytest.mark.usefixtures("box")
def test_beside_where_bpffs_belongs() -> None:
    """Where it is not mounted, nobody mounts it for that."""
    said = cli.run(
        Path("/sys/fs/bpfs/x"), "svc", "add", "10.96.0.10:80/tcp", prepare=bpffs("missing")
    )
    cli.one_line(said, 2, "/sys/fs/bpfs/x: no directory of a BPF file system")
