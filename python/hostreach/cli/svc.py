# SPDX-License-Identifier: Apache-2.0
"""``svc``: services, one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .completion import choices, owners
from .given import service_of
from .options import (
    DryRun,
    FrontendText,
    IfExists,
    IfMissing,
    Json,
    MaxBackends,
    MaxServices,
    MaxSlots,
    Owner,
    Pin,
    check_owner,
    open_node,
)
from .output import (
    ended_by,
    print_change,
    print_columns,
    print_json,
    warn_about,
)

if TYPE_CHECKING:
    from hostreach.explain import Lost
    from hostreach.models import Service
    from hostreach.running import Checked
    from hostreach.services import Inspection

app = typer.Typer(help="Add, change, remove and show services.")

_LOST = {
    None: "",
    "anew": " (made anew since: nobody, until the service is written again)",
    "gone": " (which is not there)",
}
_NO_AFFINITY = ("0", "0ms", "0s", "0m", "0h", "0d")

Backends = Annotated[
    list[str] | None,
    typer.Option(
        "--backend",
        metavar="BACKEND[,weight=N][,state=NAME]",
        help="As in 10.0.0.2:53,weight=3; states are active, draining, down; repeatable.",
    ),
]
Name = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="For people; up to 255 bytes.")
]
Algorithm = Annotated[
    str,
    typer.Option(
        "--algorithm",
        metavar="NAME",
        help="How a backend is chosen: random, maglev, least-conn.",
        autocompletion=choices("random", "maglev", "least-conn"),
    ),
]
Affinity = Annotated[
    str | None,
    typer.Option(
        "--affinity",
        metavar="DURATION",
        help="A client comes back to its backend for so long, as in 3h; 0 is not at all.",
    ),
]
HostOnly = Annotated[
    bool, typer.Option("--host-only", help="Only for the host's network namespace.")
]
FromCgroup = Annotated[
    str | None,
    typer.Option("--from-cgroup", metavar="PATH", help="Only for tasks below this cgroup."),
]
SourceRanges = Annotated[
    str | None,
    typer.Option(
        "--source-ranges",
        metavar="CIDR[,CIDR]",
        help="Refuse clients whose network namespace has no address in these networks.",
    ),
]
OnRemoval = Annotated[
    str | None,
    typer.Option(
        "--on-removal",
        metavar="reset|keep",
        help="What becomes of a backend's connections when it goes. "
        "Default: reset for UDP, keep for TCP.",
        autocompletion=choices("reset", "keep"),
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
    frontend: FrontendText,
    backend: Backends = None,
    name: Name = None,
    algorithm: Algorithm = "random",
    affinity: Affinity = None,
    host_only: HostOnly = False,
    from_cgroup: FromCgroup = None,
    source_ranges: SourceRanges = None,
    on_removal: OnRemoval = None,
    owner: Owner = "manual",
    if_missing: IfMissing = False,
    max_services: MaxServices = None,
    max_backends: MaxBackends = None,
    max_slots: MaxSlots = None,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Add a service."""
    service = service_of(
        frontend,
        backend or (),
        name=name,
        owner=owner,
        algorithm=algorithm,
        affinity=None if affinity in _NO_AFFINITY else affinity,
        host_only=host_only,
        from_cgroup=from_cgroup,
        source_ranges=source_ranges,
        on_removal=on_removal,
    )
    with open_node(context, pin, max_services, max_backends, max_slots) as node:
        change = node.services.add(service, if_missing=if_missing)
        ended = node.last_ended
    if change is not None:
        warn_about([change], node)
    print_change(change, frontend, as_json, ended)


