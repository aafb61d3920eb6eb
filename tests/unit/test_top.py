# SPDX-License-Identifier: Apache-2.0
"""What `top` makes of two looks, and how it draws that; no terminal and no kernel."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hostreach.cli.screen import Picture, View, number, rate, render, table
from hostreach.models import Service
from hostreach.rates import SORTS, BackendUse, Counters, Survey, Use, backend_uses, select, uses
from hostreach.testing import MemoryTable

pytest.importorskip("hostreach._core", reason="a status is the compiled module's")

from hostreach.status import Status, Usage

HEADS = ["WEIGHT", "SHARE", "HOLDS", "RATE/s", "REFUSED/s", "OPEN", "TOTAL"]
DNS, WEB, OLD = "10.96.0.10:53/udp", "10.96.0.11:443/tcp", "[fd00:96::b]:443/tcp"


def counters(frontend: str, translations: int, refusals: int = 0, **others: object) -> Counters:
    values = {"name": None, "owner": "manual", "algorithm": "random", "backends": 2, "open": 0}
    return Counters(
        frontend=frontend,
        translations=translations,
        refusals=refusals,
        **{**values, **others},  # type: ignore[arg-type]
    )


def found() -> list[Use]:
    before = Survey(10.0, [counters(DNS, 100), counters(WEB, 50, 7), counters(OLD, 900, 5)])
    after = Survey(
        12.0,
        [
            counters(DNS, 300, name="kube-system/kube-dns:dns"),
            counters(WEB, 60, 17, name="Shop/web", open=5, backends=0),
            counters(OLD, 40, 2, owner="kubernetes", open=9, backends=0),  # removed and added again
            counters("node:30080/tcp", 4, backends=4),
        ],
    )
    return uses(before, after)


def test_rates() -> None:
    assert [(use.rate, use.refused_rate) for use in found()] == [
        (100, 0),
        (5, 5),
        (20, 1),  # since it was added again
        (2, 0),
    ]


@pytest.mark.parametrize(
    ("sort", "order"),
    {
        "rate": [0, 2, 1, 3],
        "refused": [1, 2, 0, 3],
        "open": [2, 1, 0, 3],
        "total": [0, 1, 2, 3],
        "backends": [3, 0, 1, 2],
        "name": [1, 0, 2, 3],
        "frontend": [0, 1, 2, 3],
    }.items(),
)
def test_sorts(sort: str, order: list[int]) -> None:
    all_of = found()
    chosen = select(all_of, sort, reverse=False, text="")
    assert [all_of.index(use) for use in chosen] == order
    assert select(all_of, sort, reverse=True, text="") == chosen[::-1]
    assert sort in SORTS


@pytest.mark.parametrize(
    ("text", "those"), [("shop", [1]), (":443", [1, 2]), ("KUBE", [0, 2]), ("no", [3]), ("x", [])]
)
def test_filters(text: str, those: list[int]) -> None:
    all_of = found()
    chosen = select(all_of, "frontend", reverse=False, text=text)
    assert [all_of.index(use) for use in chosen] == those


def of(service: Service, *active: int) -> list[BackendUse]:
    memory = MemoryTable()
    memory.write([service])
    return backend_uses(service.backends, memory.shares(service.frontend), active)


def test_shares_against_weights() -> None:
    service = Service.of(
        WEB, "10.0.0.2:1", "10.0.0.3:1,weight=3", "10.0.0.4:1,state=draining", "10.0.0.5:1,weight=0"
    )
    rows = [(each.weighs, each.share, each.holds) for each in of(service, 30, 60, 10, 0)]
    assert rows == [(0.25, 0.25, 0.3), (0.75, 0.75, 0.6), (0, 0, 0.1), (0, 0, 0)]
    left = of(Service.of(WEB, "10.0.0.2:1,state=draining", "10.0.0.3:1,state=down"), 0, 0)
    assert [(each.weighs, each.share, each.holds) for each in left] == [(0, 1, 0), (0, 0, 0)]
    both = of(Service.of("node:80/tcp", "10.0.0.2:1", "[fd00::2]:1"), 3, 1)
    assert [(each.share, each.holds) for each in both] == [(1, 1), (1, 1)]


def backends(frontend: str) -> list[BackendUse]:
    return (
        of(Service.of(DNS, "10.0.0.2:53", "10.0.0.3:53,state=down"), 40, 60)
        if (frontend == DNS)
        else []
    )


def picture(**status: object) -> Picture:
    about = {"cgroup": "/sys/fs/cgroup", "protocols": ("tcp", "udp"), **status}
    all_of = found()
    return Picture(
        Status("/sys/fs/bpf/hostreach", backends=Usage(8, 64), **about),  # type: ignore[arg-type]
        select(all_of, "rate", reverse=False, text=""),
        all_of,
    )


def drawn(seen: Picture, view: View, width: int, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        console.print(render(seen, view, backends, width, height))
    return captured.get().removesuffix("\n").split("\n")


@pytest.mark.parametrize("width", [20, 40, 80, 99, 100, 200])
@pytest.mark.parametrize("height", [6, 24, 50])
@pytest.mark.parametrize("view", [View(), View(backends=True), View(typing=True, text="web")])
def test_it_fits(width: int, height: int, view: View) -> None:
    lines = drawn(picture(), view, width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [80, 200])
def test_what_is_seen(width: int) -> None:
    lines = drawn(picture(), View(backends=True), width)
    assert lines[0].startswith("hostreach /sys/fs/bpf/hostreach on /sys/fs/cgroup, tcp+udp")
    assert lines[1].split("  ")[:4] == [
        "4 services",
        "8 backends",
        "127/s translated",
        "6.0/s refused",
    ]
    assert lines[3].split()[-7:] == HEADS
    assert DNS in lines[4]
    assert lines[4].split()[-4:] == ["100", "0", "0", "300"]
    assert lines[5].split() == ["10.0.0.2:53", "1", "100.0%", "40.0%", "40"]
    assert lines[6].split() == ["10.0.0.3:53", "down", "1", "0.0%", "60.0%", "60"]
    if width == 200:
        assert "kube-system/kube-dns:dns" in lines[4]
    assert "none" in lines[8]


def test_what_is_wrong_is_seen() -> None:
    assert "NOT ATTACHED" in drawn(picture(cgroup=None), View(), 80)[0]
    seen = picture()
    seen.problem = "the lock: somebody has it"
    assert drawn(seen, View(), 80)[1].startswith("the lock")
    seen.shown = []
    assert "none of them matches" in drawn(seen, View(), 80)[4]
    seen.all = []
    assert "no services" in drawn(seen, View(), 80)[4]


def test_scrolled() -> None:
    whole = drawn(picture(), View(backends=True), 80, 50)[4:]
    for first in range(6):
        part = drawn(picture(), View(backends=True, first=first), 80, 50)[4:]
        assert part[:4] == whole[first : first + 4], first


def test_without_a_terminal() -> None:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        console.print(table(picture(), View(interval=0), backends, 80))
    assert len(captured.get().splitlines()) == 8


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.04, "0.0"), (7.25, "7.2"), (99.46, "99.5"), (99.5, "100"), (9999, "9999")],
)
def test_rate(value: float, text: str) -> None:
    assert rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (99_999, "99999"),
        (100_000, "100k"),
        (999_600, "1.0M"),
        (12_345_678, "12.3M"),
        (10**14, "100.0T"),
    ],
)
def test_number(value: int, text: str) -> None:
    assert number(value) == text
