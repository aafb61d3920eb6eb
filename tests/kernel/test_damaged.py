# SPDX-License-Identifier: Apache-2.0
"""An instance of which somebody removed a part is no instance that is not there."""

from __future__ import annotations

import pytest

from .harness import Box, cli

FRONTEND, SERVER = "10.96.0.10:80/tcp", "10.0.0.2:8080"


@pytest.mark.parametrize("table", ["affinity", "records", "meta"])
def test_damage_is_told(box: Box, table: str) -> None:
    """By reads too: an export that finds nothing would replace a good one."""
    attach = ("attach", "--cgroup", str(box.cgroup))
    assert cli.run(box.pin, *attach).status == 0
    assert cli.run(box.pin, "svc", "add", FRONTEND, "--backend", SERVER).status == 0
    (box.pin / table).unlink()
    for command in (
        ("status",),
        ("svc", "ls"),
        ("export",),
        ("doctor",),
        ("explain", FRONTEND),
        ("svc", "add", "10.96.0.11:80/tcp"),
        attach,
    ):
        found = cli.run(box.pin, *command)
        assert (found.status, found.stdout) == (1, "")
        assert f"damaged: the table '{table}' is missing; `detach --purge`" in found.stderr
    assert cli.run(box.pin, "detach", "--purge").status == 0
    assert not box.pin.exists()
    assert cli.run(box.pin, *attach).status == 0
