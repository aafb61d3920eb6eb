# SPDX-License-Identifier: Apache-2.0
"""``attach``, ``detach`` and ``status``: the instance as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    GrowBackends,
    GrowServices,
    GrowSlots,
    Json,
    Pin,
    check_netns,
    open_node,
    parsed,
)
from .output import print_columns, print_json, warn

if TYPE_CHECKING:
    from hostreach.running import Running
    from hostreach.status import OtherProgram, ProgramStatus, Status


_GOES_ON = {
    False: "still runs: it keeps the tables in step, and attaches again when it is next started or "
    "the tables grow; end it to stay detached",
    True: "ran still: it ends without its tables, and makes all of it anew if something starts it "
    "again; end it where it was started (systemctl disable --now, kubectl), then purge again",
}
"""What an agent does after a detach, by whether the tables went too."""


def attach(
    context: typer.Context,
    cgroup: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Whose processes are served. Default: the cgroup v2 root."
        ),
    ] = None,
    protocols: Annotated[
        str, typer.Option(metavar="LIST", help="tcp, udp or tcp,udp.")
    ] = "tcp,udp",
    protect_binds: Annotated[
        bool,
        typer.Option(
            "--protect-binds",
            help="Refuse binds, in the host's network namespace, to a port that a service has on "
            "this node's own addresses.",
        ),
    ] = False,
    host_netns: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="The host's network namespace, as in /proc/1/ns/net. Default: this one.",
            callback=check_netns,
        ),
    ] = None,
    node_addresses: Annotated[
        str | None,
        typer.Option(
            metavar="CIDR[,CIDR]",
            help="Where node: frontends are reached: this node's addresses in these networks. "
            "Default: all of them.",
        ),
    ] = None,
    first: Annotated[
        bool,
        typer.Option(
            "--first",
            help="Run before other vendors' programs on the same hooks, where the kernel has it. "
            "Default: after those that are there already.",
        ),
    ] = False,
    max_services: GrowServices = None,
    max_backends: GrowBackends = None,
    max_slots: GrowSlots = None,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Attach the programs to a cgroup, or bring them up to date."""
    from hostreach.syntax import parse_networks, parse_protocols

    wanted = parsed("--protocols", parse_protocols, protocols)
    networks = None
    if node_addresses is not None:
        networks = parsed("--node-addresses", parse_networks, node_addresses)
    with open_node(context, pin, max_services, max_backends, max_slots) as node:
        result = node.attach(
            cgroup,
            wanted,
            protect_binds=protect_binds,
            host_netns=host_netns,
            node_addresses=networks,
            first=first,
        )
        elsewhere = bool(networks) and not node.addresses()
    if elsewhere:
        warn(f"--node-addresses: this node has no address in {node_addresses}")
    if as_json:
        changes = [{"program": name, "action": action} for name, action in result.changes]
        print_json(
            cgroup=result.cgroup,
            protocols=result.protocols,
            changes=changes,
            grown=result.grown,
            migrated=result.migrated,
        )
        return
    typer.echo(f"attached to {result.cgroup} for {', '.join(result.protocols)}")
    for action in ("added", "replaced", "removed"):
        names = [name for name, done in result.changes if done == action]
        if names:
            typer.echo(f"{action} {', '.join(names)}")
    if not result.changes:
        typer.echo("programs unchanged")
    if result.grown:
        typer.echo("the tables have grown")
    if result.migrated:
        typer.echo("the tables were an older version's and are this one's now")


