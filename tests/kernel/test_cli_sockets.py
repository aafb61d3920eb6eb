# SPDX-License-Identifier: Apache-2.0
"""What a change says of the sockets that it ended, and of servers that it hides."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hostreach import Service
from hostreach.cli import main
from hostreach.doctor import features
from hostreach.sources.file import dump

from .harness import Box, cli, kernel
from .harness.clients import UDP_CONNECTED, V4
from .harness.fates import ALIVE, ENDED, Place
from .harness.line import Line

if TYPE_CHECKING:
    from hostreach.node import Node


@contextmanager
def eight_clients(place: Place) -> Iterator[tuple[Line, list[str]]]:
    """As place.clients(), of a service that is as it was."""
    kernel.need(kernel.ends_sockets(), "way to end sockets")
    place.node.services.set(Service.of(place.frontend, *place.backends, on_removal="reset"))
    with place.clients() as clients:
        yield clients


def of_sockets(count: int) -> list[str]:
    """The line that tells how many were ended, or none."""
    return [f"ended {count} socket{'s' * (count > 1)}"] if count else []


def test_what_was_ended(box: Box, node: Node, tmp_path: Path) -> None:
    """Each command that takes backends away: in a line for people, one by one as JSON."""
    place = Place(box, node, V4, UDP_CONNECTED)
    gone, left = place.backends
    file = tmp_path / "services.yaml"
    file.write_text(dump([Service.of(place.frontend, left, on_removal="reset")]))
    for command in (
        ["backend", "rm", place.frontend, gone],
        ["backend", "set", place.frontend, gone, "--down"],
        ["svc", "set", place.frontend, f"--backend={left}", "--on-removal=reset"],
        ["apply", "-f", str(file)],
    ):
        with eight_clients(place) as (test, sent_to):
            before = node.services.get(place.frontend)
            would = cli.run(box.pin, *command, "--dry-run")
            assert (would.status, would.stderr) == (0, ""), would
            assert would.stdout.count(f"{place.frontend}  {gone}") == sent_to.count(gone)
            assert node.services.get(place.frontend) == before
            assert set(test.ask("fates")) == {ALIVE}
            said = cli.run(box.pin, *command)
            assert (said.status, said.stderr) == (0, ""), said
            assert said.stdout.splitlines()[1:] == of_sockets(sent_to.count(gone)), command
            assert test.ask("fates") == [ENDED if server == gone else ALIVE for server in sent_to]
    with eight_clients(place) as (test, sent_to):
        said = cli.run(box.pin, "backend", "rm", place.frontend, gone, "--json")
        assert [each["backend"] for each in said.json["ended"]["sockets"]] == [gone] * (
            sent_to.count(gone)
        )
        said = cli.run(box.pin, "svc", "rm", place.frontend)
        assert said.stdout.splitlines()[1:] == of_sockets(sent_to.count(left))
        assert set(test.ask("fates")) == {ENDED}
    with eight_clients(place):
        file.write_text("version: 1\nservices: []\n")
        said = cli.run(box.pin, "apply", "-f", str(file), "--prune", "--dry-run")
        assert "ended" not in said.stdout
        said = cli.run(box.pin, "apply", "-f", str(file), "--prune")
        assert said.stdout.splitlines()[-1:] == of_sockets(8)


@pytest.mark.parametrize("without", ["", "sock_destroy", "btf"], ids=lambda w: w or "bpf")
def test_what_would_be_ended(
    box: Box, node: Node, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same sockets that then are, by cookie; none of another service at the same backends."""
    kernel.switch_off(monkeypatch, without)
    place = Place(box, node, V4, UDP_CONNECTED)
    with eight_clients(place) as (test, _):
        would = cli.run(box.pin, "svc", "rm", place.other, "--dry-run", "--json").json["ended"]
        assert (would["sockets"], would["dry_run"]) == ([], True)
        would = cli.run(box.pin, "svc", "rm", place.frontend, "--dry-run", "--json").json["ended"]
        assert set(test.ask("fates")) == {ALIVE}
        ended = cli.run(box.pin, "svc", "rm", place.frontend, "--json").json["ended"]
        # before Linux 5.12, as the places are, an iterator shows no cookie that it had to make
        known = "cookie" if kernel.has("places") else "local"
        told = [sorted(each[known] for each in ends["sockets"]) for ends in (would, ended)]
        assert told[0] == told[1]
        assert len(told[0]) == 8
        assert set(test.ask("fates")) == {ENDED}


def test_nothing_to_say(box: Box, node: Node) -> None:
    """Where services keep their sockets, or had none."""
    place = Place(box, node, V4, UDP_CONNECTED, "keep")
    with place.clients() as (test, _):
        said = cli.run(box.pin, "svc", "rm", place.frontend)
        assert said.stdout == f"removed {place.frontend}\n"
        said = cli.run(box.pin, "svc", "rm", place.other, "--json")
        assert said.json["ended"] is None
        assert set(test.ask("fates")) == {ALIVE}


@pytest.mark.parametrize("way", ["add", "set", "apply"])
def test_hidden_servers(box: Box, tmp_path: Path, way: str) -> None:
    """One line on stderr for each service that hides some, if it changes; done all the same."""
    file = tmp_path / "services.yaml"
    frontends = {"node:30080/tcp": "0.0.0.0", "10.0.0.5:53/udp": "10.0.0.5", "10.96.0.1:1/tcp": ""}
    file.write_text(dump([Service.of(frontend) for frontend in frontends]))

    def run(*command: str) -> tuple[int, list[str]]:
        err = io.StringIO()
        with redirect_stdout(io.StringIO()), redirect_stderr(err):
            status = main([*command, "--pin", str(box.pin)])
        return status, err.getvalue().splitlines()

    def beside_servers() -> list[tuple[int, list[str]]]:
        with (
            socket.create_server(("0.0.0.0", 30080)),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dns,
        ):
            dns.bind(("10.0.0.5", 53))
            if way == "apply":
                return [run("apply", "-f", str(file)), run("apply", "-f", str(file))]
            return [run("svc", way, frontend) for frontend in frontends]

    results = box.call(beside_servers)
    assert {status for status, _ in results} == {0}
    said = [line for _, lines in results for line in lines]
    hiding = [(f, bound) for f, bound in frontends.items() if bound]
    assert len(said) == len(hiding)
    for frontend, bound in hiding:
        text = f"hostreach: warning: {frontend} hides the server bound to {bound} "
        assert [line for line in said if line.startswith(text)], said


def test_doctor_says_what_it_costs(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for each feature; the same line says no where it is missing, and the cost."""
    names = [each.name for each in features()]
    switches = [name for name in names if name != "host_netns"]  # it goes with netns_cookie
    monkeypatch.setenv("HOSTREACH_WITHOUT", ",".join(switches))
    lines = {
        line.split()[0]: line for line in cli.run(box.pin, "doctor").stdout.splitlines() if line
    }
    for each in features():
        words = lines[each.name].split()
        assert words[1:3] == ["no", each.since], each.name
        assert lines[each.name].endswith(f"  {each.without}")
    assert lines["sock_release"].endswith("least-conn chooses as random does")
    assert "MPTCP" in lines["mptcp"]
