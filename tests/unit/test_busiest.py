# SPDX-License-Identifier: Apache-2.0
"""Which frontends have metrics of their own: those in use, and not others at every look."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hostreach.agent.busiest import Busiest
from hostreach.agent.checks.desk import Watched
from hostreach.agent.checks.probes import Target
from hostreach.agent.checks.runner import Health
from hostreach.agent.samples import check_samples
from hostreach.checks import Check
from hostreach.models import Service
from hostreach.syntax import format_frontend, parse_frontend, split_frontend

DAY = 86400.0
CHECK = Check(kind="tcp")
TARGET = Target.of("10.0.0.1:80", CHECK, "tcp")


class Node:
    """Its frontends are letters; each look comes a minute after the last one."""

    def __init__(self, most: int, names: str = "abcdefgh", now: float = DAY) -> None:
        self.busiest = Busiest(most)
        self.counts = dict.fromkeys(names, 0)
        self.now = now

    def look(self, **used: int) -> str:
        for name, count in used.items():
            self.counts[name] += count
        self.now += 60
        self.busiest.choose([*self.counts], [*self.counts.values()], self.now)
        return "".join(self.busiest.shown)


def test_those_that_are_used_most() -> None:
    assert Node(3).look(h=5, c=7, f=6, a=1) == "cfh"


def test_where_there_is_room_for_all() -> None:
    node = Node(3, "ab")
    assert node.look(b=1) == "ab"
    node.counts["c"] = 0
    assert node.look() == "abc"


def test_none() -> None:
    assert Node(0).look(a=1) == ""


def test_who_was_shown_stays_though_others_are_used_a_little_more() -> None:
    node = Node(4, "abcdefghi")
    node.look()
    assert node.look(a=100, b=90, c=20, d=19, e=18) == "abcd"
    for _ in range(5):
        assert node.look(e=5) == "abcd"  # the third now, and d the fifth
        assert node.look(d=5) == "abcd"
    assert node.look(f=52, g=51, h=50) == "abcd"  # c is the eighth
    assert node.look(i=60) == "abdi"  # and the ninth


def test_who_is_used_most_of_all_is_always_shown() -> None:
    node = Node(4)
    node.look()
    assert node.look(a=8, b=7, c=6, d=5) == "abcd"
    assert node.look(h=100) == "abch"
    assert node.look(d=1) == "abch"  # and d does not come back for a moment
    assert node.look(g=5) == "abch"


def test_who_is_used_no_more_makes_room() -> None:
    node = Node(2)
    assert node.look(a=9, b=9) == "ab"
    for _ in range(12 * 60):
        shown = node.look(e=1, f=1, g=1, h=1)
    assert not {*shown} & {*"ab"}


def test_what_was_counted_before_weighs_as_if_it_came_evenly() -> None:
    """Else whoever was used yesterday would be shown until tomorrow."""
    node = Node(1, now=30 * DAY)
    node.look(a=10_000)
    for _ in range(30):
        shown = node.look(b=1, c=1)
    assert shown in ("b", "c")


def test_who_is_removed_and_who_is_added_anew() -> None:
    node = Node(1, "abc")
    assert node.look(a=100) == "a"
    del node.counts["a"]
    assert node.look(c=1) == "c"
    node.counts = {"a": 3, **node.counts}  # of its own, since it is there again
    assert node.look() == "c"  # among the first two
    node.counts["a"] = 2  # and once more, unseen
    assert node.look() == "c"


@given(
    st.integers(0, 6),
    st.lists(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 9)), max_size=12),
)
def test_always(most: int, looks: list[dict[str, int]]) -> None:
    node = Node(most)
    for used in looks:
        shown = node.look(**used)
        assert len({*shown}) == len(shown) == min(most, 8)
        assert sorted(shown) == [*shown]


def test_checks_are_told_of_the_same_ones_first() -> None:
    """And of others, as far as there is room."""
    services = [Service.of(f"10.96.0.{n}:80/tcp", "10.0.0.1:80", name=f"s{n}") for n in range(5)]
    watched = {each.frontend: Watched(each, CHECK, {"10.0.0.1:80": TARGET}) for each in services}
    desk = SimpleNamespace(
        count=5, watched=watched, health={TARGET: Health(passes=True)}, all_down=()
    )
    busiest = Busiest(2)
    busiest.choose([str(each.frontend) for each in services], [0, 0, 0, 0, 9], DAY)
    assert passing(desk, busiest) == ["s0", "s4"]
    busiest.shown = ("10.96.0.3:80/tcp", "10.97.0.1:80/tcp")  # which has no checks
    assert passing(desk, busiest) == ["s3", "s0"]


def passing(desk: SimpleNamespace, busiest: Busiest) -> list[str]:
    agent: Any = SimpleNamespace(desk=desk)
    (found,) = [
        each for each in check_samples(agent, busiest) if each.name == "hostreach_backend_passes"
    ]
    return [each.labels["service"] for each in found.samples]


def test_split_frontends() -> None:
    for text in ("10.96.0.10:53/udp", "[fd00:96::a]:443/tcp", "node:30080/tcp"):
        assert split_frontend(text) == parse_frontend(text)
        assert format_frontend(*split_frontend(text)) == text
