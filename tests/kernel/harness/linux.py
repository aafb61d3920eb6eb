# SPDX-License-Identifier: Apache-2.0
"""The few Linux calls that Python 3.10 lacks, and the constants that socket lacks."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_RDONLY = 1
MS_REMOUNT = 32
MNT_DETACH = 2

# Missing from the socket module of some or all supported Python versions.
IPPROTO_UDPLITE = 136
IPPROTO_MPTCP = 262
MSG_FASTOPEN = 0x20000000
TCP_FASTOPEN = 23
TCP_FASTOPEN_CONNECT = 30

_SO_NETNS_COOKIE = 71
_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    result = _libc.mount(
        source.encode(),
        target.encode(),
        fstype.encode() or None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    _check(result, f"mount {target}")


def umount(target: str, flags: int = 0) -> None:
    _check(_libc.umount2(target.encode(), flags), f"umount {target}")


def private_mounts() -> None:
    """Gives the calling process a mount namespace whose changes nobody else sees."""
    unshare(CLONE_NEWNS)
    mount("none", "/", flags=MS_REC | MS_PRIVATE)


def die_with_parent() -> None:
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)), "prctl")


def drop_capability(number: int) -> None:
    """From the bounding set: gone at the next execve, for root too."""
    _check(_libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number)), "prctl")


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("header", _Msghdr), ("length", ctypes.c_uint))


def sendmmsg(fd: int, messages: list[tuple[bytes, bytes | None]]) -> int:
    """Sends (payload, raw sockaddr or None) pairs by one sendmmsg(2); returns its count."""
    vector = (_Mmsghdr * len(messages))()
    for entry, (payload, address) in zip(vector, messages, strict=True):
        entry.header.iov = ctypes.pointer(_Iovec(payload, len(payload)))
        entry.header.iovlen = 1
        if address is not None:
            entry.header.name = address
            entry.header.namelen = len(address)
    return _check(_libc.sendmmsg(fd, vector, len(messages), 0), "sendmmsg")


def connect_raw(fd: int, address: bytes) -> None:
    """connect(2) with any sockaddr: AF_UNSPEC, or AF_INET on an IPv6 socket."""
    _check(_libc.connect(fd, address, len(address)), "connect")


def sendto_raw(fd: int, payload: bytes, address: bytes) -> int:
    sent = _libc.sendto(fd, payload, ctypes.c_size_t(len(payload)), 0, address, len(address))
    return _check(sent, "sendto")


def netns_cookie() -> int:
    """Of the network namespace that the caller is in; raises OSError before Linux 5.14."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        raw = any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    return int.from_bytes(raw, sys.byteorder)
