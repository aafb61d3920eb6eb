# SPDX-License-Identifier: Apache-2.0
"""A file system that answers until it does not: any user may mount one, and whoever looks waits."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

from . import linux

_LOOKUP, _FORGET, _GETATTR, _INIT, _BATCH_FORGET = 1, 2, 3, 26, 42
_ENOSYS = -38
_ROOT = 1


def _attributes(node: int) -> bytes:
    mode = 0o40755 if node == _ROOT else 0o100644
    return struct.pack("=6Q10I", node, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 512, 0)


class StuckFiles:
    """Mounted at a directory, where each name is an empty file. The caller's mounts are private."""

    def __init__(self, where: Path) -> None:
        self._device = os.open("/dev/fuse", os.O_RDWR)
        data = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other"
        linux.mount("fuse", str(where), "fuse", data=data)
        self._stuck = False
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self) -> None:
        """From now on nobody is answered, nor told that he will not be."""
        self._stuck = True

    def _serve(self) -> None:
        while True:
            asked = os.read(self._device, 1 << 17)
            _, opcode, unique, node = struct.unpack_from("=IIQQ", asked)
            if self._stuck or opcode in (_FORGET, _BATCH_FORGET):
                continue
            answer = self._answer(opcode, node)
            error, body = (_ENOSYS, b"") if answer is None else (0, answer)
            os.write(self._device, struct.pack("=IiQ", 16 + len(body), error, unique) + body)

    def _answer(self, opcode: int, node: int) -> bytes | None:
        if opcode == _INIT:
            return struct.pack("=4I2H2I2H8I", 7, 31, 0, 0, 8, 8, 4096, 1, 1, 0, *(0,) * 8)
        if opcode == _LOOKUP:  # valid for no time at all
            return struct.pack("=4Q2I", 2, 0, 0, 0, 0, 0) + _attributes(2)
        if opcode == _GETATTR:
            return struct.pack("=Q2I", 0, 0, 0) + _attributes(node)
        return None
