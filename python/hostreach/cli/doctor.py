# SPDX-License-Identifier: Apache-2.0
"""``doctor``: what this kernel and host can do."""

from __future__ import annotations

import typer

from .options import Json, Pin, open_node
from .output import print_columns, print_json


def doctor(context: typer.Context, as_json: Json = False, pin: Pin = None) -> None:
    """Tell what this kernel can do, and what each missing thing costs."""
    from hostreach.doctor import features, unreserved

    found = features()
    with open_node(context, pin) as node:
        rows = node.services.rows()
    ports = (int(row.frontend[5:].split("/")[0]) for row in rows if row.frontend[:5] == "node:")
    risky = unreserved(ports)
    if as_json:
        print_json(features=[each._asdict() for each in found], unreserved_ports=risky)
        return
    print_columns(
        ("FEATURE", "FOUND", "SINCE LINUX", "WITHOUT IT"),
        [(f.name, "yes" if f.found else "no", f.since, f.without) for f in found],
    )
    if risky:
        typer.echo(
            f"\nports {', '.join(map(str, risky))} of node: frontends may be given to any socket; "
            "reserve them in net.ipv4.ip_local_reserved_ports"
        )
