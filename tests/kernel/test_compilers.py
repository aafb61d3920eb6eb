# SPDX-License-Identifier: Apache-2.0
"""The verifier accepts the programs as the oldest and the newest clang here compile them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from hostreach.datapath import kernel_features

from .harness import kernel
from .harness.objects import SOURCES, clangs, compile_object, loaded
from .harness.rawprog import pinned_info

ADDRESS = {
    f"hr_{call}{v}" for call in ("connect", "sendmsg", "recvmsg", "getpeername") for v in "46"
}
PROGRAMS = {
    "hostreach": ADDRESS | {"hr_sock_release", "hr_post_bind4", "hr_post_bind6"},
    "legacy": ADDRESS,
    "sockets": {"hr_records", "hr_tcp", "hr_udp"},
}
# How many instructions the verifier walks; legacy is for kernels before 5.2, whose
# BPF_COMPLEXITY_LIMIT_INSNS was 131,072. Half of it: other kernels prune less than this one.
LIMITS = {"hostreach": 500_000, "legacy": 65_536, "sockets": 500_000}
# What makes this kernel's verifier as blind as those that lack the kernel's BTF, as Linux 5.3 and
# 5.4 do: it walks global functions at each call. A call of the kernel's own functions the loader
# takes out there; the knobs it writes into the programs, so that they are known.
BLIND = (
    ("knobs.bpf.h", "#define WALKED_ONCE __noinline", "#define WALKED_ONCE static __noinline"),
    (
        "place.bpf.h",
        "*kernel_socket(const struct bpf_sock *sk, __u64 type)\n{\n",
        "*kernel_socket(const struct bpf_sock *sk, __u64 type)\n{\n\treturn NULL;\n",
    ),
)
KNOBS = {
    "as on 5.4": "checks_words",
    "all": "has_set_retval has_sock_release has_places has_hints keeps_only",
}
BLIND_LIMIT = 750_000  # of a million, with helpers that 5.3 and 5.4 lack


def can_load(name: str) -> bool:
    """The legacy object has nothing that any kernel lacks; of the others hostreach takes it out."""
    if name == "sockets":
        # what it has besides loads wherever it may be loaded at all
        return kernel.has("btf") and " bpf_sock_destroy\n" in Path("/proc/kallsyms").read_text()
    found = kernel_features()
    names = "global_data sk_storage cookie netns_cookie cgroup_id set_retval sock_release mptcp"
    return name == "legacy" or all(found[each] for each in f"{names} places".split())


def compiler(name: str, which: int) -> str:
    """One of the clangs here. There is one: guests, which have none, leave these tests out."""
    kernel.need(can_load(name), "helper that the object calls")
    return clangs()[which]


@pytest.mark.parametrize("which", [0, -1], ids=["oldest", "newest"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_accepted(name: str, which: int, tmp_path: Path) -> None:
    clang = compiler(name, which)
    with loaded(compile_object(tmp_path, name, clang)) as programs:
        assert programs.keys() == PROGRAMS[name]
        walked = {each: pinned_info(path).verified_instructions for each, path in programs.items()}
    assert max(walked.values()) < LIMITS[name], walked


@pytest.mark.parametrize("which", [0, -1], ids=["oldest", "newest"])
@pytest.mark.parametrize("knobs", KNOBS)
def test_room_without_btf(knobs: str, which: int, tmp_path: Path) -> None:
    clang = compiler("hostreach", which)
    sources = tmp_path / "bpf"
    shutil.copytree(SOURCES, sources)
    for name, known, blind in BLIND:
        text = (sources / name).read_text()
        assert text.count(known) == 1
        (sources / name).write_text(text.replace(known, blind))
    header = sources / "knobs.bpf.h"
    switched_on = ", ".join(f".{each} = 1" for each in f"with_tcp with_udp {KNOBS[knobs]}".split())
    text, count = re.subn(
        r"(struct hr_knobs knobs = \{)\s*\.with_tcp[^}]*", rf"\1{switched_on}", header.read_text()
    )
    assert count == 1
    header.write_text(text)
    with loaded(compile_object(tmp_path, "hostreach", clang, sources=sources)) as all_:
        walked = {each: pinned_info(path).verified_instructions for each, path in all_.items()}
    assert max(walked.values()) < BLIND_LIMIT, walked
