# SPDX-License-Identifier: Apache-2.0
"""What an arm64 guest has in place of the host's: a userland, and Python with the wheel.

Nothing of it runs here. The userland are Debian's packages, unpacked and not set up; the wheel is
that of scripts/release-wheel.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from debian_archive import Archive, FetchError, run

from .kernels import SOURCES, cache

ROOT = Path(__file__).resolve().parent.parent.parent
MACHINE, DEBIAN = "aarch64", "arm64"
PYTHON = (3, 11)  # of its suite
SOURCE_FOLDERS = ("bpf", "cpp", "python")
_PACKAGES = (
    *("?essential", "bpftool", "busybox-static", "python3"),
    *("iproute2", "procps", "bind9-dnsutils", "curl", "dnsmasq-base", "nginx-light"),
    *("redis-server", "redis-tools"),
)
_PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")


def userland() -> Path:
    """The root of its file system; fetched if it is not there. Raises FetchError."""
    place = cache() / f"userland-{DEBIAN}"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as scratch:
            _fetch(Path(scratch)).rename(place)
    return place


def _fetch(scratch: Path) -> Path:
    suite, _ = SOURCES["arm64"]
    archive = Archive(suite, scratch, architecture=DEBIAN)
    archive.get("install", "--yes", "--download-only", "--no-install-recommends", *_PACKAGES)
    made = scratch / "made"
    for name in ("bin", "sbin", "lib"):
        made.joinpath("usr", name).mkdir(parents=True)
        made.joinpath(name).symlink_to(f"usr/{name}")
    # dpkg-deb by itself would put a directory in place of such a link
    unpack = 'dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink'
    for package in sorted(scratch.glob("cache/archives/*.deb")):
        run(["bash", "-o", "pipefail", "-c", unpack, "unpack", str(package)], cwd=made)
    # What the packages' scripts would have made.
    for name in ("passwd", "group"):
        shutil.copy(made / f"usr/share/base-passwd/{name}.master", made / "etc" / name)
    shutil.copy(made / "usr/share/libc-bin/nsswitch.conf", made / "etc")
    for name in ("hosts", "resolv.conf"):  # for tests to mount theirs at
        made.joinpath("etc", name).touch()
    return made


def compilers() -> dict[str, str]:
    """Settings by which the tests' clients are compiled for it; raises FetchError."""
    gcc = f"{MACHINE}-linux-gnu-gcc"
    if shutil.which(gcc) is None:
        raise FetchError(
            f"no {gcc} here: apt-get install gcc-{MACHINE}-linux-gnu libc6-dev-arm64-cross"
        )
    return {"CC": gcc, "GOARCH": DEBIAN}


def python(directory: Path) -> Path:
    """An environment made in directory, with the wheel and what tests need; raises FetchError."""
    if sys.version_info[:2] != PYTHON or sys.base_prefix != "/usr":
        raise FetchError("make .venv with Python {}.{} of Debian's".format(*PYTHON))
    wheel = _wheel()
    shutil.rmtree(directory, ignore_errors=True)
    # Its bin/python3 is a link there: here to this machine's, in the guest to its own.
    run(["/usr/bin/python3", "-m", "venv", "--without-pip", str(directory)])
    interpreter = directory / "bin/python3"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(directory)}))
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(interpreter), "install"]
    pip += ["--only-binary=:all:", "--target", str(packages), "--group", "test", str(wheel)]
    for platform in _PLATFORMS:
        pip += ["--platform", f"{platform}_{MACHINE}"]
    run(pip, cwd=ROOT)
    for script in (packages / "bin").iterdir():
        script.replace(directory / "bin" / script.name)
    return interpreter


def _wheel() -> Path:
    """The newest there is, if none of its sources is newer."""
    build = f"HOSTREACH_ARCH={MACHINE} bash scripts/release-wheel"
    tag = "cp{}{}".format(*PYTHON)
    wheels = ROOT.glob(f"dist/release/hostreach-*-{tag}-{tag}-*_{MACHINE}.whl")
    by_age = sorted(wheels, key=lambda wheel: wheel.stat().st_mtime)
    if not by_age:
        raise FetchError(f"no wheel: {build}")
    made = by_age[-1].stat().st_mtime
    sources = [each for name in SOURCE_FOLDERS for each in (ROOT / name).rglob("*.*")]
    if any(each.stat().st_mtime > made for each in sources if each.suffix != ".pyc"):
        raise FetchError(f"{by_age[-1].name} is older than the sources: {build}")
    return by_age[-1]
