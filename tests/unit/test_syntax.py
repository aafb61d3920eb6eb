# SPDX-License-Identifier: Apache-2.0
"""Every textual form: what it takes, what it refuses, and that printing and parsing agree."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostreach.errors import InvalidInput
from hostreach.syntax import (
    DURATION_MAX,
    NODE,
    check_label,
    format_duration,
    format_endpoint,
    format_frontend,
    frontend_key,
    parse_cgroup,
    parse_duration,
    parse_endpoint,
    parse_frontend,
    parse_networks,
    parse_protocols,
    quote,
)

from .strategies import addresses4, addresses6, cgroups, ports, protocols

addresses = st.one_of(addresses4, addresses6)
# Python writes IPv6 as inet_ntop does, but for the few with a dotted end.
networks4 = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32))
networks6 = st.tuples(st.integers(2**112, 2**128 - 1), st.integers(16, 128))
networks = st.one_of(
    networks4.map(lambda network: str(IPv4Network(network, strict=False))),
    networks6.map(lambda network: str(IPv6Network(network, strict=False))),
)


@given(addresses, ports)
def test_endpoint_round_trip(address: str, port: int) -> None:
    assert parse_endpoint(format_endpoint(address, port)) == (address, port)


@given(st.one_of(addresses, st.just(NODE)), ports, protocols)
def test_frontend_round_trip(address: str, port: int, protocol: str) -> None:
    text = format_frontend(address, port, protocol)
    assert parse_frontend(text) == (address, port, protocol)


@given(st.integers(0, DURATION_MAX))
def test_duration_round_trip(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds)) == milliseconds


@given(st.lists(networks, min_size=1, unique=True))
def test_networks_round_trip(found: list[str]) -> None:
    assert parse_networks(",".join(found)) == tuple(found)


@given(cgroups)
def test_cgroup_round_trip(path: str) -> None:
    assert parse_cgroup(path) == path
    assert parse_cgroup(path.replace("/", "//") + "/") == path


@given(st.text())
def test_nothing_but_invalid_input_is_raised(text: str) -> None:
    parsers: tuple[Callable[[str], object], ...] = (
        parse_endpoint,
        parse_frontend,
        parse_duration,
        parse_protocols,
        parse_networks,
        parse_cgroup,
        lambda t: check_label(t, "name", 255),
    )
    for parse in parsers:
        with suppress(InvalidInput):
            parse(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.2:53", "10.0.0.2:53"),
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("169.254.20.10:65535", "169.254.20.10:65535"),
        ("[FD00:0:0:0::A]:53", "[fd00::a]:53"),
        ("[::1]:53", "[::1]:53"),
    ],
)
def test_endpoint_canonical(text: str, canonical: str) -> None:
    assert format_endpoint(*parse_endpoint(text)) == canonical


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "has no protocol", id="empty"),
        pytest.param("10.0.0.1:53", "has no protocol", id="no protocol"),
        pytest.param("10.0.0.1:53/", "'' is no protocol", id="empty protocol"),
        pytest.param("10.0.0.1:53/sctp", "'sctp' is no protocol; use tcp or udp", id="sctp"),
        pytest.param("10.0.0.1:53/UDP", "'UDP' is no protocol", id="upper case"),
        pytest.param(
            "10.0.0.1/udp",
            "'10.0.0.1/udp' has no port; write it as 10.96.0.10:53/udp",
            id="no port",
        ),
        pytest.param("[fd00::1]/udp", "has no port", id="no port after brackets"),
        pytest.param("10.0.0.1:/udp", "'' is no port", id="empty port"),
        pytest.param("10.0.0.1:0/udp", "'0' is no port; ports are 1 to 65535", id="port 0"),
        pytest.param("10.0.0.1:65536/udp", "'65536' is no port", id="port 65536"),
        pytest.param("10.0.0.1:053/udp", "'053' is no port", id="leading zero"),
        pytest.param("10.0.0.1:+53/udp", "is no port", id="sign"),
        pytest.param("10.0.0.1:-1/udp", "is no port", id="negative"),
        pytest.param("10.0.0.1: 53/udp", "is no port", id="space"),
        pytest.param("10.0.0.1:٥٣/udp", "is no port", id="other digits"),
        pytest.param("10.0.0.1:5_3/udp", "is no port", id="underscore"),
        pytest.param("10.0.0.256:53/udp", "is no IPv4 or IPv6 address", id="octet 256"),
        pytest.param("10.0.0:53/udp", "is no IPv4 or IPv6 address", id="three octets"),
        pytest.param("10.0.0.01:53/udp", "is no IPv4 or IPv6 address", id="octal octet"),
        pytest.param(" 10.0.0.1:53/udp", "is no IPv4 or IPv6 address", id="leading space"),
        pytest.param("10.0.0.1\n:53/udp", r"'10.0.0.1\n'", id="newline"),
        pytest.param("10.0.0.1\0:53/udp", r"'10.0.0.1\x00'", id="NUL"),
        pytest.param("example.com:53/udp", "is no IPv4 or IPv6 address", id="host name"),
        pytest.param("10.0.0.0/8:53/udp", "not a network", id="network"),
        pytest.param("[10.0.0.1]:53/udp", "is no IPv6 address", id="IPv4 in brackets"),
        pytest.param("fd00::1:53/udp", "in brackets", id="IPv6 without brackets"),
        pytest.param("[fd00::1:53/udp", "in brackets", id="one bracket"),
        pytest.param("[fd00:::1]:53/udp", "is no IPv4 or IPv6 address", id="three colons"),
        pytest.param("[fe80::1%eth0]:53/udp", "an interface (%) cannot be given", id="scope"),
        pytest.param("[fe80::1]:53/udp", "link-local", id="IPv6 link-local"),
        pytest.param("[::ffff:10.0.0.1]:53/udp", "write 10.0.0.1", id="v4-mapped"),
        pytest.param("224.0.0.1:53/udp", "multicast", id="multicast"),
        pytest.param("239.255.255.255:53/udp", "multicast", id="last multicast"),
        pytest.param("[ff02::1]:53/udp", "multicast", id="IPv6 multicast"),
        pytest.param("0.0.0.0:53/udp", "unspecified", id="unspecified"),
        pytest.param("[::]:53/udp", "unspecified", id="IPv6 unspecified"),
        pytest.param("255.255.255.255:53/udp", "broadcast", id="broadcast"),
        pytest.param("x" * 10_000, "has no protocol", id="long"),
        pytest.param("node/tcp", "has no port", id="node without a port"),
        pytest.param("node:0/tcp", "'node:0': '0' is no port; ports are 1 to", id="node's port 0"),
        pytest.param("node:30080", "has no protocol", id="node without a protocol"),
        pytest.param("node:30080/sctp", "'sctp' is no protocol", id="node's sctp"),
        pytest.param("node:1:2/tcp", "'1:2' is no port", id="node with two ports"),
        pytest.param("Node:30080/tcp", "is no IPv4 or IPv6 address", id="Node"),
        pytest.param("[node]:30080/tcp", "is no IPv6 address", id="node in brackets"),
        pytest.param("nodes:30080/tcp", "is no IPv4 or IPv6 address", id="nodes"),
        pytest.param(":30080/tcp", "is no IPv4 or IPv6 address", id="no address"),
        pytest.param("*:30080/tcp", "is no IPv4 or IPv6 address", id="star"),
    ],
)
def test_bad_frontend(text: str, why: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_frontend(text)
    message = str(caught.value)
    assert why in message
    assert message.isprintable()
    assert len(message) < 200


def test_node_is_no_endpoint() -> None:
    with pytest.raises(InvalidInput, match="is no IPv4 or IPv6 address"):
        parse_endpoint("node:30080")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.0/8", ("10.0.0.0/8",)),
        ("0.0.0.0/0,::/0", ("0.0.0.0/0", "::/0")),
        ("192.0.2.7/32", ("192.0.2.7/32",)),
        ("FD00:0::/64,10.0.0.0/8", ("fd00::/64", "10.0.0.0/8")),
    ],
)
def test_networks(text: str, canonical: tuple[str, ...]) -> None:
    assert parse_networks(text) == canonical


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "'' is no network; write it as 10.0.0.0/8 or", id="empty"),
        pytest.param("10.0.0.0/8,", "'' is no network", id="comma at the end"),
        pytest.param("10.0.0.0/8, fd00::/64", "' fd00::/64' is no network", id="space"),
        pytest.param("10.0.0.1", "has no prefix length; write 10.0.0.1/32", id="address"),
        pytest.param("fd00::1", "has no prefix length; write fd00::1/128", id="IPv6 address"),
        pytest.param("10.0.0.0/", "'' is no prefix length", id="empty length"),
        pytest.param("10.0.0.0/33", "'33' is no prefix length; here they are 0 to 32", id="33"),
        pytest.param("fd00::/129", "'129' is no prefix length; here they are 0 to 128", id="129"),
        pytest.param("10.0.0.0/08", "'08' is no prefix length", id="leading zero"),
        pytest.param("10.0.0.0/-1", "'-1' is no prefix length", id="negative"),
        pytest.param("10.0.0.0/255.0.0.0", "is no prefix length", id="mask"),
        pytest.param("10.0.0.0/٨", "is no prefix length", id="other digits"),
        pytest.param("10.0.0.1/8", "has bits set beyond its prefix; write 10.0.0.0/8", id="bits"),
        pytest.param("fd00::1/64", "write fd00::/64", id="IPv6 bits"),
        pytest.param("10.0.0/8", "is no network", id="three octets"),
        pytest.param("eth0", "'eth0' is no network", id="interface"),
        pytest.param("[fd00::]/64", "is no network", id="brackets"),
        pytest.param("10.0.0.0\0/8", r"'10.0.0.0\x00/8' is no network", id="NUL"),
        pytest.param("::ffff:10.0.0.0/104", "write 10.0.0.0/8", id="v4-mapped"),
        pytest.param("10.0.0.0/8,10.0.0.0/8", "names 10.0.0.0/8 twice", id="twice"),
        pytest.param("fd00::/64,FD00:0::/64", "names fd00::/64 twice", id="twice in other words"),
    ],
)
def test_bad_networks(text: str, why: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_networks(text)
    assert why in str(caught.value)
    assert str(caught.value).isprintable()


def test_cgroup_is_canonical() -> None:
    assert parse_cgroup("//sys/fs//cgroup/a b/") == "/sys/fs/cgroup/a b"
    assert parse_cgroup("/") == "/"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "'' is no absolute path; write it as /sys/fs/cgroup/", id="empty"),
        pytest.param("system.slice", "'system.slice' is no absolute path", id="relative"),
        pytest.param("./a", "is no absolute path", id="here"),
        pytest.param("/sys/fs/cgroup/../x", "without . and ..", id="upwards"),
        pytest.param("/sys/./x", "without . and ..", id="dot"),
        pytest.param("/sys/a\nb", "cannot be printed", id="newline"),
        pytest.param("/sys/a\0b", "cannot be printed", id="NUL"),
        pytest.param("/sys/\udcff", "cannot be printed", id="no UTF-8"),
        pytest.param("/" + "x" * 4095, "longer than a path can be", id="long"),
        pytest.param("/" + "ü" * 2048, "longer than a path can be", id="long in bytes"),
    ],
)
def test_bad_cgroup(text: str, why: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_cgroup(text)
    assert why in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("0s", 0),
        ("1ms", 1),
        ("250ms", 250),
        ("30s", 30000),
        ("5m", 300000),
        ("3h", 10800000),
        ("2d", 172800000),
        ("49d", 4233600000),
    ],
)
def test_duration(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds
    assert format_duration(milliseconds) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "s",
        "3 s",
        "1.5h",
        "-3s",
        "+3s",
        "3S",
        "03s",
        "3sm",
        "3w",
        "50d",
        "9" * 50 + "ms",
        "٣s",
    ],
)
def test_bad_duration(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_duration(text)


def test_protocols() -> None:
    assert parse_protocols("tcp") == ("tcp",)
    assert parse_protocols("udp,tcp") == ("tcp", "udp")
    for text in ("", "tcp,", "tcp,tcp", "TCP", "tcp, udp", "sctp", "tcp;udp"):
        with pytest.raises(InvalidInput):
            parse_protocols(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("a b", "white space"),
        ("a\tb", "white space"),
        ("a\xa0b", "white space"),
        ("\x1b[31m", "cannot be printed"),
        ("\ud800", "cannot be printed"),
        ("x" * 10000, "is 10000 bytes long"),
        ("ü" * 128, "is 256 bytes long"),
    ],
)
def test_bad_label(text: str, why: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_label(text, "name", 255)
    assert why in str(caught.value)
    assert str(caught.value).isprintable()


def test_sort_key() -> None:
    order = ["9.0.0.1:1/udp", "10.0.0.1:2/tcp", "10.0.0.1:10/tcp", "10.0.0.1:10/udp", "[::9]:1/tcp"]
    order += ["[fdff::1]:65535/udp", "node:1/tcp", "node:1/udp", "node:30080/tcp"]
    assert sorted({*order}, key=lambda text: frontend_key(*parse_frontend(text))) == order


def test_quote_is_short_and_printable() -> None:
    assert quote("a\nb") == r"'a\nb'"
    assert len(quote("x" * 1000)) == 62
