# SPDX-License-Identifier: Apache-2.0
"""Clients that have to be compiled first, once in a test run.

`python -m kernel.harness.compiled` leaves all of them in HOSTREACH_CLIENTS, for test runs that find
them there: an emulated machine would be at it for minutes. CC and GOARCH choose another machine.
"""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from .box import environment

SOURCES = Path(__file__).parent.parent / "clients"
LIBRARIES = ("clock.c", "failing.c", "threadless.c")  # without a main()


def need(program: str) -> str:
    found = shutil.which(program, path=environment()["PATH"])
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


@cache
def _directory() -> Path:
    if kept := os.environ.get("HOSTREACH_CLIENTS"):
        return Path(kept)
    made, owner = tempfile.mkdtemp(prefix="hostreach-clients-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not a forked child
            shutil.rmtree(made, ignore_errors=True)

    atexit.register(remove)
    return Path(made)


def _compiler() -> list[str]:
    program, *options = shlex.split(os.environ.get("CC", "gcc"))
    return [need(program), *options, "-O2", "-Wall", "-Wextra", "-Werror"]


@cache
def c_program(source: str) -> str:
    """clients/SOURCE by the C compiler; returns the program's path."""
    program = _directory() / Path(source).stem
    if program.exists():
        return str(program)
    subprocess.run([*_compiler(), "-o", str(program), str(SOURCES / source)], check=True)
    return str(program)


@cache
def c_library(source: str) -> str:
    """clients/SOURCE by the C compiler, for LD_PRELOAD; returns the library's path."""
    library = _directory() / (Path(source).stem + ".so")
    if library.exists():
        return str(library)
    command = [*_compiler(), "-shared", "-fPIC", "-o", str(library), str(SOURCES / source)]
    subprocess.run(command, check=True)
    return str(library)


def preloading(source: str) -> str:
    """LD_PRELOAD with that library too, behind a sanitizer, which has to come first."""
    return f"{os.environ.get('LD_PRELOAD', '')} {c_library(source)}".strip()


@cache
def go_program(source: str) -> str:
    """clients/SOURCE by go, linked statically."""
    program = _directory() / (Path(source).stem + "-go")
    if program.exists():
        return str(program)
    settings = {"CGO_ENABLED": "0", "GO111MODULE": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local"}
    cache_directory = str(_directory() / "go-cache")
    subprocess.run(
        [need("go"), "build", "-o", str(program), str(SOURCES / source)],
        check=True,
        env={**environment(), **settings, "GOCACHE": cache_directory, "HOME": cache_directory},
    )
    return str(program)


def main() -> None:
    """Compiles all that there are."""
    for source in sorted(SOURCES.glob("*.c")):
        (c_library if source.name in LIBRARIES else c_program)(source.name)
    for source in sorted(SOURCES.glob("*.go")):
        go_program(source.name)


if __name__ == "__main__":
    main()
