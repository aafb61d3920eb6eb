# SPDX-License-Identifier: Apache-2.0
"""The installed command on a real kernel: every way to say no."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import Box, cli, kernel, linux
from .harness.bpf import attached
from .harness.cli import as_nobody, one_line

FRONTEND = "10.96.0.10:80/tcp"
SMALL = ("--max-services=2", "--max-backends=4", "--max-slots=16")


def test_a_dry_run_says_what_does_not_fit(box: Box) -> None:
    """In tables that would be made for it, and then in those that are there; it changes nothing."""
    wanted = "version: 1\nservices:\n" + "".join(
        f"- frontend: 10.96.0.{n}:80/tcp\n" for n in (1, 2, 3)
    )
    dry = ("apply", "--dry-run", "-f", "-")
    one_line(cli.run(box.pin, *dry, *SMALL, stdin=wanted), 1, "3 services", "2 fit")
    assert not box.pin.exists()
    assert cli.run(box.pin, "svc", "add", "10.96.0.3:80/tcp", *SMALL).status == 0
    one_line(cli.run(box.pin, *dry, stdin=wanted), 1, "3 services", "2 fit")
    many = ["--backend=10.0.0.2:80", *(f"--backend=10.0.1.{n}:80" for n in range(4))]
    one_line(cli.run(box.pin, "svc", "set", "10.96.0.3:80/tcp", "--dry-run", *many), 1, "backends")
    assert cli.run(box.pin, *dry, stdin=wanted.replace("10.96.0.1", "10.96.0.3", 1)).status == 2
    fits = "version: 1\nservices:\n- frontend: 10.96.0.4:80/tcp\n- frontend: 10.96.0.5:80/tcp\n"
    assert cli.run(box.pin, *dry, "--prune", stdin=fits).status == 0
    one_line(cli.run(box.pin, *dry, stdin=fits), 1, "3 services")
    assert [
        each["frontend"] for each in cli.run(box.pin, "svc", "ls", "--json").json["services"]
    ] == ["10.96.0.3:80/tcp"]


def test_refusals(box: Box) -> None:
    """Valid requests that the state refuses: one line each, and nothing changed."""
    add = ("svc", "add", FRONTEND, "--backend", "10.0.0.2:80")
    assert cli.run(box.pin, *add, *SMALL).status == 0
    before = cli.run(box.pin, "export").stdout
    missing = "10.96.0.11:80/tcp"
    heavy = ["--backend=10.0.0.2:80,weight=100", "--backend=10.0.0.3:80"]
    many = [f"--backend=10.0.0.{n}:80" for n in range(5)]
    for arguments, *parts in (
        (add, FRONTEND, "exists"),
        (("backend", "add", FRONTEND, "10.0.0.2:80"), "10.0.0.2:80", "exists"),
        (("svc", "rm", missing), missing),
        (("svc", "show", missing), missing),
        (("backend", "add", missing, "10.0.0.2:80"), missing),
        (("backend", "rm", FRONTEND, "10.0.0.9:80"), "10.0.0.9:80"),
        (("svc", "set", FRONTEND, *many), "backends"),
        (("svc", "add", missing, *heavy), "slots"),
        (("svc", "rm", FRONTEND, "--owner", "other"), "manual"),
        (("svc", "add", missing, "--max-services=3"), "2"),
    ):
        one_line(cli.run(box.pin, *arguments), 1, *parts)
    for arguments in (
        (*add, "--if-missing"),
        ("backend", "add", FRONTEND, "10.0.0.2:80", "--if-missing"),
        ("svc", "rm", missing, "--if-exists"),
        ("backend", "rm", FRONTEND, "10.0.0.9:80", "--if-exists"),
    ):
        assert cli.run(box.pin, *arguments).status == 0
    assert cli.run(box.pin, "export").stdout == before
    assert cli.run(box.pin, "svc", "add", missing).status == 0
    one_line(cli.run(box.pin, "svc", "add", "10.96.0.12:80/tcp"), 1, "services")


def test_bad_input(box: Box, tmp_path: Path) -> None:
    """Usage and values that can never be right: status 2, one line, no instance made."""
    a_file = tmp_path / "file"
    a_file.write_text("")
    cgroup = ("attach", "--cgroup")
    for arguments, *parts in (
        ((*cgroup, str(a_file)), str(a_file)),
        ((*cgroup, str(tmp_path)), str(tmp_path)),
        ((*cgroup, str(tmp_path / "missing")), str(tmp_path / "missing")),
        ((*cgroup, str(box.cgroup), "--protocols", "tcp,sctp"), "sctp"),
        (("svc", "add", FRONTEND, "--max-services", "0"), "max-services"),
        (("svc", "add", "10.96.0.10:80/sctp"), "sctp"),
        (("apply", "-f", str(tmp_path / "missing")), str(tmp_path / "missing")),
        (("apply", "-f", str(a_file)), str(a_file)),
    ):
        one_line(cli.run(box.pin, *arguments), 2, *parts)
    assert not box.pin.exists()
    outside = tmp_path / "instance"
    for arguments in ((*cgroup, str(box.cgroup)), ("svc", "add", FRONTEND)):
        one_line(cli.run(outside, *arguments), 2, str(outside))
    assert not outside.exists()
    assert not attached(box.cgroup)


@pytest.mark.parametrize("exists", [False, True], ids=["new", "existing"])
def test_without_root(box: Box, exists: bool) -> None:
    """The line names the capability that is missing."""
    if exists:
        assert cli.run(box.pin, "svc", "add", FRONTEND).status == 0
    for arguments in (
        ("attach", "--cgroup", str(box.cgroup)),
        ("svc", "add", "10.96.0.11:80/tcp"),
        *[("detach",), ("status",), ("svc", "ls"), ("export",)] * exists,
    ):
        one_line(box.call(as_nobody, box.pin, *arguments), 1, "CAP_")
    assert box.pin.exists() == exists
    if exists:
        assert len(cli.run(box.pin, "svc", "ls", "--json").json["services"]) == 1


def without(capabilities: int) -> Callable[[], None]:
    """Takes capabilities (a mask of bits) from root for good."""

    def prepare() -> None:
        for bit in range(64):
            if capabilities >> bit & 1:
                linux.drop_capability(bit)

    return prepare


def test_root_without_capabilities(box: Box) -> None:
    """As in a container: uid 0 alone is not enough, and the line says what is missing."""
    bpf, net_admin, sys_admin = 39, 12, 21
    attach = ("attach", "--cgroup", str(box.cgroup))
    said = cli.run(box.pin, *attach, prepare=without(1 << bpf | 1 << sys_admin), fresh=True)
    one_line(said, 1, "CAP_BPF")
    assert not box.pin.exists()
    said = cli.run(box.pin, *attach, prepare=without(1 << net_admin | 1 << sys_admin), fresh=True)
    one_line(said, 1, "CAP_NET_ADMIN")
    assert not box.pin.exists()
    assert not attached(box.cgroup)


@pytest.mark.parametrize(
    "arguments",
    [
        ("attach", "--cgroup", ""),
        ("attach", "--node-addresses", "192.0.2.0/33"),
        ("svc", "ls", "--owner", "a b"),
        ("svc", "add", FRONTEND, "--owner", "a b"),
        ("svc", "add", FRONTEND, "--from-cgroup", "/sys/fs/cgroup/there/is/none"),
        ("exempt", "add", "/etc"),
    ],
    ids=" ".join,
)
def test_more_bad_input(box: Box, arguments: tuple[str, ...]) -> None:
    impossible = "--from-cgroup" in arguments and not kernel.knows_cgroups()
    one_line(cli.run(box.pin, *arguments), 1 if impossible else 2)
    assert not box.pin.exists()


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("export",), ("svc", "ls"), ("svc", "rm", FRONTEND), ("detach", "--purge")],
    ids=" ".join,
)
def test_pins_that_are_none(box: Box, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Nothing outside bpffs, nor in its root, is an instance; and nothing there is touched."""
    files = [tmp_path / name for name in ("services", "meta", "records")]
    for file in files:
        file.write_text("somebody else's")
    for pin in (tmp_path, tmp_path / "missing", files[0], box.pin.parent):
        one_line(cli.run(pin, *arguments), 2, str(pin))
    assert all(file.read_text() == "somebody else's" for file in files)


