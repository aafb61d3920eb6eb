# SPDX-License-Identifier: Apache-2.0
"""What the kernel knows of a BPF program: how long it ran, how often, and how large it is."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kernel.harness.rawbpf import ATTACH_TYPES

_SYS_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
_PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD, _PROG_QUERY, _ENABLE_STATS = 13, 15, 16, 32
_STATS_RUN_TIME = 0
_INFO_SIZE = 232  # struct bpf_prog_info

_libc = ctypes.CDLL(None, use_errno=True)


class Info(NamedTuple):
    """The part of struct bpf_prog_info that counts here."""

    run_time_ns: int
    run_count: int
    instructions: int
    jited_bytes: int
    verified_instructions: int


class Program:
    """A loaded program, by its id."""

    def __init__(self, number: int) -> None:
        self._fd = _bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))

    def info(self) -> Info:
        """As of now."""
        info = ctypes.create_string_buffer(_INFO_SIZE)
        _bpf(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", self._fd, _INFO_SIZE, _address(info)))
        jited_bytes, translated_bytes = struct.unpack_from("=II", info, 16)
        run_time, run_count = struct.unpack_from("=QQ", info, 192)
        (verified,) = struct.unpack_from("=I", info, 216)
        return Info(run_time, run_count, translated_bytes // 8, jited_bytes, verified)


def attached(cgroup: Path, hook: str) -> Program:
    """The only program on a cgroup's hook."""
    number = ctypes.create_string_buffer(4)
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _bpf(
            _PROG_QUERY,
            struct.pack("=IIIIQI", directory, ATTACH_TYPES[hook], 0, 0, _address(number), 1),
        )
    finally:
        os.close(directory)
    return Program(struct.unpack("=I", number)[0])


@contextmanager
def statistics() -> Iterator[None]:
    """Let the kernel count; it stops when the descriptor is closed, however this process ends."""
    fd = _bpf(_ENABLE_STATS, struct.pack("=I", _STATS_RUN_TIME))
    try:
        yield
    finally:
        os.close(fd)


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes.ljust(120, b"\0"), 120)
    result: int = _libc.syscall(_SYS_BPF, command, buffer, len(buffer))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf({command}): {os.strerror(code)}")
    return result
