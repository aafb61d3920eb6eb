# SPDX-License-Identifier: Apache-2.0
"""What registers and stack slots may hold, on any path through a program.

A verifier in small, for what cannot be read off single instructions: which loads are of the
context, what helpers are given, and whether an index into a map value is bounded. It knows of
numbers what the verifier of 4.17 knew (adjust_scalar_min_max_vals): their unsigned bounds. It
joins paths where the kernel walks each, so that it may find fault where the kernel would not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from .instructions import ADD, ALU32, AND, BY_REGISTER, LSH, MOV, MUL, OR, RSH, SUB, Instruction

U32, U64 = (1 << 32) - 1, (1 << 64) - 1


@dataclass(frozen=True)
class Number:
    """Unsigned, and between these two."""

    low: int = 0
    high: int = U64

    @property
    def is_constant(self) -> bool:
        return self.low == self.high


@dataclass(frozen=True)
class Context:
    offset: int = 0


@dataclass(frozen=True)
class Stack:
    """Of the function at this depth of calls; without an offset if that is variable."""

    depth: int
    offset: int | None = 0


@dataclass(frozen=True)
class MapValue:
    name: str
    low: int = 0
    high: int = 0  # offset


@dataclass(frozen=True)
class MapItself:
    name: str


@dataclass(frozen=True)
class Socket:
    """A struct bpf_sock, or what a helper made of it."""


@dataclass(frozen=True)
class GlobalData:
    section: str


Pointer = Context | Stack | MapValue | MapItself | Socket | GlobalData


@dataclass(frozen=True)
class Held:
    """All that it may be: a number, or one of the pointers. Neither: it was never written."""

    number: Number | None = None
    pointers: frozenset[Pointer] = frozenset()

    @staticmethod
    def of(pointer: Pointer) -> Held:
        return Held(pointers=frozenset([pointer]))

    @property
    def constant(self) -> int | None:
        if self.number is None or self.pointers or not self.number.is_constant:
            return None
        return self.number.low

    def or_else(self, other: Held) -> Held:
        number = self.number or other.number
        if self.number and other.number:
            number = Number(
                min(self.number.low, other.number.low), max(self.number.high, other.number.high)
            )
        return Held(number, frozenset(_joined(self.pointers | other.pointers)))

    def widened(self) -> Held:
        """For a loop: what still grows is unbounded."""
        return Held(
            Number() if self.number else None,
            frozenset(
                replace(p, high=U32) if isinstance(p, MapValue) else p for p in self.pointers
            ),
        )


UNKNOWN = Held(Number())
Slot = tuple[int, int]  # depth of calls, offset


@dataclass
class State:
    """Before an instruction. Slots hold what was stored by 8 bytes, until it is overwritten."""

    registers: dict[int, Held] = field(default_factory=dict)
    slots: dict[Slot, Held] = field(default_factory=dict)

    def copy(self) -> State:
        return State(dict(self.registers), dict(self.slots))

    def get(self, register: int) -> Held:
        return self.registers.get(register, Held())

    def merge(self, other: State, *, widen: bool) -> bool:
        """Adds what may come from there; says whether that is anything new."""
        changed = False
        for register, held in other.registers.items():
            known = self.get(register)
            joined = known.or_else(held)
            if joined != known:
                self.registers[register] = joined.widened() if widen else joined
                changed = changed or self.registers[register] != known
        for slot, known in list(self.slots.items()):
            if slot not in other.slots:
                changed = True
                del self.slots[slot]
                continue
            joined = known.or_else(other.slots[slot])
            if joined != known:
                self.slots[slot] = joined.widened() if widen else joined
                changed = changed or self.slots[slot] != known
        return changed

    def after_call(self, result: Held) -> None:
        for register in range(1, 6):
            self.registers.pop(register, None)
        self.registers[0] = result

    def forget_slots(self, depth: int, offset: int, size: int) -> None:
        """They are overwritten."""
        for slot in list(self.slots):
            if slot[0] == depth and offset - 8 < slot[1] < offset + size:
                del self.slots[slot]


def _joined(pointers: Iterable[Pointer]) -> list[Pointer]:
    values: dict[str, MapValue] = {}
    rest: list[Pointer] = []
    for each in pointers:
        if not isinstance(each, MapValue):
            rest.append(each)
            continue
        known = values.setdefault(each.name, each)
        values[each.name] = MapValue(
            each.name, min(known.low, each.low), max(known.high, each.high)
        )
    return [*rest, *values.values()]


def calculate(each: Instruction, left: Held, right: Held) -> Held:
    """The result of an arithmetic instruction."""
    if each.operation == MOV:
        if each.kind != ALU32:
            return right
        left = right
    if each.kind != ALU32 and each.operation in (ADD, SUB) and (left.pointers or right.pointers):
        return _moved(each, left, right)
    a, b = left.number or Number(), right.number or Number()
    if left.pointers or right.pointers:
        return UNKNOWN
    if each.kind == ALU32:
        a, b = _low_half(a), _low_half(b)
    result = b if each.operation == MOV else _arithmetic(each.operation, a, b)
    return Held(_low_half(result) if each.kind == ALU32 else result)


def _low_half(number: Number) -> Number:
    if number.is_constant:
        return Number(number.low & U32, number.low & U32)
    return number if number.high <= U32 else Number(0, U32)


def _arithmetic(operation: int, a: Number, b: Number) -> Number:
    if operation == ADD and a.is_constant and b.is_constant:
        return Number((a.low + b.low) & U64, (a.low + b.low) & U64)
    if operation == ADD and a.high + b.high <= U64:
        return Number(a.low + b.low, a.high + b.high)
    if operation == SUB and a.low >= b.high:
        return Number(a.low - b.high, a.high - b.low)
    if operation == MUL and a.high <= U32 and b.high <= U32:
        return Number(a.low * b.low, a.high * b.high)
    if operation == AND:
        if a.is_constant and b.is_constant:
            return Number(a.low & b.low, a.low & b.low)
        return Number(0, min(a.high, b.high))
    if operation == OR:
        high = (1 << max(a.high.bit_length(), b.high.bit_length())) - 1
        return Number(max(a.low, b.low), a.low | b.low if a.is_constant and b.is_constant else high)
    if operation == LSH and b.is_constant and b.low < 64 and a.high << b.low <= U64:
        return Number(a.low << b.low, a.high << b.low)
    if operation == RSH and b.is_constant and b.low < 64:
        return Number(a.low >> b.low, a.high >> b.low)
    return Number()  # division and exclusive or among them: the old verifiers did not follow them


def _moved(each: Instruction, left: Held, right: Held) -> Held:
    """A pointer and a number; the difference of two pointers is a number."""
    pointers, by = (left.pointers, right) if left.pointers else (right.pointers, left)
    if by.pointers:
        return UNKNOWN
    number = by.number or Number()
    sign = -1 if each.operation == SUB else 1
    low, high = (sign * _signed(n) for n in (number.low, number.high))
    is_known = low == high
    moved: set[Pointer] = set()
    for pointer in pointers:
        if isinstance(pointer, MapValue):
            bounds = (low, high) if (low <= high and number.high <= U32) or is_known else (0, U32)
            moved.add(replace(pointer, low=pointer.low + bounds[0], high=pointer.high + bounds[1]))
        elif isinstance(pointer, Stack):
            known = is_known and pointer.offset is not None
            moved.add(replace(pointer, offset=(pointer.offset or 0) + low if known else None))
        elif isinstance(pointer, Context):
            moved.add(Context(pointer.offset + low))
        else:
            moved.add(pointer)
    return Held(left.number if left.pointers else None, frozenset(_joined(moved)))


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def immediate(each: Instruction) -> Held:
    """It is sign-extended to 64 bits."""
    return Held(Number(each.immediate & U64, each.immediate & U64))


def operand(each: Instruction, state: State) -> Held:
    return state.get(each.source) if each.opcode & BY_REGISTER else immediate(each)
