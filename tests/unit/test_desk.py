# SPDX-License-Identifier: Apache-2.0
"""Health checks: what is made of their results, and which services share them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostreach.agent.checks.desk import Desk
from hostreach.agent.checks.judge import judge
from hostreach.agent.checks.probes import NotDone, ProbeError, Target
from hostreach.checks import Check
from hostreach.models import Frontend, Service

FAST = Check(kind="tcp", interval="100ms", jitter="0s", rise=2, fall=2)


def states(service: Service) -> dict[str, str]:
    return {backend.address: backend.state for backend in service.backends}


def test_a_check_takes_away_and_gives_nothing() -> None:
    service = Service.of(
        "10.96.0.1:80/tcp",
        "10.0.0.1:80",
        "10.0.0.2:80",
        "10.0.0.3:80,state=draining",
        "10.0.0.4:80,state=down",
    )
    passes = {"10.0.0.1:80": False, "10.0.0.3:80": True, "10.0.0.4:80": True}
    verdict = judge(service, passes, "use-all")
    assert states(verdict.service) == {
        "10.0.0.1:80": "down",
        "10.0.0.2:80": "active",
        "10.0.0.3:80": "draining",
        "10.0.0.4:80": "down",
    }
    assert not verdict.all_down


@pytest.mark.parametrize(("rule", "state"), [("use-all", "active"), ("refuse", "down")])
def test_all_down(rule: str, state: str) -> None:
    service = Service.of("10.96.0.1:80/tcp", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80,weight=0")
    verdict = judge(service, {"10.0.0.1:80": False, "10.0.0.2:80": False}, rule)  # type: ignore[arg-type]
    assert verdict.all_down  # weight 0 is nobody's
    assert {*states(verdict.service).values()} == {state, "active"}
    assert states(verdict.service)["10.0.0.1:80"] == state


def test_all_down_of_one_family() -> None:
    """Its clients have no other."""
    service = Service.of("node:80/tcp", "10.0.0.1:80", "[fd00::1]:80", "[fd00::2]:80")
    passes = {"10.0.0.1:80": False, "[fd00::1]:80": False, "[fd00::2]:80": True}
    verdict = judge(service, passes, "use-all")
    assert verdict.all_down
    assert states(verdict.service) == {
        "10.0.0.1:80": "active",
        "[fd00::1]:80": "down",
        "[fd00::2]:80": "active",
    }


_BACKENDS = st.lists(
    st.tuples(
        st.sampled_from(["active", "draining", "down"]),
        st.integers(0, 2),
        st.sampled_from([True, False, None]),
    ),
    max_size=5,
)


@given(_BACKENDS, st.sampled_from(["use-all", "refuse"]))
def test_whatever_checks_find(backends: list[tuple[str, int, bool | None]], rule: str) -> None:
    texts = [f"10.0.0.{n}:80,weight={w},state={s}" for n, (s, w, _) in enumerate(backends, 1)]
    service = Service.of("10.96.0.1:80/tcp", *texts)
    passes = {f"10.0.0.{n}:80": p for n, (_, _, p) in enumerate(backends, 1)}
    found, all_down = judge(service, passes, rule)  # type: ignore[arg-type]
    usable = [
        b for b in service.backends if b.state == "draining" or (b.state == "active" and b.weight)
    ]
    left = [b for b in found.backends if b.state != "down" and (b.weight or b.state == "draining")]
    for before, after in zip(service.backends, found.backends, strict=True):
        assert after.state in (before.state, "down")
        if after.state != before.state:
            assert passes[before.address] is False
    assert all_down == bool(usable and all(passes[b.address] is False for b in usable))
    if rule == "use-all":
        assert bool(left) == bool(usable)
    else:
        assert all(passes[b.address] is not False for b in left)


# --- services that share checks, and agents that come after others --------------------------------


class Room:
    """A desk whose checks are done by whoever sets ``fails``."""

    def __init__(self, down: dict[str, set[str]] | None = None) -> None:
        self.fails: set[str] = set()
        self.cannot: set[str] = set()
        self.changed = threading.Event()
        self.probed: Counter[str] = Counter()
        known = {Frontend.parse(text): frozenset(each) for text, each in (down or {}).items()}
        self.desk = Desk(
            8,
            "use-all",
            lambda frontend: known.get(frontend, frozenset()),
            self.changed.set,
            lambda *_: None,
        )

    async def probe(self, target: Target) -> None:
        self.probed[target.backend] += 1
        if target.backend in self.cannot:
            raise NotDone("there is no IPv6 here")
        if target.backend in self.fails:
            raise ProbeError("told so")

    def wait(self, frontend: Frontend, *down: str) -> None:
        """Until the service has these down."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            self.desk.news()
            found = {a for a, s in states(self.desk.judge(frontend)).items() if s == "down"}
            if found == {*down}:
                return
            time.sleep(0.01)
        raise AssertionError(f"{found} are down, not {down}")


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Room]]:
    made: list[Room] = []

    def make(down: dict[str, set[str]] | None = None) -> Room:
        new = Room(down)
        monkeypatch.setattr("hostreach.agent.checks.runner.probe", new.probe)
        made.append(new)
        return new

    yield make
    for each in made:
        each.desk.close()


