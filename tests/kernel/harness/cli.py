# SPDX-License-Identifier: Apache-2.0
"""The installed `hostreach`, as its users run it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sysconfig
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from . import forked
from .timing import scaled

SCRIPT = str(Path(sysconfig.get_path("scripts"), "hostreach"))


class Said(NamedTuple):
    """What a run came to."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


def run(
    pin: Path | None,
    *arguments: str,
    stdin: str = "",
    prepare: Callable[[], None] | None = None,
    fresh: bool = False,
) -> Said:
    """`hostreach ARGUMENTS --pin PIN`; prepare() runs in its process before it.

    What prepare() does may count from the next execve(2) only: then fresh says no to a fork.
    """
    command = [SCRIPT, *arguments, *(["--pin", str(pin)] if pin else [])]
    if forked.FORKS and not fresh:
        said = Said(*forked.run(command, stdin, prepare, scaled(30)))
        assert "Traceback" not in said.stderr, said.stderr
        return said
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=scaled(30),
        preexec_fn=prepare,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Said(done.returncode, done.stdout, done.stderr)


def one_line(said: Said, status: int, *parts: str) -> None:
    """A refusal: its status, and one line on stderr that names what it is about."""
    assert said.status == status, said
    assert not said.stdout, said
    assert said.stderr.startswith("hostreach: "), said
    assert said.stderr.count("\n") == 1, said
    for part in parts:
        assert part in said.stderr, said


def as_nobody(pin: Path, *arguments: str) -> Said:
    """In this process, a fork: nobody may not even read the interpreter where root installed it."""
    from hostreach.cli import main  # the harness's own tests run without the compiled module

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        # Loads the modules.
        for command in ("export", "attach --cgroup /nowhere", "svc add 10.0.0.1:1/tcp"):
            main([*command.split(), "--pin", "/nowhere"])
        for stream in (out, err):
            stream.truncate(0)
            stream.seek(0)
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        status = main([*arguments, "--pin", str(pin)])
    return Said(status, out.getvalue(), err.getvalue())
