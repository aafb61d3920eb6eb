# SPDX-License-Identifier: Apache-2.0
"""BPF instructions: Documentation/bpf/standardization/instruction-set.rst, as far as it is used."""

from __future__ import annotations

import struct
from typing import NamedTuple

LD, LDX, ST, STX, ALU32, JMP, JMP32, ALU64 = range(8)
SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
MEM, MEMSX, ATOMIC = 0x60, 0x80, 0xC0
LD_IMM64 = 0x18  # takes the place of two
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH = range(0x00, 0x80, 0x10)
NEG, MOD, XOR, MOV, ARSH, END = range(0x80, 0xE0, 0x10)
JA, JEQ, JGT, JGE, JSET, JNE, JSGT, JSGE = range(0x00, 0x80, 0x10)
CALL, EXIT, JLT, JLE, JSLT, JSLE, JCOND = range(0x80, 0xF0, 0x10)
BY_REGISTER = 0x08

# What an LD_IMM64's source register says that its immediate is, and a call's.
MAP_BY_FD, MAP_VALUE = 1, 2
HELPER, FUNCTION, KERNEL_FUNCTION = range(3)

FRAME = 10  # the register that points to the end of the stack


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

    @property
    def mode(self) -> int:
        return self.opcode & 0xE0

    @property
    def size(self) -> int:
        """Bytes that it loads or stores."""
        return SIZES[self.opcode & 0x18]

    @property
    def slots(self) -> int:
        return 2 if self.opcode == LD_IMM64 else 1

    @property
    def is_jump(self) -> bool:
        return self.kind in (JMP, JMP32) and self.operation != CALL

    def calls(self, what: int) -> bool:
        return self.opcode == JMP | CALL and self.source == what


def decode(program: bytes) -> list[Instruction]:
    """The second half of an LD_IMM64 is an element of its own, which is never executed."""
    found = []
    for opcode, registers, offset, immediate in struct.iter_unpack("<BBhi", program):
        found.append(Instruction(opcode, registers & 15, registers >> 4, offset, immediate))
    return found


def targets(code: list[Instruction], at: int) -> list[int]:
    """Where the program may go from there: first what follows, then the jump's target."""
    each = code[at]
    if not each.is_jump:
        return [at + each.slots]
    if each.operation == EXIT:
        return []
    far = each.immediate if each.kind == JMP32 and each.operation == JA else each.offset
    return [at + 1 + far] if each.operation == JA else [at + 1, at + 1 + far]