@app.command("set")
def set_(
    context: typer.Context,
    frontend: FrontendText,
    backend: Backends = None,
    name: Name = None,
    algorithm: Algorithm = "random",
    affinity: Affinity = None,
    host_only: HostOnly = False,
    from_cgroup: FromCgroup = None,
    source_ranges: SourceRanges = None,
    on_removal: OnRemoval = None,
    owner: Owner = "manual",
    dry_run: DryRun = False,
    max_services: MaxServices = None,
    max_backends: MaxBackends = None,
    max_slots: MaxSlots = None,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Make a service exactly this: add it, or replace what is there."""
    service = service_of(
        frontend,
        backend or (),
        name=name,
        owner=owner,
        algorithm=algorithm,
        affinity=None if affinity in _NO_AFFINITY else affinity,
        host_only=host_only,
        from_cgroup=from_cgroup,
        source_ranges=source_ranges,
        on_removal=on_removal,
    )
    with open_node(context, pin, max_services, max_backends, max_slots) as node:
        change = node.services.set(service, dry_run=dry_run)
        ended = ended_by(node, [change], dry_run=dry_run)
    if change is not None and not dry_run:
        warn_about([change], node)
    print_change(change, frontend, as_json, ended)


@app.command()
def rm(
    context: typer.Context,
    frontend: FrontendText,
    owner: Owner = "manual",
    if_exists: IfExists = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Remove a service."""
    with open_node(context, pin) as node:
        change = node.services.remove(frontend, if_exists=if_exists, owner=owner, dry_run=dry_run)
        ended = ended_by(node, [change], dry_run=dry_run)
    print_change(change, frontend, as_json, ended)


@app.command()
def ls(
    context: typer.Context,
    owner: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Only this owner's services.",
            callback=check_owner,
            autocompletion=owners,
        ),
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
    print_columns(("FRONTEND", "NAME", "OWNER", "ALGORITHM", "BACKENDS"), rows, gives_way=1)


@app.command()
def show(
    context: typer.Context, frontend: FrontendText, as_json: Json = False, pin: Pin = None
) -> None:
    """Show a service and the share of each backend."""
    from hostreach.running import read_checks

    with open_node(context, pin) as node:
        found = node.services.inspect(frontend)
        lost = node.lost_cgroup(frontend)
    service = found.service
    checks = read_checks(node.pin, service.owner, str(service.frontend))
    rows = list(zip(service.backends, found.shares, _shares(found), found.active, strict=True))
    if as_json:
        print_json(
            service=service.model_dump(mode="json"),
            lost_cgroup=lost,
            shares=[
                {
                    "address": backend.address,
                    "slots": slots,
                    "share": share,
                    "error": error,
                    "open": active,
                    "check": checks[backend.address]._asdict()
                    if backend.address in checks
                    else None,
                }
                for backend, slots, (share, error), active in rows
            ],
        )
        return
    typer.echo(f"frontend    {service.frontend}")
    typer.echo(f"name        {service.name or '-'}")
    typer.echo(f"owner       {service.owner}")
    typer.echo(f"algorithm   {service.algorithm}")
    typer.echo(f"affinity    {service.affinity or '-'}")
    typer.echo(f"scope       {_scope(service, lost)}")
    typer.echo(f"on removal  {service.removal}")
    typer.echo("")
    print_columns(
        (
            *("BACKEND", "WEIGHT", "STATE", "SLOTS", "SHARE", "ERROR", "OPEN"),
            *(["CHECK"] if checks else []),
        ),
        [
            (
                backend.address,
                backend.weight,
                backend.state,
                slots,
                f"{share:.3%}",
                f"{error:+.3%}",
                active,
                *([_checked(checks.get(backend.address))] if checks else []),
            )
            for backend, slots, (share, error), active in rows
        ],
    )


def _checked(found: Checked | None) -> str | None:
    """What an agent last found of a backend."""
    if found is None:
        return None
    if found.passes is None:
        return "not yet"
    return "passes" if found.passes else f"fails: {found.why}"


def _scope(service: Service, lost: Lost | None) -> str:
    who = "the host's network namespace" if service.host_only else "everyone"
    if service.from_cgroup:
        who += f", from {service.from_cgroup}{_LOST[lost]}"
    return f"{who}, with an address in {service.source_ranges}" if service.source_ranges else who


def _shares(found: Inspection) -> list[tuple[float, float]]:
    """Share of all slots, and how far that is from the weight's share, relatively.

    Each family has slots of its own; backends without slots take no part.
    """
    backends = found.service.backends
    slot_sums, weight_sums = {4: 0, 6: 0}, {4: 0, 6: 0}
    for backend, slots in zip(backends, found.shares, strict=True):
        if slots:
            slot_sums[backend.family] += slots
            weight_sums[backend.family] += backend.weight
    shares = []
    for backend, slots in zip(backends, found.shares, strict=True):
        if slots:
            all_slots, weights = slot_sums[backend.family], weight_sums[backend.family]
            error = slots * weights / (all_slots * backend.weight) - 1
            shares.append((slots / all_slots, error))
        else:
            shares.append((0.0, 0.0))
    return shares
