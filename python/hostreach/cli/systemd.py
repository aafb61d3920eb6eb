# SPDX-License-Identifier: Apache-2.0
"""``systemd``: units for this interpreter's hostreach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hostreach.errors import InvalidInput

from . import made
from .completion import choices
from .options import Json, Pin
from .output import print_json

if TYPE_CHECKING:
    from hostreach.systemd import Unit

app = typer.Typer(help="Print or install units of systemd.")

Units = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[UNIT...]",
        help="restore: /etc/hostreach/services.yaml at boot, before the network; agent: `agent "
        "file`; metrics: `agent metrics`. Default: restore and agent.",
        autocompletion=choices("restore", "agent", "metrics"),
    ),
]
Paths = Annotated[
    list[str] | None,
    typer.Option(
        "--path",
        metavar="PATH",
        help="What the agent follows; repeatable. Default: /etc/hostreach/services.d.",
    ),
]


@app.callback(invoke_without_command=True)
def root(context: typer.Context, pin: Pin = None) -> None:
    if pin is not None:
        context.obj = pin
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("print")
def print_(
    context: typer.Context, units: Units = None, path: Paths = None, pin: Pin = None
) -> None:
    """Print units, each with its file's name above it."""
    found = _units(context, units, path, pin)
    typer.echo("\n".join(f"# {unit.file}\n{unit.text}" for unit in found), nl=False)


@app.command()
def install(
    context: typer.Context,
    units: Units = None,
    path: Paths = None,
    directory: Annotated[
        str, typer.Option(metavar="PATH", help="Where units are.")
    ] = "/etc/systemd/system",
    force: Annotated[
        bool, typer.Option("--force", help="Replace units that were changed since, too.")
    ] = False,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Write units; those that were changed by hand are left alone. Nothing is started."""
    from hostreach import systemd

    wanted = _units(context, units, path, pin)
    if not directory:
        raise InvalidInput("--directory is empty")
    done = systemd.install(wanted, directory, force)
    made.note("units")
    if as_json:
        print_json(units=[each._asdict() for each in done])
        return
    for each in done:
        typer.echo(f"{each.action} {each.path}")
    if any(each.action != "unchanged" for each in done):
        names = " ".join(unit.file for unit in wanted)
        typer.echo(f"next: systemctl daemon-reload && systemctl enable --now {names}")


def _units(
    context: typer.Context, names: list[str] | None, paths: list[str] | None, pin: str | None
) -> list[Unit]:
    import os

    from hostreach import systemd
    from hostreach.node import PIN_VARIABLE

    pin = context.obj if pin is None else pin
    if pin == "":
        raise InvalidInput("--pin is empty")
    if "" in (paths or ()):
        raise InvalidInput("--path is empty")
    pin = pin or os.environ.get(PIN_VARIABLE) or None
    if pin is not None and not os.path.normpath(pin).startswith(f"{systemd.BPFFS}/"):
        raise InvalidInput(f"units are for pins below {systemd.BPFFS}", object=pin)
    found: list[Unit] = []
    for name in dict.fromkeys(names or ("restore", "agent")):
        if name not in systemd.NAMES:
            raise InvalidInput(f"'{name}' is no unit; they are {', '.join(systemd.NAMES)}")
        found.append(systemd.unit(name, pin, paths or ()))
    if paths and "agent" not in (names or ("agent",)):
        raise InvalidInput("--path is what the unit 'agent' follows, which is not among these")
    for text in (pin or "", *(paths or ())):
        if not text.isprintable():
            raise InvalidInput("a path has a character that cannot be printed", object=text)
    return found
