# SPDX-License-Identifier: Apache-2.0
"""``explain``: what a connect would do, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .completion import frontends
from .options import Json, Pin, open_node, parsed
from .output import hang, print_columns, print_json, printable

if TYPE_CHECKING:
    from hostreach.explain import Explanation

_WIDTH = 15


def explain(
    context: typer.Context,
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS:PORT/PROTOCOL",
            help="As a client would ask for it.",
            autocompletion=frontends,
        ),
    ],
    from_cgroup: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Whose tasks call. Default: this command itself."),
    ] = None,
    as_json: Json = False,
    pin: Pin = None,
) -> None:
    """Tell what a connect to an address would do, and why."""
    from hostreach.syntax import parse_cgroup

    path = None if from_cgroup is None else parsed("--from-cgroup", parse_cgroup, from_cgroup)
    with open_node(context, pin) as node:
        found = node.explain(address, path)
    if as_json:
        print_json(**found.to_dict())
    else:
        _print(found)


def _print(found: Explanation) -> None:
    line("asked", found.asked)
    line("caller", _caller(found))
    for topic, text in found.reasons:
        line(topic, text)
    line("outcome", _outcome(found) if found.certain else f"perhaps {_outcome(found)}")
    if not found.backends:
        return
    typer.echo("")
    print_columns(
        ("BACKEND", "WEIGHT", "STATE", "SHARE", "OPEN", "WHY"),
        [
            (b.address, b.weight, b.state, f"{b.share:.1%}", b.open, b.why or "")
            for b in found.backends
        ],
    )


def line(topic: str, text: str) -> None:
    """A topic, and what is to be said of it."""
    typer.echo("\n".join(hang(topic, text, _WIDTH)))


def _caller(found: Explanation) -> str:
    caller = found.caller
    where = printable(caller.cgroup or "a cgroup that cannot be seen from here")
    if caller.netns_of is None and caller.namespaces == 1:
        return f"this command, in {where}"
    if not caller.namespaces:
        return f"{where}, which has no task: its network namespace is not known"
    of = f"{where}, in the network namespace of pid {caller.netns_of}"
    others = caller.namespaces - 1
    return of + (f" ({others} more there {'is' if others == 1 else 'are'})" if others else "")


def _outcome(found: Explanation) -> str:
    if found.outcome == "refused":
        return "refused, with ECONNREFUSED"
    if found.outcome == "untouched":
        return f"untouched: it goes to {found.asked} itself"
    if found.goes_to:
        return f"translated to {found.goes_to}"
    return "translated to one of these:"
