# SPDX-License-Identifier: Apache-2.0
"""Plain bpf(2): somebody else's programs, and what is on a cgroup's hooks."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

SYS_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
_PROG_LOAD, _OBJ_GET, _PROG_ATTACH, _PROG_QUERY, _LINK_UPDATE, _LINK_DETACH = 5, 7, 8, 16, 29, 34
_PROG_TYPE_CGROUP_SOCK, _PROG_TYPE_CGROUP_SOCK_ADDR = 9, 18
ALLOW_MULTI = 2

ATTACH_TYPES = {
    "connect4": 10,
    "connect6": 11,
    "sendmsg4": 14,
    "sendmsg6": 15,
    "recvmsg4": 19,
    "recvmsg6": 20,
    "getpeername4": 29,
    "getpeername6": 30,
}

OTHER_HOOKS = {"post_bind4": 12, "post_bind6": 13, "sock_release": 34}
"""Those of sockets, which take programs of another kind."""
HOOKS = ATTACH_TYPES | OTHER_HOOKS

_libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2); raises OSError."""
    return _call(command, ctypes.create_string_buffer(attributes.ljust(120, b"\0"), 120))


def _call(command: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    result: int = _libc.syscall(SYS_BPF, command, buffer, len(buffer))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _instruction(code: int, registers: int, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", code, registers, offset, immediate)


_PASS = _instruction(0xB7, 0, immediate=1) + _instruction(0x95, 0)  # r0 = 1; exit
_USER_IP4, _USER_PORT = 4, 24  # in struct bpf_sock_addr


class Rewrite(NamedTuple):
    """What a program makes of calls that name this IPv4 address."""

    asked: str
    given: tuple[str, int]


def _rewriting(rewrite: Rewrite) -> bytes:
    asked, given = (
        struct.unpack("=i", socket.inet_aton(host))[0] for host in (rewrite.asked, rewrite.given[0])
    )
    return b"".join(
        (
            _instruction(0x61, 0x12, _USER_IP4),  # r2 = *(u32 *)(r1 + user_ip4)
            _instruction(0x55, 0x02, 4, asked),  # if r2 != asked: past the stores
            _instruction(0xB7, 0x02, immediate=given),
            _instruction(0x63, 0x21, _USER_IP4),  # *(u32 *)(r1 + user_ip4) = r2
            _instruction(0xB7, 0x02, immediate=socket.htons(rewrite.given[1])),
            _instruction(0x63, 0x21, _USER_PORT),
        )
    )


def _load(attach_type: str, rewrite: Rewrite | None = None) -> int:
    """A program that lets every call pass, as it is but for that; returns its descriptor."""
    instructions = (_rewriting(rewrite) if rewrite else b"") + _PASS
    code = ctypes.create_string_buffer(instructions)
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        _PROG_TYPE_CGROUP_SOCK if attach_type in OTHER_HOOKS else _PROG_TYPE_CGROUP_SOCK_ADDR,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        0,  # log level, size and buffer
        0,
        0,
        0,  # kernel version
        0,  # flags
        b"somebody_else",
        0,  # interface
        HOOKS[attach_type],
    )
    return bpf(_PROG_LOAD, attributes)


def attach(
    cgroup: Path, attach_type: str, flags: int = ALLOW_MULTI, rewrite: Rewrite | None = None
) -> None:
    """Attaches such a program the old way, without a link: it stays until the cgroup goes."""
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    with _closing(directory), _closing(_load(attach_type, rewrite)) as program:
        number = HOOKS[attach_type]
        bpf(_PROG_ATTACH, struct.pack("=IIII", directory, program, number, flags))


def attached(cgroup: int, hook: str) -> list[int]:
    """Ids of the programs on a hook of the cgroup whose directory is open there."""
    ids = (ctypes.c_uint32 * 8)()
    query = ctypes.create_string_buffer(
        struct.pack("=IIIIQI", cgroup, HOOKS[hook], 0, 0, ctypes.addressof(ids), len(ids)), 64
    )
    _call(_PROG_QUERY, query)
    (count,) = struct.unpack_from("=I", query, 24)
    return list(ids[:count])


def query(cgroup: Path, number: int) -> list[int]:
    """Ids of the programs attached to the cgroup itself; none where there is no such hook."""
    room = (ctypes.c_uint32 * 64)()
    # No more than the first kernels had: what is new must be 0, or left out.
    attributes = ctypes.create_string_buffer(28)
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    with _closing(directory):
        struct.pack_into(
            "=IIIIQI", attributes, 0, directory, number, 0, 0, ctypes.addressof(room), 64
        )
        if _libc.syscall(SYS_BPF, _PROG_QUERY, attributes, len(attributes)) < 0:
            if (code := ctypes.get_errno()) == errno.EINVAL:
                return []
            raise OSError(code, os.strerror(code))
    (count,) = struct.unpack_from("=I", attributes, 24)
    return list(room[:count])


def replace(path: Path, attach_type: str) -> bool:
    """Puts such a program behind the link pinned at path; False if there is no such link."""
    with _closing(pinned(path)) as link, _closing(_load(attach_type)) as program:
        try:
            bpf(_LINK_UPDATE, struct.pack("=IIII", link, program, 0, 0))
        except OSError:
            return False
    return True


def replace_by(path: Path, program: Path) -> None:
    """Puts the program that is pinned there behind the link pinned at path."""
    with _closing(pinned(path)) as link, _closing(pinned(program)) as fd:
        bpf(_LINK_UPDATE, struct.pack("=IIII", link, fd, 0, 0))


def detach(path: Path) -> None:
    """Takes the link pinned at path off its cgroup; the pin stays."""
    with _closing(pinned(path)) as link:
        bpf(_LINK_DETACH, struct.pack("=I", link))


def pinned(path: Path) -> int:
    """A descriptor of the map, program or link pinned there."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return bpf(_OBJ_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))


@contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)
