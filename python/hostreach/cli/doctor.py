# SPDX-License-Identifier: Apache-2.0
"""``doctor``: what this kernel and host can do, and whether the instance does what it should."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Json, Pin, open_node
from .output import print_columns, print_json

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
    """Tell what this kernel can do, and whether the instance and its host are well.

    Exit status 1: something is broken; the fix stands below it.
    """
    from hostreach import doctor as host

    features = host.features()
    with open_node(context, pin) as node:
        status = node.status()
        frontends = [row.frontend for row in node.services.rows()]
        risky = host.unreserved(host.own_ports(frontends, status.protect_binds))
        is_new = any(each.name == "host_netns" and each.found for each in features)
        findings = _findings(node, risky, frontends, is_new)
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
    node: Node, risky: Sequence[int], frontends: Sequence[str], is_new: bool
) -> list[Finding]:
    from hostreach import checkup
    from hostreach import doctor as host
    from hostreach.syntax import parse_frontend

    status = node.status()
    return [
        checkup.bpffs(status.pin),
        checkup.cgroup_root(host.cgroup_root()),
        checkup.attachment(status),
        checkup.others(status),
        checkup.tables(status),
        checkup.memory_limit(status.services is not None),
        checkup.memlock(is_new),
        checkup.tagging(host.tagging()),
        checkup.sandboxes(),
        checkup.kernel_mounts(parse_frontend(frontend)[0] for frontend in frontends),
        checkup.ports(risky, host.reserved()),
    ]


def _print(findings: Sequence[Finding], features: Sequence[Feature]) -> None:
    width = max(60, min(shutil.get_terminal_size((160, 24)).columns, 160))
    first = max(len(each.name) for each in findings) + 2
    second = max(map(len, _STATES.values())) + 2
    typer.echo(f"{'CHECK':<{first}}{'STATE':<{second}}WHAT WAS FOUND")
    for each in findings:
        head = f"{each.name:<{first}}{_STATES[each.state]:<{second}}"
        lines = textwrap.wrap(each.text, width - first - second, break_on_hyphens=False)
        fix = each.fix and f"fix: {each.fix}"
        rest = " " * (first + second)
        for i, line in enumerate([*lines, *([fix] if fix else [])]):
            shown = f"{head if not i else rest}{line}"
            typer.secho(shown, fg="red" if each.state == "broken" else None)
    typer.echo("")
    print_columns(
        ("FEATURE", "FOUND", "SINCE LINUX", "WITHOUT IT"),
        [(f.name, "yes" if f.found else "no", f.since, f.without) for f in features],
    )
