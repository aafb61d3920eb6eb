# SPDX-License-Identifier: Apache-2.0
"""What `explain` makes of what the tables say. That it is true, tests/kernel/test_explain shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostreach.caller import Caller, own_cgroup
from hostreach.explain import Explanation, Facts, Found, Lost, explain
from hostreach.models import Service
from hostreach.plain import plain_service
from hostreach.testing import MemoryTable

VIP = ("10.96.0.10", 80, "tcp")
FRONTEND = "10.96.0.10:80/tcp"
ROOT, SLICE = "/sys/fs/cgroup", "/sys/fs/cgroup/system.slice"
US = Caller(f"{SLICE}/web.service", 4026)


def found(
    service: Service, *, admitted: bool = True, stuck_to: tuple[str, float] | None = None
) -> Found:
    table = MemoryTable()
    table.write([service])
    key = service.frontend
    plain = plain_service(service, lambda _: (1, 1))
    return Found(plain, admitted, stuck_to, table.shares(key), table.active(key))


def facts(
    exact: Found | None,
    node: Found | None = None,
    *,
    attached: str | None = ROOT,
    protocols: tuple[str, ...] = ("tcp", "udp"),
    is_host: bool = True,
    knows_host: bool = True,
    exempt: tuple[str, ...] = (),
) -> Facts:
    return Facts(attached, protocols, exact, node, is_host, knows_host, [*exempt])


def said(explanation: Explanation) -> dict[str, str]:
    return dict(explanation.reasons)


def shares(explanation: Explanation) -> dict[str, float]:
    return {each.address: each.share for each in explanation.backends}


TWO = Service.of(FRONTEND, "10.0.0.2:80", "10.0.0.3:80,weight=3")


def test_by_weight_and_state() -> None:
    service = Service.of(
        FRONTEND,
        "10.0.0.2:80",
        "10.0.0.3:80,weight=3",
        "10.0.0.4:80,state=draining",
        "10.0.0.5:80,state=down",
        "10.0.0.6:80,weight=0",
        name="shop/web",
    )
    answer = explain(VIP, US, facts(found(service)))
    assert (answer.outcome, answer.goes_to, answer.in_scope) == ("translated", None, True)
    assert [*shares(answer).values()] == [0.25, 0.75, 0, 0, 0]
    assert [each.why for each in answer.backends] == [
        None,
        None,
        "draining: nothing new",
        "down",
        "weight 0: nothing new",
    ]
    assert said(answer) == {
        "service": f"{FRONTEND}, shop/web (owner manual)",
        "algorithm": "random, by weight",
    }


def test_all_that_is_left_is_draining() -> None:
    service = Service.of(FRONTEND, "10.0.0.2:80,state=draining", "10.0.0.3:80,state=down")
    answer = explain(VIP, US, facts(found(service)))
    assert (answer.outcome, answer.goes_to) == ("translated", "10.0.0.2:80")
    assert answer.backends[0].why == "draining, but all that is left"


@pytest.mark.parametrize("backends", [(), ("10.0.0.2:80,state=down",), ("10.0.0.2:80,weight=0",)])
def test_refused(backends: tuple[str, ...]) -> None:
    answer = explain(VIP, US, facts(found(Service.of(FRONTEND, *backends))))
    assert answer.outcome == "refused"
    assert said(answer)["backends"].endswith("refused")


@pytest.mark.parametrize(
    ("topic", "text", "changed"),
    [
        ("attached", "nothing is attached", {"attached": None}),
        ("protocols", "attached for udp alone", {"protocols": ("udp",)}),
        ("cgroup", "not below /sys/fs/cgroup/user.slice", {"attached": f"{ROOT}/user.slice"}),
        ("exempt", f"{SLICE} is exempt", {"exempt": (f"{ROOT}/other", SLICE)}),
    ],
)
def test_out_of_reach(topic: str, text: str, changed: dict[str, object]) -> None:
    """It goes where it says; who would have answered is listed all the same."""
    answer = explain(VIP, US, facts(found(TWO), **changed))  # type: ignore[arg-type]
    assert (answer.outcome, answer.in_scope) == ("untouched", True)
    assert text in said(answer)[topic]
    assert [*shares(answer).values()] == [0.25, 0.75]


def test_a_name_alike_is_not_below() -> None:
    answer = explain(VIP, US, facts(found(TWO), exempt=(f"{SLICE}/web.ser",)))
    assert answer.outcome == "translated"


@pytest.mark.parametrize(
    ("service", "is_host", "text"),
    [
        (Service.of(FRONTEND, "10.0.0.2:80", host_only=True), False, "host's network namespace"),
        (Service.of(FRONTEND, "10.0.0.2:80", from_cgroup="/sys/fs/cgroup/a"), True, "/cgroup/a"),
    ],
)
def test_out_of_scope(service: Service, is_host: bool, text: str) -> None:
    answer = explain(VIP, US, facts(found(service), is_host=is_host))
    assert (answer.outcome, answer.in_scope, answer.goes_to) == ("untouched", False, None)
    assert text in said(answer)["scope"]
    assert shares(answer) == {"10.0.0.2:80": 1.0}


def test_a_node_port_behind_one_that_is_out_of_scope() -> None:
    """As the programs look: the exact address first, then the node's."""
    exact = found(Service.of("192.0.2.1:80/tcp", "10.0.0.2:80", host_only=True))
    node = found(Service.of("node:80/tcp", "10.0.0.3:80", "[fd00::3]:80"))
    asked = ("192.0.2.1", 80, "tcp")
    answer = explain(asked, US, facts(exact, node, is_host=False))
    assert (answer.outcome, answer.goes_to) == ("translated", "10.0.0.3:80")
    assert shares(answer) == {"10.0.0.3:80": 1.0, "[fd00::3]:80": 0.0}
    assert answer.backends[1].why == "IPv6, and the address asked for is IPv4"
    assert explain(asked, US, facts(exact, node)).goes_to == "10.0.0.2:80"


