# SPDX-License-Identifier: Apache-2.0
"""Nodes with cgroup v1 alone: attach mounts cgroup v2 for itself; and v1's tags of sockets."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .harness import Box, cli, linux
from .harness.bpf import attached
from .harness.clients import TCP, V4, exchange
from .harness.host import mount_hierarchy

OWN_MOUNT = "/run/hostreach/cgroupv2"
FRONTEND, VIP, SERVER = "10.96.0.10:80/tcp", ("10.96.0.10", 80), "10.0.0.2:80"


def mounts() -> list[tuple[str, str]]:
    """Where cgroup v2 is mounted in the calling process's namespace, and how."""
    lines = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return [(where, options) for _, where, fstype, options, *_ in lines if fstype == "cgroup2"]


def where_mounted() -> list[str]:
    return [where for where, _ in mounts()]


def refused(said: cli.Said, status: int = 1) -> str:
    assert (said.status, said.stdout, said.stderr.count("\n")) == (status, "", 1), said
    return said.stderr


def test_attach_mounts_for_itself(box: Box) -> None:
    """Whoever comes later finds it; programs and tables are as on any other node."""
    outside = mounts()
    box.serve(f"{SERVER}/tcp")

    def on_v1() -> None:
        mount_hierarchy(box, "")
        os.umask(0o077)  # as some administrators have it
        assert cli.run(box.pin, "svc", "add", FRONTEND, "--backend", SERVER).status == 0
        assert cli.run(box.pin, "attach", "--json").json["cgroup"] == OWN_MOUNT
        ((where, options),) = mounts()
        assert where == OWN_MOUNT
        assert {"rw", "nosuid", "nodev", "noexec"} <= {*options.split(",")}
        assert Path("/run/hostreach").stat().st_mode & 0o777 == 0o755
        assert cli.run(box.pin, "status", "--json").json["cgroup"] == OWN_MOUNT
        assert cli.run(box.pin, "attach", "--json").json["changes"] == []
        again = cli.run(box.pin, "attach", "--cgroup", OWN_MOUNT, "--json")
        assert again.json["changes"] == []
        assert where_mounted() == [OWN_MOUNT]
        assert exchange(V4, TCP, VIP).server == SERVER
        assert cli.run(box.pin, "doctor", "--json").json["cgroup_root"] == OWN_MOUNT

    box.call(on_v1, timeout=60)
    assert attached(box.cgroup)

    def detach() -> None:
        mount_hierarchy(box, "")
        assert cli.run(box.pin, "detach", "--purge").status == 0
        assert not mounts()

    box.call(detach)
    assert not attached(box.cgroup)
    assert mounts() == outside


def test_nobody_else_can_keep_attach_waiting(box: Box) -> None:
    """Whoever can open what it locks could."""

    def on_v1() -> None:
        mount_hierarchy(box, "")
        Path("/run/hostreach").mkdir()
        held = os.open("/run/hostreach", os.O_RDONLY)  # as any user can
        fcntl.flock(held, fcntl.LOCK_EX)
        assert cli.run(box.pin, "attach", "--json").json["cgroup"] == OWN_MOUNT
        readable = [each for each in Path("/run/hostreach").iterdir() if each.is_file()]
        assert [each.stat().st_mode & 0o777 for each in readable] == [0o600]

    box.call(on_v1, timeout=60)


def test_only_attach_mounts(box: Box) -> None:
    """Other commands do what needs no cgroup, or say what would mount it."""

    def on_v1() -> None:
        mount_hierarchy(box, "")
        for command in (
            ["status"],
            ["svc", "add", FRONTEND, "--backend", SERVER],
            ["svc", "ls"],
            ["exempt", "ls"],
            ["sockets", "end"],
            ["doctor"],
            ["detach"],
        ):
            said = cli.run(box.pin, *command)
            assert (said.status, said.stderr) == (0, ""), said
        assert OWN_MOUNT in cli.run(box.pin, "doctor").stdout
        assert cli.run(box.pin, "doctor", "--json").json["cgroup_root"] is None
        somewhere = str(box.cgroup)
        assert "attach" in refused(cli.run(box.pin, "exempt", "add", somewhere))
        assert "attach" in refused(
            cli.run(box.pin, "svc", "add", "10.96.0.11:80/tcp", "--from-cgroup", somewhere)
        )
        assert "cgroup v2" in refused(cli.run(box.pin, "attach", "--cgroup", "/sys/fs/cgroup"))
        assert not mounts()
        assert not Path("/run/hostreach").exists()

    box.call(on_v1, timeout=60)


