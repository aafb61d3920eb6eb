# SPDX-License-Identifier: Apache-2.0
"""The root command: what is common to all, and the tree of the others."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

from hostreach import __version__
from hostreach.errors import InvalidInput

from .options import Json, Pin

if TYPE_CHECKING:
    from typer.models import CommandInfo

_COMMANDS = {
    "attach": "node",
    "detach": "node",
    "status": "node",
    "svc": "svc",
    "backend": "backend",
    "exempt": "exempt",
    "sockets": "sockets",
    "agent": "agent",
    "systemd": "systemd",
    "completion": "completion",
    "doctor": "doctor",
    "explain": "explain",
    "top": "top",
    "trace": "trace",
    "apply": "files",
    "export": "files",
}
"""In which module each is, in the order of the help. One with an `app` is a group of commands."""
_GROUPS = ("svc", "backend", "exempt", "sockets", "agent", "systemd")


def build(argv: Sequence[str] | None = None) -> typer.Typer:
    """The commands that this line may mean: making all of them takes longer than most of them.

    Without a line, all.
    """
    words = [] if argv is None else _words(argv) or ["status"]
    named = [word for word in words[:1] if word in _COMMANDS]
    app = typer.Typer(
        name="hostreach",
        # Without rich, help takes half the time, and is plain text on a terminal as in a pipe.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,  # ours is a command
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command in named or _COMMANDS:
        module = import_module(f".{_COMMANDS[command]}", __package__)
        if command in _GROUPS:
            app.add_typer(_group(module.app, words), name=command)
        else:
            app.command(command)(getattr(module, command))
    app.callback(invoke_without_command=True)(root)
    return app


def _group(app: typer.Typer, words: Sequence[str]) -> typer.Typer:
    """With the one command that the line names, if that is plain to see."""
    named = [each for each in app.registered_commands if _name_of(each) in words[1:2]]
    if not named:
        return app
    alone = copy(app)  # the module's own is for the next line
    alone.registered_commands = named
    return alone


def _name_of(command: CommandInfo) -> str:
    return command.name or str(getattr(command.callback, "__name__", ""))


def _words(argv: Sequence[str]) -> list[str]:
    """Up to the first option that is not common to all: what follows one may be its value.

    The last one is an option then.
    """
    found: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--pin":
            next(words, None)
        elif word != "--json" and not word.startswith("--pin="):
            found.append(word)
            if word.startswith("-"):
                break
    return found


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hostreach {__version__}")
        raise typer.Exit


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
        from .node import status

        status(context, pin, as_json)
    elif as_json:
        raise InvalidInput(
            f"--json stands after the command: {context.invoked_subcommand} ... --json"
        )
