# SPDX-License-Identifier: Apache-2.0
"""``doctor``: what this kernel and host can do, and whether the instance does what it should."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Json, Pin, open_node
from .output import hang, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hostreach import Node
    from hostreach.checkup import Finding
    from hostreach.doctor import Feature

_STATES = {"ok": "ok", "note": "note", "broken": "BROKEN"}


def doctor(
    context: typer.Context,
    probe: Annotated[
        bool,
        typer.Option(
            help="Whether a process of its own is moved into the attached cgroup for a moment, to "
            "see whether it is served."
        ),
    ] = True,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Tell what this kernel can do, and whether all is well.

    Exit status 1: something is broken; the fix stands below it.
    """
    from hostreach import doctor as host

    features = host.features()
    with open_node(context, pin) as node:
        status = node.status()
        frontends = [row.frontend for row in node.services.rows()]
        risky = host.unreserved(host.own_ports(frontends, status.protect_binds))
        has = {each.name for each in features if each.found}
        findings = _findings(node, risky, frontends, has)
    if probe:
        from hostreach.probing import probe as try_it

        findings.insert(3, try_it(lambda: open_node(context, pin), status))
    broken = any(each.state == "broken" for each in findings)
    if as_json:
        print_json(
            healthy=not broken,
            checks=[each._asdict() for each in findings],
            features=[each._asdict() for each in features],
            unreserved_ports=risky,
            cgroup_root=host.cgroup_root() or None,
            tagging=host.tagging(),
        )
    else:
        _print(findings, features)
    if broken:
        raise typer.Exit(1)


def _findings(
    node: Node, risky: Sequence[int], frontends: Sequence[str], has: set[str]
) -> list[Finding]:
    from hostreach import checkup, running
    from hostreach import doctor as host
    from hostreach.syntax import parse_frontend

    status = node.status()
    return [
        checkup.bpffs(status.pin),
        checkup.cgroup_root(host.cgroup_root()),
        checkup.attachment(status, _expected(status.protocols, has), running.alive(status.pin)),
        checkup.others(status),
        checkup.tables(status),
        checkup.scopes(node.lost_cgroups(), status.pin),
        checkup.memory_limit(status.services is not None),
        checkup.memlock("host_netns" in has),
        checkup.tagging(host.tagging()),
        checkup.sandboxes(),
        checkup.kernel_mounts(parse_frontend(frontend)[0] for frontend in frontends),
        checkup.ports(risky, host.reserved(), protect_binds=status.protect_binds),
    ]


def _expected(protocols: Sequence[str], has: set[str]) -> set[str]:
    """The hooks that `attach` puts programs on, with these features."""
    hooks = {"connect4", "connect6"}
    if "udp" in protocols:
        hooks |= {"sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6"}
    if "getpeername" in has:
        hooks |= {"getpeername4", "getpeername6"}
    return hooks | ({"sock_release"} & has if {"global_data", "sk_storage"} <= has else set())


def _print(findings: Sequence[Finding], features: Sequence[Feature]) -> None:
    first = max(len(each.name) for each in findings) + 2
    second = max(map(len, _STATES.values())) + 2
    typer.echo(f"{'CHECK':<{first}}{'STATE':<{second}}WHAT WAS FOUND")
    for each in findings:
        head = f"{each.name:<{first}}{_STATES[each.state]:<{second}}"
        lines = hang(head, each.text, first + second)
        if each.fix:  # in one line, to be copied
            lines.append(f"{'':<{first + second}}fix: {each.fix}")
        color = {"broken": "red", "note": "magenta"}.get(each.state)
        text = "\n".join(lines)
        plain = color is None or os.environ.get("NO_COLOR")
        typer.echo(text if plain else typer.style(text, fg=color))
    typer.echo("")
    name = max(len(each.name) for each in features) + 2
    typer.echo(f"{'FEATURE':<{name}}FOUND  SINCE LINUX  WITHOUT IT")
    for feature in features:
        found = "yes" if feature.found else "no"
        head = f"{feature.name:<{name}}{found:<7}{feature.since:<13}"
        typer.echo("\n".join(hang(head, feature.without, name + 20)))
