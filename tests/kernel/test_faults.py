# SPDX-License-Identifier: Apache-2.0
"""What the machine may do to commands and agents: no room, no descriptors, no bpffs, no time."""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

import hostreach
from hostreach import Service

from .harness import Box, cli, linux, wait_until
from .harness.agents import AgentProcess, Notified, running, text
from .harness.bpf import attached
from .harness.cli import one_line
from .harness.compiled import c_library, preloading
from .harness.timing import scaled

LONG = os.environ.get("HOSTREACH_LONG") == "1"
FRONTEND, OTHER = "10.96.0.10:80/tcp", "10.96.0.11:80/tcp"
STOPPED = 180.0 if LONG else 3.0
"""Seconds."""


# --- no room on the disk -----------------------------------------------------------------------


def full_disk(where: Path) -> Callable[[], None]:
    """A mount namespace with a tmpfs of one page, which is taken."""

    def prepare() -> None:
        linux.private_mounts()
        linux.mount("none", str(where), "tmpfs", data="size=4k")
        (where / "taken").write_bytes(b"x" * 4096)

    return prepare


def test_units_on_a_full_disk(box: Box, tmp_path: Path) -> None:
    """All of a unit or nothing: what systemd reads is never half of one."""
    found = tmp_path / "found"

    units = tmp_path / "units"
    units.mkdir()
    # The namespace ends with the process: what is there is looked at from inside.
    command = ["systemd", "install", "--directory", str(units)]
    script = '"$@"; status=$?; ls -A "$0/units" > "$0/found"; exit $status'
    argv = ["sh", "-c", script, str(tmp_path), cli.SCRIPT, *command]
    done = box.run(argv, bare=True, prepare=full_disk(units))
    one_line(cli.Said(done.returncode, done.stdout, done.stderr), 1, "no space left on device")
    assert found.read_text().split() == ["taken"]


@pytest.mark.parametrize(
    "arguments",
    [("export",), ("status", "--json"), ("svc", "ls"), ("svc", "rm", FRONTEND), ("--help",)],
    ids=" ".join,
)
def test_output_on_a_full_disk(box: Box, arguments: Sequence[str]) -> None:
    """A file of services that is cut off must not look like a whole one; nor a change that is made
    like one that was refused for want of room."""
    with hostreach.open(str(box.pin)) as node:
        node.services.add(Service.of(FRONTEND, "10.0.0.2:80"))
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [cli.SCRIPT, "--pin", str(box.pin), *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=scaled(20),
            check=False,
        )
    made = "; the change is made" if arguments[:2] == ("svc", "rm") else ""
    message = f"hostreach: standard output: no space left on device{made}\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_errors_on_a_full_disk() -> None:
    """Nobody can be told; the exit status stays what it is."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [cli.SCRIPT, "nonsense"], stdout=full, stderr=full, timeout=scaled(20), check=False
        )
    assert done.returncode == 2


def test_agent_on_a_full_disk(box: Box, tmp_path: Path) -> None:
    """Neither its notes in /run nor its log can be written, and yet services follow the files."""
    file = tmp_path / "web.yaml"
    file.write_text(text(["10.0.0.2:80"]))
    script = (
        "mount -t tmpfs -o size=4k none /run && mkdir -p /run/hostreach && "
        'cat /dev/zero > /run/taken 2>/dev/null; exec "$@" > /dev/full 2>&1'
    )
    wrapper = ("unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script, "sh")
    with (
        hostreach.open(str(box.pin)) as node,
        running(AgentProcess(box, "file", str(file), directory=tmp_path, wrapper=wrapper)) as agent,
    ):
        agent.wait_ready()
        assert len(node.services.get(FRONTEND).backends) == 1
        file.write_text(text(["10.0.0.2:80", "10.0.0.3:80"]))
        wait_until(lambda: len(node.services.get(FRONTEND).backends) == 2, "the change")
        file.write_text("version: 1\nservices: [nonsense]\n")
        wait_until(lambda: agent.metric("hostreach_files_wrong") == 1, "the wrong file")
        assert agent.stop() < scaled(5)
        assert agent.process.returncode == 0


# --- no descriptors ----------------------------------------------------------------------------


def few_descriptors(count: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def test_out_of_descriptors(box: Box) -> None:
    """All is done or nothing, whatever the limit; and it is said."""
    add = ("svc", "add", FRONTEND, "--backend", "10.0.0.2:80")
    attach = ("attach", "--cgroup", str(box.cgroup))
    outcomes = set()
    for count in range(8, 65, 2 if LONG else 8):
        added = False
        for arguments in (add, attach):
            said = cli.run(box.pin, *arguments, prepare=few_descriptors(count), fresh=True)
            outcomes.add(said.status)
            if said.status:
                one_line(said, 1)
                assert "too many open files" in said.stderr.lower(), said
                assert not attached(box.cgroup)
            with hostreach.open(str(box.pin)) as node:
                added |= said.status == 0 and arguments is add
                assert len(node.services) == added
        assert cli.run(box.pin, "detach", "--purge").status == 0
    assert outcomes == {0, 1}


# --- no threads --------------------------------------------------------------------------------


def test_out_of_tasks(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other network namespaces are entered by a thread of its own."""
    monkeypatch.setenv("LD_PRELOAD", preloading("threadless.c"))
    attach = ("attach", "--cgroup", str(box.cgroup), "--host-netns", "/proc/self/ns/net")
    one_line(cli.run(box.pin, *attach), 1, "thread: cannot start: Resource temporarily", "pids.max")
    assert not attached(box.cgroup)


