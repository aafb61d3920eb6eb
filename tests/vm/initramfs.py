# SPDX-License-Identifier: Apache-2.0
"""The guest's first file system: busybox, the modules that it needs, and what it is to run."""

from __future__ import annotations

import lzma
import re
import shlex
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .kernels import Kernel

INIT = Path(__file__).parent / "init.sh"

# For the guest's root, and for the tests, as nothing loads a module in the guest by itself.
MODULES = (
    *("virtio_pci", "virtiofs", "overlay", "ipv6", "veth"),
    *("tcp_diag", "udp_diag", "l2tp_netlink"),
)


class Job(NamedTuple):
    """What a guest is to run, and for how long at most."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path
    timeout: float


def build(kernel: Kernel, busybox: Path, job: Job) -> bytes:
    """An initramfs that runs the job in its root, says "vm: exit STATUS" and powers off.

    busybox has to be linked statically.
    """
    archive = _Cpio()
    for name in ("bin", "proc", "sys", "dev", "lower", "upper", "root", "modules"):
        archive.add(name, stat.S_IFDIR | 0o755)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    archive.add("init", stat.S_IFREG | 0o755, INIT.read_bytes())
    for number, (name, module) in enumerate(_modules(kernel).items()):
        archive.add(f"modules/{number:02}-{name}", stat.S_IFREG | 0o644, module)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in job.environment.items()]
    lines += [f"cd {shlex.quote(str(job.cwd))}", shlex.join(job.argv), 'echo "vm: exit $?"']
    lines += ["busybox poweroff -f", ""]
    archive.add("command", stat.S_IFREG | 0o644, "\n".join(lines).encode())
    return archive.finished()


def _modules(kernel: Kernel) -> dict[str, bytes]:
    """MODULES and what they depend on, each after what it needs; without what is built in."""
    paths = kernel.modules_by_name()
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in found or name not in paths:
            return
        module = paths[name].read_bytes()
        if paths[name].suffix == ".xz":
            module = lzma.decompress(module)
        depends = re.search(rb"\0depends=([^\0]*)\0", module)
        for each in depends[1].decode().split(",") if depends else ():
            add(each.replace("-", "_"))
        found[name] = module

    for name in MODULES:
        add(name)
    return found


class _Cpio:
    """An archive in the form that the kernel unpacks (Documentation/driver-api/early-userspace)."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._files = 0

    def add(
        self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._files += 1
        path = name.encode() + b"\0"
        fields = (self._files, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        self._append(b"070701" + b"".join(b"%08X" % field for field in fields) + path)
        self._append(data)

    def _append(self, data: bytes) -> None:
        self._bytes += data + b"\0" * (-len(data) % 4)

    def finished(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return bytes(self._bytes)
