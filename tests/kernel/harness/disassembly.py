# SPDX-License-Identifier: Apache-2.0
"""How a loaded program reads the elements of one array: from its instructions, not its source."""

from __future__ import annotations

import struct
from typing import NamedTuple

_LD, _LDX, _ST, _STX, _ALU32, _JMP, _JMP32, _ALU64 = 0, 1, 2, 3, 4, 5, 6, 7
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
_MEM = 0x60
_LD_IMM64 = 0x18
_MAP_BY_FD = 1  # source register of an _LD_IMM64 whose immediate is, in a dump, a map's id
_ADD, _MOV = 0x00, 0xB0
_JA, _CALL, _EXIT = 0x00, 0x80, 0x90
_BY_REGISTER = 0x08

# What a register or a stack slot may hold. MAP: the array or its first value; an integer: an
# element plus that many bytes. (The kernel turns look-ups in arrays into arithmetic.)
MAP = "map"
Held = frozenset[str | int]
Place = tuple[str, int]


class Instruction(NamedTuple):
    opcode: int
    destination: int
    source: int
    offset: int
    immediate: int

    @property
    def kind(self) -> int:
        return self.opcode & 7

    @property
    def operation(self) -> int:
        return self.opcode & 0xF0


class Load(NamedTuple):
    """A read of `size` bytes at `offset` of an element."""

    offset: int
    size: int


def decode(program: bytes) -> list[Instruction]:
    found = []
    for opcode, registers, offset, immediate in struct.iter_unpack("<BBhi", program):
        found.append(Instruction(opcode, registers & 15, registers >> 4, offset, immediate))
    return found


def loads(program: bytes, map_id: int) -> set[Load]:
    """Every read of an element of the array, on any path through the program."""
    code = decode(program)
    states: dict[int, dict[Place, Held]] = {0: {}}
    found: set[Load] = set()
    todo = [0]
    while todo:
        at = todo.pop()
        after = dict(states[at])
        found |= _step(code[at], after, map_id)
        for target in _targets(code, at):
            known = states.get(target)
            merged = dict(known or {})
            for place, held in after.items():
                merged[place] = merged.get(place, frozenset()) | held
            if merged != known:
                states[target] = merged
                todo.append(target)
    return found


def _targets(code: list[Instruction], at: int) -> list[int]:
    each = code[at]
    if each.kind not in (_JMP, _JMP32) or each.operation == _CALL:
        return [at + (2 if each.opcode == _LD_IMM64 else 1)]
    if each.operation == _EXIT:
        return []
    far = each.immediate if each.kind == _JMP32 and each.operation == _JA else each.offset
    return [at + 1 + far] if each.operation == _JA else [at + 1, at + 1 + far]


def _step(each: Instruction, state: dict[Place, Held], map_id: int) -> set[Load]:
    """Changes the state to what it is after the instruction; returns its reads."""
    nothing: Held = frozenset()
    target: Place = ("r", each.destination)
    source = state.get(("r", each.source), nothing)
    if each.opcode == _LD_IMM64:
        is_map = each.source == _MAP_BY_FD and each.immediate == map_id
        state[target] = frozenset([MAP]) if is_map else nothing
    elif each.kind == _LDX:
        size = _SIZES[each.opcode & 0x18]
        spilt = state.get(("stack", each.offset), nothing) if each.source == 10 else nothing
        state[target] = spilt
        return {Load(held + each.offset, size) for held in source if isinstance(held, int)}
    elif each.opcode == _STX | _MEM | 0x18 and each.destination == 10:
        state[("stack", each.offset)] = source
    elif each.kind == _ALU64 and each.operation == _MOV:
        state[target] = source if each.opcode & _BY_REGISTER else nothing
    elif each.kind == _ALU64 and each.operation == _ADD:
        state[target] = _sum(state.get(target, nothing), source, each)
    elif each.kind in (_ALU32, _ALU64):
        state[target] = nothing
    elif each.kind == _JMP and each.operation == _CALL:
        looked_up = MAP in state.get(("r", 1), nothing)
        for register in range(6):
            state[("r", register)] = nothing
        state[("r", 0)] = frozenset([0]) if looked_up else nothing
    return set()


def _sum(left: Held, right: Held, each: Instruction) -> Held:
    if not each.opcode & _BY_REGISTER:
        return frozenset(h + each.immediate if isinstance(h, int) else h for h in left)
    # An index, by now in bytes, and the array: an element.
    return frozenset([0]) if MAP in left | right else frozenset()
