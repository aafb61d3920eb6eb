# SPDX-License-Identifier: Apache-2.0
"""The root command: what is common to all, and the tree of the others."""

from __future__ import annotations

from typing import Annotated

import typer

from hostreach import __version__

from . import (
    agent,
    backend,
    completion,
    doctor,
    exempt,
    explain,
    files,
    node,
    sockets,
    svc,
    systemd,
    top,
    trace,
)
from .options import Json, Pin

app = typer.Typer(
    name="hostreach",
    # Without rich, help takes half the time and is plain text in a pipe and on a terminal alike.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,  # ours is a command
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("attach")(node.attach)
app.command("detach")(node.detach)
app.command("status")(node.status)
app.add_typer(svc.app, name="svc")
app.add_typer(backend.app, name="backend")
app.add_typer(exempt.app, name="exempt")
app.add_typer(sockets.app, name="sockets")
app.add_typer(agent.app, name="agent")
app.add_typer(systemd.app, name="systemd")
app.command("completion")(completion.completion)
app.command("doctor")(doctor.doctor)
app.command("explain")(explain.explain)
app.command("top")(top.top)
app.command("trace")(trace.trace)
app.command("apply")(files.apply)
app.command("export")(files.export)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hostreach {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    pin: Pin = None,
    as_json: Json = False,
    version: Annotated[  # noqa: ARG001 - handled by its callback
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Balance services on this node at the socket layer. Without a command: status."""
    context.obj = pin
    if context.invoked_subcommand is None:
        node.status(context, pin, as_json)
