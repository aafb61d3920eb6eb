# SPDX-License-Identifier: Apache-2.0
"""What came of the guests, by what pytest said in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from .guest import Guest

_COUNTS = re.compile(r"^=* ?((?:\d+ \w+,? ?)+) in [\d.]+s", re.MULTILINE)


class Result(NamedTuple):
    """One line of the table."""

    kernel: str
    version: str = ""
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0
    problem: str = ""
    """Why this kernel's run is no good, other than by tests that failed."""


def result(guest: Guest, expected: int) -> Result:
    """Of a guest that is done; expected tests were selected, each of which should be told of."""
    said = guest.said()
    ends = _COUNTS.findall(said)
    counts = {word: int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", ends[-1] if ends else "")}
    failed = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)
    passed, skipped = counts.get("passed", 0), counts.get("skipped", 0)
    problem = ""
    if guest.status() is None:
        reasons = re.findall(r"^vm: (.*)", said, re.MULTILINE)
        problem = reasons[-1] if reasons else "ended before the tests did"
    elif guest.status() != 0 and not failed:
        problem = f"pytest ended with status {guest.status()}"
    elif passed + skipped + failed < expected:
        problem = f"{expected} tests were selected"
    seconds = guest.seconds()
    return Result(
        guest.kernel.name, guest.kernel.version, passed, failed, skipped, seconds, problem
    )


def failures(guest: Guest) -> list[str]:
    """Pytest's line for each."""
    return re.findall(r"^(?:FAILED|ERROR) .*", guest.said(), re.MULTILINE)


def table(results: Sequence[Result]) -> list[str]:
    """Lines for people."""
    rows = [("kernel", "version", "passed", "failed", "skipped", "seconds", "")]
    rows += [
        (*r[:2], str(r.passed), str(r.failed), str(r.skipped), f"{r.seconds:.0f}", r.problem)
        for r in results
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = "<<>>>><"
    return [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, aligned, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
