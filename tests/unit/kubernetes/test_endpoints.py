# SPDX-License-Identifier: Apache-2.0
"""Which endpoints a client on this node may be given: policies, conditions, hints and zones."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from kube.objects import HERE, endpoint, leaving, piece, ready, taken_slice, unready

from hostreach.sources.kubernetes.endpoints import (
    LOCAL,
    READY,
    SERVING,
    TERMINATING,
    Choice,
    better,
    choose,
)
from hostreach.sources.kubernetes.intake import Place


def flags_of(*endpoints: Any, place: Place = HERE) -> dict[str, int]:
    """Each endpoint's last digit and flags, through JSON and the intake."""
    taken = taken_slice(piece("web-1", *endpoints), place)
    assert taken is not None
    assert not taken.problems
    last = [address.rpartition(".")[2] for address in taken.addresses]
    return dict(zip(last, taken.flags, strict=True))


def chosen(*endpoints: Any, local: bool = False, place: Place = HERE) -> tuple[str, str]:
    usable, draining, _ = choose(flags_of(*endpoints, place=place), local=local)
    return "".join(usable), "".join(draining)


A, B, NO = "node-a", "node-b", None


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        pytest.param({}, READY | SERVING, id="all nil: ready and serving, not terminating"),
        pytest.param({"ready": False}, SERVING, id="serving nil is true"),
        pytest.param({"ready": True}, READY | SERVING, id="ready"),
        pytest.param({"ready": False, "serving": False}, 0, id="neither"),
        pytest.param({"terminating": True}, READY | SERVING | TERMINATING, id="ready nil is true"),
        pytest.param(
            {"ready": False, "serving": True, "terminating": True},
            SERVING | TERMINATING,
            id="terminating, serves",
        ),
    ],
)
def test_conditions(conditions: dict[str, bool], expected: int) -> None:
    assert flags_of(endpoint("10.0.0.1", **conditions)) == {"1": expected}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("endpoints", "cluster", "local"),
    [
        pytest.param([], ("", ""), ("", ""), id="none at all"),
        pytest.param(
            [ready("10.0.0.1", node=A), ready("10.0.0.2", node=B)],
            ("12", ""),
            ("1", ""),
            id="ready",
        ),
        pytest.param(
            [ready("10.0.0.1", node=B), ready("10.0.0.2")], ("12", ""), ("", ""), id="none local"
        ),
        pytest.param(
            [unready("10.0.0.1", node=A), ready("10.0.0.2", node=B)],
            ("2", ""),
            ("", ""),
            id="unready are left out, the local set on its own",
        ),
        pytest.param([unready("10.0.0.1", node=A)], ("", ""), ("", ""), id="all unready"),
        pytest.param(
            [ready("10.0.0.1", node=A), leaving("10.0.0.2", node=A)],
            ("1", "2"),
            ("1", "2"),
            id="leaving beside ready: drains",
        ),
        pytest.param(
            [leaving("10.0.0.1", node=A), leaving("10.0.0.2", node=B)],
            ("12", ""),
            ("1", ""),
            id="all leaving: all that serve are used",
        ),
        pytest.param(
            [leaving("10.0.0.1", node=A, serving=False), leaving("10.0.0.2", node=B)],
            ("2", ""),
            ("", ""),
            id="leaving and not serving is never used",
        ),
        pytest.param(
            [leaving("10.0.0.1", node=A), ready("10.0.0.2", node=B)],
            ("2", "1"),
            ("1", ""),
            id="the local set falls back, the cluster's does not",
        ),
        pytest.param(
            [unready("10.0.0.1", node=A), leaving("10.0.0.2", node=B)],
            ("2", ""),
            ("", ""),
            id="the cluster's falls back, the local has none",
        ),
    ],
)
def test_policies_and_conditions(
    endpoints: list[Any], cluster: tuple[str, str], local: tuple[str, str]
) -> None:
    assert chosen(*endpoints) == cluster
    assert chosen(*endpoints, local=True) == local


