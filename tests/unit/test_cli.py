# SPDX-License-Identifier: Apache-2.0
"""The command line on an instance without a kernel."""

from __future__ import annotations

import json
from pathlib import Path

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


def test_help(run: Run) -> None:
    for argv in (["--help"], ["-h"], ["svc"], ["backend"], ["exempt"], ["svc", "add", "--help"]):
        result = run(*argv)
        assert result.code == 0
        assert result.out.startswith("Usage: hostreach")
    assert run("--version").out.startswith("hostreach ")
