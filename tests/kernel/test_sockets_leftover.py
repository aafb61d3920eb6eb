# SPDX-License-Identifier: Apache-2.0
"""Sockets that a writer left behind: found later, listed, and ended by command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

import hostreach
from hostreach import Service
from hostreach.ending import EndedSocket

from .harness import Box, cli, kernel
from .harness.clients import TCP, UDP_CONNECTED, V4
from .harness.fates import ALIVE, ENDED, Place, ended

if TYPE_CHECKING:
    from hostreach.node import Node


pytestmark = pytest.mark.usefixtures("ending")

KIND = pytest.mark.parametrize("kind", [TCP, UDP_CONNECTED])

WAYS = pytest.mark.parametrize("without", ["", "sock_destroy", "btf"], ids=lambda w: w or "bpf")


@WAYS
def test_dry_run(box: Box, node: Node, without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.switch_off(monkeypatch, without)
    place = Place(box, node, V4, UDP_CONNECTED)
    with place.clients() as (test, sent_to):
        remove_unended(node, place.frontend)
        result = node.end_sockets(dry_run=True)
        assert result.dry_run
        assert sorted(each.backend for each in result.sockets) == sorted(sent_to)
        assert {each.service for each in result.sockets} == {place.frontend}
        assert set(test.ask("fates")) == {ALIVE}
        assert known(node.end_sockets().sockets) == known(result.sockets)
        assert set(test.ask("fates")) == {ENDED}


def known(sockets: Iterable[EndedSocket]) -> list[EndedSocket]:
    """Before Linux 5.12, as the places are, an iterator shows no cookie that it had to make."""
    comparable = kernel.has("places")
    return sorted(each if comparable else each._replace(cookie=0) for each in sockets)


def remove_unended(node: Node, frontend: str) -> None:
    """As a writer that is killed before it comes to the sockets."""
    from hostreach.models import Frontend

    table = node._table
    with table.locked(exclusive=True):
        key = Frontend.parse(frontend)
        table._core.write([], [(key.address, key.port, key.protocol)])


@KIND
def test_a_killed_writers_sockets(box: Box, node: Node, kind: str) -> None:
    """The next writer ends them, whatever it writes; it may have taken the ids already."""
    place = Place(box, node, V4, kind)
    with place.clients() as (test, _):
        remove_unended(node, place.frontend)
        assert set(test.ask("fates")) == {ALIVE}
        with hostreach.open(str(box.pin)) as other:
            other.services.add(Service.of("10.96.0.20:1/udp", "10.0.0.2:1", "10.0.0.3:1"))
            assert ended(other) == 8
        assert set(test.ask("fates")) == {ENDED}


@KIND
def test_kept_for_good(box: Box, node: Node, kind: str) -> None:
    """Sockets that were kept stay so when their backend's id is another one's."""
    place = Place(box, node, V4, kind, "keep")
    with place.clients() as (test, _):
        node.services.remove(place.frontend)
        for n in range(1200):  # more than there are ids
            frontend = f"10.96.1.{n % 200}:1/udp"
            node.services.set(Service.of(frontend, f"10.0.0.{n % 250}:{1 + n // 250}"))
        assert node.end_sockets().sockets == []
        assert set(test.ask("fates")) == {ALIVE}


def test_command_line(box: Box, node: Node) -> None:
    place = Place(box, node, V4, UDP_CONNECTED)
    with place.clients() as (test, sent_to):
        remove_unended(node, place.frontend)
        shown = cli.run(box.pin, "sockets", "end", "--dry-run")
        assert shown.status == 0
        assert shown.stdout.count("10.96.0.10:53/udp") == 8
        assert set(test.ask("fates")) == {ALIVE}
        found = cli.run(box.pin, "sockets", "end", "--json").json
        assert sorted(each["backend"] for each in found["sockets"]) == sorted(sent_to)
        assert set(test.ask("fates")) == {ENDED}
        assert cli.run(box.pin, "sockets", "end").stdout == "ended no sockets\n"
