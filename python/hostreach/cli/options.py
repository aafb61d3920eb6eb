# SPDX-License-Identifier: Apache-2.0
"""The options and arguments that several commands share, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from hostreach.errors import InvalidInput

from . import made
from .completion import backends, frontends, owners

if TYPE_CHECKING:
    from hostreach import Node

T = TypeVar("T")

Pin = Annotated[
    str | None,
    typer.Option(
        "--pin",
        metavar="PATH",
        help="The instance: a directory on bpffs. Default: $HOSTREACH_PIN, or "
        "/sys/fs/bpf/hostreach.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def check_owner(owner: str | None) -> str | None:
    """An owner that no service can have is a slip, not one without services."""
    from hostreach.syntax import OWNER_MAX, check_label

    return None if owner is None else check_label(owner, "owner", OWNER_MAX)


def check_netns(path: str | None) -> str | None:
    """As of a variable that is not set: to take it for the default would be a guess."""
    if path == "":
        raise InvalidInput("--host-netns is empty")
    return path


def of_option(error: InvalidInput, *fields: str) -> InvalidInput:
    """Of what a field may be, in the words of whoever wrote the option that is named like it."""
    field, _, rest = error.message.partition(" ")
    if field not in fields:
        return error
    return InvalidInput(f"--{field.replace('_', '-')} {rest}", object=error.object)


def parsed(option: str, parse: Callable[[str], T], text: str) -> T:
    """What the option says; what is wrong with it names the option."""
    try:
        return parse(text)
    except InvalidInput as error:
        raise InvalidInput(f"{option}: {error}") from None


Owner = Annotated[
    str,
    typer.Option(
        "--owner",
        metavar="NAME",
        help="Whose services are being changed.",
        callback=check_owner,
        autocompletion=owners,
    ),
]
IfMissing = Annotated[
    bool, typer.Option("--if-missing", help="It is no error if it exists already.")
]
IfExists = Annotated[bool, typer.Option("--if-exists", help="It is no error if it is not there.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Show what would change, or that it does not fit, and the sockets that would be "
        "ended; change nothing.",
    ),
]
FrontendText = Annotated[
    str,
    typer.Argument(
        metavar="FRONTEND",
        help="As in 10.96.0.10:53/udp, [fd00:96::a]:53/udp; node:30080/tcp is a NodePort.",
        autocompletion=frontends,
    ),
]
BackendText = Annotated[
    str,
    typer.Argument(
        metavar="BACKEND", help="As in 10.0.0.2:53 or [fd00::2]:53.", autocompletion=backends
    ),
]
MaxServices = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Room for services, if this makes the tables (default: 65536); of tables that are "
        "there it must be the same, for only `attach` lets them grow.",
    ),
]
MaxBackends = Annotated[
    int | None,
    typer.Option(metavar="N", help="Room for backends, the same. Default: 262144."),
]
MaxSlots = Annotated[
    int | None,
    typer.Option(metavar="N", help="Room for selection slots, the same. Default: 1048576."),
]

GrowServices = Annotated[
    int | None,
    typer.Option(
        "--max-services",
        metavar="N",
        help="Room for services: of new tables (default: 65536), or tables that are there grow; "
        "less than they have is refused by attach, and ignored by agents.",
    ),
]
GrowBackends = Annotated[
    int | None,
    typer.Option(
        "--max-backends", metavar="N", help="Room for backends, the same. Default: 262144."
    ),
]
GrowSlots = Annotated[
    int | None,
    typer.Option(
        "--max-slots", metavar="N", help="Room for selection slots, the same. Default: 1048576."
    ),
]


def open_node(
    context: typer.Context,
    pin: str | None,
    services: int | None = None,
    backends: int | None = None,
    slots: int | None = None,
    *,
    at_least: bool = False,
) -> Node:
    """The instance that ``--pin``, before or after the command, names."""
    import hostreach

    pin = context.obj if pin is None else pin
    if pin == "":
        raise InvalidInput("--pin is empty")
    capacities = hostreach.Capacities(services, backends, slots)
    return made.watch(hostreach.open(pin, capacities=capacities, at_least=at_least))
