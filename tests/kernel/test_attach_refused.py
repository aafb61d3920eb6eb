# SPDX-License-Identifier: Apache-2.0
"""What is not attached, and to whom: one line says so, and nothing is left of the attempt."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import hostreach
from hostreach import Service, errors

from .harness import Box, kernel, rawbpf
from .harness.bpf import attached, link_ids, nothing_left


def test_another_cgroup_is_refused_naming_both(box: Box) -> None:
    with hostreach.open(str(box.pin)) as node:
        node.attach(cgroup=str(box.cgroup))
        before = attached(box.cgroup), link_ids()
        with pytest.raises(errors.AttachedElsewhere) as caught:
            node.attach(cgroup=str(box.bare))
        assert str(box.cgroup) in str(caught.value)
        assert str(box.bare) in str(caught.value)
        assert (attached(box.cgroup), link_ids()) == before
        assert not attached(box.bare)
        node.detach()
        node.attach(cgroup=str(box.bare))
        assert set(attached(box.bare)) == kernel.hooks()


@pytest.mark.parametrize("protocols", [(), ("sctp",), ("tcp", "sctp")], ids=str)
def test_bad_protocols(box: Box, protocols: tuple[str, ...]) -> None:
    with (
        nothing_left(),
        hostreach.open(str(box.pin)) as node,
        pytest.raises(errors.InvalidInput),
    ):
        node.attach(cgroup=str(box.cgroup), protocols=protocols)
    assert not box.pin.exists()


@pytest.mark.parametrize("attach_type", ["connect4", "recvmsg6"])
def test_a_hook_that_somebody_keeps_to_himself(box: Box, attach_type: str) -> None:
    """Attached without ALLOW_MULTI: nobody else may; all or nothing, and one line says which."""
    rawbpf.attach(box.cgroup, attach_type, flags=0)
    theirs = attached(box.cgroup)
    with hostreach.open(str(box.pin)) as node, nothing_left():
        with pytest.raises(errors.KernelError) as caught:
            node.attach(cgroup=str(box.cgroup))
        assert "\n" not in str(caught.value)
        assert attach_type in str(caught.value)
        node.detach(purge=True)
    assert attached(box.cgroup) == theirs


@pytest.mark.parametrize("what", ["file", "missing", "directory", "v1"])
def test_what_is_no_cgroup(box: Box, tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "directory").mkdir()
    path = tmp_path / what
    if what == "v1":
        path = next(iter(_v1_cgroups()), tmp_path)
    with nothing_left(), hostreach.open(str(box.pin)) as node:
        with pytest.raises(errors.InvalidInput) as caught:
            node.attach(cgroup=str(path))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not box.pin.exists()


def _v1_cgroups() -> list[Path]:
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return [Path(where) for _, where, fstype, *_ in mounts if fstype == "cgroup"]


def test_pin_outside_bpffs(box: Box, tmp_path: Path) -> None:
    for path in (tmp_path / "instance", Path("/proc/hostreach")):
        with nothing_left(), hostreach.open(str(path)) as node:
            with pytest.raises(errors.InvalidInput) as caught:
                node.attach(cgroup=str(box.cgroup))
            assert "bpf" in str(caught.value)
            with pytest.raises(errors.InvalidInput):
                node.services.add(Service.of("10.96.0.10:80/tcp"))
        assert not path.exists()


def test_pin_path_must_be_absolute() -> None:
    for path in ("relative", "./relative", "../relative"):
        with pytest.raises(errors.InvalidInput, match="absolute"):
            hostreach.open(path)


def test_pin_path_that_is_a_map(box: Box) -> None:
    with hostreach.open(str(box.pin)) as node:
        node.services.add(Service.of("10.96.0.10:80/tcp"))
    a_map = next(path for path in sorted(box.pin.rglob("*")) if path.is_file())
    with nothing_left(), hostreach.open(str(a_map)) as node:
        with pytest.raises(errors.HostreachError) as caught:
            node.attach(cgroup=str(box.cgroup))
        assert "\n" not in str(caught.value)


def test_without_root(box: Box) -> None:
    """The line names the capability; nothing is changed."""

    def try_all() -> list[str]:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        with hostreach.open(str(box.pin)) as node:
            return [
                denial(node.attach, str(box.cgroup)),
                denial(node.services.add, Service.of("10.96.0.10:80/tcp")),
            ]

    def denial(attempt: Callable[..., object], *args: object) -> str:
        with pytest.raises(errors.PermissionDenied) as caught:
            attempt(*args)
        return str(caught.value)

    with nothing_left():
        for message in box.call(try_all):
            assert "CAP_" in message
            assert "\n" not in message
    assert not box.pin.exists()
