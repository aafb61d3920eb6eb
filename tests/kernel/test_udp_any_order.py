# SPDX-License-Identifier: Apache-2.0
"""One UDP socket, any order of connects, disconnects and sends: it is always told the truth."""

from __future__ import annotations

import select
import socket
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hostreach
from hostreach import Service

from .harness import NO_STARVING, Box, kernel, linux, scaled
from .harness.clients import (
    LOST,
    MAPPED,
    RAW_UNSPEC,
    UDP_UNCONNECTED,
    V4,
    V6,
    Family,
    Seen,
    ask,
    connect,
    fresh_payload,
    new_socket,
    outcome,
    receive,
)

PORT = 53
PLACES = ("one", "two", "shared", "backend", "lone", "nowhere")
"""Services one (two backends), two and shared (one backend, the same); a backend of one; a plain
server; and an address without a route."""

Action = Literal["connect", "disconnect", "send", "sendto"]
Step = tuple[Action, str]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("connect"), st.sampled_from(PLACES)),
        st.tuples(st.just("disconnect"), st.just("")),
        st.tuples(st.just("send"), st.just("")),
        st.tuples(st.just("sendto"), st.sampled_from(PLACES[:-1])),
    ),
    min_size=2,
    max_size=14,
)


def addresses(family: Family) -> dict[str, tuple[str, int]]:
    hosts = {
        "one": (family.vip(1), PORT),
        "two": (family.vip(2), PORT),
        "shared": (family.vip(3), PORT),
        "backend": (family.backend(2), 8053),
        "lone": (family.backend(9), 8053),
        "nowhere": ("fd00:77::1" if family is V6 else "10.77.0.1", 8053),
    }
    return {name: family.sockaddr(*place) for name, place in hosts.items()}


def servers(family: Family) -> dict[str, set[str]]:
    two, three, four, nine = (family.endpoint(family.backend(n), 8053) for n in (2, 3, 4, 9))
    return {
        "one": {two, three},
        "two": {four},
        "shared": {four},
        "backend": {two},
        "lone": {nine},
    }


def follow(family: Family, script: list[Step]) -> None:
    """Takes the steps, and checks each answer against what the program asked for.

    Where no hook sees what a socket is connected to, an answer may show any address by which the
    socket ever asked for that server. And a send that names the service goes to the backend that
    it went to before the connect: the answer of another than the peer the kernel drops.
    """
    where, who = addresses(family), servers(family)
    asked, sent = set[str](), set[str]()

    def may_show(server: str, *addresses: tuple[str, int]) -> set[tuple[str, int]]:
        if kernel.remembers_on_sockets():
            return {*addresses}
        return {where[place] for place in asked if server in who[place]}

    connected = ""
    # A failed connect keeps the peer, but the kernel then drops its second and later answers.
    deaf = False
    with new_socket(family, UDP_UNCONNECTED) as client:
        for action, place in script:
            asked |= {place} & who.keys()
            if action == "connect":
                found = outcome(connect, client, where[place])
                assert found == ("ENETUNREACH" if place == "nowhere" else None)
                deaf = place == "nowhere" and connected != ""
                connected = connected if place == "nowhere" else place
            elif action == "disconnect":
                linux.connect_raw(client.fileno(), RAW_UNSPEC)
                connected, deaf = "", False
            elif deaf:
                continue
            elif action == "send" and connected:
                seen = ask(client)
                assert seen.server in who[connected]
                assert seen.peer in may_show(seen.server, where[connected])
            elif action == "sendto" and not connected:
                sent.add(place)
                seen = ask(client, where[place])
                assert seen.server in who[place]
                assert seen.peer in may_show(seen.server, where[place])
            elif action == "sendto" and place == connected:
                answered = outcome(ask, client, where[place])
                if answered == LOST and place in sent and not kernel.remembers_on_sockets():
                    continue
                assert isinstance(answered, Seen)
                assert answered.peer in may_show(answered.server, where[connected])
            elif action == "sendto":
                # An answer that is not waited for would be taken for that to what is asked next.
                same = who[place] == who[connected] and len(who[place]) == 1
                seconds = 5.0 if same else 0.2 if who[place] & who[connected] else 0.02
                if passed := _send_past_the_peer(client, where[place], scaled(seconds)):
                    assert passed.peer in may_show(passed.server, where[place], where[connected])
            peer = outcome(client.getpeername)
            backends = {family.sockaddr_of(server) for server in who.get(connected, ())}
            may_be = {kernel.shown(where[connected], backend) for backend in backends}
            found = peer[:2] if isinstance(peer, tuple) else peer
            assert found in may_be if connected else found == "ENOTCONN"


def _send_past_the_peer(
    client: socket.socket, address: tuple[str, int], seconds: float
) -> Seen | None:
    """Elsewhere than connected: an answer comes only if both are one server in the end."""
    payload = fresh_payload()
    client.sendto(payload.encode(), address)
    if not select.select([client], [], [], seconds)[0]:
        return None
    answer, source = receive(client)
    server, echoed = answer.decode().split(" ")
    assert echoed == payload
    return Seen(server, source[:2])


@pytest.mark.parametrize("memory", ["storage", "lru"])
@pytest.mark.parametrize("family", [V4, V6, MAPPED], ids=str)
def test_any_order(box: Box, family: Family, memory: str) -> None:
    if memory == "lru" and not box.starve():
        pytest.skip(NO_STARVING)
    who = servers(family)
    box.serve(*(f"{server}/udp" for server in set().union(*who.values())))
    with hostreach.open(str(box.pin)) as node:
        for number, name in enumerate(("one", "two", "shared"), 1):
            frontend = f"{family.endpoint(family.vip(number), PORT)}/udp"
            node.services.add(Service.of(frontend, *sorted(who[name])))
        node.attach(cgroup=str(box.cgroup))

        @settings(
            max_examples=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(script=steps)
        def try_one(script: list[Step]) -> None:
            if family is V6:
                # The kernel leaves a disconnected IPv6 socket deaf to all but its former peer.
                script = [step for step in script if step[0] != "disconnect"]
            box.call(follow, family, script)

        try_one()
