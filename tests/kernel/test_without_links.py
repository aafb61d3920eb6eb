# SPDX-License-Identifier: Apache-2.0
"""Kernels without bpf_link: programs attached by themselves, and nobody else's touched."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct

import pytest

import hostreach
from hostreach import Service, errors

from .harness import Box, rawbpf
from .harness.bpf import attached
from .harness.clients import TCP, V4, Seen, exchange, outcome
from .harness.failing import failing

EXCLUSIVE = 0  # no BPF_F_ALLOW_MULTI: nobody else may attach
OBJ_PIN, PROG_GET_FD_BY_ID, PROG_QUERY = 6, 13, 16
"""Of bpf(2)'s commands."""


@pytest.fixture(autouse=True)
def _no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTREACH_WITHOUT", "bpf_link")


def test_found_again_and_taken_off(box: Box) -> None:
    box.serve("10.0.0.2:80/tcp")
    with hostreach.open(str(box.pin)) as node:
        node.attach(cgroup=str(box.cgroup))
        node.services.add(Service.of("10.96.0.10:80/tcp", "10.0.0.2:80"))
    assert isinstance(box.call(outcome, exchange, V4, TCP, ("10.96.0.10", 80)), Seen)
    with hostreach.open(str(box.pin)) as later:
        assert all(program.attached for program in later.status().programs)
        assert not later.attach(cgroup=str(box.cgroup)).changes
        assert later.attach(cgroup=str(box.cgroup), protocols=("tcp",)).changes
        assert isinstance(box.call(outcome, exchange, V4, TCP, ("10.96.0.10", 80)), Seen)
        later.detach(purge=True)
    assert not attached(box.cgroup)
    assert not box.pin.exists()


def test_somebody_who_wants_a_hook_to_himself(box: Box) -> None:
    """The kernel would take his program off for any that we name."""
    rawbpf.attach(box.cgroup, "connect4", flags=EXCLUSIVE)
    theirs = attached(box.cgroup)
    with hostreach.open(str(box.pin)) as node:
        for _ in range(2):
            with pytest.raises(errors.PermissionDenied, match="attach to connect4"):
                node.attach(cgroup=str(box.cgroup))
            assert attached(box.cgroup) == theirs
        node.detach(purge=True)
        assert attached(box.cgroup) == theirs
    assert not box.pin.exists()


@pytest.mark.parametrize("protocols", [("tcp", "udp"), ("tcp",)], ids=["the same", "another"])
def test_one_killed_when_both_ran(box: Box, protocols: tuple[str, ...]) -> None:
    """Below Linux 5.6 a program is replaced by two calls; who comes next makes the second."""
    with hostreach.open(str(box.pin)) as node:
        node.attach(cgroup=str(box.cgroup))
        (ours,) = rawbpf.query(box.cgroup, rawbpf.HOOKS["connect4"])
        rawbpf.attach(box.cgroup, "connect4")
        (former,) = {*rawbpf.query(box.cgroup, rawbpf.HOOKS["connect4"])} - {ours}
        (pin,) = box.pin.glob("programs/*/connect4")
        pin.rename(f"{pin}_new")
        name = ctypes.create_string_buffer(os.fsencode(pin))
        fd = rawbpf.bpf(PROG_GET_FD_BY_ID, struct.pack("=I", former))
        rawbpf.bpf(OBJ_PIN, struct.pack("=QII", ctypes.addressof(name), fd, 0))
        os.close(fd)
        node.attach(cgroup=str(box.cgroup), protocols=protocols)
        (now,) = rawbpf.query(box.cgroup, rawbpf.HOOKS["connect4"])
        assert (now == ours) == (protocols == ("tcp", "udp"))
        assert [*box.pin.glob("programs/*/connect4*")] == [pin]
        assert next(p for p in node.status().programs if p.name == "connect4").effective


def test_who_cannot_look_leaves_the_pins(box: Box) -> None:
    """By these alone it is known what is on the cgroup, and is to be taken off."""
    detach = ("detach", "--purge", "--pin", str(box.pin))
    with hostreach.open(str(box.pin)) as node, failing() as process:
        node.attach(cgroup=str(box.cgroup))
        failed = process.run(*detach, at=1, error=errno.EPERM, command=PROG_QUERY)
        assert (failed.status, failed.stderr.count("\n")) == (1, 1), failed
        assert "query the hook's programs" in failed.stderr
        assert process.run(*detach).status == 0
    assert not attached(box.cgroup)


def test_no_descriptor_to_look(box: Box) -> None:
    """Then nobody says that nothing is attached."""

    def detach() -> int | None:
        with hostreach.open(str(box.pin)) as node:
            assert not len(node.services)
            lowest = os.open(os.devnull, os.O_RDONLY)
            os.close(lowest)
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, most))
            try:
                node.detach()
            except errors.KernelError as error:
                return error.errno
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return None

    with hostreach.open(str(box.pin)) as node:
        node.attach(cgroup=str(box.cgroup))
        assert box.call(detach, bare=True) == errno.EMFILE
        assert attached(box.cgroup)
        node.detach()
        assert not attached(box.cgroup)
