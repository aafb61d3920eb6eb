# SPDX-License-Identifier: Apache-2.0
"""``svc``: services, one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    FrontendText,
    IfExists,
    IfMissing,
    Json,
    MaxBackends,
    MaxServices,
    MaxSlots,
    Owner,
    Pin,
    open_node,
)
from .output import print_change, print_columns, print_json

if TYPE_CHECKING:
    from hostreach.models import Service

app = typer.Typer(help="Add, change, remove and show services.")

Backends = Annotated[
    list[str] | None,
    typer.Option(
        "--backend", metavar="BACKEND[,weight=N]", help="As in 10.0.0.2:53,weight=3; repeatable."
    ),
]
Name = Annotated[str | None, typer.Option("--name", help="For people; up to 255 bytes.")]
Algorithm = Annotated[
    str, typer.Option("--algorithm", metavar="NAME", help="How a backend is chosen.")
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
    backend: Backends = None,
    name: Name = None,
    algorithm: Algorithm = "random",
    owner: Owner = "manual",
    if_missing: IfMissing = False,
    max_services: MaxServices = None,
    max_backends: MaxBackends = None,
    max_slots: MaxSlots = None,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Add a service."""
    service = _service(frontend, backend, name, algorithm, owner)
    with open_node(context, pin, max_services, max_backends, max_slots) as node:
        change = node.services.add(service, if_missing=if_missing)
    print_change(change, str(service.frontend), as_json)


@app.command("set")
def set_(
    context: typer.Context,
    frontend: FrontendText,
    backend: Backends = None,
    name: Name = None,
    algorithm: Algorithm = "random",
    owner: Owner = "manual",
    max_services: MaxServices = None,
    max_backends: MaxBackends = None,
    max_slots: MaxSlots = None,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Make a service exactly this: add it, or replace what is there."""
    service = _service(frontend, backend, name, algorithm, owner)
    with open_node(context, pin, max_services, max_backends, max_slots) as node:
        change = node.services.set(service)
    print_change(change, str(service.frontend), as_json)


@app.command()
def rm(
    context: typer.Context,
    frontend: FrontendText,
    owner: Owner = "manual",
    if_exists: IfExists = False,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Remove a service."""
    with open_node(context, pin) as node:
        change = node.services.remove(frontend, if_exists=if_exists, owner=owner)
    print_change(change, frontend, as_json)


@app.command()
def ls(
    context: typer.Context,
    owner: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this owner's services.")
    ] = None,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """List services."""
    with open_node(context, pin) as node:
        if as_json:
            services = node.services.list(owner)
            print_json(services=[service.model_dump(mode="json") for service in services])
            return
        rows = node.services.rows(owner)
    print_columns(("FRONTEND", "NAME", "OWNER", "ALGORITHM", "BACKENDS"), rows)


@app.command()
def show(
    context: typer.Context, frontend: FrontendText, as_json: Json = False, pin: Pin = None
) -> None:
    """Show a service and the share of each backend."""
    with open_node(context, pin) as node:
        service = node.services.get(frontend)
    shares = _shares(service)
    if as_json:
        print_json(
            service=service.model_dump(mode="json"),
            shares=[
                {"address": backend.address, "slots": slots, "share": share, "error": error}
                for backend, (slots, share, error) in zip(service.backends, shares, strict=True)
            ],
        )
        return
    typer.echo(f"frontend   {service.frontend}")
    typer.echo(f"name       {service.name or '-'}")
    typer.echo(f"owner      {service.owner}")
    typer.echo(f"algorithm  {service.algorithm}")
    typer.echo("")
    print_columns(
        ("BACKEND", "WEIGHT", "SLOTS", "SHARE", "ERROR"),
        [
            (backend.address, backend.weight, slots, f"{share:.3%}", f"{error:+.3%}")
            for backend, (slots, share, error) in zip(service.backends, shares, strict=True)
        ],
    )


def _service(
    frontend: str, backends: list[str] | None, name: str | None, algorithm: str, owner: str
) -> Service:
    from hostreach.models import Service

    return Service.of(frontend, *(backends or ()), name=name, owner=owner, algorithm=algorithm)


def _shares(service: Service) -> list[tuple[int, float, float]]:
    """Slots, share of all slots, and how far that is from the weight's share, relatively."""
    from hostreach.table import slot_counts

    weights = [backend.weight for backend in service.backends]
    counts = slot_counts(weights)
    weight_sum, slot_sum = sum(weights) or 1, sum(counts) or 1
    return [
        (count, count / slot_sum, count * weight_sum / (slot_sum * weight) - 1 if weight else 0.0)
        for count, weight in zip(counts, weights, strict=True)
    ]
