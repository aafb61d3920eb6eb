# SPDX-License-Identifier: Apache-2.0
"""How a loaded program reads the elements of one array: from its instructions, not its source."""

from __future__ import annotations

from typing import NamedTuple

from bpfobject.instructions import (
    ADD,
    ALU32,
    ALU64,
    BY_REGISTER,
    CALL,
    FRAME,
    FUNCTION,
    JMP,
    LD_IMM64,
    LDX,
    MAP_BY_FD,
    MAP_VALUE,
    MEM,
    MOV,
    STX,
    Instruction,
    decode,
    targets,
)

# What a register or a stack slot may hold. MAP: the array or its first value; an integer: an
# element plus that many bytes. (The kernel turns look-ups in arrays into arithmetic.)
MAP = "map"
Held = frozenset[str | int]
Place = tuple[str, int]


class Load(NamedTuple):
    """A read of `size` bytes at `offset` of an element."""

    offset: int
    size: int


def loads(program: bytes, map_id: int) -> set[Load]:
    """Every read of an element of the array, on any path through the program.

    Of global data, which is an array of one, it follows the address of its first byte.
    """
    code = decode(program)
    functions = [at + 1 + each.immediate for at, each in enumerate(code) if each.calls(FUNCTION)]
    todo = [0, *functions]
    states: dict[int, dict[Place, Held]] = {function: {} for function in todo}
    found: set[Load] = set()
    while todo:
        at = todo.pop()
        after = dict(states[at])
        found |= _step(code[at], after, map_id)
        for target in targets(code, at):
            known = states.get(target)
            merged = dict(known or {})
            for place, held in after.items():
                merged[place] = merged.get(place, frozenset()) | held
            if merged != known:
                states[target] = merged
                todo.append(target)
    return found


def _step(each: Instruction, state: dict[Place, Held], map_id: int) -> set[Load]:
    """Changes the state to what it is after the instruction; returns its reads."""
    nothing: Held = frozenset()
    target: Place = ("r", each.destination)
    source = state.get(("r", each.source), nothing)
    if each.opcode == LD_IMM64:
        known: dict[int, Held] = {MAP_BY_FD: frozenset([MAP]), MAP_VALUE: frozenset([0])}
        state[target] = known.get(each.source, nothing) if each.immediate == map_id else nothing
    elif each.kind == LDX:
        size = each.size
        spilt = state.get(("stack", each.offset), nothing) if each.source == FRAME else nothing
        state[target] = spilt
        return {Load(held + each.offset, size) for held in source if isinstance(held, int)}
    elif each.opcode == STX | MEM | 0x18 and each.destination == FRAME:
        state[("stack", each.offset)] = source
    elif each.kind == ALU64 and each.operation == MOV:
        state[target] = source if each.opcode & BY_REGISTER else nothing
    elif each.kind == ALU64 and each.operation == ADD:
        state[target] = _sum(state.get(target, nothing), source, each)
    elif each.kind in (ALU32, ALU64):
        state[target] = nothing
    elif each.kind == JMP and each.operation == CALL:
        looked_up = MAP in state.get(("r", 1), nothing)
        for register in range(6):
            state[("r", register)] = nothing
        state[("r", 0)] = frozenset([0]) if looked_up else nothing
    return set()


def _sum(left: Held, right: Held, each: Instruction) -> Held:
    if not each.opcode & BY_REGISTER:
        return frozenset(h + each.immediate if isinstance(h, int) else h for h in left)
    # An index, by now in bytes, and the array: an element.
    return frozenset([0]) if MAP in left | right else frozenset()
