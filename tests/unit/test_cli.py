# SPDX-License-Identifier: Apache-2.0
"""The command line on an instance without a kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

import hostreach as package
from hostreach.cli import output
from hostreach.models import Service

from .conftest import FakeHost, Run

VIP = "10.96.0.10:53/udp"
ADD = ("svc", "add", VIP, "--backend", "10.0.0.2:53", "--backend", "10.0.0.3:53,weight=3")


def test_add_list_show_remove(run: Run) -> None:
    assert run(*ADD, "--name", "kube/dns").out == f"added {VIP} with 2 backends\n"
    assert run("svc", "add", "10.96.0.9:80/tcp", "--owner", "web").out == (
        "added 10.96.0.9:80/tcp with no backends\n"
    )
    assert run("svc", "ls").out == (
        "FRONTEND           NAME      OWNER   ALGORITHM  BACKENDS\n"
        "10.96.0.9:80/tcp   -         web     random     0\n"
        "10.96.0.10:53/udp  kube/dns  manual  random     2\n"
    )
    assert "10.96.0.10" not in run("svc", "ls", "--owner", "web").out
    assert run("svc", "show", VIP).out == (
        "frontend    10.96.0.10:53/udp\n"
        "name        kube/dns\n"
        "owner       manual\n"
        "algorithm   random\n"
        "affinity    -\n"
        "scope       everyone\n"
        "on removal  reset\n"
        "\n"
        "BACKEND      WEIGHT  STATE   SLOTS  SHARE    ERROR    OPEN\n"
        "10.0.0.2:53  1       active  1      25.000%  +0.000%  0\n"
        "10.0.0.3:53  3       active  3      75.000%  +0.000%  0\n"
    )
    assert run("svc", "rm", VIP).out == f"removed {VIP}\n"
    assert run("svc", "rm", VIP, "--if-exists").out == f"unchanged {VIP}\n"


def test_set_and_backends(run: Run) -> None:
    run(*ADD)
    assert run("backend", "add", VIP, "10.0.0.4:53", "--weight", "2").out == (
        f"changed {VIP}: +10.0.0.4:53,weight=2\n"
    )
    assert run("backend", "set", VIP, "10.0.0.4:53", "--weight", "0").out == (
        f"changed {VIP}: 10.0.0.4:53 weight 2 -> 0\n"
    )
    assert run("backend", "rm", VIP, "10.0.0.2:53").out == f"changed {VIP}: -10.0.0.2:53\n"
    assert run("backend", "rm", VIP, "10.0.0.2:53", "--if-exists").out == f"unchanged {VIP}\n"
    assert run("backend", "add", VIP, "10.0.0.4:53", "--if-missing").code == 0
    assert run("svc", "set", VIP, "--name", "dns").out == (
        f"changed {VIP}: name - -> dns, -10.0.0.3:53,weight=3, -10.0.0.4:53,weight=0\n"
    )
    assert run("svc", "set", VIP, "--name", "dns").out == f"unchanged {VIP}\n"
    assert run("svc", "add", VIP, "--if-missing").code == 0


def test_json(run: Run, host: FakeHost) -> None:
    added = json.loads(run(*ADD, "--json").out)
    service = {
        "frontend": VIP,
        "name": None,
        "owner": "manual",
        "algorithm": "random",
        "affinity": None,
        "host_only": False,
        "from_cgroup": None,
        "source_ranges": None,
        "on_removal": None,
        "backends": [
            {"address": "10.0.0.2:53", "weight": 1, "state": "active"},
            {"address": "10.0.0.3:53", "weight": 3, "state": "active"},
        ],
    }
    change = {"action": "add", "frontend": VIP, "before": None, "after": service}
    assert added == {"schema": 1, "changes": [change], "ended": None}
    assert json.loads(run("svc", "ls", "--json").out) == {"schema": 1, "services": [service]}
    shown = json.loads(run("svc", "show", VIP, "--json").out)
    assert shown["service"] == service
    assert shown["shares"][1] == {
        "address": "10.0.0.3:53",
        "slots": 3,
        "share": 0.75,
        "error": 0.0,
        "open": 0,
        "check": None,
    }
    again = run("svc", "add", VIP, "--if-missing", "--json")
    assert json.loads(again.out) == {"schema": 1, "changes": [], "ended": None}
    assert [Service.model_validate(service)] == host.services.list()


def test_apply_and_export(run: Run, host: FakeHost, tmp_path: Path) -> None:
    run(*ADD)
    run("svc", "add", "10.96.0.9:80/tcp")
    exported = run("export").out
    path = tmp_path / "services"
    path.write_text(exported.replace("weight: 3", "weight: 4").replace("0.9:80", "0.8:80"))
    expected = f"+ 10.96.0.8:80/tcp with no backends\n- 10.96.0.9:80/tcp\n~ {VIP}: 10.0.0.3:53 "
    expected += "weight 3 -> 4\n"
    assert run("apply", "-f", str(path), "--prune", "--dry-run").out == expected
    assert run("export").out == exported
    assert run("apply", "-f", str(path), "--prune").out == expected
    assert run("apply", "-f", str(path), "--prune").out == ""
    assert run("export").out == path.read_text()
    as_json = run("export", "--json").out
    changes = json.loads(run("apply", "-f", "-", "--json", stdin=exported).out)["changes"]
    assert [change["action"] for change in changes] == ["add", "set"]
    run("apply", "-f", "-", "--prune", stdin=as_json)
    assert run("export").out == path.read_text()
    assert run("--pin", "/other", "apply", "-f", "-", stdin=as_json).code == 0
    assert host.open("/other").services.list() == host.services.list()


def test_export_of_one_owner(run: Run) -> None:
    run(*ADD)
    run("svc", "add", "10.96.0.9:80/tcp", "--owner", "web")
    assert "10.96.0.9" not in run("export", "--owner", "manual").out
    exported = run("export", "--owner", "web").out
    assert "10.96.0.9:80/tcp" in exported
    assert VIP not in exported
    assert run("export", "--owner", "a b").code == 2
    assert run("export", "--owner", "").code == 2  # as of a variable that is not set


def test_pin_stands_anywhere(run: Run, host: FakeHost) -> None:
    run("svc", "add", VIP, "--pin", "/a")
    run("--pin", "/b", "svc", "add", VIP)
    run("svc", "--pin", "/c", "add", VIP)
    run("--pin", "/x", "svc", "--pin", "/y", "add", VIP, "--pin", "/d")
    assert {pin for pin, table in host.tables.items() if table.list()} == {"/a", "/b", "/c", "/d"}


def test_capacities(run: Run, host: FakeHost) -> None:
    run("svc", "add", VIP, "--max-services", "1", "--max-backends", "2", "--max-slots", "3")
    table = host.tables[None]
    assert (table.max_services, table.max_backends, table.max_slots) == (1, 2, 3)
    result = run("svc", "add", "10.96.0.9:80/tcp")
    assert result.code == 1
    assert result.err == "hostreach: the table is full: 2 services, room for 1; nothing changed\n"


def test_share_error_is_shown(run: Run) -> None:
    run("svc", "add", VIP, "--backend", "10.0.0.2:53", "--backend", "10.0.0.3:53,weight=65535")
    assert run("svc", "show", VIP).out.splitlines()[-2:] == [
        "10.0.0.2:53  1       active  1      0.024%   +1500.000%  0",
        "10.0.0.3:53  65535   active  4095   99.976%  -0.023%     0",
    ]


def test_show_all(run: Run, host: FakeHost) -> None:
    service = Service.of(
        "node:30080/tcp",
        "10.0.0.2:80",
        "10.0.0.3:80,state=draining",
        "[fd00::2]:80,weight=2,state=draining",
        "[fd00::3]:80,state=down",
    )
    run(
        *("svc", "add", "node:30080/tcp", "--algorithm", "least-conn", "--affinity", "3h"),
        *("--host-only", "--from-cgroup", "/sys/fs/cgroup/a", "--on-removal", "reset"),
        *(word for backend in service.backends for word in ("--backend", str(backend))),
    )
    host.tables[None].connections[service.frontend, "10.0.0.3:80"] = 12
    assert run("svc", "show", "node:30080/tcp").out == (
        "frontend    node:30080/tcp\n"
        "name        -\n"
        "owner       manual\n"
        "algorithm   least-conn\n"
        "affinity    3h\n"
        "scope       the host's network namespace, from /sys/fs/cgroup/a\n"
        "on removal  reset\n"
        "\n"
        "BACKEND       WEIGHT  STATE     SLOTS  SHARE     ERROR    OPEN\n"
        "10.0.0.2:80   1       active    1      100.000%  +0.000%  0\n"
        "10.0.0.3:80   1       draining  0      0.000%    +0.000%  12\n"
        "[fd00::2]:80  2       draining  1      100.000%  +0.000%  0\n"
        "[fd00::3]:80  1       down      0      0.000%    +0.000%  0\n"
    )
    shown = json.loads(run("svc", "show", "node:30080/tcp", "--json").out)
    assert [entry["open"] for entry in shown["shares"]] == [0, 12, 0, 0]
    assert run("svc", "ls").out.splitlines()[1].split() == [
        *("node:30080/tcp", "-", "manual", "least-conn", "4")
    ]


def test_set_options(run: Run, host: FakeHost) -> None:
    run(*ADD)
    changed = run(
        *("svc", "set", VIP, "--backend", "10.0.0.2:53", "--backend"),
        *("10.0.0.3:53,weight=3,state=down", "--affinity", "90s", "--algorithm", "maglev"),
        *("--host-only", "--on-removal", "keep"),
    )
    assert changed.out == (
        f"changed {VIP}: algorithm random -> maglev, affinity - -> 90s, host only no -> yes, "
        "on removal - -> keep, 10.0.0.3:53 state active -> down\n"
    )
    again = ("svc", "set", VIP, "--backend", "10.0.0.2:53", "--affinity")
    assert "affinity 90s -> -" in run(*again, "0").out
    assert run(*again, "0s").out == f"unchanged {VIP}\n"
    assert host.services.get(VIP).affinity is None
    assert "affinity - -> 1h" in run(*again, "60m").out
    assert run(*again[:-1], "--from-cgroup", "/a/").out == (
        f"changed {VIP}: affinity 1h -> -, from cgroup - -> /a\n"
    )


def test_backend_states(run: Run, host: FakeHost) -> None:
    run("svc", "add", VIP)
    new = (VIP, "10.0.0.2:53")
    assert run("backend", "add", *new, "--drain").out == (
        f"changed {VIP}: +10.0.0.2:53,state=draining\n"
    )
    assert run("backend", "set", *new, "--down").out == (
        f"changed {VIP}: 10.0.0.2:53 state draining -> down\n"
    )
    assert run("backend", "set", *new, "--drain", "--weight=2").out == (
        f"changed {VIP}: 10.0.0.2:53 weight 1 -> 2, 10.0.0.2:53 state down -> draining\n"
    )
    assert run("backend", "set", *new, "--active", "--weight=2").out == (
        f"changed {VIP}: 10.0.0.2:53 state draining -> active\n"
    )
    # `set` makes it exactly this.
    assert run("backend", "set", *new).out == f"changed {VIP}: 10.0.0.2:53 weight 2 -> 1\n"
    assert run("backend", "set", *new).out == f"unchanged {VIP}\n"
    assert [str(backend) for backend in host.services.get(VIP).backends] == ["10.0.0.2:53"]


def test_exempt(run: Run) -> None:
    a, b = "/sys/fs/cgroup/a", "/sys/fs/cgroup/b"
    assert run("exempt", "ls").out == "CGROUP\n"
    assert run("exempt", "rm", a, "--if-exists").out == f"unchanged {a}\n"
    assert run("exempt", "add", f"{b}/", a).out == f"added {b}\nadded {a}\n"
    assert run("exempt", "ls").out == f"CGROUP\n{a}\n{b}\n"
    assert json.loads(run("exempt", "ls", "--json").out) == {"schema": 1, "cgroups": [a, b]}
    assert run("exempt", "add", a, "--if-missing").out == f"unchanged {a}\n"
    assert run("exempt", "add", a) == (1, "", f"hostreach: {a}: is exempt already\n")
    assert run("exempt", "rm", a, "/c") == (1, "", "hostreach: /c: is not exempt\n")
    removed = json.loads(run("exempt", "rm", a, "/c", "--if-exists", "--json").out)
    assert removed == {"schema": 1, "changes": [{"action": "remove", "cgroup": a}]}
    assert run("exempt", "rm", b).out == f"removed {b}\n"
    assert run("--pin", "/other", "exempt", "ls").out == "CGROUP\n"


def test_attach_options(run: Run, host: FakeHost) -> None:
    assert run("attach").code == 0
    attached = run(
        *("attach", "--protect-binds", "--host-netns", "/proc/1/ns/net"),
        *("--node-addresses", "10.0.0.0/8,FD00::/8", "--first"),
    )
    assert attached.out == "attached to /sys/fs/cgroup for tcp, udp\nprograms unchanged\n"
    assert host.attached == [
        {"protect_binds": False, "host_netns": None, "node_addresses": None, "first": False},
        {
            "protect_binds": True,
            "host_netns": "/proc/1/ns/net",
            "node_addresses": ("10.0.0.0/8", "fd00::/8"),
            "first": True,
        },
    ]


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


def test_help(run: Run) -> None:
    for argv in (["--help"], ["-h"], ["svc"], ["backend"], ["exempt"], ["svc", "add", "--help"]):
        result = run(*argv)
        assert result.code == 0
        assert result.out.startswith("Usage: hostreach")
    assert run("--version").out.startswith("hostreach ")


def test_no_summary_is_cut_in_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for group in ([], ["svc"], ["backend"], ["exempt"], ["sockets"], ["agent"], ["systemd"]):
        lines = run(*group, "--help").out.splitlines()
        assert [line for line in lines[lines.index("Commands:") :] if line.endswith("...")] == []


def hostreach(*argv: str, stdout: int | TextIO) -> subprocess.Popen[str]:
    code = "import sys; from hostreach.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *argv]
    return subprocess.Popen(command, text=True, stdout=stdout, stderr=subprocess.PIPE)


def test_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = hostreach("--help", stdout=writer)
    os.close(writer)
    assert process.communicate()[1] == ""
    assert process.returncode == 141


def test_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        process = hostreach("--help", stdout=full)
        message = "hostreach: standard output: no space left on device\n"
        assert process.communicate()[1] == message
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("closed", "arguments", "status", "message"),
    [
        (">&-", "--help", 1, "standard output: bad file descriptor"),
        ("<&-", "apply --file -", 2, "standard input: cannot be read: bad file descriptor"),
        ("2>&-", "svc nothing", 2, ""),
        ("<&- >&- 2>&-", "--version", 1, ""),
    ],
)
def test_closed_streams(closed: str, arguments: str, status: int, message: str) -> None:
    """Each command says so where it can, and nothing goes to another stream."""
    command = f"{sys.executable} -m hostreach {arguments} {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == (f"hostreach: {message}\n" if message else "")


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


def test_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One column is cut, so that no line is broken; if even that is not enough, they are."""
    rows = [("10.96.0.1:80/tcp", "shop/frontend:http", None), ("10.96.0.2:80/tcp", "web", 12)]
    shown = []
    for columns in (40, 34, 20):
        monkeypatch.setattr(output, "width", lambda columns=columns: columns)
        output.print_columns(("FRONTEND", "NAME", "BACKENDS"), rows, gives_way=1)
        shown.append(capsys.readouterr().out.splitlines()[1:])
    assert shown == [
        ["10.96.0.1:80/tcp  shop/fronte…  -", "10.96.0.2:80/tcp  web           12"],
        ["10.96.0.1:80/tcp  shop/fr…  -", "10.96.0.2:80/tcp  web       12"],
        ["10.96.0.1:80/tcp  shop/fr…  -", "10.96.0.2:80/tcp  web       12"],
    ]
