# SPDX-License-Identifier: Apache-2.0
"""Attaching, attaching again, and leaving nothing behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import hostreach
from hostreach import Service
from hostreach.datapath import kernel_features

from .harness import Box, Line, kernel, rawbpf, wait_until
from .harness.bpf import attached, link_ids, nothing_left
from .harness.clients import TCP, UDP_CONNECTED, V4, Seen, exchange, outcome

VIP = ("10.96.0.10", 80)


def serve(box: Box, node: hostreach.Node) -> None:
    """A TCP and a UDP service on VIP, with a server behind them."""
    for protocol in ("tcp", "udp"):
        box.serve(f"10.0.0.2:80/{protocol}")
        node.services.add(Service.of(f"10.96.0.10:80/{protocol}", "10.0.0.2:80"))


def reaches(box: Box, kind: str) -> bool:
    seen = box.call(outcome, exchange, V4, kind, VIP)
    assert seen in (Seen("10.0.0.2:80", VIP), "ENETUNREACH")
    return seen != "ENETUNREACH"


def in_effect(node: hostreach.Node) -> set[str]:
    """Hooks on which a program of ours runs, by its own word and the kernel's."""
    return {p.name for p in node.status().programs if p.attached and p.effective}


def test_every_hook_is_attached(box: Box) -> None:
    with hostreach.open(box.pin) as node:
        result = node.attach(cgroup=box.cgroup)
        assert result.cgroup == str(box.cgroup)
        assert tuple(result.protocols) == ("tcp", "udp")
        assert len(result.changes) == len(kernel.hooks())
    assert set(attached(box.cgroup)) == kernel.hooks()
    assert not attached(box.bare)


def test_the_hosts_namespace_as_a_path(box: Box) -> None:
    kernel.need(kernel_features()["host_netns"], "difference between network namespaces")
    with hostreach.open(box.pin) as node:
        node.attach(cgroup=box.cgroup, host_netns=Path("/proc/self/ns/net"))
    assert set(attached(box.cgroup)) == kernel.hooks()


def test_attaching_again_changes_nothing(box: Box) -> None:
    """Neither from the same process nor from another: same programs, same links."""
    with hostreach.open(str(box.pin)) as node:
        node.attach(cgroup=str(box.cgroup))
        before = attached(box.cgroup), link_ids()
        assert not node.attach(cgroup=str(box.cgroup)).changes
    with hostreach.open(str(box.pin)) as node:
        assert not node.attach(cgroup=f"{box.cgroup}/").changes
        assert not node.attach(cgroup=str(box.cgroup), protocols=("udp", "tcp")).changes
    assert (attached(box.cgroup), link_ids()) == before


def test_attached_without_any_process(box: Box) -> None:
    with hostreach.open(str(box.pin)) as node:
        serve(box, node)
        node.attach(cgroup=str(box.cgroup))
    assert reaches(box, TCP)
    assert reaches(box, UDP_CONNECTED)


def test_protocols_change_live(box: Box) -> None:
    """TCP goes on as UDP comes and goes, and the TCP hooks' links stay the same."""
    with hostreach.open(str(box.pin)) as node:
        serve(box, node)
        node.attach(cgroup=str(box.cgroup), protocols=("tcp",))
        assert set(attached(box.cgroup)) == kernel.hooks("tcp")
        assert (reaches(box, TCP), reaches(box, UDP_CONNECTED)) == (True, False)
        assert tuple(node.status().protocols) == ("tcp",)
        links = link_ids()

        assert node.attach(cgroup=str(box.cgroup)).changes
        assert set(attached(box.cgroup)) == kernel.hooks()
        assert (reaches(box, TCP), reaches(box, UDP_CONNECTED)) == (True, True)
        assert links < link_ids() or not kernel.has("bpf_link")

        assert node.attach(cgroup=str(box.cgroup), protocols=("tcp",)).changes
        assert set(attached(box.cgroup)) == kernel.hooks("tcp")
        assert (reaches(box, TCP), reaches(box, UDP_CONNECTED)) == (True, False)
        assert link_ids() == links
        assert not node.attach(cgroup=str(box.cgroup), protocols=("tcp",)).changes


def test_detach_leaves_the_tables(box: Box) -> None:
    with hostreach.open(str(box.pin)) as node:
        serve(box, node)
        with nothing_left():
            node.attach(cgroup=str(box.cgroup))
            assert len(node.detach().programs) == len(kernel.hooks())
        assert not attached(box.cgroup)
        assert not node.detach().programs
        assert len(node.services) == 2
        assert node.status().cgroup is None
        assert not reaches(box, TCP)
        node.attach(cgroup=str(box.cgroup))
        assert reaches(box, TCP)


def test_purge_leaves_nothing(box: Box) -> None:
    with nothing_left():
        with hostreach.open(str(box.pin)) as node:
            node.attach(cgroup=str(box.cgroup))
            node.services.add(Service.of("10.96.0.10:80/tcp", "10.0.0.2:80"))
            assert node.detach(purge=True).purged
        assert not box.pin.exists()
    with hostreach.open(str(box.pin)) as node:
        node.detach(purge=True)
        assert not box.pin.exists()


def test_usable_after_purge(box: Box) -> None:
    with hostreach.open(str(box.pin)) as node:
        serve(box, node)
        node.detach(purge=True)
        assert not node.services.list()
        node.attach(cgroup=str(box.cgroup))
        node.services.add(Service.of("10.96.0.10:80/tcp", "10.0.0.2:80"))
        assert reaches(box, TCP)


