# SPDX-License-Identifier: Apache-2.0
"""BPF programs: those on a cgroup's hooks, with their run times, and the sizes of all."""

from __future__ import annotations

import ctypes
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kernel.harness.objects import NAMES, clangs, compile_object, loaded, version
from kernel.harness.rawbpf import ATTACH_TYPES, bpf
from kernel.harness.rawprog import Info, Program, pinned_info

_PROG_QUERY, _ENABLE_STATS = 16, 32
_STATS_RUN_TIME = 0


def attached(cgroup: Path, hook: str) -> Program:
    """The only program on a cgroup's hook."""
    number = ctypes.create_string_buffer(4)
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        address = ctypes.addressof(number)
        bpf(
            _PROG_QUERY,
            struct.pack("=IIIIQI", directory, ATTACH_TYPES[hook], 0, 0, address, 1),
        )
    finally:
        os.close(directory)
    return Program(struct.unpack("=I", number)[0])


@contextmanager
def statistics() -> Iterator[None]:
    """Let the kernel count; it stops when the descriptor is closed, however this process ends."""
    fd = bpf(_ENABLE_STATS, struct.pack("=I", _STATS_RUN_TIME))
    try:
        yield
    finally:
        os.close(fd)


def sizes() -> dict[tuple[str, str], dict[int, Info]]:
    """Object and program -> version of clang, the oldest and the newest here -> its size."""
    found: dict[tuple[str, str], dict[int, Info]] = {}
    for clang in dict.fromkeys((clangs()[0], clangs()[-1])):
        for name in NAMES:
            with (
                tempfile.TemporaryDirectory() as directory,
                loaded(compile_object(Path(directory), name, clang)) as programs,
            ):
                for program, path in programs.items():
                    by_clang = found.setdefault((name, program), {})
                    by_clang[version(clang)] = pinned_info(path)
    return found
