# SPDX-License-Identifier: Apache-2.0
"""What the kernel runs, once it is loaded, keeps what the source promises."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from bpfobject.instructions import LD_IMM64, MAP_VALUE, decode
from bpfobject.objects import installed

import hostreach

from .harness import Box, kernel
from .harness.bpf import BPFTOOL, attached, bpftool, pinned_maps
from .harness.disassembly import Load, loads

CHOOSING = {"connect4", "connect6", "sendmsg4", "sendmsg6"}


def test_the_publishing_word_is_read_at_once(box: Box, tmp_path: Path) -> None:
    """One 64-bit load: two of 32 bits would mix one set's base with another's count."""
    with hostreach.open(str(box.pin)) as node:
        node.attach(cgroup=str(box.cgroup))
    records = pinned_maps(box.pin)["records"]["id"]
    for hook, number in attached(box.cgroup).items():
        code = _translated(number, tmp_path / hook)
        word = {load for load in loads(code, records) if load.offset < 8}
        assert word == ({Load(0, 8)} if hook in CHOOSING else set()), hook


def test_knobs_are_numbers(box: Box, tmp_path: Path) -> None:
    """No program reads one from where they lie: the loader has written them all.

    But each has their address left, by which `status` reads what the program was told.
    """
    with hostreach.open(str(box.pin)) as node:
        node.attach(cgroup=str(box.cgroup))
    for hook, number in attached(box.cgroup).items():
        code = _translated(number, tmp_path / hook)
        data = {
            each.immediate
            for each in decode(code)
            if each.opcode == LD_IMM64 and each.source == MAP_VALUE
        }
        told = kernel.remembers_on_sockets() and not hook.startswith("post_bind")
        assert len(data) == told, hook
        assert [load for map_id in data for load in loads(code, map_id)] == [], hook


def _translated(number: int, file: Path) -> bytes:
    # its interpreter has calls of a form of its own (bpf_patch_call_args() in kernel/bpf/core.c)
    kernel.need(kernel.jits(), "compiler for programs")
    command = [BPFTOOL, "prog", "dump", "xlated", "id", str(number), "file", str(file)]
    subprocess.run(command, check=True)
    return file.read_bytes()


def test_programs_name_themselves(box: Box) -> None:
    """So that `bpftool prog` tells whose they are."""
    with hostreach.open(str(box.pin)) as node:
        node.attach(cgroup=str(box.cgroup))
    for number in attached(box.cgroup).values():
        program = bpftool("prog", "show", "id", str(number))
        assert program["name"].startswith("hr_")
        assert program["gpl_compatible"]


@pytest.mark.parametrize("without", ["", "btf"])
def test_global_functions_need_the_kernels_btf(
    box: Box, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    """By it alone a verifier knows what their context is; User-Mode Linux refuses them."""
    kernel.switch_off(monkeypatch, without)
    with hostreach.open(str(box.pin)) as node:
        node.attach(cgroup=str(box.cgroup))
    for hook in CHOOSING:
        program = bpftool("prog", "show", "id", str(attached(box.cgroup)[hook]))
        # not as JSON: bpftool 7 spoils it on kernels that know no split BTF
        command = [BPFTOOL, "btf", "dump", "id", str(program["btf_id"])]
        types = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        linkages = set(re.findall(r"^\[\d+\] FUNC .* linkage=(\w+)$", types, re.MULTILINE))
        assert ("global" in linkages) == kernel.has_btf(), hook


def test_old_verifiers_get_to_the_end(box: Box, tmp_path: Path) -> None:
    """Before Linux 5.2 they gave up at 131,072 instructions, on all paths together.

    They walked more than their successors, which know what numbers do not matter. How much more was
    tried on 5.10, where a function of its own in each program makes the kernel take each number for
    precise, as they did: 5 % (4,731 at most). The rest of the room is for what was not thought of.
    """
    file = tmp_path / "legacy.bpf.o"
    file.write_bytes(installed()["legacy"].image)
    command = [BPFTOOL, "--debug", "prog", "loadall", str(file), str(box.pin)]
    log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    walked = [int(number) for number in re.findall(r"^processed (\d+) insns", log, re.MULTILINE)]
    assert len(walked) == len(installed()["legacy"].programs)
    assert max(walked) < 131_072 // 4
