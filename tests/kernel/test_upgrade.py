# SPDX-License-Identifier: Apache-2.0
"""Programs replaced under clients that never pause: no call fails or goes untranslated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import hostreach
from hostreach.datapath import kernel_features
from hostreach.node import Capacities, Node

from .harness import Box, kernel, rawbpf, wait_until
from .harness.bpf import bpftool
from .harness.objects import clangs, compile_object, loaded
from .harness.traffic import calling, serve

LONG = os.environ.get("HOSTREACH_LONG") == "1"
REPLACEMENTS = 200 if LONG else 6  # each of all programs

# A knob or a call differs between neighbours, and so every program that has it.


@pytest.fixture
def node(box: Box) -> Iterator[Node]:
    """A TCP and a UDP service of each family, attached."""
    capacities = Capacities(services=64, backends=256, slots=2048)
    with hostreach.open(str(box.pin), capacities=capacities) as opened:
        serve(box, opened)
        opened.attach(cgroup=str(box.cgroup))
        yield opened


def test_no_call_fails(box: Box, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    links = pinned_links(box)
    variants, all_replaced = kernel.variants()
    choosing = {"connect4", "connect6", "sendmsg4", "sendmsg6"}
    with calling(box, timeout=30 + 2 * REPLACEMENTS) as calls:
        for number in range(REPLACEMENTS):
            with monkeypatch.context() as patch:
                kernel.switch_off(patch, variants[number % len(variants)])
                changes = node.attach(cgroup=str(box.cgroup)).changes
            assert {action for _, action in changes} == {"replaced"}
            assert dict(changes).keys() == (links.keys() if all_replaced else choosing)
            calls.wait()
    assert pinned_links(box) == links
    print(f"{calls.made} calls beside {REPLACEMENTS} replacements of {len(links)} programs")


def test_from_and_to_another_build(box: Box, node: Node, tmp_path: Path) -> None:
    """Other instructions, not only other knobs: another instruction set, and the newest clang."""
    if not all(kernel_features().values()):
        pytest.skip("this kernel lacks a helper that hostreach would take out before loading")
    links = pinned_links(box)
    with ExitStack() as stack:
        builds = []
        for number, (clang, cpu) in enumerate([("clang", "v3"), (clangs()[-1], "v2")]):
            directory = tmp_path / str(number)
            directory.mkdir()
            file = compile_object(directory, "hostreach", clang, cpu)
            builds.append(stack.enter_context(loaded(file, box.pin)))
        with calling(box, timeout=120) as calls:
            for programs in builds * (10 if LONG else 2):
                for hook in links:
                    rawbpf.replace_by(box.pin / "links" / hook, programs[f"hr_{hook}"])
                calls.wait()
                changes = node.attach(cgroup=str(box.cgroup)).changes
                assert {action for _, action in changes} == {"replaced"}
                assert {"connect4", "connect6", "sendmsg4", "sendmsg6"} <= dict(changes).keys()
                calls.wait()
    assert pinned_links(box) == links
    wait_until(
        lambda: not any(sum(node.services.active(each.frontend)) for each in node.services),
        "no socket counted",
    )


def pinned_links(box: Box) -> dict[str, int]:
    """Hook -> id of the link that is pinned for it."""
    return {
        path.name: bpftool("link", "show", "pinned", str(path))["id"]
        for path in sorted((box.pin / "links").iterdir())
    }
