# SPDX-License-Identifier: Apache-2.0
"""Health checks with real servers, and where new connections go therefore."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, cli, wait_until
from .harness.agents import AgentProcess, running
from .harness.cgroup import v2_root
from .harness.clients import TCP, UDP_CONNECTED, V4, Seen, exchange, outcome

if TYPE_CHECKING:
    from hostreach.node import Node

WEB, DNS = ("10.96.0.20", 80), ("10.96.0.10", 53)
QUICK = "interval: 100ms\n    jitter: 10ms\n    timeout: 2s\n    rise: 2\n    fall: 2"


def text(frontend: str, check: str, *backends: str) -> str:
    lines = [f"version: 1\nservices:\n- frontend: {frontend}\n  check:\n    {check}\n    {QUICK}"]
    lines += ["  backends:", *(f"  - address: {backend}" for backend in backends)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "services.yaml"


def follow(box: Box, file: Path, *arguments: str, bare: bool = True) -> AgentProcess:
    return AgentProcess(box, "file", str(file), *arguments, directory=file.parent, bare=bare)


def states(table: Node, frontend: str) -> list[str]:
    return [backend.state for backend in table.services.get(frontend).backends]


def becomes(table: Node, frontend: str, *wanted: str) -> None:
    wait_until(lambda: states(table, frontend) == [*wanted], f"{frontend} being {wanted}")


class Nginx:
    """Answers / with its name, and /healthz with what a file says."""

    def __init__(self, box: Box, directory: Path, address: str) -> None:
        self.address = address
        root = directory / address
        root.mkdir()
        self._health = root / "healthz"
        self._health.write_text("well")
        config = root / "nginx.conf"
        config.write_text(
            f"daemon off; master_process off; error_log {root}/error.log; pid {root}/pid;\n"
            f"events {{}} http {{ access_log {root}/access.log; server {{ listen {address}:8080;\n"
            f"root {root}; location = / {{ return 200 {address}; }} }} }}\n"
        )
        self.pid = box.spawn(["nginx", "-c", str(config)], listening=["tcp/8080"])
        self._log = root / "access.log"

    def fail(self) -> None:
        self._health.unlink()

    def mend(self) -> None:
        self._health.write_text("well")

    @property
    def checks(self) -> int:
        return self._log.read_text().count("GET /healthz HTTP/1.1")


def asked(box: Box, *arguments: str) -> set[str]:
    """What ten runs of a program say."""
    return {box.run(arguments).stdout.strip() for _ in range(10)}


def shown(box: Box, backend: str, state: str, check: str) -> bool:
    """Whether `svc show` has this line."""
    lines = cli.run(box.pin, "svc", "show", "10.96.0.20:80/tcp").stdout.splitlines()
    (line,) = [line for line in lines if line.startswith(backend)]
    assert "CHECK" in lines[-3]
    return f" {state} " in line and line.endswith(f"  {check}")


def test_http_with_nginx(box: Box, file: Path, table: Node, tmp_path: Path) -> None:
    one, two = (Nginx(box, tmp_path, f"10.0.0.{n}") for n in (2, 3))
    file.write_text(
        text(
            "10.96.0.20:80/tcp", "kind: http\n    path: /healthz", "10.0.0.2:8080", "10.0.0.3:8080"
        )
    )
    web = ("curl", "-s", "--max-time", "5", "http://10.96.0.20/")
    with running(follow(box, file)) as agent:
        agent.wait_ready()
        wait_until(lambda: asked(box, *web) == {one.address, two.address}, "both answering")
        wait_until(lambda: one.checks >= 3, "checks going on")
        one.fail()
        becomes(table, "10.96.0.20:80/tcp", "down", "active")
        assert asked(box, *web) == {two.address}
        wait_until(lambda: shown(box, "10.0.0.2:8080", "down", "fails: status 404"), "svc show")
        assert shown(box, "10.0.0.3:8080", "active", "passes")
        found = cli.run(box.pin, "svc", "show", "10.96.0.20:80/tcp", "--json").json["shares"]
        assert found[0]["check"]["passes"] is False
        assert found[0]["check"]["why"] == "status 404"
        assert found[1]["check"]["passes"] is True
        assert agent.metric("hostreach_checks_failing") == 1
        labels = '{backend="10.0.0.2:8080",frontend="10.96.0.20:80/tcp",service=""}'
        assert agent.metric(f"hostreach_backend_passes{labels}") == 0
        assert agent.metric('hostreach_check_results_total{kind="http",result="fail"}') >= 2
        labels = '{frontend="10.96.0.20:80/tcp",service="",state="down"}'
        assert agent.metric(f"hostreach_service_backends{labels}") == 1
        one.mend()
        becomes(table, "10.96.0.20:80/tcp", "active", "active")
        wait_until(lambda: asked(box, *web) == {one.address, two.address}, "both answering again")
        agent.stop()
    assert (
        cli.run(box.pin, "svc", "show", "10.96.0.20:80/tcp", "--json").json["shares"][0]["check"]
        is None
    )


def test_dns_with_dnsmasq(box: Box, file: Path, table: Node) -> None:
    pids = []
    for number in (2, 3):
        address = f"10.0.0.{number}"
        pids.append(
            box.spawn(
                [
                    *(
                        "dnsmasq",
                        "--no-daemon",
                        "--no-resolv",
                        "--no-hosts",
                        "--conf-file=/dev/null",
                    ),
                    *(f"--listen-address={address}", "--bind-interfaces", "--user=root"),
                    *(f"--address=/who.test/{address}", "--pid-file="),
                ],
                listening=["udp/53", "tcp/53"],
            )
        )
    file.write_text(
        text("10.96.0.10:53/udp", "kind: dns\n    name: who.test", "10.0.0.2:53", "10.0.0.3:53")
    )
    dig = ("dig", "@10.96.0.10", "who.test", "+short", "+tries=1", "+time=5")
    with running(follow(box, file)) as agent:
        agent.wait_ready()
        wait_until(lambda: asked(box, *dig) == {"10.0.0.2", "10.0.0.3"}, "both answering")
        os.kill(pids[0], signal.SIGKILL)
        becomes(table, "10.96.0.10:53/udp", "down", "active")
        assert "backend 10.0.0.2:53 fails: connection refused" in agent.log
        assert asked(box, *dig) == {"10.0.0.3"}
        os.kill(pids[1], signal.SIGSTOP)  # there, but it says nothing
        wait_until(lambda: agent.metric("hostreach_services_all_down") == 1, "all being down")
        assert "backend 10.0.0.3:53 fails: no answer within 2s" in agent.log
        assert states(table, "10.96.0.10:53/udp") == ["active", "active"]  # use-all
        os.kill(pids[1], signal.SIGCONT)
        becomes(table, "10.96.0.10:53/udp", "down", "active")
        file.write_text(text("10.96.0.10:53/udp", "kind: dns\n    name: other.test", "10.0.0.3:53"))
        wait_until(lambda: "fails: REFUSED" in agent.log, "a name that it does not know")


@pytest.mark.parametrize("said", ["file", "option"])
def test_refused_when_all_are_down(box: Box, file: Path, table: Node, said: str) -> None:
    servers = box.serve("10.0.0.2:8080/tcp")
    check = "kind: tcp" + ("\n    all_down: refuse" if said == "file" else "")
    file.write_text(text("10.96.0.20:80/tcp", check, "10.0.0.2:8080", "10.0.0.3:8080"))
    options = ["--all-down=refuse"] if said == "option" else []
    with running(follow(box, file, *options)) as agent:
        agent.wait_ready()
        becomes(table, "10.96.0.20:80/tcp", "active", "down")
        servers.stop()
        becomes(table, "10.96.0.20:80/tcp", "down", "down")
        assert box.call(outcome, exchange, V4, TCP, WEB) == "ECONNREFUSED"
        assert agent.metric("hostreach_services_all_down") == 1
        assert agent.metric("hostreach_refusals_total") >= 1
        box.serve("10.0.0.3:8080/tcp")
        becomes(table, "10.96.0.20:80/tcp", "down", "active")
        assert isinstance(box.call(outcome, exchange, V4, TCP, WEB), Seen)


@pytest.mark.usefixtures("ending")
def test_udp_sockets_move_on(box: Box, file: Path) -> None:
    """A client that is connected hears of it, by a reset, and comes to another backend."""
    one = box.serve("10.0.0.2:53/udp", "10.0.0.2:53/tcp")
    file.write_text(text("10.96.0.10:53/udp", "kind: tcp", "10.0.0.2:53", "10.0.0.3:53"))
    with running(follow(box, file)) as agent:
        agent.wait_ready()
        wait_until(lambda: "backend 10.0.0.3:53 fails" in agent.log, "the other being down")
        assert box.call(exchange, V4, UDP_CONNECTED, DNS).server == "10.0.0.2:53"
        box.serve("10.0.0.3:53/udp", "10.0.0.3:53/tcp")
        wait_until(lambda: "10.0.0.3:53 passes" in agent.log, "it coming back")
        one.stop()
        wait_until(lambda: "backend 10.0.0.2:53 fails" in agent.log, "the first being down")
        wait_until(
            lambda: box.call(outcome, exchange, V4, UDP_CONNECTED, DNS) == Seen("10.0.0.3:53", DNS),
            "clients coming to the other",
        )


def test_state_by_hand_and_by_check(box: Box, file: Path, table: Node) -> None:
    """A check takes away, and gives nothing that the file does not."""
    box.serve("10.0.0.2:8080/tcp", "10.0.0.3:8080/tcp")
    said = text("10.96.0.20:80/tcp", "kind: tcp", "10.0.0.2:8080", "10.0.0.3:8080", "10.0.0.4:8080")
    by_hand = said.replace("- address: 10.0.0.3:8080", "- {address: '10.0.0.3:8080', state: down}")
    file.write_text(by_hand)
    with running(follow(box, file)) as agent:
        agent.wait_ready()
        becomes(table, "10.96.0.20:80/tcp", "active", "down", "down")
        rows = {}

        def told() -> bool:
            found = cli.run(box.pin, "svc", "show", "10.96.0.20:80/tcp", "--json").json["shares"]
            rows.update({row["address"]: row["check"] for row in found})
            return all(row and row["passes"] is not None for row in rows.values())

        wait_until(told, "all checks done")
        passes = {address: row["passes"] for address, row in rows.items()}
        assert passes == {"10.0.0.2:8080": True, "10.0.0.3:8080": True, "10.0.0.4:8080": False}
        file.write_text(said)
        becomes(table, "10.96.0.20:80/tcp", "active", "active", "down")


def test_restart_keeps_what_was_found(box: Box, file: Path, table: Node) -> None:
    box.serve("10.0.0.2:8080/tcp")
    file.write_text(text("10.96.0.20:80/tcp", "kind: tcp", "10.0.0.2:8080", "10.0.0.3:8080"))
    with running(follow(box, file)) as agent:
        agent.wait_ready()
        becomes(table, "10.96.0.20:80/tcp", "active", "down")
        agent.stop(signal.SIGKILL)
    assert states(table, "10.96.0.20:80/tcp") == ["active", "down"]
    with running(follow(box, file)) as agent:
        agent.wait_ready()
        assert states(table, "10.96.0.20:80/tcp") == ["active", "down"]
        assert agent.metric('hostreach_table_writes_total{action="put"}') == 0
        box.serve("10.0.0.3:8080/tcp")
        becomes(table, "10.96.0.20:80/tcp", "active", "active")


def test_a_check_reaches_its_backend_and_no_service(box: Box, file: Path, table: Node) -> None:
    """A service with the backend's own address leads all others astray, but not the check."""
    servers = box.serve("10.0.0.2:8080/tcp")
    box.serve("10.0.0.9:8080/tcp")
    table.attach(cgroup=str(box.cgroup))
    table.services.add(Service.of("10.0.0.2:8080/tcp", "10.0.0.9:8080"))
    file.write_text(text("10.96.0.20:80/tcp", "kind: tcp", "10.0.0.2:8080", "10.0.0.9:8080"))
    with running(follow(box, file, bare=False)) as agent:  # where the programs are
        agent.wait_ready()
        wait_until(lambda: agent.metric("hostreach_checks_failing") == 0, "all passing")
        (apart,) = table.exempt.list()
        assert apart == f"{box.cgroup}/hostreach-agent-{agent.process.pid}"
        assert Path(apart, "cgroup.procs").read_text().split() == [str(agent.process.pid)]
        assert box.call(exchange, V4, TCP, ("10.0.0.2", 8080)).server == "10.0.0.9:8080"
        servers.stop()  # others still come to .9 by that address
        becomes(table, "10.96.0.20:80/tcp", "down", "active")
        assert box.call(exchange, V4, TCP, ("10.0.0.2", 8080)).server == "10.0.0.9:8080"
        agent.stop()
    assert table.exempt.list() == []
    assert not Path(apart).exists()


