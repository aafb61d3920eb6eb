# SPDX-License-Identifier: Apache-2.0
"""The kernel tests' harness: sandboxes, identity servers, clients, and an eye on the kernel."""

from . import cli, kernel, linux, rawbpf
from .box import NO_STARVING, Box, as_on_a_node, mount_bpffs, sweep
from .line import Line
from .servers import Servers
from .timing import SCALE, scaled, wait_until

__all__ = [
    "NO_STARVING",
    "SCALE",
    "Box",
    "Line",
    "Servers",
    "as_on_a_node",
    "cli",
    "kernel",
    "linux",
    "mount_bpffs",
    "rawbpf",
    "scaled",
    "sweep",
    "wait_until",
]