# --- no bpffs ----------------------------------------------------------------------------------

OWN_BPFFS = 'mount -t bpf bpf /sys/fs/bpf && exec "$@"'


def own_bpffs(box: Box, file: Path) -> AgentProcess:
    """An agent whose bpffs can be taken from it."""
    wrapper = ("unshare", "--mount", "--propagation", "private", "--", "sh", "-c", OWN_BPFFS, "sh")
    return AgentProcess(box, "file", str(file), directory=file.parent, wrapper=wrapper)


def inside(agent: AgentProcess, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["nsenter", f"--target={agent.process.pid}", "--mount", "--", *command],
        capture_output=True,
        text=True,
        timeout=scaled(20),
        check=False,
    )


def test_bpffs_unmounted_under_an_agent(box: Box, tmp_path: Path) -> None:
    """All pins are gone, and the links with them: it ends, saying why, and is started again."""
    file = tmp_path / "web.yaml"
    file.write_text(text(["10.0.0.2:80"]))
    with running(own_bpffs(box, file)) as agent:
        agent.wait_ready()
        assert attached(box.cgroup)
        assert inside(agent, "umount", "--lazy", "/sys/fs/bpf").returncode == 0
        file.write_text(text(["10.0.0.2:80", "10.0.0.3:80"]))
        assert agent.process.wait(scaled(20)) == 1
        *_, last = agent.log.splitlines()
        assert last.startswith(f"hostreach: {box.pin}: the tables and programs are gone")
    with running(own_bpffs(box, file)) as agent:
        agent.wait_ready()
        said = inside(agent, cli.SCRIPT, "svc", "show", FRONTEND, "--pin", str(box.pin))
        assert "10.0.0.3:80" in said.stdout
        assert attached(box.cgroup)


