# SPDX-License-Identifier: Apache-2.0
"""``doctor``: what this kernel and host can do."""

from __future__ import annotations

import typer

from .options import Json, Pin, open_node
from .output import print_columns, print_json


def doctor(context: typer.Context, as_json: Json = False, pin: Pin = None) -> None:
    """Tell what this kernel can do, and what each missing thing costs."""
    from hostreach.cgroup import OWN_MOUNT
    from hostreach.doctor import cgroup_root, features, tagging, unreserved

    found = features()
    with open_node(context, pin) as node:
        rows = node.services.rows()
    ports = (int(row.frontend[5:].split("/")[0]) for row in rows if row.frontend[:5] == "node:")
    risky, root, tags = unreserved(ports), cgroup_root(), tagging()
    if as_json:
        print_json(
            features=[each._asdict() for each in found],
            unreserved_ports=risky,
            cgroup_root=root or None,
            tagging=tags,
        )
        return
    print_columns(
        ("FEATURE", "FOUND", "SINCE LINUX", "WITHOUT IT"),
        [(f.name, "yes" if f.found else "no", f.since, f.without) for f in found],
    )
    if not root:
        typer.echo(f"\ncgroup v2 is not mounted; attach mounts it at {OWN_MOUNT}")
    if tags:
        typer.echo(
            f"\n{' and '.join(tags)} of cgroup v1 in use: before Linux 5.15 all sockets then count "
            "as the root cgroup's, and what is attached to another serves none"
        )
    if risky:
        typer.echo(
            f"\nports {', '.join(map(str, risky))} of node: frontends may be given to any socket; "
            "reserve them in net.ipv4.ip_local_reserved_ports"
        )
