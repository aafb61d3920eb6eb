# SPDX-License-Identifier: Apache-2.0
"""`python counted.py FILE hostreach ARGUMENTS`: the command, whose memory blocks FILE counts.

Resident memory grows for a long time by what the interpreter's arenas, of 1 MB, are not yet touched
of; how many blocks are in use does not, but for cycles: of these the collector lets a quarter of
all objects come together before it looks. So it is made to look before each count.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from pathlib import Path

EVERY = 0.5
"""Seconds."""


def write_on(file: Path) -> None:
    new = file.with_suffix(".new")
    while True:
        gc.collect()
        new.write_text(f"{sys.getallocatedblocks()}\n")
        new.rename(file)
        time.sleep(EVERY)


def fewest(file: Path, seconds: float) -> int:
    """In that time, for there are always some more that are about to be freed."""
    counts, end = [int(file.read_text())], time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(EVERY)
        counts.append(int(file.read_text()))
    return min(counts)


def main() -> int:
    """Runs it."""
    threading.Thread(target=write_on, args=(Path(sys.argv[1]),), daemon=True).start()
    from hostreach.cli import main as run

    return run(sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
