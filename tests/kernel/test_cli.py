# SPDX-License-Identifier: Apache-2.0
"""The installed command on a real kernel: a service's whole life, and every way to say no."""

from __future__ import annotations

import io
import os
import socket
import subprocess
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from hostreach.cli import main
from hostreach.datapath import kernel_features, socket_features

from .harness import Box, cli, kernel, linux
from .harness.bpf import attached
from .harness.clients import TCP, V4, Seen, exchange, outcome
from .harness.host import mount_hierarchy

FRONTEND = "10.96.0.10:80/tcp"
VIP = ("10.96.0.10", 80)
SMALL = ("--max-services=2", "--max-backends=4", "--max-slots=16")


def one_line(said: cli.Said, status: int, *parts: str) -> None:
    """A refusal: its status, and one line on stderr that names what it is about."""
    assert said.status == status, said
    assert not said.stdout
    assert said.stderr.startswith("hostreach: ")
    assert said.stderr.count("\n") == 1
    for part in parts:
        assert part in said.stderr


def test_from_attach_to_purge(box: Box) -> None:
    box.serve("10.0.0.2:8080/tcp", "10.0.0.3:8080/tcp")

    def hostreach(*arguments: str) -> cli.Said:
        return cli.run(box.pin, *arguments)

    assert hostreach("svc", "add", FRONTEND, "--backend", "10.0.0.2:8080").status == 0
    assert hostreach("attach", "--cgroup", str(box.cgroup)).status == 0
    assert box.call(exchange, V4, TCP, VIP) == Seen("10.0.0.2:8080", VIP)

    assert hostreach("backend", "add", FRONTEND, "10.0.0.3:8080", "--weight=3").status == 0
    assert hostreach("backend", "rm", FRONTEND, "10.0.0.2:8080").status == 0
    assert box.call(exchange, V4, TCP, VIP) == Seen("10.0.0.3:8080", VIP)
    shown = hostreach("svc", "show", FRONTEND, "--json").json["service"]
    assert shown["backends"] == [{"address": "10.0.0.3:8080", "weight": 3, "state": "active"}]

    status = hostreach("status", "--json").json
    assert status["cgroup"] == str(box.cgroup)
    assert status["services"]["used"] == 1
    assert {p["name"] for p in status["programs"] if p["effective"]} == kernel.hooks()
    assert hostreach().stdout == hostreach("status").stdout
    assert str(box.cgroup) in hostreach().stdout

    assert hostreach("svc", "rm", FRONTEND).status == 0
    assert box.call(outcome, exchange, V4, TCP, VIP) == "ENETUNREACH"
    assert hostreach("detach", "--purge").status == 0
    assert not attached(box.cgroup)
    assert not box.pin.exists()
    assert hostreach("detach", "--purge").status == 0


