# SPDX-License-Identifier: Apache-2.0
"""Tables of older versions become this one's, under traffic, and whoever is killed."""

from __future__ import annotations

import contextlib
import os
import random
import struct
from collections.abc import Iterator

import pytest

import hostreach
from hostreach import errors
from hostreach.node import Capacities, Node

from .harness import NO_STARVING, Box, cli, kernel, wait_until
from .harness.bpf import attached
from .harness.clients import (
    TCP,
    UDP_CONNECTED,
    UDP_UNCONNECTED,
    V4,
    Seen,
    ask,
    connect,
    line,
    new_socket,
)
from .harness.line import Line
from .harness.rawmap import RawMap
from .harness.reader import Reader
from .harness.stepping import RENAME, calls_of
from .harness.traffic import PORT, calling, serve, server_of, services
from .harness.versions import CURRENT, TRIED, begin_growth, say_checks, turn_back, version

LONG = os.environ.get("HOSTREACH_LONG") == "1"
KILLS = 100 if LONG else 4
SIZES = Capacities(services=64, backends=256, slots=2048)
VIP = V4.sockaddr(V4.vip(), PORT)


OLD = pytest.mark.parametrize("old", TRIED)


@pytest.fixture
def node(box: Box, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A TCP and a UDP service of each family, attached; no socket has a place, as before."""
    kernel.switch_off(monkeypatch, "places")
    with hostreach.open(str(box.pin), capacities=SIZES) as opened:
        serve(box, opened)
        opened.attach(cgroup=str(box.cgroup))
        yield opened


def names(box: Box) -> list[str]:
    return sorted(str(path.relative_to(box.pin)) for path in box.pin.rglob("*"))


@OLD
def test_no_call_fails(box: Box, node: Node, old: int) -> None:
    before, programs = names(box), attached(box.cgroup)
    with calling(box, timeout=120) as calls:
        for _ in range(20 if LONG else 2):
            turn_back(box.pin, old)
            calls.wait()
            result = node.attach(cgroup=str(box.cgroup))
            assert result.migrated
            assert {action for _, action in result.changes} <= {"replaced"}
            assert version(box.pin) == CURRENT
            assert names(box) == before
            calls.wait()
    assert node.services.list() == sorted(services(), key=lambda service: service.sort_key)
    assert attached(box.cgroup).keys() == programs.keys()
    assert not node.attach(cgroup=str(box.cgroup)).migrated


@OLD
@pytest.mark.usefixtures("node")
def test_until_then(box: Box, old: int) -> None:
    """Whoever is not `attach` refuses, in a line that says what to do, and changes nothing."""
    turn_back(box.pin, old)
    before = names(box), attached(box.cgroup)
    for command in (
        ["svc", "ls"],
        ["svc", "add", "10.96.0.99:80/tcp"],
        ["status"],
        ["exempt", "ls"],
        ["sockets", "end"],
    ):
        said = cli.run(box.pin, *command)
        assert (said.status, said.stdout) == (1, ""), command
        assert said.stderr.count("\n") == 1
        assert f"version {old}" in said.stderr
        assert "attach" in said.stderr
    assert (names(box), attached(box.cgroup)) == before
    said = cli.run(box.pin, "attach", "--cgroup", str(box.cgroup))
    assert said.status == 0, said
    assert "older" in said.stdout
    assert cli.run(box.pin, "svc", "ls").status == 0


@OLD
def test_sockets_keep_what_they_remember(box: Box, node: Node, old: int) -> None:
    """Connected and not, those that storage remembers; and they are counted once."""

    def converse(test: Line) -> None:
        tcp, udp, loose = (new_socket(V4, kind) for kind in (TCP, UDP_CONNECTED, UDP_UNCONNECTED))
        connect(tcp, VIP)
        assert line(tcp) == server_of(V4)
        connect(udp, VIP)
        for _ in range(2):
            loose.sendto(b"under way", VIP)
            test.ask()
            shown = kernel.shown(VIP, V4.sockaddr_of(server_of(V4)))
            assert tcp.getpeername() == udp.getpeername() == shown
            assert ask(udp) == Seen(server_of(V4), VIP)
            assert loose.recvfrom(100)[1] == VIP
        test.ask()

    with box.talk(converse) as clients:
        for _ in range(2):
            clients.recv()
            turn_back(box.pin, old)
            assert node.attach(cgroup=str(box.cgroup)).migrated
            assert [node.services.active(f"10.96.0.10:53/{p}") for p in ("tcp", "udp")] == [
                [1],
                [1],
            ]
            clients.send()
        clients.recv()
        clients.send()


@OLD
def test_sockets_of_before_and_after(
    box: Box, node: Node, old: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of before stay where they are, those of after get places, and both count once."""

    def converse(test: Line) -> None:
        before = [new_socket(V4, kind) for kind in (TCP, UDP_CONNECTED)]
        for each in before:
            connect(each, VIP)
        test.ask()
        after = [new_socket(V4, kind) for kind in (TCP, UDP_CONNECTED)]
        for each in after:
            connect(each, VIP)
        for each in before + after:
            assert each.getpeername() == kernel.shown(VIP, V4.sockaddr_of(server_of(V4)))
        connect(before[1], VIP)  # again, from where it is
        test.ask()

    def counts() -> list[list[int]]:
        return [node.services.active(f"10.96.0.10:53/{p}") for p in ("tcp", "udp")]

    with box.talk(converse) as clients:
        clients.recv()
        turn_back(box.pin, old)
        kernel.switch_on(monkeypatch, "places")
        assert node.attach(cgroup=str(box.cgroup)).migrated
        assert counts() == [[1], [1]]
        clients.send()
        clients.recv()
        assert counts() == [[2], [2]]
        clients.send()
    wait_until(lambda: counts() == [[0], [0]], "no socket counted")


def test_sockets_with_places(box: Box, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last version had them, and those of sockets that are not connected came with this one."""
    kernel.switch_on(monkeypatch, "places")
    kernel.need(kernel.holds_places(), "places for connections")
    node.detach(purge=True)
    node.services.apply(services())
    node.attach(cgroup=str(box.cgroup))

    def converse(test: Line) -> None:
        tcp, udp, loose = (new_socket(V4, kind) for kind in (TCP, UDP_CONNECTED, UDP_UNCONNECTED))
        for each in (tcp, udp):
            connect(each, VIP)
        for _ in range(2):
            loose.sendto(b"under way", VIP)
            test.ask()
            shown = kernel.shown(VIP, V4.sockaddr_of(server_of(V4)))
            assert tcp.getpeername() == udp.getpeername() == shown
            assert loose.recvfrom(100)[1] == VIP
        test.ask()

    def counts() -> list[list[int]]:
        return [node.services.active(f"10.96.0.10:53/{p}") for p in ("tcp", "udp")]

    with box.talk(converse) as clients:
        for _ in range(2):
            clients.recv()
            turn_back(box.pin, 6)
            assert node.attach(cgroup=str(box.cgroup)).migrated
            assert counts() == [[1], [1]]
            clients.send()
        clients.recv()
        clients.send()
    wait_until(lambda: counts() == [[0], [0]], "no socket counted")


@OLD
def test_what_the_lru_remembers(box: Box, node: Node, old: int) -> None:
    """Programs look there only once it was used: that is known after the migration too."""
    if not box.starve():
        pytest.skip(NO_STARVING)

    def converse(test: Line) -> None:
        with new_socket(V4, UDP_CONNECTED) as udp, new_socket(V4, UDP_UNCONNECTED) as loose:
            connect(udp, VIP)
            loose.sendto(b"under way", VIP)
            test.ask()
            assert udp.getpeername() == kernel.shown(VIP, V4.sockaddr_of(server_of(V4)))
            assert loose.recvfrom(100)[1] == VIP

    with box.talk(converse) as clients:
        clients.recv()
        turn_back(box.pin, old)
        assert node.attach(cgroup=str(box.cgroup)).migrated
        clients.send()


@OLD
def test_counters_and_settings_stay(box: Box, node: Node, old: int) -> None:
    node.exempt.add(str(box.bare))
    for _ in range(3):
        box.call(lambda: connect(new_socket(V4, UDP_CONNECTED), VIP))
    before = node.status()
    exempt = list(node.exempt)
    assert before.translations
    assert exempt
    turn_back(box.pin, old)
    if old > 1:
        say_checks(box.pin)
    assert node.attach(cgroup=str(box.cgroup)).migrated
    assert box.call(lambda: connect(new_socket(V4, UDP_CONNECTED), VIP)) is None
    Reader(box.pin).services()  # looks at each
    after = node.status()
    assert (after.translations, after.services, after.backends, after.slots) == (
        before.translations + 1,
        before.services,
        before.backends,
        before.slots,
    )
    assert list(node.exempt) == exempt


@OLD
def test_not_attached(box: Box, node: Node, old: int) -> None:
    node.detach()
    turn_back(box.pin, old)
    assert node.attach(cgroup=str(box.cgroup)).migrated
    assert len(node.services) == len(services())


@OLD
def test_refused_attach_changes_nothing(box: Box, node: Node, old: int) -> None:
    turn_back(box.pin, old)
    before = names(box)
    with pytest.raises(errors.AttachedElsewhere):
        node.attach(cgroup=str(box.bare))
    assert names(box) == before
    assert version(box.pin) == old


@OLD
def test_purge(box: Box, node: Node, old: int) -> None:
    turn_back(box.pin, old)
    assert node.detach(purge=True).purged
    assert not box.pin.exists()


def attach_by_steps(box: Box, kill: int | None = None) -> list[int | None]:
    """As `calls_of`."""

    def attach() -> None:
        with hostreach.open(str(box.pin)) as own:
            assert own.attach(cgroup=str(box.cgroup)).migrated

    return calls_of(box, attach, kill)


@pytest.mark.parametrize("old", [each for each in TRIED if each >= 3])
def test_no_look_at_the_overflow_from_now_on(box: Box, node: Node, old: int) -> None:
    """Nothing would lower that flag, and it costs each connect to elsewhere a look-up."""
    with RawMap.pinned(box.pin / "flags") as flags:
        before = flags[0]
    turn_back(box.pin, old)
    node.attach(cgroup=str(box.cgroup))
    with RawMap.pinned(box.pin / "flags") as flags:
        assert flags[0] == before == bytes(8)


@OLD
def test_killed_on_the_way(box: Box, node: Node, old: int) -> None:
    """After any system call: the next `attach` goes back or forward, and no client notices."""
    chance = random.Random(3)
    before = names(box)
    left = []
    with calling(box, timeout=120 + 10 * KILLS) as calls:
        turn_back(box.pin, old)
        made = attach_by_steps(box)
        assert (version(box.pin), names(box)) == (CURRENT, before)
        # User-Mode Linux shows a stopped process's registers without them.
        kernel.need(bool(made), "the numbers of another process's system calls")
        moving = next(n for n, call in enumerate(made) if call in RENAME)
        for number in range(KILLS):
            turn_back(box.pin, old)
            # around where the new tables take the old ones' places; before, and after, in strata
            stratum = (number + chance.random()) / KILLS
            at = (
                moving + chance.randint(-5, 45),
                1 + int(stratum * (moving - 1)),
                moving + chance.randint(-5, 45),
                moving + 1 + int(stratum * (len(made) - moving)),
            )[number % 4]
            assert len(attach_by_steps(box, at)) == at
            left.append(version(box.pin))
            calls.wait()
            if chance.random() < 0.5:  # another writer comes first
                with contextlib.suppress(errors.AbiMismatch):
                    node.services.set(services()[0])
            node.attach(cgroup=str(box.cgroup))
            assert (version(box.pin), names(box)) == (CURRENT, before)
            assert {p.name for p in node.status().programs if p.effective} == kernel.hooks()
            assert len(node.services) == len(services())
    print(f"{KILLS} kills in {len(made)} calls; {left.count(old)} left version {old}")
    assert set(left) == {old, CURRENT}
    wait_until(
        lambda: not any(sum(node.services.active(each.frontend)) for each in node.services),
        "no socket counted",
    )


@OLD
@pytest.mark.usefixtures("counting")
def test_of_one_killed_while_it_counted(box: Box, node: Node, old: int) -> None:
    """Connections are counted when all tables are there that tell of them."""

    def converse(test: Line) -> None:
        client = new_socket(V4, TCP)
        connect(client, VIP)
        test.ask()

    with box.talk(converse) as clients:
        clients.recv()
        turn_back(box.pin, old)
        (box.pin / "uncounted").mkdir(mode=0o700)
        assert node.attach(cgroup=str(box.cgroup)).migrated
        assert not (box.pin / "uncounted").exists()
        assert node.services.active("10.96.0.10:53/tcp") == [1]
        clients.send()


@pytest.mark.parametrize("committed", [True, False])
def test_a_growth_that_was_killed_before(box: Box, node: Node, committed: bool) -> None:
    """By version 1: tables that nothing uses go, those that it had decided for stay."""
    larger = Capacities(services=128, backends=512, slots=4096)
    other = box.pin.with_name(f"{box.pin.name}-larger")
    try:
        with hostreach.open(str(other), capacities=larger) as copy:
            for service in services():
                copy.services.add(service)
        with hostreach.open(str(box.pin)) as again:
            again.services.apply([], prune=True)
        turn_back(box.pin, 1)
        begin_growth(box.pin, other)
        with RawMap.pinned(box.pin / "next" / "active") as active:
            active[1] = struct.pack("=Q", 5)  # what was copied, and is not so any more
        if committed:
            (box.pin / "next" / "committed").mkdir(mode=0o700)
        with hostreach.open(str(box.pin)) as again:
            assert again.attach(cgroup=str(box.cgroup)).migrated
        capacity = node.status().services
        assert capacity
        assert capacity.capacity == (128 if committed else 64)
        assert len(node.services) == (len(services()) if committed else 0)
        if committed and kernel.counts_sockets():
            assert not any(sum(node.services.active(each.frontend)) for each in node.services)
        assert not (box.pin / "next").exists()
    finally:
        with hostreach.open(str(other)) as copy:
            copy.detach(purge=True)


@pytest.mark.parametrize("moved", [True, False], ids=["moved", "before it is moved"])
def test_what_a_newer_version_began(box: Box, node: Node, moved: bool) -> None:
    """It may be at work: an older one refuses, in a line, and neither ends nor discards that."""
    (box.pin / "next").mkdir(mode=0o700)
    (box.pin / "next" / "committed").mkdir(mode=0o700)
    with RawMap.pinned(box.pin / "meta") as meta:
        newer = struct.pack("=I", CURRENT + 1) + meta[0][4:]
        if moved:
            meta[0] = newer
        else:
            with RawMap.create("meta", meta.shape) as staged:
                staged[0] = newer
                staged.pin(box.pin / "next" / "meta")
    before = names(box), attached(box.cgroup)
    node.close()
    for command in (["svc", "add", "10.96.0.99:80/tcp"], ["attach", "--cgroup", str(box.cgroup)]):
        said = cli.run(box.pin, *command)
        assert (said.status, said.stdout) == (1, "")
        assert said.stderr.count("\n") == 1
        assert "newer" in said.stderr
    assert (names(box), attached(box.cgroup)) == before
