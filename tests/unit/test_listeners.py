# SPDX-License-Identifier: Apache-2.0
"""Whose address it is, and what is not asked for therefore."""

from __future__ import annotations

import errno
import socket

import pytest

from hostreach import listeners


def test_no_address_is_ours_of_a_family_that_the_kernel_has_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with ipv6.disable=1: a service is written all the same."""

    def refuse(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "address family not supported by protocol")

    monkeypatch.setattr("hostreach.listeners.socket.socket", refuse)
    assert not listeners.is_local("fd00::1")
    assert [*listeners.hidden([("fd00::1", 80, "tcp")])] == []


def test_sockets_are_read_for_own_addresses_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """To read them takes longer than the change, the more the busier the node is."""
    asked: list[str] = []

    def read(protocol: str) -> dict[int, list[str]]:
        asked.append(protocol)
        return {}

    monkeypatch.setattr(listeners, "_servers", read)
    monkeypatch.setattr(listeners, "is_local", lambda address: address == "10.0.0.1")
    assert [*listeners.hidden([("10.96.0.1", 80, "tcp"), ("10.96.0.2", 53, "udp")])] == []
    assert asked == []
    assert [*listeners.hidden([("10.0.0.1", 80, "tcp"), ("node", 53, "udp")])] == []
    assert asked == ["tcp", "udp"]
    many = [(f"10.97.{n // 250}.{n % 250}", 80, "tcp") for n in range(1000)]
    assert [*listeners.hidden(many)] == []
    assert asked == ["tcp", "udp", "tcp"]  # so many are not asked about one by one
