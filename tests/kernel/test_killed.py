# SPDX-License-Identifier: Apache-2.0
"""Commands that are killed after any of their system calls: who comes next finishes or goes back.

Of growth and older tables, test_growth.py and test_migration.py; of writers, test_intermediate.py.
"""

from __future__ import annotations

import os
import random

import pytest

import hostreach
from hostreach import Service

from .harness import Box, cli, kernel
from .harness.bpf import attached
from .harness.stepping import calls_of

KILLS = 40 if os.environ.get("HOSTREACH_LONG") == "1" else 2
SERVICES = [Service.of("10.96.0.10:80/tcp", "10.0.0.2:80", "10.0.0.3:80")]


def arrange(box: Box, *, attach: bool) -> None:
    with hostreach.open(str(box.pin)) as node:
        if box.pin.exists():
            node.detach(purge=True)
        if attach:
            node.services.apply(SERVICES)
            node.attach(cgroup=str(box.cgroup))


@pytest.mark.parametrize("links", [True, False], ids=["links", "programs"])
@pytest.mark.parametrize("what", ["attach", "attach less", "detach", "purge"])
def test_at_any_call(box: Box, monkeypatch: pytest.MonkeyPatch, what: str, links: bool) -> None:
    if not links:
        monkeypatch.setenv("HOSTREACH_WITHOUT", "bpf_link")

    def act() -> None:
        with hostreach.open(str(box.pin)) as node:
            if what == "attach":
                node.attach(cgroup=str(box.cgroup))
            elif what == "attach less":
                node.attach(cgroup=str(box.cgroup), protocols=("tcp",))
            else:
                node.detach(purge=what == "purge")

    chance = random.Random(5)
    arrange(box, attach=what != "attach")
    made = calls_of(box, act, since=None)
    # User-Mode Linux shows a stopped process's registers without them.
    kernel.need(bool(made), "the numbers of another process's system calls")
    for number in range(KILLS):
        for purges in (True, False):
            arrange(box, attach=what != "attach")
            at = int((number + chance.random()) * len(made) / KILLS) + 1
            calls_of(box, act, at, since=None)
            if purges:
                cli.run(box.pin, "detach", "--purge")
                assert not attached(box.cgroup), at
                assert not box.pin.exists(), at
                continue
            said = cli.run(box.pin, "attach", "--cgroup", str(box.cgroup))
            assert said.status == 0, (at, said)
            assert attached(box.cgroup).keys() == kernel.hooks(), at
            left = {path.name for path in box.pin.rglob("*")}
            assert not {"next", "uncounted"} & left, at
            assert not [name for name in left if name.endswith("_new")], at
            if what in ("attach less", "detach"):
                with hostreach.open(str(box.pin)) as node:
                    assert node.services.list() == SERVICES, at
