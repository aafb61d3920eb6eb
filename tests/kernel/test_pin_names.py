# SPDX-License-Identifier: Apache-2.0
"""Pin directories as users name them, and whom the kernel says that it is locked by."""

from __future__ import annotations

import pytest

from .harness import Box, cli


@pytest.mark.parametrize("command", ["status", "attach", "svc ls", "svc add 10.96.0.10:80/tcp"])
def test_a_name_with_a_dot(box: Box, command: str) -> None:
    """bpffs refuses even to look for it, with EPERM: that is no want of rights."""
    pin = box.pin.with_name(f"{box.pin.name}.d")
    said = cli.run(pin, *command.split())
    assert said == (2, "", f"hostreach: {pin}: a BPF file system takes no name with a dot\n")