def test_services_share_checks(room: Callable[..., Room]) -> None:
    here = room()
    both = [Service.of(f"10.96.0.{n}:80/tcp", "10.0.0.1:80", f"10.0.1.{n}:80") for n in (1, 2)]
    for number, service in enumerate(both):
        rule = ("use-all", "refuse")[number]
        here.desk.follow(service, FAST.model_copy(update={"all_down": rule}))
    assert len(here.desk.health) == 3
    here.fails = {"10.0.0.1:80"}
    for service in both:
        here.wait(service.frontend, "10.0.0.1:80")
    here.desk.forget(both[0].frontend)
    assert {each.backend for each in here.desk.health} == {"10.0.0.1:80", "10.0.1.2:80"}
    here.desk.follow(both[1], None)
    assert not here.desk.health
    time.sleep(0.15)
    before = here.probed.total()
    time.sleep(0.3)
    assert here.probed.total() == before


def test_down_and_up_again(room: Callable[..., Room]) -> None:
    here = room()
    service = Service.of("10.96.0.1:80/tcp", "10.0.0.1:80", "10.0.0.2:80")
    assert here.desk.follow(service, FAST) == service
    here.fails = {"10.0.0.2:80"}
    here.wait(service.frontend, "10.0.0.2:80")
    report = here.desk.report()[str(service.frontend)]
    assert report["10.0.0.2:80"].why == "told so"
    assert report["10.0.0.1:80"].passes
    here.fails = {"10.0.0.1:80", "10.0.0.2:80"}
    here.wait(service.frontend)  # use-all
    assert here.desk.all_down == {service.frontend}
    here.fails = set()
    here.wait(service.frontend)
    deadline = time.monotonic() + 10
    while here.desk.all_down and time.monotonic() < deadline:
        here.wait(service.frontend)
    assert not here.desk.all_down


def test_an_agent_goes_on_where_another_ended(room: Callable[..., Room]) -> None:
    """What the table has down and the file has not was found to fail: it has to rise first."""
    text = "10.96.0.1:80/tcp"
    here = room({text: {"10.0.0.1:80", "10.0.0.3:80"}})
    service = Service.of(text, "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80,state=down")
    here.fails = {"10.0.0.1:80"}
    assert states(here.desk.follow(service, FAST))["10.0.0.1:80"] == "down"
    here.fails = set()
    here.wait(service.frontend, "10.0.0.3:80")


def test_what_failed_has_to_rise_by_another_check_too(room: Callable[..., Room]) -> None:
    """An interval that is changed brings no dead backend back."""
    here = room()
    service = Service.of("10.96.0.1:80/tcp", "10.0.0.1:80", "10.0.0.2:80")
    here.desk.follow(service, FAST)
    here.fails = {"10.0.0.2:80"}
    here.wait(service.frontend, "10.0.0.2:80")
    slow = FAST.model_copy(update={"interval": "1h", "jitter": "1h"})
    assert states(here.desk.follow(service, slow))["10.0.0.2:80"] == "down"
    here.fails = set()
    here.desk.follow(service, FAST)
    here.wait(service.frontend)


def test_nothing_goes_down_before_all_were_looked_at(room: Callable[..., Room]) -> None:
    """Else a restart beside backends that all fail takes them away one by one."""
    here = room()
    here.fails = {"10.0.0.1:80", "10.0.0.2:80"}
    service = Service.of("10.96.0.1:80/tcp", "10.0.0.1:80", "10.0.0.2:80")
    here.desk.follow(service, FAST)
    deadline = time.monotonic() + 10
    while service.frontend not in here.desk.all_down and time.monotonic() < deadline:
        assert here.desk.judge(service.frontend) == service
    assert here.desk.all_down


def test_nobody_waits_for_a_check_that_cannot_be_done(room: Callable[..., Room]) -> None:
    """It says nothing of its backend, and so keeps no dead one in use."""
    here = room()
    here.fails, here.cannot = {"10.0.0.1:80"}, {"[fd00::1]:80"}
    service = Service.of("node:80/tcp", "10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80")
    here.desk.follow(service, FAST)
    here.wait(service.frontend, "10.0.0.1:80")
    assert here.desk.report()[str(service.frontend)]["[fd00::1]:80"].passes is None


def test_what_all_checks_lack_for_a_while_is_waited_for(room: Callable[..., Room]) -> None:
    """As descriptors at an agent's start; then all fail, and one by one would have gone down."""
    here = room()
    backends = {f"10.0.0.{number}:80" for number in range(1, 9)}
    service = Service.of("10.96.0.1:80/tcp", *sorted(backends))
    here.cannot = here.fails = backends
    here.desk.follow(service, FAST)
    deadline = time.monotonic() + 10
    while min(here.probed[each] for each in backends) < 2:
        assert time.monotonic() < deadline
        here.desk.news()
        assert here.desk.judge(service.frontend) == service
    here.cannot = set()
    while service.frontend not in here.desk.all_down and time.monotonic() < deadline:
        assert here.desk.judge(service.frontend) == service
    assert here.desk.all_down