def detach(
    context: typer.Context,
    purge: Annotated[bool, typer.Option("--purge", help="Remove the tables too.")] = False,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Take the programs off their hooks."""
    from hostreach import running

    with open_node(context, pin) as node:
        agents = running.alive(node.pin)  # before: without tables they end
        result = node.detach(purge)
    if purge:
        running.forget(node.pin)
    for agent in agents:
        warn(f"agent '{agent.source}', pid {agent.pid}, {_GOES_ON[purge]}")
    if as_json:
        print_json(programs=result.programs, purged=result.purged, sockets=result.sockets)
        return
    typer.echo(f"removed {', '.join(result.programs)}" if result.programs else "was not attached")
    if result.sockets:
        typer.echo(f"{result.sockets} open sockets now see their backends' addresses")
    if result.purged:
        typer.echo("removed the tables")


def status(context: typer.Context, pin: Pin = None, as_json: Json = False) -> None:
    """Show what is attached, and how full the tables are."""
    from hostreach import running

    with open_node(context, pin) as node:
        found = node.status()
    agents = running.read(found.pin)
    if as_json:
        shown = [agent._asdict() for agent in agents]
        print_json(**found.to_dict(), agent=shown[0] if shown else None, agents=shown)
    else:
        _print_status(found, agents)


def _print_status(found: Status, agents: Sequence[Running]) -> None:
    typer.echo(f"instance   {found.pin}")
    typer.echo(f"cgroup     {found.cgroup or 'not attached'}")
    typer.echo(f"protocols  {', '.join(found.protocols) or '-'}")
    if found.protect_binds:
        typer.echo("binds      protected")
    if found.first:
        typer.echo("order      before other vendors' programs")
    if found.attached_by == "program":
        typer.echo("attached   without links, which this kernel does not have")
    if found.remembers == "lru":
        typer.echo("remembers  in one table for all sockets, for want of socket storage")
    for agent in agents:
        synced = "not in step yet" if agent.synced is None else f"in step {agent.synced:.0f} s ago"
        who = f"pid {agent.pid}" if agent.alive else f"pid {agent.pid}, which is gone"
        typer.echo(f"agent      {agent.source} ({who}), {synced}")
        for problem in agent.problems:
            typer.echo(f"           {problem}")
    if found.programs:
        typer.echo("")
        print_columns(
            ("PROGRAM", "ATTACHED", "IN EFFECT", "ID", "RUN BEFORE IT", "RUN AFTER IT"),
            [_program_row(program) for program in found.programs],
        )
    for line in _remarks(found) if found.cgroup else ():
        typer.echo(f"\n{line}")
    if found.interrupted:
        typer.echo("\na writer was killed at work; the next one mends what it left")
    typer.echo("")
    tables = (("services", found.services), ("backends", found.backends), ("slots", found.slots))
    rows = [(name, usage.used, usage.capacity) for name, usage in tables if usage is not None]
    if not rows:
        typer.echo("no tables yet: attach or svc add makes them")
        return
    print_columns(("TABLE", "USED", "CAPACITY"), rows)
    typer.echo("")
    print_columns(
        ("COUNTER", "EVENTS"),
        [
            ("translations", found.translations),
            ("refusals", found.refusals),
            ("overflowed", found.overflowed),
            ("storage failed", found.storage_failed),
            ("unremembered", found.unremembered),
        ],
    )


def _remarks(found: Status) -> Iterator[str]:
    """What the table of programs means, in a line each."""
    gone = [p.name for p in found.programs if p.program_id and not p.attached]
    if gone:
        yield f"{', '.join(gone)}: ours is gone from there; attach puts it back"
    never = {p.name.rstrip("46") for p in found.programs if not p.program_id}
    if "getpeername" in never:
        yield "getpeername(2) shows the backend's address, for want of its hook"
    if "sock_release" in never:
        yield "open connections are not counted, for want of a hook that tells their end"
    # those that rewrite where a call goes
    others = [o for p in found.programs if p.name[:-1] in ("connect", "sendmsg") for o in p.others]
    if any(other.before for other in others):
        yield "programs that run before ours see a service's address first: their rewrite wins"
    if any(other.before is False for other in others):
        yield "programs that run after ours see the backend's address: our rewrite wins"


def _program_row(program: ProgramStatus) -> tuple[object, ...]:
    effective = {True: "yes", False: "no", None: "unknown"}[program.effective]
    before = [other for other in program.others if other.before]
    return (
        program.name,
        "yes" if program.attached else "no",
        effective if program.attached else "-",
        program.program_id,
        _names(before),
        _names([other for other in program.others if other not in before]),
    )


def _names(programs: Iterable[OtherProgram]) -> str | None:
    return ", ".join(f"{each.name} ({each.program_id})" for each in programs) or None
