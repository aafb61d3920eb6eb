# SPDX-License-Identifier: Apache-2.0
"""What the command line refuses: one line each, and nothing changed."""

from __future__ import annotations

import pytest

import hostreach as package

from .conftest import FakeHost, Run

VIP = "10.96.0.10:53/udp"
ADD = ("svc", "add", VIP, "--backend", "10.0.0.2:53", "--backend", "10.0.0.3:53,weight=3")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        pytest.param(["frobnicate"], "no such command 'frobnicate'", id="unknown command"),
        pytest.param(["--frobnicate"], "no such option: --frobnicate", id="unknown option"),
        pytest.param([*ADD, "--wieght=1"], "svc add: no such option: --wieght", id="deep option"),
        pytest.param(["svc", "add"], "svc add: missing argument 'FRONTEND'", id="no argument"),
        pytest.param(["--json", "svc", "ls"], "after the command: svc ... --json", id="json first"),
        pytest.param(["apply"], "apply: missing option '--file' / '-f'", id="no file"),
        pytest.param(
            ["backend", "set", VIP, "10.0.0.2:53", "--drain", "--down"],
            "10.0.0.2:53: --active, --drain and --down exclude each other",
            id="two states",
        ),
        pytest.param(
            [*ADD, "--backend", "10.0.0.9:53,state=gone"],
            "state must be active, draining or down, not 'gone'",
            id="state",
        ),
        pytest.param([*ADD, "--affinity", "3"], "affinity '3' is no duration", id="affinity"),
        pytest.param([*ADD, "--affinity", ""], "affinity '' is no duration", id="no affinity"),
        pytest.param([*ADD, "--affinity", "50d"], "'50d' is too long", id="long affinity"),
        pytest.param([*ADD, "--from-cgroup", "a"], "'a' is no absolute path", id="from cgroup"),
        pytest.param([*ADD, "--on-removal", "x"], "must be reset or keep", id="on removal"),
        pytest.param(["svc", "add", "node:0/tcp"], "'node:0': '0' is no port", id="node's port"),
        pytest.param(["exempt", "add"], "exempt add: missing argument 'PATH...'", id="no cgroup"),
        pytest.param(["exempt", "add", "a"], "'a' is no absolute path", id="relative cgroup"),
        pytest.param(["exempt", "rm", "/a/../b"], "without . and ..", id="cgroup upwards"),
        pytest.param(["exempt", "add", "/a", "/a/"], "/a: this cgroup is given twice", id="twice"),
        pytest.param(["attach", "--host-netns", ""], "--host-netns is empty", id="no namespace"),
        pytest.param(
            ["agent", "file", "x", "--host-netns", ""], "--host-netns is empty", id="nor agent's"
        ),
        pytest.param(
            ["attach", "--node-addresses", "10.0.0.1"], "write 10.0.0.1/32", id="no network"
        ),
        pytest.param(
            ["attach", "--node-addresses", "10.0.0.1/8"], "write 10.0.0.0/8", id="wide network"
        ),
        pytest.param(["svc", "ls", "x"], "unexpected extra argument", id="extra argument"),
        pytest.param([*ADD, "--name"], "'--name' requires an argument", id="option's argument"),
        pytest.param([*ADD, "--max-slots", "x"], "'x' is not a valid int", id="no integer"),
        pytest.param([*ADD, "--pin", ""], "--pin is empty", id="empty pin"),
        pytest.param(["attach", "--protocols", "sctp"], "'sctp' is no protocol", id="protocols"),
        pytest.param(["svc", "show", "10.0.0.1:53"], "has no protocol", id="no protocol"),
        pytest.param(["svc", "add", "10.0.0.300:53/udp"], "is no IPv4 or IPv6", id="address"),
        pytest.param(["svc", "add", "10.0.0.1:0/udp"], "'0' is no port", id="port 0"),
        pytest.param(["svc", "add", "10.0.0.1:65536/udp"], "'65536' is no port", id="port 65536"),
        pytest.param(["svc", "add", "10.0.0.1:1/sctp"], "'sctp' is no protocol", id="sctp"),
        pytest.param([*ADD, "--backend", "[fd00::1]:53"], "is IPv6, but frontend", id="family"),
        pytest.param([*ADD, "--backend", "10.0.0.2:53"], "is given twice", id="duplicate"),
        pytest.param(
            [*ADD, "--backend", "10.0.0.9:53,weight=-1"], "weight=-1: weight must", id="weight -1"
        ),
        pytest.param(
            [*ADD, "--backend", "10.0.0.9:53,weight=65536"], "not 65536", id="weight 2^16"
        ),
        pytest.param(
            [*ADD, "--on-removal", "x"], "--on-removal must be reset", id="option as written"
        ),
        pytest.param([*ADD, "--name", "x" * 10_000], "is 10000 bytes long", id="long name"),
        pytest.param([*ADD, "--name", "a b"], "has white space", id="blank in name"),
        pytest.param([*ADD, "--name", ""], "name is empty", id="empty name"),
        pytest.param([*ADD, "--owner", "x" * 64], "is 64 bytes long", id="long owner"),
        pytest.param(
            [*ADD, "--algorithm", "best"], "must be random, maglev or least-conn", id="algorithm"
        ),
        pytest.param(["svc", "add", "a\nb\x1b[31m"], "has no protocol", id="line feed, escape"),
        pytest.param(["a\nb"], "no such command", id="command with line feed"),
        pytest.param(["apply", "-f", "/nonexistent"], "no such file", id="missing file"),
        pytest.param(["apply", "-f", "/"], "is a directory", id="directory"),
        pytest.param(["apply", "-f", "-"], "standard input: is empty", id="empty standard input"),
    ],
)
def test_bad_usage(run: Run, host: FakeHost, argv: list[str], message: str) -> None:
    result = run(*argv)
    assert result.code == 2
    assert result.out == ""
    assert message in result.err
    assert result.err.startswith("hostreach: ")
    assert result.err.endswith("\n")
    assert result.err[:-1].isprintable()
    assert not any(table.list() for table in host.tables.values())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (ADD, f"{VIP}: this service exists already; use set to replace it"),
        (["svc", "rm", "10.9.9.9:1/tcp"], "10.9.9.9:1/tcp: no such service"),
        (["svc", "show", "10.9.9.9:1/tcp"], "10.9.9.9:1/tcp: no such service"),
        (
            ["backend", "add", VIP, "10.0.0.2:53"],
            f"{VIP}: backend 10.0.0.2:53 exists already; use set to change it",
        ),
        (["backend", "rm", VIP, "10.0.0.9:53"], f"{VIP}: no such backend: 10.0.0.9:53"),
        (
            ["svc", "set", VIP, "--owner", "web"],
            f"{VIP}: belongs to owner 'manual'; pass --owner manual",
        ),
    ],
)
def test_refused(run: Run, host: FakeHost, argv: list[str], message: str) -> None:
    run(*ADD)
    before = host.services.list()
    result = run(*argv)
    assert result == (1, "", f"hostreach: {message}\n")
    assert host.services.list() == before


