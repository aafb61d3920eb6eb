# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of a loaded program: how long it ran, how often, and how large it is."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import NamedTuple

from .rawbpf import bpf, pinned

_PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 13, 15
_INFO_SIZE = 232  # struct bpf_prog_info


class Info(NamedTuple):
    """The part of struct bpf_prog_info that counts here."""

    run_time_ns: int
    run_count: int
    instructions: int
    jited_bytes: int
    verified_instructions: int  # 0 before Linux 5.16


class Program:
    """A loaded program, by its id."""

    def __init__(self, number: int) -> None:
        self._fd = bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))

    def info(self) -> Info:
        """As of now."""
        return _info(self._fd)


def pinned_info(path: Path) -> Info:
    fd = pinned(path)
    try:
        return _info(fd)
    finally:
        os.close(fd)


def _info(fd: int) -> Info:
    info = ctypes.create_string_buffer(_INFO_SIZE)
    bpf(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, _INFO_SIZE, ctypes.addressof(info)))
    jited_bytes, translated_bytes = struct.unpack_from("=II", info, 16)
    run_time, run_count = struct.unpack_from("=QQ", info, 192)
    (verified,) = struct.unpack_from("=I", info, 216)
    return Info(run_time, run_count, translated_bytes // 8, jited_bytes, verified)
