# SPDX-License-Identifier: Apache-2.0
"""A network namespace without a way out, held by a descriptor so that nothing can stay behind."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading
from pathlib import Path

from . import linux
from .timing import wait_until

_SIOCSIFADDR = 0x8916
_SIOCSIFFLAGS = 0x8914
_SIOCSIFNETMASK = 0x891C
_IFF_UP = 1
_IFA_F_TENTATIVE = 0x40
_LO_INDEX = 1  # lo is the first device of every namespace

BACKENDS_V4 = "10.0.0."  # 10.0.0.0/24 is local; every other network is unreachable
BACKENDS_V6 = "fd00::"  # ::1 to ::28 in hexadecimal, one address each
_V6_ADDRESSES = 40


class NetNamespace:
    """lo with the backends' addresses and no other link, so no packet can leave.

    There is no default route either: a connect to a service address that nobody translated
    fails at once with ENETUNREACH.
    """

    def __init__(self) -> None:
        self._fd = -1
        failure: list[BaseException] = []

        def make() -> None:
            try:
                linux.unshare(linux.CLONE_NEWNET)
                self._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                _set_up()
            except BaseException as error:  # noqa: BLE001 - raised again below
                failure.append(error)

        # Only the thread that unshares moves, and it ends here.
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if failure:
            self.close()
            raise failure[0]

    def enter(self) -> None:
        linux.setns(self._fd, linux.CLONE_NEWNET)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _set_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:

        def lo_ioctl(request: int, name: bytes, value: bytes) -> None:
            fcntl.ioctl(control, request, struct.pack("16s24s", name, value))

        lo_ioctl(_SIOCSIFFLAGS, b"lo", struct.pack("H", _IFF_UP))
        # A network on lo is local as a whole, as 127.0.0.0/8 is.
        for request, address in (
            (_SIOCSIFADDR, BACKENDS_V4 + "1"),
            (_SIOCSIFNETMASK, "255.255.255.0"),
        ):
            lo_ioctl(request, b"lo:1", struct.pack("HH4s", 2, 0, socket.inet_aton(address)))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
        for number in range(1, _V6_ADDRESSES + 1):
            address6 = socket.inet_pton(socket.AF_INET6, f"{BACKENDS_V6}{number:x}")
            fcntl.ioctl(control, _SIOCSIFADDR, struct.pack("=16sIi", address6, 128, _LO_INDEX))
    # A kernel thread lets them be used, a moment later.
    wait_until(lambda: not _are_tentative(), "IPv6 addresses in use")
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
    Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("1027")  # both ends, no cookie needed


def _are_tentative() -> bool:
    lines = Path("/proc/thread-self/net/if_inet6").read_text().splitlines()
    return any(int(line.split()[4], 16) & _IFA_F_TENTATIVE for line in lines)


def packets_sent_out() -> dict[str, int]:
    """Devices of the caller's namespace, other than lo, that sent something."""
    sent = {}
    for line in Path("/proc/self/net/dev").read_text().splitlines()[2:]:
        device, _, figures = line.partition(":")
        if device.strip() != "lo" and (count := int(figures.split()[9])):
            sent[device.strip()] = count
    return sent