def test_purged_under_an_agent(box: Box, tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(text(["10.0.0.2:80"]))
    with running(AgentProcess(box, "file", str(file), directory=tmp_path)) as agent:
        agent.wait_ready()
        assert cli.run(box.pin, "detach", "--purge").status == 0
        assert agent.process.wait(scaled(20)) == 1
        assert "the instance purged" in agent.log.splitlines()[-1]
        assert not attached(box.cgroup)


def test_bpffs_read_only_under_an_agent(box: Box, tmp_path: Path) -> None:
    """What it has open it goes on writing to; a command says what is wrong."""
    file = tmp_path / "web.yaml"
    file.write_text(text(["10.0.0.2:80"]))
    with running(own_bpffs(box, file)) as agent:
        agent.wait_ready()
        empty = f"{box.pin}-empty"
        assert inside(agent, "mkdir", "--mode=700", empty).returncode == 0
        assert inside(agent, "mount", "-o", "remount,ro", "/sys/fs/bpf").returncode == 0
        for pin, problem in ((str(box.pin), "Read-only"), (empty, "cannot pin: Read-only")):
            done = inside(agent, cli.SCRIPT, "svc", "add", OTHER, "--pin", pin)
            one_line(cli.Said(done.returncode, done.stdout, done.stderr), 1, problem)
        assert inside(agent, "mount", "-o", "remount,rw", "/sys/fs/bpf").returncode == 0
        file.write_text(text(["10.0.0.2:80", "10.0.0.3:80"]))

        def written() -> bool:
            said = inside(agent, cli.SCRIPT, "svc", "show", FRONTEND, "--pin", str(box.pin))
            return "10.0.0.3:80" in said.stdout

        wait_until(written, "the change", seconds=20)


# --- no cgroup ---------------------------------------------------------------------------------


def test_cgroup_removed_under_an_agent(box: Box, tmp_path: Path) -> None:
    """Tables are kept in step; `status` says that nothing is attached, and `attach` mends it."""
    file = tmp_path / "web.yaml"
    file.write_text(text(["10.0.0.2:80"]))
    inner = box.cgroup / "inner"
    inner.mkdir()
    follow = ("file", str(file), f"--cgroup={inner}")
    with (
        hostreach.open(str(box.pin)) as node,
        running(AgentProcess(box, *follow, directory=tmp_path)) as agent,
    ):
        agent.wait_ready()
        assert attached(inner)
        inner.rmdir()
        file.write_text(text(["10.0.0.2:80", "10.0.0.3:80"]))
        wait_until(lambda: len(node.services.get(FRONTEND).backends) == 2, "the change")
        status = cli.run(box.pin, "status", "--json").json
        assert not any(each["effective"] for each in status["programs"])
        again = cli.run(box.pin, "attach", "--cgroup", str(box.cgroup))
        assert again.status == 0, again
        assert attached(box.cgroup)
        assert agent.ask("/healthz")[0] == 200


# --- no time -----------------------------------------------------------------------------------


def test_agent_that_is_stopped(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others go on meanwhile; it is in step soon after, and systemd hears nothing in between."""
    file = tmp_path / "web.yaml"
    file.write_text(text(["10.0.0.2:80"]))
    with closing(Notified(tmp_path / "notify")) as notified:
        monkeypatch.setenv("NOTIFY_SOCKET", str(notified.path))
        monkeypatch.setenv("WATCHDOG_USEC", str(int(0.9e6)))
        with (
            hostreach.open(str(box.pin)) as node,
            running(AgentProcess(box, "file", str(file), directory=tmp_path)) as agent,
        ):
            agent.wait_ready()
            os.kill(agent.process.pid, signal.SIGSTOP)
            time.sleep(0.2)
            before = len(notified.listen())
            file.write_text(text(["10.0.0.2:80", "10.0.0.3:80"]))
            node.services.add(Service.of(OTHER, "10.0.0.9:80"))
            time.sleep(STOPPED)
            assert len(notified.listen()) == before
            assert len(node.services.get(FRONTEND).backends) == 1
            os.kill(agent.process.pid, signal.SIGCONT)
            wait_until(lambda: len(node.services.get(FRONTEND).backends) == 2, "it in step")
            wait_until(lambda: "WATCHDOG=1" in notified.listen()[before:], "the watchdog")
            assert agent.ask("/healthz")[0] == 200
            assert len(node.services.get(OTHER).backends) == 1


@pytest.mark.parametrize("jump", [86_400, -10 * 365 * 86_400], ids=["a day", "back ten years"])
def test_a_clock_that_is_set(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    """Services follow as ever, checks go on, systemd is fed; what is shown may be odd for once."""
    file, clock = tmp_path / "web.yaml", tmp_path / "clock"
    clock.write_bytes(struct.pack("=q", 0))
    box.serve("10.0.0.2:80/tcp")

    def write(*backends: str) -> None:
        named = ", ".join(f"{{address: '{backend}'}}" for backend in backends)
        file.write_text(
            f"version: 1\nservices:\n- frontend: {FRONTEND}\n  check: {{kind: tcp, "
            f"interval: 100ms, fall: 1, rise: 1}}\n  backends: [{named}]\n"
        )

    write("10.0.0.2:80")
    with closing(Notified(tmp_path / "notify")) as notified:
        monkeypatch.setenv("NOTIFY_SOCKET", str(notified.path))
        monkeypatch.setenv("WATCHDOG_USEC", str(int(0.9e6)))
        variables = {"LD_PRELOAD": c_library("clock.c"), "HOSTREACH_TEST_CLOCK": str(clock)}
        process = AgentProcess(box, "file", str(file), directory=tmp_path, variables=variables)
        with hostreach.open(str(box.pin)) as node, running(process) as agent:
            agent.wait_ready()
            with clock.open("r+b") as opened:  # in place, for it is mapped
                opened.write(struct.pack("=q", jump))
            pings = len(notified.listen())
            write("10.0.0.2:80", "10.0.0.3:80")

            def states() -> list[str]:
                return [backend.state for backend in node.services.get(FRONTEND).backends]

            wait_until(lambda: states() == ["active", "down"], "the change and its check")
            wait_until(lambda: "WATCHDOG=1" in notified.listen()[pings:], "the watchdog")
            assert agent.ask("/healthz")[0] == 200
            for command in (("status",), ("svc", "show", FRONTEND), ("top", "--once")):
                assert cli.run(box.pin, *command).status == 0
            assert agent.stop() < scaled(5)
            assert agent.process.returncode == 0
            day = time.gmtime(time.time() + jump)
            assert time.strftime("%Y-%m-%d", day) in agent.log  # it was set indeed
