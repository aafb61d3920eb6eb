# SPDX-License-Identifier: Apache-2.0
"""What is said of sockets that were ended."""

from __future__ import annotations

import json

import pytest

from hostreach.cli.output import summary
from hostreach.ending import EndedSocket, EndResult

SOCKET = EndedSocket("udp", "10.96.0.10:53/udp", "10.0.0.2:53", "10.0.0.1:40000", 4026531840, 7)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (EndResult(), "ended no sockets"),
        (EndResult([SOCKET]), "ended 1 socket"),
        (EndResult([SOCKET, SOCKET], dry_run=True), "would end 2 sockets"),
        (
            EndResult(unreachable=1, left=3),
            "ended no sockets\n1 network namespace, with 3 of them, could not be entered",
        ),
        (
            EndResult(unreachable=2, left=2),
            "ended no sockets\n2 network namespaces, with 2 of them, could not be entered",
        ),
        (EndResult(problem="this kernel cannot"), "ended no sockets\nthis kernel cannot"),
    ],
)
def test_summary(result: EndResult, text: str) -> None:
    assert summary(result) == text


def test_json() -> None:
    shown = json.loads(json.dumps(EndResult([SOCKET], method="bpf", namespaces=1).to_dict()))
    assert shown == {
        "sockets": [SOCKET._asdict()],
        "dry_run": False,
        "method": "bpf",
        "namespaces": 1,
        "unreachable": 0,
        "left": 0,
        "problem": None,
    }
