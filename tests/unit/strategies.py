# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for everything that is valid."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st

from hostreach.models import Backend, Frontend, Service
from hostreach.syntax import DURATION_MAX, NODE, format_duration, format_endpoint

ports = st.integers(1, 65535)
protocols = st.sampled_from(("tcp", "udp"))


def _usable(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None or address.is_link_local:
            return False
    elif address == IPv4Address("255.255.255.255"):
        return False
    return not (address.is_multicast or address.is_unspecified)


addresses4 = st.ip_addresses(v=4).filter(_usable).map(str)
# Python writes IPv6 as inet_ntop does, but for the few with a dotted end.
addresses6 = st.ip_addresses(v=6).filter(lambda a: _usable(a) and int(a) >> 48 != 0).map(str)

words = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=60
).filter(lambda text: text.isprintable() and " " not in text)
tricky = st.sampled_from(
    (
        "yes",
        "No",
        "null",
        "~",
        "1",
        "1.0",
        "0x1",
        "2024-01-01",
        "a:",
        "#x",
        "-",
        "a/b:c",
        "'",
        '"',
        "12:30",
        "1e3",
        "=",
        "<<",
        "@x",
        "`",
        "%",
        "*a",
        "&a",
        "!t",
        "[x]",
        "{x}",
        "?",
        "|",
        ">",
        "\\",
    )
)
labels = st.one_of(words, tricky)
steps = st.one_of(words, tricky, st.just("a b")).map(lambda text: text.replace("/", "_"))
cgroups = st.lists(steps.filter(lambda step: step not in (".", "..")), max_size=4).map(
    lambda path: "/" + "/".join(path)
)
states = st.sampled_from(("active", "draining", "down"))


@st.composite
def services(draw: st.DrawFn) -> Service:
    frontends, addresses = draw(
        st.sampled_from(
            (
                (addresses4, addresses4),
                (addresses6, addresses6),
                (st.just(NODE), addresses4 | addresses6),
            )
        )
    )
    endpoints = st.builds(format_endpoint, addresses, ports)
    return Service(
        frontend=draw(st.builds(Frontend, address=frontends, port=ports, protocol=protocols)),
        name=draw(st.none() | labels),
        owner=draw(st.just("manual") | labels.filter(lambda text: len(text.encode()) <= 63)),
        algorithm=draw(st.sampled_from(("random", "maglev", "least-conn"))),
        affinity=draw(st.none() | st.integers(1, DURATION_MAX).map(format_duration)),
        host_only=draw(st.booleans()),
        from_cgroup=draw(st.none() | cgroups),
        source_ranges=draw(st.sampled_from((None, "10.0.0.0/8", "192.0.2.7/32,fd00::/64"))),
        on_removal=draw(st.sampled_from((None, "reset", "keep"))),
        backends=tuple(
            draw(
                st.lists(
                    st.builds(
                        Backend, address=endpoints, weight=st.integers(0, 65535), state=states
                    ),
                    max_size=5,
                    unique_by=lambda backend: backend.address,
                )
            )
        ),
    )


tables = st.lists(services(), max_size=8, unique_by=lambda service: service.frontend).map(
    lambda found: sorted(found, key=lambda service: service.sort_key)
)
