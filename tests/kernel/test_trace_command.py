# SPDX-License-Identifier: Apache-2.0
"""`hostreach trace`: its lines, its end, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from .harness import Box, cli, kernel, scaled, wait_until
from .harness.traced import (
    EMPTY,
    EMPTY_VIP,
    FRONTEND,
    SERVER,
    VIP,
    add_services,
    call,
    is_listened,
)

if TYPE_CHECKING:
    from hostreach.node import Node


@pytest.fixture(autouse=True)
def tracing() -> None:
    kernel.need(kernel.traces(), "ring buffer for programs")


@pytest.fixture
def services(box: Box, node: Node) -> Node:
    add_services(box, node)
    return node


@contextmanager
def tracing_by(box: Box, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [cli.SCRIPT, "trace", *arguments, "--pin", str(box.pin)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: is_listened(box) or process.poll() is not None, "trace listens")
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.usefixtures("services")
def test_lines(box: Box) -> None:
    with tracing_by(box) as process:
        pid, _ = box.call(call, VIP)
        box.call(call, EMPTY_VIP)
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=scaled(10)) == ("", "")
        assert process.returncode == 0
    assert f"[{pid}]" in lines[0]
    for part in (FRONTEND, f"-> {SERVER}", "shop/web:http", f"/{box.cgroup.name}"):
        assert part in lines[0]
    assert f"{EMPTY}     refused: no usable backend" in lines[1]
    box.call(call, VIP)
    assert not is_listened(box)


@pytest.mark.usefixtures("services")
def test_a_cgroup_of_any_name(box: Box) -> None:
    """Whoever has a subtree of his own names his as he likes; it is root's terminal."""
    named = box.cgroup / os.fsdecode(b"e\x1b[31m\xc2\x9b32m\xff")  # and C1's, in UTF-8

    def call_from_there() -> None:
        named.mkdir()
        (named / "cgroup.procs").write_text(str(os.getpid()))
        call(VIP)

    try:
        for options in ((), ("--json",)):
            with tracing_by(box, *options) as process:
                box.call(call_from_there)
                assert process.stdout
                line = process.stdout.readline()
                process.send_signal(signal.SIGINT)
                assert process.communicate(timeout=scaled(10)) == ("", "")
            assert not {"\x1b", "\x9b"} & {*line}
            assert "xff" in line
            named.rmdir()
    finally:
        with contextlib.suppress(FileNotFoundError):
            named.rmdir()


@pytest.mark.usefixtures("services")
def test_json_lines_for_a_while(box: Box) -> None:
    with tracing_by(box, "--json", "--duration=1500ms", "--verdict=translated") as process:
        box.call(call, VIP)
        box.call(call, EMPTY_VIP)
        out, err = process.communicate(timeout=scaled(20))
        assert (process.returncode, err) == (0, "")
    (seen,) = map(json.loads, out.splitlines())
    assert seen["schema"] == 1
    assert (seen["service"], seen["backend"], seen["verdict"]) == (FRONTEND, SERVER, "translated")


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize("calls", [0, 3])
def test_nobody_reads_on(box: Box, calls: int) -> None:
    """As in `trace | head`: it ends in quiet, and even if nothing more comes."""
    with tracing_by(box) as process:
        assert process.stdout
        process.stdout.close()
        for _ in range(calls):
            box.call(call, VIP)
        assert process.wait(timeout=scaled(10)) == 0
        assert process.stderr
        assert process.stderr.read() == ""
        process.stdout = None


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_ended_by_signals(box: Box, number: signal.Signals) -> None:
    with tracing_by(box) as process:
        process.send_signal(number)
        assert process.wait(timeout=scaled(10)) == 0
    box.call(call, VIP)
    assert not is_listened(box)


@pytest.mark.usefixtures("services")
def test_a_service_that_is_not_there(box: Box) -> None:
    """A slip, most likely; or it is yet to come, and is seen then."""
    trace = ("trace", "--duration=100ms", "--service")
    assert cli.run(box.pin, *trace, FRONTEND) == (0, "", "")
    why = "there is no service 10.96.9.9:80/tcp, so there is nothing to see before one"
    assert cli.run(box.pin, *trace, "10.96.9.9:80/tcp") == (0, "", f"hostreach: {why}\n")


def test_what_it_refuses(box: Box) -> None:
    def said(status: int, *arguments: str) -> str:
        found = cli.run(box.pin, "trace", "--duration=10ms", *arguments)
        assert (found.status, found.stdout, found.stderr.count("\n")) == (status, "", 1), found
        return found.stderr

    assert "no tables here" in said(1)
    assert cli.run(box.pin, "svc", "add", FRONTEND, "--backend", SERVER).status == 0
    assert "nothing is attached" in said(0)
    for wrong in (
        ["--service=10.96.0.10:80"],
        ["--pid=0"],
        ["--pid=4294967296"],
        ["--cgroup=system.slice"],
        ["--cgroup=/proc"],
        ["--verdict=odd"],
        ["--duration=1"],
    ):
        said(2, *wrong)


def test_without_a_ring_buffer(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not there, and all else is."""
    for without in ("ring_buffer", "sk_storage"):
        kernel.switch_off(monkeypatch, without)
        assert cli.run(box.pin, "attach", "--cgroup", str(box.cgroup)).status == 0
        assert cli.run(box.pin, "svc", "add", FRONTEND, "--backend", SERVER).status == 0
        found = cli.run(box.pin, "trace")
        assert (found.status, found.stdout, found.stderr.count("\n")) == (1, "", 1), found
        assert "Linux 5.8" in found.stderr
        assert cli.run(box.pin, "detach", "--purge").status == 0
        monkeypatch.undo()
