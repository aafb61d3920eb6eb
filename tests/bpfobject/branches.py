# SPDX-License-Identifier: Apache-2.0
"""What a conditional jump tells of the register that it tests."""

from __future__ import annotations

from .instructions import (
    EXIT,
    JA,
    JEQ,
    JGE,
    JGT,
    JLE,
    JLT,
    JMP,
    JNE,
    JSGE,
    JSGT,
    JSLE,
    JSLT,
    Instruction,
)
from .registers import U64, Held, Number, State, operand

NEGATED = {JEQ: JNE, JGT: JLE, JGE: JLT, JLT: JGE, JLE: JGT}
NEGATED |= {after: before for before, after in NEGATED.items()}
# The same as unsigned, between numbers that are not negative.
UNSIGNED = {JSGT: JGT, JSGE: JGE, JSLT: JLT, JSLE: JLE}
SIGNED_MAX = U64 >> 1


def after_branch(each: Instruction, state: State) -> list[State | None]:
    """As `instructions.targets`: the state there, or None where it cannot get to."""
    if each.operation == EXIT:
        return []
    if each.operation == JA:
        return [state]
    tested, other = state.get(each.destination), operand(each, state).constant
    operation = each.operation
    if operation in UNSIGNED and _is_small(tested) and other is not None and other <= SIGNED_MAX:
        operation = UNSIGNED[operation]
    if each.kind != JMP or operation not in NEGATED or other is None:
        return [state, state.copy()]
    return [
        _narrowed(state, each.destination, NEGATED[operation], other),
        _narrowed(state, each.destination, operation, other),
    ]


def _is_small(tested: Held) -> bool:
    return tested.number is not None and tested.number.high <= SIGNED_MAX


def _narrowed(state: State, register: int, operation: int, other: int) -> State | None:
    """With this being true of the register."""
    tested = state.get(register)
    number, pointers = tested.number, tested.pointers
    if number is not None:
        number = _numbers(number, operation, other)
    if other == 0 and operation == JEQ:
        pointers = frozenset()
    if number is None and not pointers:
        # the old verifiers only see that a constant is, or is not, another one
        is_seen = operation in (JEQ, JNE) and (tested.constant is not None or tested.pointers)
        return None if is_seen else state.copy()
    after = state.copy()
    after.registers[register] = Held(number, pointers)
    return after


def _numbers(number: Number, operation: int, other: int) -> Number | None:
    low, high = number.low, number.high
    if operation == JEQ:
        low, high = max(low, other), min(high, other)
    elif operation == JNE:
        low, high = low + (low == other), high - (high == other)
    elif operation == JGT:
        low = max(low, other + 1)
    elif operation == JGE:
        low = max(low, other)
    elif operation == JLT:
        high = min(high, other - 1)
    elif operation == JLE:
        high = min(high, other)
    return Number(low, high) if low <= high else None
