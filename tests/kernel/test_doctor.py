# SPDX-License-Identifier: Apache-2.0
"""`doctor`: whether an instance does what it should, found by trying; and all is put back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import hostreach
from hostreach import Service

from .harness import Box, cli, kernel, rawbpf, scaled, wait_until
from .harness.host import HOST_V4, attach_inside, give_addresses, opened

if TYPE_CHECKING:
    from hostreach.node import Node

FRONTEND = "10.96.0.10:80/tcp"
OWNER = PREFIX = "hostreach-doctor"


@pytest.fixture
def node(box: Box) -> Iterator[Node]:
    """Of this test alone: what is attached is taken apart here."""
    with hostreach.open(str(box.pin)) as opened:
        opened.attach(cgroup=str(box.cgroup))
        yield opened


def checks(box: Box, *arguments: str, status: int = 0) -> dict[str, Any]:
    said = cli.run(box.pin, "doctor", "--json", *arguments)
    assert (said.status, said.stderr) == (status, ""), said
    assert said.json["healthy"] == (status == 0)
    found = {each["name"]: each for each in said.json["checks"]}
    for each in found.values():
        assert each["fix"] or each["state"] != "broken", each
    return found


def left_behind(box: Box, node: Node) -> list[str]:
    cgroups = [path.name for path in box.cgroup.iterdir() if path.name.startswith(PREFIX)]
    return cgroups + [row.frontend for row in node.services.rows(OWNER)]


def test_nothing_there(box: Box) -> None:
    """No attachment and no tables are nothing broken, and none are made."""
    found = checks(box)
    assert found["attachment"]["state"] == found["attachment in effect"]["state"] == "note"
    assert found["bpffs"]["state"] == "ok"
    assert not box.pin.exists()
    assert "nothing is attached" in cli.run(box.pin, "doctor").stdout


def test_attached_and_in_effect(box: Box, node: Node) -> None:
    node.services.add(Service.of(FRONTEND, "10.0.0.2:80"))
    before = cli.run(box.pin, "export").stdout
    found = checks(box)
    assert found["attachment"]["state"] == "ok"
    assert found["attachment"]["text"] == f"to {box.cgroup}, for tcp and udp"
    assert found["attachment in effect"]["state"] == "ok"
    assert "was served over tcp and udp" in found["attachment in effect"]["text"]
    assert cli.run(box.pin, "export").stdout == before
    assert not left_behind(box, node)
    said = cli.run(box.pin, "doctor")
    assert said.status == 0
    assert "BROKEN" not in said.stdout
    untried = checks(box, "--no-probe")
    assert "attachment in effect" not in untried


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_one_protocol(box: Box, node: Node, protocol: str) -> None:
    node.attach(cgroup=str(box.cgroup), protocols=(protocol,))
    assert f"was served over {protocol}" in checks(box)["attachment in effect"]["text"]


def test_a_hook_without_ours(box: Box, node: Node) -> None:
    """Somebody took our program off: it is told, tried, and can be mended."""
    kernel.need(kernel.has("bpf_link"), "bpf_link")
    rawbpf.detach(box.pin / "links" / "connect4")
    found = checks(box, status=1)
    assert found["attachment"]["state"] == "broken"
    assert found["attachment"]["text"] == "ours is gone from connect4"
    fix = f"hostreach attach --cgroup {box.cgroup} --pin {box.pin}"
    assert found["attachment"]["fix"] == fix
    assert found["attachment in effect"]["state"] == "broken"
    assert "tcp: ECONNREFUSED, udp: " in found["attachment in effect"]["text"]
    said = cli.run(box.pin, "doctor")
    assert said.status == 1
    assert f"fix: {fix}\n" in said.stdout
    assert subprocess.run([cli.SCRIPT, *fix.split()[1:]], check=False).returncode == 0
    checks(box)
    assert not left_behind(box, node)


def test_a_pin_removed_by_hand(box: Box, node: Node) -> None:
    """Nothing of it is left to say that it was there; the other hooks' programs do."""
    kernel.need(kernel.has("bpf_link"), "bpf_link")
    (box.pin / "links" / "connect6").unlink()
    assert checks(box, status=1)["attachment"]["text"] == "ours is gone from connect6"
    node.attach(cgroup=str(box.cgroup), protocols=("tcp",))
    (box.pin / "links" / "connect4").unlink()
    fix = checks(box, status=1)["attachment"]["fix"]
    assert fix.endswith("--protocols tcp")


