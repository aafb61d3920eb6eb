# SPDX-License-Identifier: Apache-2.0
"""Figures as tables for people and as plain values for JSON."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kernel.harness.rawprog import Info

import hostreach

from .hooks import EMPTY, NO_SERVICE, SERVICE, Cost
from .latency import Latency

PERCENTILES = (50, 90, 99)


def environment() -> dict[str, Any]:
    """What a figure is worth depends on where it was measured."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("model name", "CPU part"))
    ]
    return {
        "hostreach": hostreach.__version__,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": models[0] if models else "unknown",
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def show_environment(where: dict[str, Any]) -> None:
    """The first line of what is printed."""
    print(
        f"hostreach {where['hostreach']}, Python {where['python']}, Linux {where['kernel']}, "
        f"{where['cpus']} x {where['cpu']}, load {where['load']}"
    )


def check_places(
    parser: argparse.ArgumentParser, file: str | None, directory: str | None = None
) -> None:
    """Whether what is measured can be written: better now than after minutes."""
    try:
        if file:
            with Path(file).open("a"):
                pass
        if directory:
            Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"{error.filename}: cannot be written: {error.strerror}")


def hook_rows(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    """Net of the empty program, round by round, so that what slows a whole round cancels out."""
    rounds = {(c.hook, c.call, c.contestant): c.rounds for c in costs}
    rows = []
    for hook, call in dict.fromkeys((c.hook, c.call) for c in costs):
        empty = rounds[hook, call, EMPTY.text]
        own = statistics.median(empty)
        row: dict[str, Any] = {"hook": hook, "call": call, "empty_ns": round(own)}
        for contestant in (SERVICE, NO_SERVICE):
            took = rounds[hook, call, contestant.text]
            low, median, high = quartiles([a - b for a, b in zip(took, empty, strict=True)])
            row[contestant.text] = {
                "net_ns": round(median),
                "quartiles_ns": [round(low), round(high)],
                # 0 where the kernel's clock for programs is that coarse: User-Mode Linux's
                "times_empty": round(median / own, 1) if own else 0.0,
            }
        rows.append(row)
    return rows


def latency_rows(latencies: Sequence[Latency]) -> list[dict[str, Any]]:
    """Percentiles, and as multiples of the same without hostreach."""
    rows = []
    without: dict[str, list[float]] = {}
    for latency in latencies:
        cuts = percentiles(latency.took)
        base = without.setdefault(latency.protocol, cuts)
        row: dict[str, Any] = {
            "protocol": latency.protocol,
            "way": latency.way,
            "connections": len(latency.took),
        }
        row |= {f"p{p}_us": round(cut, 2) for p, cut in zip(PERCENTILES, cuts, strict=True)}
        for p, cut, own in zip(PERCENTILES, cuts, base, strict=True):
            row[f"p{p}_x"] = round(cut / own, 2)
        rows.append(row)
    return rows


def percentiles(took: Sequence[int]) -> list[float]:
    """The percentiles of nanoseconds, in microseconds."""
    ordered = sorted(took)
    return [ordered[len(ordered) * p // 100] / 1000 for p in PERCENTILES]


def program_rows(programs: dict[tuple[str, str], dict[int, Info]]) -> list[dict[str, Any]]:
    """Sizes: of the translated program in instructions, of its machine code in bytes."""
    rows = []
    for (name, program), by_clang in programs.items():
        row: dict[str, Any] = {"object": name, "program": program}
        for version, info in by_clang.items():
            row[f"clang_{version}_instructions"] = info.instructions
            row[f"jited_bytes_{version}"] = info.jited_bytes
            row[f"verified_{version}"] = info.verified_instructions
        rows.append(row)
    return rows


def ratio(values: Sequence[float]) -> dict[str, Any]:
    """A cell: the median of ratios, and their quartiles."""
    low, median, high = (round(value, 3) for value in quartiles(values))
    return {"x": median, "quartiles_x": [low, high]}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The first, the median and the third."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def spread(values: Iterable[float], digits: int = 1) -> str:
    """The median, and the least and the most of all."""
    ordered = sorted(values)
    middle = statistics.median(ordered)
    return f"{middle:,.{digits}f} ({ordered[0]:,.{digits}f} .. {ordered[-1]:,.{digits}f})"


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Prints one table; numbers to the right."""
    print(f"\n{title}\n")
    heads = [head.replace("_", " ") for head in rows[0]]
    cells = [[_text(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    words = [isinstance(value, str) for value in rows[0].values()]
    for line in [heads, *cells]:
        parts = [
            text.ljust(width) if word else text.rjust(width)
            for text, width, word in zip(line, widths, words, strict=True)
        ]
        print("  ".join(parts).rstrip())


def _text(value: object) -> str:
    if isinstance(value, dict) and "x" in value:
        low, high = value["quartiles_x"]
        return f"{value['x']:.3f} ({low:.3f} .. {high:.3f})"
    if isinstance(value, dict):
        low, high = value["quartiles_ns"]
        return f"{value['net_ns']:,} ({low:,} .. {high:,}) {value['times_empty']:5}x"
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)
