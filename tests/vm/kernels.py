# SPDX-License-Identifier: Apache-2.0
"""The kernels: from Debian's archive into a cache, once, and nothing is installed."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from debian_archive import Archive, FetchError, run

_CLOUD = "linux-image-cloud-amd64"
_UML = "user-mode-linux"
_ARM64 = "linux-image-cloud-arm64"
SOURCES = {
    "5.10": ("bullseye", _CLOUD),
    "6.1": ("bookworm", _CLOUD),
    "6.12": ("trixie", _CLOUD),
    "sid": ("sid", _CLOUD),
    "uml": ("bookworm", _UML),  # without kernel BTF; a newer suite's needs a newer C library
    "arm64": ("bookworm", _ARM64),
}
"""Name -> Debian's suite and package. To renew one, remove it from the cache: sid moves on."""
COMMAND_LINES = {"6.12": "lockdown=confidentiality"}
"""What else a kernel is booted with: as some distributions do, so that programs read nothing of it
but what the verifier follows (kernel_lockdown(7))."""
BY_DEFAULT = tuple(name for name, (_, package) in SOURCES.items() if package != _ARM64)
"""Without that of another machine, which asks for a wheel of its own and for more programs."""


class Kernel(NamedTuple):
    """A kernel in the cache."""

    name: str
    version: str
    image: Path
    """What qemu boots, or a program."""
    modules: Path

    @property
    def is_uml(self) -> bool:
        return SOURCES[self.name][1] == _UML

    @property
    def is_arm64(self) -> bool:
        return SOURCES[self.name][1] == _ARM64

    def modules_by_name(self) -> dict[str, Path]:
        """Of those that are not built in; names as the kernel's own, which have no dash."""
        paths = self.modules.rglob("*.ko*")
        return {path.name.partition(".")[0].replace("-", "_"): path for path in paths}


def cache() -> Path:
    """HOSTREACH_KERNELS, or hostreach-kernels where the user's caches are."""
    if own := os.environ.get("HOSTREACH_KERNELS"):
        return Path(own).absolute()
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "hostreach-kernels").absolute()


def get(name: str) -> Kernel:
    """The kernel called name in SOURCES; fetched if it is not there. Raises FetchError."""
    place = cache() / name
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that the rename is on one file system: it is there whole, or not.
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=place.parent) as scratch:
            _fetch(name, Path(scratch)).rename(place)
    version = (place / "version").read_text()
    return Kernel(name, version, place / "image", place / "modules")


def _fetch(name: str, scratch: Path) -> Path:
    """Makes a directory of image, modules and version below scratch."""
    suite, package = SOURCES[name]
    archive = Archive(suite, scratch, architecture="arm64" if package == _ARM64 else "")
    archive.get("download", *_parts(archive, package))
    unpacked, made = scratch / "unpacked", scratch / "made"
    for file in scratch.glob("*.deb"):
        run(["dpkg-deb", "--extract", str(file), str(unpacked)])
    made.mkdir()
    (modules,) = (
        each
        for parent in ("lib/modules", "usr/lib/modules", "usr/lib/uml/modules")
        for each in (unpacked / parent).glob("*")
    )
    (made / "version").write_text(modules.name)
    if package == _UML:
        (unpacked / "usr/bin/linux.uml").rename(made / "image")
    else:
        boot = unpacked / f"boot/vmlinuz-{modules.name}"
        zipped = boot if boot.exists() else modules / "vmlinuz"
        unpack = _arm64_image if package == _ARM64 else _elf
        (made / "image").write_bytes(unpack(zipped.read_bytes()))
    modules.rename(made / "modules")
    return made


def _parts(archive: Archive, package: str) -> list[str]:
    """The package and those that it is made of: Debian has split kernels since 6.18 or so."""
    parts = [package]
    for part in parts:
        (depends,) = re.findall(r"^Depends: (.*)$", archive.show(part), re.MULTILINE) or [""]
        needed = re.findall(r"linux-(?:image|base|binary|modules)-\S*cloud\S*", depends)
        parts += [each for each in dict.fromkeys(needed) if each not in parts]
    return parts


def _arm64_image(image: bytes) -> bytes:
    """As it is: Debian 12's is not compressed (Documentation/arch/arm64/booting.rst)."""
    if image[56:60] != b"ARM\x64":
        raise FetchError("not a plain arm64 kernel image")
    return image


def _elf(image: bytes) -> bytes:
    """The kernel inside a bzImage (Documentation/arch/x86/boot.rst).

    qemu boots it by PVH; to unpack it under emulation would take longer than all else of a boot.
    """
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length]
    for magic, program in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\x02\x21\x4c\x18", "lz4")):
        if payload.startswith(magic) and shutil.which(program):
            # Behind the compressed data lies its size, of which the programs complain.
            unpack = [program, "-dcq"]
            done = subprocess.run(unpack, input=payload, capture_output=True, check=False)
            if done.stdout.startswith(b"\x7fELF"):
                return done.stdout
    raise FetchError("a kernel image that neither lz4 nor zstd unpacks; are both installed?")
