# SPDX-License-Identifier: Apache-2.0
"""The installed `hostreach`, as its users run it."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from collections.abc import Callable
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
