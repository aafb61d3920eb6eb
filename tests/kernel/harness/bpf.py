# SPDX-License-Identifier: Apache-2.0
"""What the kernel has, as itself or bpftool tells it: an opinion independent of hostreach's own."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import rawbpf
from .box import environment
from .timing import scaled, wait_until

BPFTOOL = shutil.which("bpftool", path=environment()["PATH"]) or "bpftool"


def bpftool(*arguments: str) -> Any:
    output = subprocess.run(
        [BPFTOOL, "-j", *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=scaled(20),
    ).stdout
    return json.loads(output) if output.strip() else []


def attached(cgroup: Path) -> dict[str, int]:
    """Hook -> program id, for the programs attached to the cgroup itself.

    Not by bpftool, whose `cgroup show` a kernel older than itself may refuse.
    """
    found = {}
    for hook, number in (rawbpf.ATTACH_TYPES | rawbpf.OTHER_HOOKS).items():
        if ids := rawbpf.query(cgroup, number):
            (found[hook],) = ids
    return found


def link_ids() -> set[int]:
    return {link["id"] for link in bpftool("link", "show")}


def program_ids() -> set[int]:
    return {program["id"] for program in bpftool("prog", "show")}


def map_ids() -> set[int]:
    return {entry["id"] for entry in bpftool("map", "show")}


def pinned_maps(pin: Path) -> dict[str, dict[str, Any]]:
    """Path below the pin directory -> bpftool's account of the map pinned there."""
    found = {}
    for path in sorted(pin.rglob("*")):
        if path.is_file():
            try:
                found[str(path.relative_to(pin))] = bpftool("map", "show", "pinned", str(path))
            except subprocess.CalledProcessError:
                continue  # a link or a program
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """The kernel has no more programs, links and maps afterwards than before."""

    def everything() -> tuple[set[int], ...]:
        return program_ids(), link_ids(), map_ids()

    before = everything()
    yield
    # The kernel frees maps a little later than the last one lets go of them.
    wait_until(
        lambda: all(now <= was for now, was in zip(everything(), before, strict=True)),
        "no program, link or map left",
        seconds=30,  # whoever else uses BPF on this machine meanwhile may need a while
    )