def test_pin_by_environment_and_option(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTREACH_PIN", str(box.pin))
    assert cli.run(None, "svc", "add", FRONTEND).status == 0
    assert FRONTEND in cli.run(None, "svc", "ls").stdout
    monkeypatch.setenv("HOSTREACH_PIN", "/sys/fs/bpf/hostreach-test-nowhere")
    assert FRONTEND in cli.run(box.pin, "svc", "ls").stdout
    assert FRONTEND not in cli.run(None, "svc", "ls").stdout


def test_export_and_apply(box: Box) -> None:
    """What one instance exports makes another one the same; the file is the issue's own."""
    text = """\
version: 1
services:
- frontend: 10.96.0.10:53/udp
  name: kube-system/kube-dns:dns
  backends:
  - address: 10.0.0.2:53
  - address: 10.0.0.3:53
    weight: 3
- frontend: '[fd00:96::a]:443/tcp'
"""
    assert cli.run(box.pin, "apply", "--dry-run", "-f", "-", stdin=text).status == 0
    assert cli.run(box.pin, "svc", "ls", "--json").json["services"] == []
    assert cli.run(box.pin, "apply", "-f", "-", stdin=text).status == 0
    exported = cli.run(box.pin, "export").stdout
    assert (
        cli.run(box.pin, "apply", "-f", "-", "--prune", "--json", stdin=exported).json["changes"]
        == []
    )
    assert cli.run(box.pin, "detach", "--purge").status == 0
    assert cli.run(box.pin, "apply", "-f", "-", stdin=exported).status == 0
    assert cli.run(box.pin, "export").stdout == exported
    as_json = cli.run(box.pin, "export", "--json").stdout
    assert cli.run(box.pin, "apply", "-f", "-", "--prune", stdin="version: 1\n").status in (0, 2)
    assert cli.run(box.pin, "apply", "-f", "-", "--prune", stdin=as_json).status == 0
    assert cli.run(box.pin, "export").stdout == exported


def test_attach_twice(box: Box) -> None:
    attach = ("attach", "--cgroup", str(box.cgroup))
    assert len(cli.run(box.pin, *attach, "--json").json["changes"]) == len(kernel.hooks())
    before = attached(box.cgroup)
    assert cli.run(box.pin, *attach, "--json").json["changes"] == []
    assert cli.run(box.pin, *attach).status == 0
    assert attached(box.cgroup) == before
    said = cli.run(box.pin, "attach", "--cgroup", str(box.bare))
    one_line(said, 1, str(box.cgroup), str(box.bare))
    changed = cli.run(box.pin, *attach, "--protocols", "tcp", "--json").json
    removed = [change for change in changed["changes"] if change["action"] == "removed"]
    assert len(removed) == 4
    assert set(attached(box.cgroup)) == kernel.hooks("tcp")


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


def as_nobody(pin: Path, *arguments: str) -> cli.Said:
    """In this process, a fork: nobody may not even read the interpreter where root installed it."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        # Loads the modules.
        for command in ("export", "attach --cgroup /nowhere", "svc add 10.0.0.1:1/tcp"):
            main([*command.split(), "--pin", "/nowhere"])
        for stream in (out, err):
            stream.truncate(0)
            stream.seek(0)
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        status = main([*arguments, "--pin", str(pin)])
    return cli.Said(status, out.getvalue(), err.getvalue())


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


@pytest.mark.parametrize("where", ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/mnt"])
def test_root_cgroup_is_found(box: Box, where: str) -> None:
    """On pure v2 hosts, on hybrid ones, and wherever else it may be mounted."""
    said = cli.run(box.pin, "attach", "--json", prepare=lambda: mount_hierarchy(box, where))
    assert said.status == 0, said
    assert said.json["cgroup"] == where
    assert set(attached(box.cgroup)) == kernel.hooks()


def bpffs(mode: str) -> Callable[[], None]:
    """A mount namespace with bpffs missing, or read-only."""

    def prepare() -> None:
        linux.private_mounts()
        while os.path.ismount("/sys/fs/bpf"):
            linux.umount("/sys/fs/bpf")
        if mode == "read-only":
            linux.mount("bpf", "/sys/fs/bpf", "bpf", linux.MS_RDONLY)

    return prepare


def test_bpffs_is_mounted_when_missing(box: Box) -> None:
    """The instance ends with the mount namespace; here it is enough that it came to be."""
    said = cli.run(box.pin, "attach", "--cgroup", str(box.cgroup), prepare=bpffs("missing"))
    assert said.status == 0, said
    said = cli.run(box.pin, "svc", "add", FRONTEND, prepare=bpffs("missing"))
    assert said.status == 0, said
    assert not box.pin.exists()


def test_bpffs_read_only(box: Box) -> None:
    for arguments in (("attach", "--cgroup", str(box.cgroup)), ("svc", "add", FRONTEND)):
        one_line(cli.run(box.pin, *arguments, prepare=bpffs("read-only")), 1, str(box.pin))
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


def test_a_cgroup_that_is_gone(box: Box) -> None:
    """Its service can be changed and applied again, and nobody uses it."""
    kernel.need(kernel.knows_cgroups(), "way for programs to tell a task's cgroup")
    pod = box.cgroup / "pod"
    pod.mkdir()
    add = ("svc", "add", FRONTEND, "--backend", "10.0.0.2:80", "--from-cgroup", str(pod))
    assert cli.run(box.pin, *add, *SMALL).status == 0
    pod.rmdir()
    assert cli.run(box.pin, "backend", "add", FRONTEND, "10.0.0.3:80").status == 0
    exported = cli.run(box.pin, "export").stdout
    assert str(pod) in exported
    assert cli.run(box.pin, "apply", "-f", "-", stdin=exported).status == 0
    assert cli.run(box.pin, "export").stdout == exported


def test_hidden_listeners_are_reported(box: Box) -> None:
    """A line on stderr, and the service is added all the same."""

    def add_beside_a_server() -> tuple[int, str]:
        out, err = io.StringIO(), io.StringIO()
        with socket.create_server(("0.0.0.0", 30080)), redirect_stdout(out), redirect_stderr(err):
            status = main(["svc", "add", "node:30080/tcp", "--pin", str(box.pin)])
        return status, err.getvalue()

    status, said = box.call(add_beside_a_server)
    assert status == 0
    assert "0.0.0.0" in said
    assert said.count("\n") == 1


def test_doctor(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each feature's own line; a missing one is no failure. Ports that may collide are named."""
    found = {
        each["name"]: each["found"]
        for each in cli.run(box.pin, "doctor", "--json").json["features"]
    }
    assert found["connect"]
    assert set(found) == {*kernel_features(), *socket_features()}
    for without, missing in (
        ("mptcp,sock_diag", {"mptcp", "sock_diag"}),
        ("netns_cookie", {"netns_cookie", "host_netns"}),
        ("btf", {"btf", "sock_destroy", "sock_read"}),
    ):
        kernel.switch_off(monkeypatch, without)
        said = cli.run(box.pin, "doctor", "--json")
        now = {each["name"]: each["found"] for each in said.json["features"]}
        found |= dict.fromkeys(missing, False)
        assert now == found
    low = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]
    assert cli.run(box.pin, "svc", "add", f"node:{low}/tcp", *SMALL).status == 0
    assert low in cli.run(box.pin, "doctor").stdout
