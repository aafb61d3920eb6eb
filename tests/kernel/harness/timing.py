# SPDX-License-Identifier: Apache-2.0
"""Every wait in these tests goes through one scale: emulated machines are 15 times slower."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

SCALE = float(os.environ.get("HOSTREACH_TIMEOUT_SCALE", "1"))


def scaled(seconds: float) -> float:
    return seconds * SCALE


def lag() -> float:
    """Seconds that this machine takes just now to start Python: 0.02 where it is idle."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-Sc", ""], check=True)
    return time.monotonic() - began


def wait_until(holds: Callable[[], object], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + scaled(seconds)
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {scaled(seconds):g} s: {what}")
        time.sleep(0.002)