def near(address: str, zones: str = "", nodes: str = "", **more: Any) -> Any:
    """Hints in letters: ``near("10.0.0.1", "ab")`` is for zone-a and zone-b."""
    return ready(
        address, zones=[f"zone-{z}" for z in zones], nodes=[f"node-{n}" for n in nodes], **more
    )


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        pytest.param([near("10.0.0.1", "a"), near("10.0.0.2", "b")], "1", id="zone"),
        pytest.param([near("10.0.0.1", "ab"), near("10.0.0.2", "b")], "1", id="several zones"),
        pytest.param(
            [near("10.0.0.1", "b"), near("10.0.0.2", "c")], "12", id="no hint names this zone"
        ),
        pytest.param(
            [near("10.0.0.1", "a"), near("10.0.0.2")], "12", id="one without hints: all are used"
        ),
        pytest.param(
            [near("10.0.0.1", "a", "a"), near("10.0.0.2", "a", "b")], "1", id="node before zone"
        ),
        pytest.param(
            [near("10.0.0.1", "a", "b"), near("10.0.0.2", "b", "c")],
            "1",
            id="no hint names this node: zone",
        ),
        pytest.param(
            [near("10.0.0.1", "b", "b"), near("10.0.0.2", "b", "c")], "12", id="neither: all"
        ),
        pytest.param(
            [near("10.0.0.1", "a", "a"), near("10.0.0.2", "a")],
            "12",
            id="one without a node's hint: zone",
        ),
        pytest.param(
            [near("10.0.0.1", "a"), unready("10.0.0.2")], "1", id="unready ones need no hints"
        ),
        pytest.param(
            [near("10.0.0.1", "b"), near("10.0.0.2", "b"), unready("10.0.0.3", zones=["zone-a"])],
            "12",
            id="an unready one's hint for this zone counts for nothing",
        ),
    ],
)
def test_hints(endpoints: list[Any], expected: str) -> None:
    assert chosen(*endpoints) == (expected, "")


def test_what_hints_leave_to_others() -> None:
    """Of what is ready; and nothing is far where all are near, or for the local set."""

    def far(*endpoints: Any, local: bool = False) -> str:
        return "".join(choose(flags_of(*endpoints), local=local).far)

    one, two = near("10.0.0.1", "a", node=A), near("10.0.0.2", "b", node=B)
    assert far(one, two) == "2"
    assert far(one, two, unready("10.0.0.3", zones=["zone-b"])) == "2"
    assert far(one, near("10.0.0.2", "ab")) == ""
    assert far(one, ready("10.0.0.2")) == ""
    assert far(one, two, local=True) == ""
    assert far(leaving("10.0.0.1", zones=["zone-a"]), leaving("10.0.0.2", zones=["zone-b"])) == ""


def test_hints_without_a_zone_of_our_own() -> None:
    endpoints = [near("10.0.0.1", "a"), near("10.0.0.2", "b")]
    assert chosen(*endpoints, place=Place("node-a")) == ("12", "")


def test_hints_do_not_reach_the_local_set() -> None:
    endpoints = [near("10.0.0.1", "b", node=A), near("10.0.0.2", "a", node=B)]
    assert chosen(*endpoints) == ("2", "")
    assert chosen(*endpoints, local=True) == ("1", "")


def test_hints_are_left_aside_when_all_are_leaving() -> None:
    endpoints = [leaving("10.0.0.1", zones=["zone-a"]), leaving("10.0.0.2", zones=["zone-b"])]
    assert chosen(*endpoints) == ("12", "")


def test_every_combination_against_the_rules_as_written() -> None:
    """Two endpoints of every kind, against the rules in their longest form."""
    kinds = [
        {"ready": r, "serving": s, "terminating": t, "node": n, "zones": z, "nodes": h}
        for r, s, t in itertools.product((True, False), repeat=3)
        for n in (A, B)
        for z in ((), ("zone-a",), ("zone-b",))
        for h in ((), ("node-a",), ("node-b",))
    ]
    seen = set()
    for one, two in itertools.product(kinds, repeat=2):
        pair = {"1": one, "2": two}
        made = {key: endpoint(f"10.0.0.{key}", **kind) for key, kind in pair.items()}  # type: ignore[arg-type]
        flags = flags_of(*made.values())
        for local in (False, True):
            found = choose(flags, local=local)
            assert found == by_the_book(pair, local), (pair, local)
            seen.add(str(found))
    assert len(seen) == 8


def by_the_book(pair: dict[str, Any], local: bool) -> Choice:
    mine = {k: e for k, e in pair.items() if not local or e["node"] == A}
    leaves = [k for k, e in mine.items() if not e["ready"] and e["serving"] and e["terminating"]]
    usable = [k for k, e in mine.items() if e["ready"]]
    if not usable:
        return Choice(leaves, [], [])
    ready = usable
    if not local:
        hints = {"nodes": "node-a", "zones": "zone-a"}
        for kind, this in hints.items():
            near_ones = [k for k in usable if this in mine[k][kind]]
            if all(mine[k][kind] for k in usable) and near_ones:
                usable = near_ones
                break
    return Choice(usable, leaves, [k for k in ready if k not in usable])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (READY | SERVING, SERVING | TERMINATING, READY | SERVING),
        (SERVING | TERMINATING, TERMINATING, SERVING | TERMINATING),
        (0, SERVING | TERMINATING, 0),
        (READY | SERVING, READY | SERVING | TERMINATING, READY | SERVING),
        (READY | SERVING, SERVING | LOCAL, READY | SERVING | LOCAL),
    ],
)
def test_the_better_of_duplicates(one: int, other: int, expected: int) -> None:
    assert better(one, other) == better(other, one) == expected