def test_pins_of_others(box: Box) -> None:
    """A directory with a pin that has one of our names and is not ours."""
    box.pin.mkdir(mode=0o700)
    theirs = box.pin / "events"
    array = "type array key 4 value 4 entries 1 name theirs"
    subprocess.run(["bpftool", "map", "create", theirs, *array.split()], check=True)
    try:
        add = ("svc", "add", FRONTEND)
        one_line(cli.run(box.pin, *add), 1, str(theirs))
        one_line(cli.run(box.pin, "detach", "--purge"), 1, str(theirs))
        assert theirs.exists()
    finally:
        theirs.unlink()


@pytest.mark.parametrize(
    ("without", "options", "parts"),
    [
        ("recvmsg", (), ("UDP", "--protocols tcp")),
        ("connect", (), ("4.17",)),
        ("post_bind", ("--protect-binds",), ("--protect-binds",)),
    ],
)
def test_kernels_that_cannot(
    box: Box,
    monkeypatch: pytest.MonkeyPatch,
    without: str,
    options: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    kernel.switch_off(monkeypatch, without)
    attach = ("attach", "--cgroup", str(box.cgroup))
    one_line(cli.run(box.pin, *attach, *options), 1, *parts)
    assert not attached(box.cgroup)
    assert not box.pin.exists()
    if without == "recvmsg":
        assert cli.run(box.pin, *attach, "--protocols", "tcp").status == 0
        assert set(attached(box.cgroup)) == kernel.hooks("tcp")