def test_services_for_cgroups_are_left_out(box: Box, tmp_path: Path) -> None:
    """And named, though a directory of that name may be there."""
    file = tmp_path / "services.jsonl"
    scoped = {"frontend": "10.96.0.11:80/tcp", "from_cgroup": str(box.cgroup), "backends": []}
    plain = {"frontend": FRONTEND, "backends": [{"address": SERVER}]}
    file.write_text("".join(f"{json.dumps(each)}\n" for each in (plain, scoped)))

    def on_v1() -> None:
        mount_hierarchy(box, "")
        box.cgroup.mkdir(parents=True)  # as v1 may have one
        assert "attach" in refused(cli.run(box.pin, "apply", "-f", str(file)))
        said = cli.run(box.pin, "apply", "--skip-missing-cgroups", "-f", str(file))
        assert (said.status, said.stdout) == (0, f"+ {FRONTEND} with 1 backend\n")
        assert "10.96.0.11:80/tcp is left as it is" in said.stderr
        assert not mounts()

    box.call(on_v1, timeout=60)


@pytest.mark.parametrize("why", ["kernel", "pin", "no mount"])
def test_attach_that_fails_leaves_no_mount(
    box: Box, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "kernel":
        monkeypatch.setenv("HOSTREACH_WITHOUT", "recvmsg")

    def on_v1() -> None:
        mount_hierarchy(box, "")
        if why == "no mount":
            linux.mount("none", "/run", flags=linux.MS_REMOUNT | linux.MS_RDONLY)
        pin = Path("/run/instance") if why == "pin" else box.pin
        refused(cli.run(pin, "attach"), 2 if why == "pin" else 1)
        assert not mounts()

    box.call(on_v1)
    assert not box.pin.exists()
    assert not attached(box.cgroup)


def test_many_attach_at_once(box: Box) -> None:
    """One mounts; the others find it."""

    def on_v1() -> None:
        mount_hierarchy(box, "")
        command = [cli.SCRIPT, "attach", "--pin", str(box.pin)]
        attempts = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(4)]
        assert [attempt.wait() for attempt in attempts] == [0] * 4
        assert where_mounted() == [OWN_MOUNT]

    box.call(on_v1, timeout=60)
    assert attached(box.cgroup)


@contextmanager
def controller(name: str, where: Path) -> Iterator[Path]:
    """A cgroup of this controller of cgroup v1, in a mount namespace of the caller's own."""
    child = where / f"hostreach-test-{os.getpid()}"
    linux.mount("none", str(where), "cgroup", data=name)
    try:
        child.mkdir()
        yield child
    finally:
        child.rmdir()
        linux.umount(str(where))


@pytest.mark.parametrize("name", ["net_cls", "net_prio"])
def test_doctor_warns_of_tags(box: Box, tmp_path: Path, name: str) -> None:
    """Also from another mount namespace: it is the kernel that is told, not the mounts."""
    free = any(
        line.split()[:2] == [name, "0"] for line in Path("/proc/cgroups").read_text().splitlines()
    )

    def tagging() -> tuple[list[str], str]:
        said = cli.run(box.pin, "doctor", "--json").json["tagging"]
        return said, cli.run(box.pin, "doctor").stdout

    def with_tags() -> None:
        linux.private_mounts()
        with controller(name, tmp_path):
            found, said = tagging()
            assert name in found
            assert f"{name}" in said
            assert "5.15" in said

    before, said = tagging()
    assert bool(before) == ("5.15" in said.rpartition("sock_diag")[2])
    if free:  # in the kernel, and not mounted by this machine already
        box.call(with_tags)
        assert tagging()[0] == before
