# SPDX-License-Identifier: Apache-2.0
"""The installed `hostreach`, as its users run it."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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
) -> Said:
    """`hostreach ARGUMENTS --pin PIN`; prepare() runs in its process before it."""
    command = [SCRIPT, *arguments, *(["--pin", str(pin)] if pin else [])]
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
