# SPDX-License-Identifier: Apache-2.0
"""What the kernel cannot do is said when it is asked for, in one line, and nothing is changed."""

from __future__ import annotations

from pathlib import Path

import pytest

import hostreach
from hostreach import Service, errors
from hostreach.datapath import knows_host

from .harness import Box, cli, kernel
from .harness.bpf import attached

FRONTEND = "10.96.0.10:80/tcp"

# Which of them is missing makes no difference: without the latter two programs know no caller.
NO_CGROUPS = pytest.mark.parametrize("without", ["cgroup_id", "sk_storage", "global_data"])
NO_HOST = pytest.mark.parametrize("without", ["host_netns", "netns_cookie", "sk_storage"])


def refused(said: cli.Said, *parts: str) -> None:
    assert (said.status, said.stdout, said.stderr.count("\n")) == (1, "", 1), said
    for part in parts:
        assert part in said.stderr


@pytest.mark.parametrize(
    ("without", "options", "parts"),
    [
        ("connect", (), ("connect", "4.17")),
        ("recvmsg", (), ("--protocols tcp", "4.19.57", "5.1.16", "5.2")),
        ("post_bind", ("--protect-binds",), ("--protect-binds", "6.1")),
        ("sk_storage", ("--protect-binds",), ("--protect-binds", "5.3")),
        ("preorder", ("--first",), ("--first", "6.15", "status")),
        ("host_netns", ("--host-netns", "/proc/self/ns/net"), ("--host-netns", "5.14")),
        ("sk_storage", ("--host-netns", "/proc/self/ns/net"), ("--host-netns",)),
    ],
)
def test_attach_says_what_is_missing(
    box: Box,
    monkeypatch: pytest.MonkeyPatch,
    without: str,
    options: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    if "--protect-binds" in options and not kernel.has("post_bind"):
        parts = ("--protect-binds", "6.1")  # what is missing anyway is said first
    kernel.switch_off(monkeypatch, without)
    refused(cli.run(box.pin, "attach", "--cgroup", str(box.cgroup), *options), *parts)
    assert not attached(box.cgroup)
    assert not box.pin.exists()


@NO_CGROUPS
def test_exempt(box: Box, monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    """Refused; what was exempt while the kernel could is listed, and can go."""
    kernel.need(kernel.knows_cgroups(), "cgroup to be exempt before")
    cgroup = str(box.cgroup)
    assert cli.run(box.pin, "exempt", "add", str(box.bare)).status == 0
    kernel.switch_off(monkeypatch, without)
    refused(cli.run(box.pin, "exempt", "add", cgroup), cgroup, "5.7")
    assert cli.run(box.pin, "exempt", "ls", "--json").json["cgroups"] == [str(box.bare)]
    assert cli.run(box.pin, "exempt", "rm", str(box.bare)).status == 0


@NO_CGROUPS
def test_from_cgroup(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    """Refused by all that would add it, a dry run included; all or nothing."""
    kernel.switch_off(monkeypatch, without)
    scope = ("--from-cgroup", str(box.cgroup))
    text = tmp_path / "services.json"
    text.write_text(
        '{"version": 1, "services": [{"frontend": "10.96.0.9:80/tcp"}, '
        f'{{"frontend": "{FRONTEND}", "from_cgroup": "{box.cgroup}"}}]}}'
    )
    for command in (
        ("svc", "add", FRONTEND, *scope),
        ("svc", "set", FRONTEND, *scope),
        ("apply", "-f", str(text)),
        ("apply", "-f", str(text), "--dry-run"),
    ):
        refused(cli.run(box.pin, *command), FRONTEND, "from_cgroup", "5.7")
        assert not box.pin.exists()
    with hostreach.open(str(box.pin)) as node, pytest.raises(errors.Refused, match="from_cgroup"):
        node.services.add(Service.of(FRONTEND, from_cgroup=str(box.cgroup)))


@NO_HOST
def test_host_only(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    """Taken, for a cluster's services come with it; a line says that nobody uses them."""
    kernel.switch_off(monkeypatch, without)
    text = tmp_path / "services.json"
    services = [f'{{"frontend": "10.96.0.{n}:80/tcp", "host_only": true}}' for n in (11, 12, 13)]
    text.write_text(f'{{"version": 1, "services": [{", ".join(services)}]}}')
    for command, first in (
        (("svc", "add", FRONTEND, "--host-only"), FRONTEND),
        (("svc", "set", FRONTEND, "--host-only", "--name", "renamed"), FRONTEND),
        (("apply", "-f", str(text)), "10.96.0.11:80/tcp and 2 more"),
    ):
        said = cli.run(box.pin, *command)
        assert said.status == 0
        assert said.stderr.startswith(f"hostreach: warning: {first}: ")
        assert "5.14" in said.stderr
        assert said.stderr.count("\n") == 1
    assert cli.run(box.pin, "svc", "add", "10.96.0.14:80/tcp").stderr == ""
    assert len(cli.run(box.pin, "svc", "ls", "--json").json["services"]) == 5


def test_host_only_where_the_host_is_known(box: Box) -> None:
    said = cli.run(box.pin, "svc", "add", FRONTEND, "--host-only")
    assert said.status == 0
    assert ("warning" in said.stderr) == (not knows_host())
