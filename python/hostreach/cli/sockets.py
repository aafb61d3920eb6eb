# SPDX-License-Identifier: Apache-2.0
"""``sockets``: those that services' connects made."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Json, Pin, open_node
from .output import print_json, print_sockets, summary

app = typer.Typer(help="End the sockets whose backend is gone.")


@app.callback(invoke_without_command=True)
def root(context: typer.Context, pin: Pin = None) -> None:
    if pin is not None:
        context.obj = pin
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def end(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the sockets that would be ended.")
    ] = False,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """End sockets whose backend is gone, as --on-removal says.

    That is of backends that are removed or down. Every change does so by itself; this finds what a
    killed command left, or what was in a network namespace that could not be entered then.
    """
    with open_node(context, pin) as node:
        result = node.end_sockets(dry_run)
    if as_json:
        print_json(**result.to_dict())
        return
    print_sockets(result)
    typer.echo(summary(result))