def test_another_vendors_rewrite(box: Box, node: Node) -> None:
    assert checks(box)["other programs"]["state"] == "ok"
    rawbpf.attach(box.cgroup, "connect4")
    found = checks(box)["other programs"]
    assert found["state"] == "note"
    assert "(connect4)" in found["text"]
    assert node.status().cgroup


def test_the_cgroup_was_removed(box: Box, node: Node) -> None:
    place = box.bare / "attached"
    node.detach()
    place.mkdir()
    node.attach(cgroup=str(place))
    place.rmdir()
    unsure = "not seen from here" in cli.run(box.pin, "doctor").stdout
    kernel.need(not unsure, "file handles, which tell a cgroup that is gone (CONFIG_FHANDLE)")
    found = checks(box, status=1)
    assert "removed" in found["attachment"]["text"]
    assert "hostreach detach" in found["attachment"]["fix"]
    node.detach()
    checks(box)


def test_an_exempt_cgroup(box: Box, node: Node) -> None:
    kernel.need(kernel.knows_cgroups(), "cgroup of the caller's for programs")
    node.exempt.add(str(box.cgroup))
    found = checks(box)["attachment in effect"]
    assert (found["state"], found["text"]) == ("note", f"not tried: {box.cgroup} is exempt")
    assert not left_behind(box, node)


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def start_held(box: Box) -> tuple[subprocess.Popen[str], int, int]:
    """The command, its child that waits for the lock, and the lock."""
    lock = os.open(box.pin, os.O_RDONLY)
    process = subprocess.Popen(
        [cli.SCRIPT, "doctor", "--pin", str(box.pin)], stdout=subprocess.DEVNULL
    )

    def child() -> list[int]:
        # Until it has forked the lock is free: to read it is to be had.
        return children_of(process.pid)

    wait_until(child, "the probe has begun")
    flock(lock, LOCK_EX)
    return process, child()[0] if child() else 0, lock  # type: ignore[return-value]


def test_killed_on_the_way(box: Box, node: Node) -> None:
    """Its child goes on and puts everything back."""
    for _ in range(3):
        process, _, lock = start_held(box)
        process.kill()
        process.wait()
        os.close(lock)
        wait_until(lambda: not left_behind(box, node), "all is put back")
        time.sleep(scaled(0.5))  # the child may only have begun
        wait_until(lambda: not left_behind(box, node), "all is put back")


def test_the_child_killed_too(box: Box, node: Node) -> None:
    """What stays then, the next one removes; and what a living one has, it leaves."""
    kernel.need(kernel.knows_cgroups(), "cgroup of the caller's for programs")
    gone = subprocess.Popen(["true"])
    gone.wait()
    for pid in (gone.pid, os.getpid()):
        (box.cgroup / f"{PREFIX}-{pid}").mkdir()
        frontend = f"127.83.0.{1 + (pid == gone.pid)}:1/tcp"
        node.services.add(Service.of(frontend, "127.0.0.1:9", owner=OWNER, name=f"{PREFIX}-{pid}"))
    checks(box)
    assert left_behind(box, node) == [f"{PREFIX}-{os.getpid()}", "127.83.0.1:1/tcp"]
    (box.cgroup / f"{PREFIX}-{os.getpid()}").rmdir()


def test_interrupted(box: Box, node: Node) -> None:
    process, _, lock = start_held(box)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=scaled(10)) == 130
    os.close(lock)
    time.sleep(scaled(0.5))
    wait_until(lambda: not left_behind(box, node), "all is put back")


def test_reserved_ports(box: Box) -> None:
    """With protected binds also those of services on this node's own addresses."""
    give_addresses(box)
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    with opened(box) as node:
        attach_inside(box, node)
        node.services.add(Service.of(f"node:{low + 1}/tcp", "10.0.0.2:80"))
        node.services.add(Service.of(f"{HOST_V4}:{low + 2}/tcp", "10.0.0.2:80"))
        node.services.add(Service.of(f"10.96.0.10:{low + 3}/tcp", "10.0.0.2:80"))

        def risky() -> list[int]:
            done = box.run([cli.SCRIPT, "doctor", "--json", "--pin", str(box.pin)], bare=True)
            assert done.returncode == 0, done
            found: list[int] = cli.Said(0, done.stdout, "").json["unreserved_ports"]
            return found

        assert risky() == [low + 1]
        if kernel.protects_binds():
            attach_inside(box, node, protect_binds=True)
            assert risky() == [low + 1, low + 2]


def test_without_root(box: Box) -> None:
    def become_nobody() -> None:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)

    said = cli.run(box.pin, "doctor", prepare=become_nobody)
    assert (said.status, said.stdout, said.stderr.count("\n")) == (1, "", 1)