def test_source_ranges() -> None:
    service = Service.of(FRONTEND, "10.0.0.2:80", source_ranges="10.0.0.0/8")
    assert explain(VIP, US, facts(found(service))).outcome == "translated"
    answer = explain(VIP, US, facts(found(service, admitted=False)))
    assert (answer.outcome, answer.goes_to) == ("refused", None)
    assert "has no address in 10.0.0.0/8" in said(answer)["source ranges"]


def test_affinity() -> None:
    service = Service.of(FRONTEND, "10.0.0.2:80", "10.0.0.3:80", affinity="3h")
    answer = explain(VIP, US, facts(found(service, stuck_to=("10.0.0.3:80", 3600.0))))
    assert (answer.outcome, answer.goes_to) == ("translated", "10.0.0.3:80")
    assert "for 2h more" in said(answer)["affinity"]
    for stuck in (None, ("10.0.0.3:80", 3 * 3600.0)):
        assert explain(VIP, US, facts(found(service, stuck_to=stuck))).goes_to is None


def test_an_affinity_outlives_the_share() -> None:
    """A draining backend keeps its clients, while others are left and when none is."""
    service = Service.of(FRONTEND, "10.0.0.2:80,weight=0", affinity="3h")
    answer = explain(VIP, US, facts(found(service, stuck_to=("10.0.0.2:80", 1.0))))
    assert (answer.outcome, answer.goes_to) == ("translated", "10.0.0.2:80")


NOBODY = Caller(SLICE, 0, None, 0)
"""A cgroup without tasks: no network namespace is known."""


@pytest.mark.parametrize(
    ("service", "certain", "outcome"),
    [
        (TWO, True, "translated"),
        (TWO.model_copy(update={"host_only": True}), False, "untouched"),
        (TWO.model_copy(update={"source_ranges": "10.0.0.0/8"}), False, "translated"),
        (TWO.model_copy(update={"affinity": "3h"}), True, "translated"),
        (Service.of(FRONTEND, "10.0.0.2:80,weight=0", affinity="3h"), False, "refused"),
        (Service.of(FRONTEND), True, "refused"),
    ],
)
def test_without_tasks(service: Service, certain: bool, outcome: str) -> None:
    """What the network namespace decides is not told as if it were known."""
    answer = explain(VIP, NOBODY, facts(found(service), is_host=False))
    assert (answer.certain, answer.outcome) == (certain, outcome)
    assert ("namespace" in said(answer)) == (not certain)
    assert explain(VIP, NOBODY, facts(found(service), attached=None)).certain


def test_without_tasks_on_loopback_and_before_a_node_port() -> None:
    node = found(Service.of("node:80/tcp", "10.0.0.3:80"))
    answer = explain(("127.0.0.1", 80, "tcp"), NOBODY, facts(None, node, is_host=False))
    assert (answer.certain, answer.outcome) == (False, "untouched")
    exact = found(Service.of("192.0.2.1:80/tcp", "10.0.0.2:80", host_only=True))
    answer = explain(("192.0.2.1", 80, "tcp"), NOBODY, facts(exact, node, is_host=False))
    assert (answer.certain, answer.goes_to) == (False, "10.0.0.3:80")
    assert "perhaps 192.0.2.1:80/tcp (owner manual) instead" in said(answer)["scope"]


@pytest.mark.parametrize(("lost", "text"), [("anew", "made anew since"), ("gone", "is not there")])
def test_a_cgroup_that_is_another_one(lost: Lost, text: str) -> None:
    """By its path it is the same; to the programs nobody is in it."""
    service = Service.of(FRONTEND, "10.0.0.2:80", from_cgroup=SLICE)
    assert explain(VIP, US, facts(found(service))).outcome == "translated"
    answer = explain(VIP, US, facts(found(service)._replace(lost=lost)))
    assert (answer.outcome, answer.in_scope) == ("untouched", False)
    assert text in said(answer)["scope"]


def test_no_service() -> None:
    answer = explain(VIP, US, facts(None))
    assert (answer.outcome, answer.service, answer.backends) == ("untouched", None, [])
    assert "none at 10.96.0.10:80/tcp" in said(answer)["service"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("0::/system.slice/x\n", f"{SLICE}/x"),
        ("3:cpu:/a\n0::/\n", ROOT),
        ("0::/../x\n", None),
        ("3:cpu:/a\n", None),
    ],
)
def test_own_cgroup(tmp_path: Path, content: str, expected: str | None) -> None:
    (tmp_path / "cgroup").write_text(content)
    assert own_cgroup(ROOT, str(tmp_path / "cgroup")) == expected