def test_open_and_status_touch_nothing(box: Box) -> None:
    with nothing_left(), hostreach.open(str(box.pin)) as node:
        status = node.status()
        assert status.cgroup is None
        assert not any(program.attached for program in status.programs)
        assert not node.services.list()
        assert not node.services.rows()
        assert not box.pin.exists()


def test_status_tells_what_is_in_effect(box: Box) -> None:
    with hostreach.open(str(box.pin)) as node:
        node.attach(cgroup=str(box.cgroup))
        status = node.status()
        assert status.cgroup == str(box.cgroup)
        ids = set(attached(box.cgroup).values())
        assert {p.program_id for p in status.programs if p.attached} == ids
        assert in_effect(node) == kernel.hooks()
        assert not any(program.others for program in status.programs)


def test_somebody_elses_programs(box: Box) -> None:
    """Named in the status, and never touched."""
    for attach_type in rawbpf.ATTACH_TYPES:
        rawbpf.attach(box.cgroup, attach_type)
    theirs = attached(box.cgroup)
    with hostreach.open(str(box.pin)) as node:
        serve(box, node)
        node.attach(cgroup=str(box.cgroup))
        assert reaches(box, TCP)
        others = [other for program in node.status().programs for other in program.others]
        assert {other.program_id for other in others} == set(theirs.values())
        assert {other.name for other in others} == {"somebody_else"}
        node.attach(cgroup=str(box.cgroup), protocols=("tcp",))
        node.detach(purge=True)
    assert attached(box.cgroup) == theirs


def test_two_instances_on_one_cgroup(box: Box) -> None:
    """Each is somebody else to the other."""
    pins = [box.pin, box.pin.with_name(f"{box.pin.name}-second")]
    try:
        with hostreach.open(str(pins[0])) as one, hostreach.open(str(pins[1])) as two:
            one.attach(cgroup=str(box.cgroup))
            before = attached(box.cgroup)
            two.attach(cgroup=str(box.cgroup))
            for node in (one, two):
                programs = [each for each in node.status().programs if each.attached]
                assert [len(program.others) for program in programs] == [1] * len(kernel.hooks())
            serve(box, two)
            assert reaches(box, TCP)
            two.detach(purge=True)
            assert attached(box.cgroup) == before
            assert in_effect(one) == kernel.hooks()
    finally:
        if pins[1].exists():
            shutil.rmtree(pins[1])


def test_program_replaced_in_place(box: Box) -> None:
    """Whatever program a link of ours holds, attach puts this version's there: same link."""
    kernel.need(kernel.has("bpf_link"), "link of a program to a cgroup")
    with hostreach.open(str(box.pin)) as node:
        serve(box, node)
        node.attach(cgroup=str(box.cgroup))
        links = link_ids()
        ours = {hook for hook in attached(box.cgroup) if hook in rawbpf.ATTACH_TYPES}
        pins = [path for path in box.pin.rglob("*") if path.is_file()]
        assert sum(rawbpf.replace(path, "connect4") for path in pins) == len(ours)
        assert not reaches(box, TCP)
        changes = node.attach(cgroup=str(box.cgroup)).changes
        assert {action for _, action in changes} == {"replaced"}
        assert len(changes) == len(ours)
        assert reaches(box, TCP)
        assert link_ids() == links
        assert set(attached(box.cgroup)) == kernel.hooks()
        assert not node.attach(cgroup=str(box.cgroup)).changes


def test_cgroup_that_is_gone(box: Box) -> None:
    """The kernel detached everything; attach to another one works then."""
    gone = box.cgroup / "gone"
    gone.mkdir()
    with hostreach.open(str(box.pin)) as node:
        node.attach(cgroup=str(gone))
        gone.rmdir()
        # The kernel lets go of a removed cgroup's programs in its own time.
        wait_until(
            lambda: not any(program.attached for program in node.status().programs),
            "the programs being detached from the removed cgroup",
        )
        assert not any(program.effective for program in node.status().programs)
        serve(box, node)
        node.attach(cgroup=str(box.cgroup))
        assert reaches(box, TCP)
        assert in_effect(node) == kernel.hooks()


def test_parent_cgroup_serves_its_children(box: Box) -> None:
    child = box.cgroup / "child"
    child.mkdir()
    try:
        with hostreach.open(str(box.pin)) as node:
            serve(box, node)
            node.attach(cgroup=str(box.cgroup))

            def from_child() -> Seen:
                (child / "cgroup.procs").write_text("0")
                return exchange(V4, TCP, VIP)

            assert box.call(from_child) == Seen("10.0.0.2:80", VIP)
    finally:
        child.rmdir()


def test_attached_by_many_at_once(box: Box) -> None:
    """Whoever is first attaches; the others find nothing to do."""

    def attach() -> int:
        with hostreach.open(str(box.pin)) as node:
            return len(node.attach(cgroup=str(box.cgroup)).changes)

    attempts = [box.start(attach) for _ in range(4)]
    assert sorted(attempt.result() for attempt in attempts) == [0, 0, 0, len(kernel.hooks())]
    assert set(attached(box.cgroup)) == kernel.hooks()


def test_no_moment_without_the_service(box: Box) -> None:
    """Attaching again and anew, by whatever replaces programs: no connect ever fails."""

    def connect_on(test: Line) -> int:
        done = 0
        while not test.poll():
            assert exchange(V4, TCP, VIP) == Seen("10.0.0.2:80", VIP)
            done += 1
        return done

    with hostreach.open(str(box.pin)) as node:
        serve(box, node)
        node.attach(cgroup=str(box.cgroup))
        with box.talk(connect_on) as client:
            for _ in range(5):
                node.attach(cgroup=str(box.cgroup), protocols=("tcp",))
                node.attach(cgroup=str(box.cgroup))
            client.send("enough")
