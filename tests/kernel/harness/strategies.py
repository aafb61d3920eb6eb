# SPDX-License-Identifier: Apache-2.0
"""Any valid table, for property tests."""

from __future__ import annotations

from ipaddress import IPv6Address

from hypothesis import strategies as st

from hostreach import Service

_ports = st.integers(1, 65535)
_owners = st.sampled_from(["manual", "kube", "o" * 63])
_printable = st.characters(codec="utf-8", exclude_categories=["C", "Z"])
_names = st.none() | st.text(_printable, min_size=1, max_size=60)
_weights = st.integers(0, 3) | st.integers(0, 65535)

_v4 = st.tuples(st.integers(1, 223), *[st.integers(0, 255)] * 3).map(
    lambda parts: ".".join(map(str, parts))
)
# fd00::/8: no multicast, link-local, unspecified or v4-mapped address among them.
_v6 = st.integers(0, 2**120 - 1).map(lambda low: f"[{IPv6Address((0xFD << 120) | low)}]")


def _service(addresses: st.SearchStrategy[str]) -> st.SearchStrategy[Service]:
    endpoint = st.tuples(addresses, _ports).map(lambda pair: f"{pair[0]}:{pair[1]}")
    backends = st.lists(
        st.tuples(endpoint, _weights), max_size=12, unique_by=lambda backend: backend[0]
    )
    return st.builds(
        lambda frontend, protocol, backends, name, owner: Service.of(
            f"{frontend}/{protocol}",
            *(f"{address},weight={weight}" for address, weight in backends),
            name=name,
            owner=owner,
        ),
        endpoint,
        st.sampled_from(["tcp", "udp"]),
        backends,
        _names,
        _owners,
    )


services = _service(_v4) | _service(_v6)
tables = st.lists(services, max_size=12, unique_by=lambda service: service.frontend)
