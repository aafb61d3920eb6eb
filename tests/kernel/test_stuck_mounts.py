# SPDX-License-Identifier: Apache-2.0
"""Namespaces are looked for in mounts that users made, and nobody makes the one who looks wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hostreach import Service

from .harness import Box, kernel, linux, scaled
from .harness.fuse import StuckFiles
from .harness.line import Line

if TYPE_CHECKING:
    from hostreach.node import Node

LOOK = "import sys, hostreach\nwith hostreach.open(sys.argv[1]) as node: print(node.admit())"


def test_a_namespace_kept_in_a_file_system_that_does_not_answer(
    box: Box, node: Node, tmp_path: Path
) -> None:
    kernel.need(kernel.knows_the_host(), "cookies of network namespaces for user space too")
    kernel.need(os.access("/dev/fuse", os.R_OK | os.W_OK), "FUSE")
    node.services.add(Service.of("10.96.0.1:80/tcp", "10.0.0.2:80", source_ranges="10.9.0.0/16"))

    def keep(test: Line) -> None:
        linux.private_mounts()
        files = StuckFiles(tmp_path)
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        linux.unshare(linux.CLONE_NEWNET)
        linux.mount("/proc/self/ns/net", f"{tmp_path}/kept", flags=linux.MS_BIND)
        linux.setns(home, linux.CLONE_NEWNET)
        files.stop()
        test.ask("kept")

    with box.talk(keep) as holder:
        assert holder.recv() == "kept"
        command = [sys.executable, "-c", LOOK, str(box.pin)]
        done = subprocess.run(command, capture_output=True, check=True, timeout=scaled(15))
        assert done.stdout == b"1\n"
        holder.send("done")
