# SPDX-License-Identifier: Apache-2.0
"""How long this machine's memory lets a program wait: what the other parts' figures stand on."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from .load import compiled
from .report import quartiles

SIZES = (16, 256, 1_024, 2_048, 4_096, 8_192, 16_384, 65_536)
"""Of KB."""


def measure(rounds: int, loads: int) -> list[dict[str, Any]]:
    """Rows: nanoseconds of a load that waits for the one before, at each size in each round."""
    library = compiled("memory.c")
    library.load_ns.restype = ctypes.c_double
    library.load_ns.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
    took: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(rounds):
        for size in SIZES:
            found: float = library.load_ns(size * 1024, loads)
            if found < 0:
                raise MemoryError(f"{size} KB")
            took[size].append(found)
    return [_row(size, took[size]) for size in SIZES]


def _row(size: int, took: Sequence[float]) -> dict[str, Any]:
    low, median, high = quartiles(took)
    return {
        "memory_kb": size,
        "load_ns": round(median, 1),
        "quartiles": f"{low:.1f} .. {high:.1f}",
    }
