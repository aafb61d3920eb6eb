# SPDX-License-Identifier: Apache-2.0
"""The sizes of the tables that contracts are about, and services for them."""

from __future__ import annotations

from hostreach.models import Service

SERVICES = 8
BACKENDS = 32
SLOTS = 8192

DNS = Service.of("10.96.0.10:53/udp", "10.0.0.2:53", "10.0.0.3:53,weight=3", name="kube/dns:dns")
DNS_TCP = Service.of("10.96.0.10:53/tcp", "10.0.0.2:53")
WEB6 = Service.of("[fd00:96::a]:80/tcp", "[fd00::1]:8080", owner="web")
EMPTY = Service.of("10.96.0.9:80/tcp")


def many(count: int, first: int = 1) -> list[Service]:
    return [Service.of(f"10.97.0.{i}:80/tcp") for i in range(first, first + count)]
