# SPDX-License-Identifier: Apache-2.0
"""``backend``: the backends of a service, one at a time."""

from __future__ import annotations

from typing import Annotated

import typer

from hostreach.errors import InvalidInput

from .given import backend_of
from .options import (
    BackendText,
    DryRun,
    FrontendText,
    IfExists,
    IfMissing,
    Json,
    Owner,
    Pin,
    open_node,
)
from .output import ended_by, print_change

app = typer.Typer(help="Add, change and remove backends.")

Weight = Annotated[
    int,
    typer.Option(metavar="N", help="0 to 65535, relative to the others; 0 gets nothing new."),
]
Active = Annotated[bool, typer.Option("--active", help="As it is unless said: it takes all.")]
Drain = Annotated[
    bool,
    typer.Option(
        "--drain", help="It keeps its connections and takes new ones only if no other can."
    ),
]
Down = Annotated[
    bool,
    typer.Option("--down", help="It takes none; what becomes of its connections, on_removal says."),
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
    frontend: FrontendText,
    backend: BackendText,
    weight: Weight = 1,
    active: Active = False,
    drain: Drain = False,
    down: Down = False,
    owner: Owner = "manual",
    if_missing: IfMissing = False,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Add a backend to a service."""
    state = _state(backend, active=active, draining=drain, down=down)
    new = backend_of(frontend, backend, weight, state)
    with open_node(context, pin) as node:
        change = node.services.add_backend(frontend, new, if_missing=if_missing, owner=owner)
        ended = node.last_ended
    print_change(change, frontend, as_json, ended)


@app.command("set")
def set_(
    context: typer.Context,
    frontend: FrontendText,
    backend: BackendText,
    weight: Weight = 1,
    active: Active = False,
    drain: Drain = False,
    down: Down = False,
    owner: Owner = "manual",
    dry_run: DryRun = False,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Make a backend exactly this: add it, or change what is there."""
    state = _state(backend, active=active, draining=drain, down=down)
    new = backend_of(frontend, backend, weight, state)
    with open_node(context, pin) as node:
        change = node.services.set_backend(frontend, new, owner=owner, dry_run=dry_run)
        ended = ended_by(node, [change], dry_run=dry_run)
    print_change(change, frontend, as_json, ended)


@app.command()
def rm(
    context: typer.Context,
    frontend: FrontendText,
    backend: BackendText,
    owner: Owner = "manual",
    if_exists: IfExists = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Remove a backend from a service."""
    with open_node(context, pin) as node:
        change = node.services.remove_backend(
            frontend, backend, if_exists=if_exists, owner=owner, dry_run=dry_run
        )
        ended = ended_by(node, [change], dry_run=dry_run)
    print_change(change, frontend, as_json, ended)


def _state(backend: str, **states: bool) -> str:
    chosen = [state for state, wanted in states.items() if wanted]
    if len(chosen) > 1:
        raise InvalidInput("--active, --drain and --down exclude each other", object=backend)
    return chosen[0] if chosen else "active"
