# SPDX-License-Identifier: Apache-2.0
"""What a kernel would refuse about an object, a program at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from . import kernels
from .instructions import (
    ALU32,
    ALU64,
    ARSH,
    ATOMIC,
    DIV,
    END,
    FUNCTION,
    HELPER,
    JA,
    JCOND,
    JMP,
    JMP32,
    KERNEL_FUNCTION,
    LD,
    LD_IMM64,
    LDX,
    MEM,
    MEMSX,
    MOD,
    MOV,
    STX,
    Instruction,
    targets,
)
from .kernels import NEVER, Kernel, Since
from .objects import BpfObject, Function, Map
from .walk import Walk

TAIL_CALL = 12
ATOMIC_ADD, EXCHANGE_IF, LOAD_ACQUIRE, STORE_RELEASE = 0, 0xF1, 0x100, 0x110


@dataclass(frozen=True)
class Loader:
    """What user space changes before it loads the object, where the kernel lacks something."""

    takes_out: frozenset[str] = frozenset()  # helpers, by name: a call of one becomes r0 = 0
    clears: int = 0  # flags of maps
    replaces: frozenset[str] = frozenset()  # maps, by name: with some that every kernel has
    makes_static: bool = False  # global functions
    takes_out_exchanges: bool = False  # atomic ones under a condition
    takes_out_kernel_functions: bool = False  # a call of one becomes r0 = 0 too


def faults(
    thing: BpfObject,
    program: str,
    kernel: Kernel,
    loader: Loader = Loader(),
) -> list[str]:
    """Why this kernel would refuse to load and attach the program; sorted, a line each.

    The object's maps and data count for each of its programs: libbpf creates all of them.
    """
    function = thing.programs[program]
    is_sock = function.section in kernels.SOCK_HOOKS
    walk = Walk(
        kernel,
        helpers=kernels.SOCK_HELPERS if is_sock else kernels.SOCK_ADDR_HELPERS,
        context=kernels.SOCK if is_sock else kernels.SOCK_ADDR,
        maps=thing.maps,
        taken_out=loader.takes_out,
        takes_out_kernel_functions=loader.takes_out_kernel_functions,
    )
    hook = kernels.HOOKS.get(function.section, NEVER)
    walk.object_to(program, f"attaches to {function.section}", hook)
    for name in sorted(thing.data_sections):
        walk.object_to(name, "is global data", kernels.GLOBAL_DATA)
    if thing.core_relocations:
        walk.object_to(program, "is relocated by the kernel's BTF", kernels.KERNEL_BTF)
    for each in (m for m in thing.maps.values() if m.name not in loader.replaces):
        for what, since in _map_needs(each, loader.clears):
            walk.object_to(each.name, what, since)
    for part in function.reachable():
        if part is not function and part.is_global and not loader.makes_static:
            walk.object_to(part.name, "is a global function", kernels.GLOBAL_FUNCTION)
        for at in range(len(part.code)):
            if loader.takes_out_exchanges and _exchanges(part.code[at]):
                continue
            if loader.takes_out_kernel_functions and part.code[at].calls(KERNEL_FUNCTION):
                continue
            for what, since in _instruction_needs(part, at):
                walk.object_to(f"{part.name}+{at}", what, since)
        for at in _loops(part):
            walk.object_to(f"{part.name}+{at}", "jumps back, in a loop", kernels.LOOP)
            walk.checks_bounds = False
    _check_size(walk, function)
    returned = walk.program(function)
    _check_stack(walk, function)
    allowed = (1, 1) if any(h in function.section for h in kernels.ALWAYS_PASSES) else (0, 1)
    number = returned.number
    if returned.pointers or not number or number.low < allowed[0] or number.high > allowed[1]:
        walk.object_to(program, "may return something that the hook does not allow")
    return sorted(walk.faults)


def _check_size(walk: Walk, function: Function) -> None:
    """The limit is one of what is loaded: the program and each function that it may call, once."""
    functions = function.reachable()
    length = sum(len(part.code) for part in functions)
    if length > kernels.SHORT_PROGRAM:
        walk.object_to(function.name, f"has {length} instructions", kernels.LONG_PROGRAM)
    calls_tail = any(
        i.calls(HELPER) and i.immediate == TAIL_CALL for p in functions for i in p.code
    )
    if calls_tail and len(functions) > 1:
        what = "makes tail calls and calls functions"
        walk.object_to(function.name, what, kernels.TAIL_CALL_WITH_FUNCTIONS)


def _check_stack(walk: Walk, function: Function) -> None:
    """As check_max_stack_depth(): of the deepest chain of calls, each rounded up to 32 bytes."""

    def deepest(part: Function, calls: int = 1) -> int:
        own = -(-max(walk.stack[part], 1) // 32) * 32
        if calls >= kernels.MAX_CALLS:  # which the walk objected to
            return own
        return own + max((deepest(each, calls + 1) for each in part.callees.values()), default=0)

    if deepest(function) > kernels.MAX_STACK:
        walk.object_to(function.name, f"uses {deepest(function)} bytes of stack")


def _map_needs(each: Map, cleared: int) -> Iterator[tuple[str, Since]]:
    name, since = kernels.MAP_TYPES.get(each.type, (f"{each.type}, not in kernels.py", NEVER))
    yield f"is a map of type {name}", since
    left = each.flags & ~cleared
    for flag, (name, since) in kernels.MAP_FLAGS.items():
        if left & flag:
            yield f"is a map with {name}", since
        left &= ~flag
    if left:
        yield f"is a map with flags {left:#x}, not in kernels.py", NEVER


def _exchanges(each: Instruction) -> bool:
    return each.kind == STX and each.mode == ATOMIC and each.immediate == EXCHANGE_IF


def _instruction_needs(function: Function, at: int) -> Iterator[tuple[str, Since]]:
    """What the instruction by itself needs, beyond the set that LLVM calls v2."""
    each = function.code[at]
    if at and function.code[at - 1].opcode == LD_IMM64:
        return  # its second half
    if each.opcode == LD_IMM64:
        yield from _reference_needs(function, at)
    elif each.kind == LD:
        yield "loads from a packet", NEVER
    elif each.kind == JMP32:
        far = each.operation == JA
        yield ("jumps far", kernels.SIGNED) if far else ("compares halves", kernels.JUMP32)
    elif each.kind == JMP and each.operation == JCOND:
        yield "may go to", kernels.MAY_GOTO
    elif each.calls(KERNEL_FUNCTION) or (each.calls(FUNCTION) and at not in function.callees):
        yield "calls a function of the kernel", kernels.KERNEL_FUNCTION
    elif each.kind == STX and each.mode == ATOMIC and each.immediate != ATOMIC_ADD:
        ordered = each.immediate in (LOAD_ACQUIRE, STORE_RELEASE)
        yield (
            "is atomic, and more than an addition",
            (kernels.LOAD_ACQUIRE if ordered else kernels.ATOMIC_FETCH),
        )
    elif each.kind == LDX and each.mode == MEMSX:
        yield "loads with the sign", kernels.SIGNED
    elif each.kind not in (ALU32, ALU64, JMP) and each.mode not in (MEM, ATOMIC):
        yield f"has the unknown opcode {each.opcode:#x}", NEVER
    elif each.kind in (ALU32, ALU64):
        yield from _arithmetic_needs(each)


def _arithmetic_needs(each: Instruction) -> Iterator[tuple[str, Since]]:
    if each.kind == ALU32 and each.operation == ARSH:
        yield "shifts half a register with its sign", kernels.ARITHMETIC_SHIFT32
    if each.operation in (DIV, MOD) and each.offset:
        yield "divides with the sign", kernels.SIGNED
    if each.operation == MOV and each.offset:
        casts = each.immediate != 0
        yield "moves with the sign", kernels.ADDRESS_SPACE if casts else kernels.SIGNED
    if each.operation == END and each.kind == ALU64:
        yield "swaps bytes whatever the machine's order", kernels.SIGNED


def _reference_needs(function: Function, at: int) -> Iterator[tuple[str, Since]]:
    to = function.references.get(at)
    if to is None or to.section == ".maps":
        return
    if to.section.startswith((".data", ".rodata", ".bss", ".kconfig")):
        yield f"uses global data, {to.section}", kernels.GLOBAL_DATA
    elif to.section:
        yield f"takes the address of {to.symbol or to.section}", kernels.FUNCTION_POINTER
    else:
        yield f"takes the address of the kernel's {to.symbol}", kernels.KERNEL_SYMBOL


def _loops(function: Function) -> list[int]:
    """Jumps to an instruction that the path to them went through, as check_cfg() finds them."""
    found, done = [], set()
    path: dict[int, list[int]] = {
        0: targets(function.code, 0)
    }  # in order, and what is still to try
    while path:
        at, left = next(reversed(path.items()))
        if not left:
            done.add(at)
            del path[at]
            continue
        to = left.pop()
        if to in path:
            found.append(at)
        elif to not in done:
            path[to] = targets(function.code, to)
    return found
