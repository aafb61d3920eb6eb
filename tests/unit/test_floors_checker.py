# SPDX-License-Identifier: Apache-2.0
"""The checker of tests/bpfobject sees what single instructions, maps and sections need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bpfobject import kernels
from bpfobject.kernels import BPF_F_MMAPABLE, CONNECT, NEVER, Kernel
from bpfobject.rules import Loader, faults
from bpfobject.samples import WORDS, assembly, compile_bpf, connect, on, raw, uses

PART = "static NOINLINE __u32 part(__u32 n) { return n / 7; }"
LONG = 'asm volatile(".rept 2050; %0 += 1; .endr" : "+r"(n));'
THEIRS = 'extern int theirs SEC(".ksyms");'
CALLED = 'extern int called(void) SEC(".ksyms");'
CORE = "struct sock { int a; } __attribute__((preserve_access_index));"
SINCE = [
    # hooks and helpers
    ((4, 17), "attaches to cgroup/connect4", connect("return 1;")),
    ((4, 19, 57), "attaches to cgroup/recvmsg4", on("recvmsg4", "return 1;")),
    (NEVER.kernel, "attaches to cgroup/other", on("other", "return 1;")),
    ((4, 19), "calls bpf_get_socket_cookie", uses("cookie(ctx)")),
    ((5, 7), "calls bpf_get_netns_cookie", uses("netns(ctx)")),
    (NEVER.kernel, "calls bpf_number 3000", uses("unheard_of()")),
    # maps and data
    ((5, 5), "extra: is a map with BPF_F_MMAPABLE", "MAP(extra, 2, 1 << 10);" + uses("1")),
    ((5, 8), "extra: is a map of type RINGBUF", "MAP(extra, 27, 0);" + uses("1")),
    (NEVER.kernel, "extra: is a map of type 999", "MAP(extra, 999, 0);" + uses("1")),
    (NEVER.kernel, "extra: is a map with flags 0x80000", "MAP(extra, 2, 1 << 19);" + uses("1")),
    ((5, 2), "uses global data, .rodata", "const volatile int knob = 1;" + uses("knob")),
    ((5, 2), "uses global data, .bss", "int count;" + uses("count++")),
    ((5, 2), ".data.more: is global data", 'int more SEC(".data.more") = 1;' + uses("1")),
    ((5, 2), "is relocated by the kernel's BTF", CORE + uses("((struct sock *)ctx)->a")),
    # instructions
    ((5, 0), "shifts half a register", raw(0xC4, immediate=1)),
    ((6, 6), "divides with the sign", raw(0x37, offset=1, immediate=2)),
    ((6, 6), "loads with the sign", assembly(".8byte 0x0000000000041081")),
    ((6, 6), "moves with the sign", raw(0xBF, 0x10, offset=8)),
    ((6, 6), "swaps bytes", raw(0xD7, immediate=16)),
    ((6, 6), "jumps far", raw(0x06)),
    ((6, 9), "may go to", raw(0xE5)),
    (NEVER.kernel, "loads from a packet", raw(0x20)),
    (NEVER.kernel, "has the unknown opcode", raw(0xE1, 0x10)),
    # references
    ((5, 10), "the kernel's theirs", THEIRS + uses("(long)&theirs & random()")),
    ((5, 13), "calls a function of the kernel", CALLED + uses("called()")),
    ((5, 13), "takes the address of", PART + uses("part(random()) & (long)&part")),
    # size and shape
    ((5, 2), "has 4097 instructions", assembly(".rept 4095; r0 = 1; .endr")),
    (
        (5, 2),
        r"has 41\d\d instructions",
        f"static NOINLINE int part(int n) {{ {LONG} return n; }}"
        + connect(f"int n = part(random()); {LONG} return n & 1;"),
    ),
    ((5, 3), "jumps back, in a loop", assembly("r0 = 9; r0 += -1; if r0 != 0 goto -2")),
    ((5, 6), "part: is a global function", PART.removeprefix("static") + uses("part(random())")),
    (
        (5, 10),
        "makes tail calls and calls functions",
        PART + uses("tail_call(ctx, &array, part(random()))"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kernel", "text", "source"), [pytest.param(*each, id=each[1]) for each in SINCE]
)
def test_sees(kernel: Kernel, text: str, source: str, tmp_path: Path) -> None:
    """From this kernel on there is nothing to say, and before it this."""
    thing = compile_bpf(source, tmp_path)
    before = (*kernel[:-1], kernel[-1] - 1)
    assert re.search(text, "\n".join(faults(thing, "program", before)))
    if kernel != NEVER.kernel:
        assert faults(thing, "program", kernel) == []


def test_sees_a_newer_instruction_set(tmp_path: Path) -> None:
    thing = compile_bpf(uses("ctx->user_ip4 > 5 ? random() : 0"), tmp_path, cpu="v3")
    assert "compares halves, which is Linux 5.1" in "\n".join(faults(thing, "program", (5, 0)))
    assert faults(thing, "program", (5, 1)) == []
    body = WORDS + "return __sync_fetch_and_add(w->word, 1) & 1;"
    thing = compile_bpf(connect(body), tmp_path, cpu="v3")
    assert "is atomic, and more than an add" in "\n".join(faults(thing, "program", (5, 11)))
    assert faults(thing, "program", (5, 12)) == []


def test_a_function_counts_once(tmp_path: Path) -> None:
    """libbpf appends it once, however often it is called."""
    part = f"static NOINLINE int part(int n) {{ {LONG} return n; }}"
    thing = compile_bpf(part + connect("return (part(1) + part(random())) & 1;"), tmp_path)
    assert faults(thing, "program", CONNECT.kernel) == []


def test_the_loader_helps(tmp_path: Path) -> None:
    """A helper that gives 0 hides what is only done with its answer; a flag may be cleared."""
    body = "return cookie(ctx) ? netns(ctx) & 1 : 0;"
    thing = compile_bpf("MAP(extra, 2, 1 << 10);" + connect(body), tmp_path)
    assert len(faults(thing, "program", CONNECT.kernel)) == 3
    loader = Loader(frozenset(["get_socket_cookie"]), BPF_F_MMAPABLE)
    assert faults(thing, "program", CONNECT.kernel, loader) == []
    assert len(faults(thing, "program", (4, 19), loader)) == 1


def test_helpers_have_their_numbers() -> None:
    header = Path("/usr/include/linux/bpf.h").read_text()
    numbered = dict(enumerate(re.findall(r"^\s*FN\((\w+)", header, re.MULTILINE)))
    for number, (name, _) in {**kernels.SOCK_HELPERS, **kernels.SOCK_ADDR_HELPERS}.items():
        assert numbered[number] == name
