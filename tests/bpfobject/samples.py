# SPDX-License-Identifier: Apache-2.0
"""Small programs that need one thing each, compiled as the project's own are."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

from .objects import BpfObject

PRELUDE = """
#include <linux/bpf.h>
#define SEC(name) __attribute__((section(name), used))
#define NOINLINE __attribute__((noinline))
#define MAP(name, map_type, flags) \\
    struct { int (*type)[map_type]; int (*map_flags)[flags]; int (*max_entries)[16]; \\
             __u32 *key; struct words *value; } name SEC(".maps")
struct words { __u32 word[16]; };
static void *(*const lookup)(void *map, const void *key) = (void *)1;
static __u32 (*const random)(void) = (void *)7;
static long (*const tail_call)(void *ctx, void *map, __u32 index) = (void *)12;
static __u64 (*const cookie)(void *ctx) = (void *)46;
static __u64 (*const netns)(void *ctx) = (void *)122;
static __u64 (*const unheard_of)(void) = (void *)3000;
MAP(array, BPF_MAP_TYPE_ARRAY, 0);
"""
# For bodies: a map value, and a number stored to the stack and loaded again.
WORDS = "__u32 key = 0; struct words *w = lookup(&array, &key); if (!w) return 0;"
SPILL = 'asm volatile("*(u64 *)(r10 - 8) = %0; %0 = *(u64 *)(r10 - 8)" : "+r"(n) :: "memory");'


def compile_bpf(source: str, folder: Path, cpu: str = "v2") -> BpfObject:
    """The prelude and this, by clang."""
    (folder / "made.bpf.c").write_text(PRELUDE + source)
    command = ["clang", "-target", "bpf", "-O2", "-g", f"-mcpu={cpu}", "-c", "made.bpf.c"]
    command += ["-idirafter", f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}"]
    command += ["-fno-crash-diagnostics", "-o", "made.bpf.o"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return BpfObject((folder / "made.bpf.o").read_bytes())


def on(hook: str, body: str) -> str:
    """A program that does this with ``ctx``."""
    return f'SEC("cgroup/{hook}") int program(struct bpf_sock_addr *ctx) {{ {body} }}'


def connect(body: str) -> str:
    return on("connect4", body)


def uses(expression: str) -> str:
    """A program that needs the expression's value, whatever it is."""
    return connect(f"return ({expression}) != 0;")


def assembly(text: str) -> str:
    """A program of these instructions, the context being in r1; it returns 1."""
    return "__attribute__((naked)) " + connect(f'asm volatile("{text}; r0 = 1; exit");')


def raw(opcode: int, registers: int = 0, offset: int = 0, immediate: int = 0) -> str:
    """A program with one instruction that the assembler may not know: r0 and r1 are 1."""
    number = opcode | registers << 8 | (offset & 0xFFFF) << 16 | immediate << 32
    return assembly(f"r1 = 1; r0 = 1; .8byte {number:#x}")
