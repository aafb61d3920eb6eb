# SPDX-License-Identifier: Apache-2.0
"""``apply`` and ``export``: all services at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hostreach.errors import InvalidInput
from hostreach.syntax import format_frontend

from .completion import owners
from .options import (
    DryRun,
    Json,
    MaxBackends,
    MaxServices,
    MaxSlots,
    Owner,
    Pin,
    check_owner,
    open_node,
)
from .output import ended_by, print_diff, warn, warn_about
from .progress import Progress

if TYPE_CHECKING:
    from hostreach.plain import PlainFrontend


def apply(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Option(
            "--file", "-f", metavar="FILE", help="YAML, JSON or JSON lines; - is standard input."
        ),
    ],
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove the owner's services that are not in FILE.")
    ] = False,
    skip_missing_cgroups: Annotated[
        bool,
        typer.Option(
            "--skip-missing-cgroups",
            help="Leave out, and name, services whose from_cgroup is not there, as at boot.",
        ),
    ] = False,
    dry_run: DryRun = False,
    owner: Owner = "manual",
    max_services: MaxServices = None,
    max_backends: MaxBackends = None,
    max_slots: MaxSlots = None,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Make the tables hold the services in a file."""
    from hostreach.sources.file import load_changes

    with Progress(file) as progress:
        found = load_changes(file, owner=owner, tick=progress)
    if found.checked:
        warn(
            f"{found.checked} of the services have a check, which `agent file` does and apply does "
            "not"
        )
    missing: list[tuple[PlainFrontend, str]] = []

    def leave(frontend: PlainFrontend, cgroup: str) -> None:
        missing.append((frontend, cgroup))

    with open_node(context, pin, max_services, max_backends, max_slots) as node:
        try:
            changes = node.services.apply(
                found.services,
                owner=owner,
                prune=prune,
                dry_run=dry_run,
                remove=found.removed,
                on_missing_cgroup=leave if skip_missing_cgroups else None,
            )
        except InvalidInput as error:  # that of this machine which the file has wrong
            found.refuse(error)
        ended = ended_by(node, changes, dry_run=dry_run)
    if not dry_run:
        warn_about(changes, node)
    print_diff(changes, as_json, ended)
    for frontend, cgroup in missing:
        warn(f"{format_frontend(*frontend)} is left as it is: there is no cgroup {cgroup}")


def export(
    context: typer.Context,
    owner: Annotated[
        str | None,
        typer.Option(
            "--owner",
            metavar="NAME",
            help="Of this owner alone.",
            callback=check_owner,
            autocompletion=owners,
        ),
    ] = None,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Print all services in the format that apply reads."""
    from hostreach.sources.dump import dump, dump_json

    with open_node(context, pin) as node:
        services = node.plain.plain_list(owner)
    typer.echo(dump_json(services) if as_json else dump(services), nl=False)