def test_what_a_killed_one_leaves_goes(box: Box, file: Path, table: Node) -> None:
    """Its cgroup, and that this is exempt: nobody is to be left out by chance later."""
    box.serve("10.0.0.2:8080/tcp")
    file.write_text(text("10.96.0.20:80/tcp", "kind: tcp", "10.0.0.2:8080"))
    with running(follow(box, file, bare=False)) as agent:
        agent.wait_ready()
        (left,) = table.exempt.list()
        agent.stop(signal.SIGKILL)
    assert table.exempt.list() == [left]
    with running(follow(box, file, bare=False)) as agent:
        agent.wait_ready()
        assert table.exempt.list() == [f"{box.cgroup}/hostreach-agent-{agent.process.pid}"]
        assert not Path(left).exists()
        agent.stop()
    assert table.exempt.list() == []


def test_in_a_cgroup_of_its_own_it_stays_there(box: Box, file: Path, table: Node) -> None:
    """As a unit of systemd: that is exempt then, and no cgroup is made."""
    box.serve("10.0.0.2:8080/tcp")
    file.write_text(text("10.96.0.20:80/tcp", "kind: tcp", "10.0.0.2:8080"))
    with running(follow(box, file)) as agent:
        # Nothing is asked of it meanwhile: who asks is in that cgroup too.
        wait_until(lambda: "in step" in agent.log, "the first sync")
        assert table.exempt.list() == [str(box.bare)]
        assert [each.name for each in box.bare.iterdir() if each.is_dir()] == []


