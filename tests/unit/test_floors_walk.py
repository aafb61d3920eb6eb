# SPDX-License-Identifier: Apache-2.0
"""The checker of tests/bpfobject follows contexts, map values and numbers through a program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bpfobject.kernels import CONNECT, NEVER, Kernel
from bpfobject.rules import faults
from bpfobject.samples import SPILL, WORDS, assembly, compile_bpf, connect, on, uses

WIDE = "*(volatile __u64 *)ctx->user_ip6"
PART = f"static NOINLINE int part(struct bpf_sock_addr *ctx) {{ return {WIDE} != 0; }}"
DEEP = "static NOINLINE __u32 part(__u32 n) { return n & 1 ? part(n / 3) / 5 : random(); }"
BIG = 'long a[38]; asm volatile("" : : "r"(a)); *(volatile long *)a = random();'
SINCE = [
    # the context
    ((4, 18), "loads 4 bytes of the context at 40", uses("ctx->msg_src_ip4")),
    ((5, 3), "loads 8 bytes of the context at 64", uses("(long)ctx->sk")),
    ((5, 3), "loads 8 bytes of the context at 8", uses(WIDE)),
    ((5, 3), "stores 8 bytes of the context at 8", connect(f"{WIDE} = random(); return 1;")),
    ((5, 8), "loads 2 bytes of the context at 24", uses("*(volatile __u16 *)&ctx->user_port")),
    (NEVER.kernel, "loads 8 bytes of the context at 20", assembly("r0 = *(u64 *)(r1 + 20)")),
    (NEVER.kernel, "loads 2 bytes of the context at 36", assembly("r0 = *(u16 *)(r1 + 36)")),
    (NEVER.kernel, "loads 4 bytes of the context at 6", assembly("r0 = *(u32 *)(r1 + 6)")),
    (NEVER.kernel, "loads 4 bytes of the context at 72", assembly("r0 = *(u32 *)(r1 + 72)")),
    (NEVER.kernel, "stores 4 bytes of the context at 36", connect("ctx->protocol = 1; return 1;")),
    (NEVER.kernel, "stores 2 bytes of the context at 4", assembly("*(u16 *)(r1 + 4) = r1")),
    ((6, 4), "stores an immediate to the context", assembly(".8byte 0x0000000700040162")),
    (NEVER.kernel, "adds to the context", assembly("r0 = 1; lock *(u32 *)(r1 + 4) += r0")),
    (NEVER.kernel, r"uses the context plus 8", assembly("r1 += 8; r0 = *(u32 *)(r1 + 0)")),
    (NEVER.kernel, r"hands over the context plus 8", assembly("r1 += 8; call 46")),
    # ... wherever it has been
    (
        (5, 3),
        "loads 8 bytes of the context at 8",
        assembly("*(u64 *)(r10 - 8) = r1; r1 = 0; r2 = *(u64 *)(r10 - 8); r0 = *(u64 *)(r2 + 8)"),
    ),
    ((5, 3), r"part\+\d+: loads 8 bytes of the context", PART + connect("return part(ctx);")),
    # memory
    ((4, 18), "2 that is not on the stack", connect(WORDS + "return !!lookup(&array, w);")),
    (
        (5, 12),
        "uses the stack at a variable offset",
        assembly("call 7; r0 &= 7; r1 = r10; r1 += -16; r1 += r0; r2 = 0; *(u8 *)(r1 + 0) = r2"),
    ),
    (NEVER.kernel, "cannot tell what r1 points to", assembly("r1 = 5; r0 = *(u32 *)(r1 + 0)")),
    (NEVER.kernel, "uses a MapItself as memory", uses("*(volatile int *)&array")),
    # map values
    ((4, 17), "attaches", connect(WORDS + "return w->word[random() & 15] & 1;")),
    ((4, 17), "attaches", connect(WORDS + "__u32 n = random(); return n < 16 && w->word[n];")),
    (NEVER.kernel, "byte 128 of the 64", connect(WORDS + "return w->word[random() & 31] & 1;")),
    (NEVER.kernel, "byte 68 of the 64", connect(WORDS + "return ((volatile int *)w)[16] & 1;")),
    (NEVER.kernel, "of the 64 of array", connect(WORDS + "return w->word[random()] & 1;")),
    (
        (5, 3),
        "of the 64 of array",
        connect(f"{WORDS} __u64 n = 5; {SPILL} return w->word[n] & 1;"),
    ),
    (
        (5, 11),
        "of the 64 of array",
        connect(f"{WORDS} __u64 n = random() & 15; {SPILL} return w->word[n] & 1;"),
    ),
    # calls and what comes back
    (NEVER.kernel, "calls part, 8 calls deep", DEEP + uses("part(random())")),
    (
        NEVER.kernel,
        "uses 640 bytes of stack",
        f"static NOINLINE int part(void) {{ {BIG} return random(); }}"
        + connect(f"{BIG} return part() & 1;"),
    ),
    (NEVER.kernel, "may return something", connect("return random();")),
    (NEVER.kernel, "may return something", on("recvmsg4", "return 0;")),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "text", "source"), SINCE)
def test_sees(kernel: Kernel, text: str, source: str, tmp_path: Path) -> None:
    """From this kernel on there is nothing to say, and before it this."""
    thing = compile_bpf(source, tmp_path)
    before = (*kernel[:-1], kernel[-1] - 1)
    assert re.search(text, "\n".join(faults(thing, "program", before)))
    if kernel != NEVER.kernel:
        assert faults(thing, "program", kernel) == []


def test_passes_what_is_old(tmp_path: Path) -> None:
    """Narrow and plain uses of the context, a spilt pointer, an element of an array."""
    body = f"""
        {WORDS}
        __u64 n = (__u64)w;
        {SPILL}
        w = (void *)n;
        ctx->user_ip4 = w->word[*(volatile __u8 *)&ctx->user_ip4 & 15];
        ctx->user_port = ctx->user_port + 1;
        __sync_fetch_and_add(&w->word[3], ctx->protocol);
        return ctx->family == 2 && ctx->user_family == 2;"""
    assert faults(compile_bpf(connect(body), tmp_path), "program", CONNECT.kernel) == []