def test_wrong_file_applies_nothing(run: Run, host: FakeHost) -> None:
    text = "version: 1\nservices:\n- frontend: 10.0.0.1:1/tcp\n- frontend: 10.0.0.1:0/tcp\n"
    result = run("apply", "-f", "-", stdin=text)
    assert result.code == 2
    assert result.err.startswith("hostreach: standard input:4: '10.0.0.1:0': '0' is no port")
    assert host.services.list() == []


def test_what_is_no_text(run: Run) -> None:
    for argv in (["--pin", "/sys/fs/bpf/\udcff", "status"], ["svc", "show", "\udcff"]):
        said = run(*argv)
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith("hostreach: '")
        assert said.err.endswith("\\udcff' is not UTF-8\n")


def test_the_node_is_named_as_its_kubelet_does(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In lower case, whatever the host is called; seen here by a name that is refused."""
    monkeypatch.delenv("NODE_NAME", raising=False)
    monkeypatch.setattr("socket.gethostname", lambda: "Node_A")
    assert "--node-name: 'node_a' is no node's name" in run("agent", "kubernetes").err


def test_what_nobody_foresaw(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line all the same; whoever wants to know more says so."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setitem(vars(package), "open", fail)
    said = run("svc", "ls")
    assert said.code == 1
    assert said.err == (
        "hostreach: unexpected failure: ZeroDivisionError: two lines; "
        "with HOSTREACH_TRACEBACK=1 it shows where\n"
    )
    monkeypatch.setenv("HOSTREACH_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        run("svc", "ls")