def test_from_the_cgroup_root(box: Box, file: Path, table: Node) -> None:
    """Which nobody can exempt: it makes a cgroup for itself there, and takes it away again."""
    root = v2_root()
    box.serve("10.0.0.2:8080/tcp")
    file.write_text(text("10.96.0.20:80/tcp", "kind: tcp", "10.0.0.2:8080"))
    there = ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(root))
    with running(
        AgentProcess(box, "file", str(file), directory=file.parent, wrapper=there)
    ) as agent:
        agent.wait_ready()
        apart = Path(f"{root}/hostreach-agent-{agent.process.pid}")
        assert table.exempt.list() == [str(apart)]
        agent.stop()
    assert table.exempt.list() == []
    assert not apart.exists()


def test_where_it_cannot_be_exempt(box: Box, file: Path, tmp_path: Path, table: Node) -> None:
    """It says so, once, and checks all the same."""
    box.serve("10.0.0.2:8080/tcp")
    file.write_text(text("10.96.0.20:80/tcp", "kind: tcp", "10.0.0.2:8080", "10.0.0.3:8080"))
    variables = {"HOSTREACH_WITHOUT": "cgroup_id"}
    agent = AgentProcess(box, "file", str(file), directory=tmp_path, variables=variables)
    with running(agent):
        agent.wait_ready()
        becomes(table, "10.96.0.20:80/tcp", "active", "down")
        assert agent.log.count("this process cannot be exempt") == 1


