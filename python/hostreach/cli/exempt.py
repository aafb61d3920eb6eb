# SPDX-License-Identifier: Apache-2.0
"""``exempt``: cgroups whose tasks see no service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from .completion import exempted
from .options import IfExists, IfMissing, Json, Pin, open_node
from .output import print_columns, print_json

app = typer.Typer(help="Leave tasks of some cgroups alone, such as a mesh's sidecars.")

Cgroups = Annotated[
    list[str], typer.Argument(metavar="PATH...", help="As in /sys/fs/cgroup/system.slice.")
]
Exempted = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...", help="As in /sys/fs/cgroup/system.slice.", autocompletion=exempted
    ),
]


@app.callback(invoke_without_command=True)
def root(context: typer.Context, pin: Pin = None) -> None:
    if pin is not None:
        context.obj = pin
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def add(
    context: typer.Context,
    cgroups: Cgroups,
    if_missing: IfMissing = False,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Exempt cgroups and all below them, from their next connection on."""
    with open_node(context, pin) as node:
        changed = node.exempt.add(*cgroups, if_missing=if_missing)
    _print("add", "added", changed, cgroups, as_json)


@app.command()
def rm(
    context: typer.Context,
    cgroups: Exempted,
    if_exists: IfExists = False,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Exempt cgroups no longer."""
    with open_node(context, pin) as node:
        changed = node.exempt.remove(*cgroups, if_exists=if_exists)
    _print("remove", "removed", changed, cgroups, as_json)


@app.command()
def ls(context: typer.Context, as_json: Json = False, pin: Pin = None) -> None:
    """List the exempt cgroups."""
    with open_node(context, pin) as node:
        cgroups = node.exempt.list()
    if as_json:
        print_json(cgroups=cgroups)
    else:
        print_columns(("CGROUP",), [(cgroup,) for cgroup in cgroups])


def _print(
    action: str, verb: str, changed: Sequence[str], asked: Sequence[str], as_json: bool
) -> None:
    if as_json:
        print_json(changes=[{"action": action, "cgroup": cgroup} for cgroup in changed])
    elif changed:
        typer.echo("\n".join(f"{verb} {cgroup}" for cgroup in changed))
    else:
        typer.echo(f"unchanged {' '.join(asked)}")
