# SPDX-License-Identifier: Apache-2.0
"""The BPF objects, compiled here by whichever clang, and loaded beside hostreach's own."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .box import BPFFS, PREFIX, environment
from .bpf import BPFTOOL
from .timing import scaled

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "bpf"
NAMES = ("hostreach", "legacy", "sockets")
_numbers = itertools.count(1)


def clangs() -> list[str]:
    """Every clang on the path, by name, each version once, from the oldest to the newest."""
    found: dict[int, str] = {}
    for directory in environment()["PATH"].split(":"):
        for path in sorted(Path(directory).glob("clang*")):
            if re.fullmatch(r"clang(-\d+)?", path.name):
                found.setdefault(version(str(path)), path.name)
    return [found[number] for number in sorted(found)]


def version(clang: str) -> int:
    said = subprocess.run([clang, "-dumpversion"], check=True, capture_output=True, text=True)
    return int(said.stdout.partition(".")[0])


def _headers() -> Path:
    """libbpf's, as the build left them."""
    for folder in sorted(ROOT.glob("build/*/third_party/include")):
        if (folder / "bpf" / "bpf_helpers.h").exists():
            return folder
    raise FileNotFoundError("libbpf's headers are not here: scripts/develop brings them")


def compile_object(
    directory: Path, name: str, clang: str, cpu: str = "v2", sources: Path = SOURCES
) -> Path:
    """bpf/NAME.bpf.c, with the build's own flags (cmake/bpf.cmake) but for the instruction set."""
    compiled, linked = directory / f"{name}.o", directory / f"{name}.bpf.o"
    flags = ["-target", "bpf", "-O2", "-g", f"-mcpu={cpu}", "-std=gnu11", "-Wall", "-Werror"]
    flags += [f"-I{sources}", "-isystem", str(_headers())]
    flags += ["-idirafter", f"/usr/include/{os.uname().machine}-linux-gnu"]
    source = str(sources / f"{name}.bpf.c")
    subprocess.run([clang, *flags, "-c", source, "-o", str(compiled)], check=True)
    subprocess.run([BPFTOOL, "gen", "object", str(linked), str(compiled)], check=True)
    return linked


@contextmanager
def loaded(file: Path, tables: Path | None = None) -> Iterator[dict[str, Path]]:
    """All programs of an object, by name, pinned meanwhile: on those tables, or on its own.

    Raises AssertionError with what the verifier said.
    """
    place = BPFFS / f"{PREFIX}{os.getpid()}-object{next(_numbers)}"
    shared: list[str] = []
    for table in sorted(tables.iterdir()) if tables else ():
        if table.is_file():
            shared += ["map", "name", table.name[:15], "pinned", str(table)]
    try:
        done = subprocess.run(
            [BPFTOOL, "prog", "loadall", str(file), str(place), *shared],
            check=False,
            capture_output=True,
            text=True,
            timeout=scaled(60),
        )
        assert done.returncode == 0, done.stderr[-4000:]
        yield {path.name: path for path in sorted(place.iterdir())}
    finally:
        shutil.rmtree(place, ignore_errors=True)