def test_no_checks_no_traces(box: Box, file: Path, table: Node) -> None:
    """Without a check no cgroup is exempt, and no thread runs for any."""
    file.write_text("version: 1\nservices:\n- frontend: 10.96.0.20:80/tcp\n")
    with running(follow(box, file)) as agent:

        def threads() -> int:
            return len(list(Path(f"/proc/{agent.process.pid}/task").iterdir()))

        agent.wait_ready()
        assert table.exempt.list() == []
        before = threads()
        file.write_text(text("10.96.0.20:80/tcp", "kind: tcp", "10.0.0.2:8080"))
        wait_until(lambda: agent.metric("hostreach_checks") == 1, "the check")
        # who gathers metrics has one too, which ends with that
        wait_until(lambda: threads() == before + 1, "one thread more")


def test_out_of_descriptors_says_nothing_of_backends(box: Box, file: Path, table: Node) -> None:
    box.serve("10.0.0.2:8080/tcp")
    file.write_text(text("10.96.0.20:80/tcp", "kind: tcp", "10.0.0.2:8080", "10.0.0.3:8080"))
    with running(follow(box, file)) as agent:
        agent.wait_ready()
        becomes(table, "10.96.0.20:80/tcp", "active", "down")
        pid = str(agent.process.pid)
        subprocess.run(["prlimit", "--pid", pid, "--nofile=3:1024"], check=True)
        wait_until(lambda: "checks cannot be done: too many open files" in agent.log, "it telling")
        assert states(table, "10.96.0.20:80/tcp") == ["active", "down"]
        subprocess.run(["prlimit", "--pid", pid, "--nofile=1024:1024"], check=True)
        box.serve("10.0.0.3:8080/tcp")
        becomes(table, "10.96.0.20:80/tcp", "active", "active")
