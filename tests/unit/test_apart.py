# SPDX-License-Identifier: Apache-2.0
"""An agent's own exemption, where what stands against it passes, or does not."""

from __future__ import annotations

import errno
import logging

import pytest

from hostreach.agent import apart
from hostreach.errors import Refused
from hostreach.exempt import Exemptions
from hostreach.testing import MemoryTable

HERE = "/sys/fs/cgroup/x"


class Place:
    """In place of a cgroup: what making one comes to, the next time."""

    problem: Exception | None = None
    path = HERE

    def __init__(self) -> None:
        if Place.problem is not None:
            raise Place.problem

    def abandoned(self) -> list[str]:
        raise OSError(errno.EMFILE, "too many open files")

    def leave(self) -> None:
        pass


@pytest.fixture
def exempt(monkeypatch: pytest.MonkeyPatch) -> Exemptions:
    monkeypatch.setattr(apart, "PlaceAlone", Place)
    monkeypatch.setattr(Place, "problem", None)
    return Exemptions(MemoryTable())


def test_tried_again_where_it_may_pass(
    exempt: Exemptions, caplog: pytest.LogCaptureFixture
) -> None:
    """As where cgroup v2 is not mounted before `attach` does it."""
    own = apart.Apart(exempt)
    Place.problem = Refused("cgroup v2 is mounted nowhere")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            own.stand("so what", at_once=True)
        Place.problem = None
        own.stand("so what")  # too soon
        assert exempt.list() == []
        own.stand("so what", at_once=True)
    assert exempt.list() == [HERE]
    assert [record.message for record in caplog.records] == [
        "this process cannot be exempt: cgroup v2 is mounted nowhere; so what",
        "this process is exempt now",
    ]
    own.end()
    assert exempt.list() == []


def test_hopeless_once(exempt: Exemptions, caplog: pytest.LogCaptureFixture) -> None:
    own = apart.Apart(exempt)
    Place.problem = OSError(errno.EROFS, "read-only file system")
    own.stand("so what")
    Place.problem = None
    own.stand("so what", at_once=True)
    own.end()
    assert exempt.list() == []
    assert len(caplog.records) == 1
