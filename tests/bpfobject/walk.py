# SPDX-License-Identifier: Apache-2.0
"""One program, walked as the verifier of an old kernel would, and what it would object to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from . import kernels
from .branches import after_branch
from .instructions import (
    ATOMIC,
    CALL,
    EXIT,
    FRAME,
    HELPER,
    JMP,
    LD_IMM64,
    LDX,
    ST,
    STX,
    Instruction,
    targets,
)
from .kernels import NEVER, Field, Kernel, Since
from .objects import Function, Map
from .registers import (
    UNKNOWN,
    Context,
    GlobalData,
    Held,
    MapItself,
    MapValue,
    Number,
    Pointer,
    Socket,
    Stack,
    State,
    calculate,
    immediate,
    operand,
)

OR_NULL = Number(0, 0)
MANY_VISITS = 16  # of one instruction, by then in a loop
LOOKUP, UPDATE, DELETE, SK_STORAGE_GET = 1, 2, 3, 107
MAPS_TAKE = {LOOKUP: (2,), UPDATE: (2, 3), DELETE: (2,)}  # arguments that point to keys and values


@dataclass
class Walk:
    """``faults`` is what it found, ``stack`` how many bytes each function uses."""

    kernel: Kernel
    helpers: Mapping[int, tuple[str, Since]]
    context: Mapping[int, Field]
    maps: Mapping[str, Map]
    taken_out: frozenset[str] = frozenset()  # helpers that the loader replaces by 0 where need be
    takes_out_kernel_functions: bool = False
    checks_bounds: bool = True  # of map values; not in loops, of which it knows too little
    faults: set[str] = field(default_factory=set)
    stack: Counter[Function] = field(default_factory=Counter)
    _frames: list[Function] = field(default_factory=list)

    def program(self, function: Function) -> Held:
        """What it may return."""
        entry = State({1: Held.of(Context()), FRAME: Held.of(Stack(0))})
        left = self._function(function, entry)
        return left.get(0) if left else Held()

    def object_to(self, place: str, what: str, since: Since = NEVER) -> None:
        if since.kernel > self.kernel:
            self.faults.add(f"{place}: {what}, {since}")

    def _function(self, function: Function, entry: State) -> State | None:
        """The state at its exits, if there are any."""
        self._frames.append(function)
        self.stack[function] += 0
        states, visits, todo = {0: entry}, Counter[int](), {0}
        left: State | None = None
        while todo:
            at = min(todo)  # all ways to it first, so that what follows is walked once
            todo.remove(at)
            visits[at] += 1
            if function.code[at].opcode == JMP | EXIT:
                left = left or states[at].copy()
                left.merge(states[at], widen=False)
                continue
            for to, after in self._step(function, at, states[at].copy()):
                if to not in states:
                    states[to] = after
                    todo.add(to)
                elif states[to].merge(after, widen=visits[to] > MANY_VISITS):
                    todo.add(to)
        self._frames.pop()
        return left

    def _step(self, function: Function, at: int, state: State) -> Iterator[tuple[int, State]]:
        each = function.code[at]
        place = f"{function.name}+{at}"
        if each.is_jump:
            ways = zip(targets(function.code, at), after_branch(each, state), strict=True)
            yield from ((to, after) for to, after in ways if after)
            return
        if each.kind == LDX:
            state.registers[each.destination] = self._load(place, each, state)
        elif each.kind in (ST, STX):
            self._store(place, each, state)
        elif each.opcode == LD_IMM64:
            state.registers[each.destination] = _loaded(function, at)
        elif each.opcode != JMP | CALL:
            left = state.get(each.destination)
            state.registers[each.destination] = calculate(each, left, operand(each, state))
        elif at in function.callees:
            if not self._call(place, function.callees[at], state):
                return
        else:
            result = UNKNOWN
            if each.calls(HELPER):
                result = self._helper(place, each, state)
            elif self.takes_out_kernel_functions and kernels.KERNEL_FUNCTION.kernel > self.kernel:
                result = Held(OR_NULL)
            state.after_call(result)
        yield at + each.slots, state

    # ---- calls ----

    def _call(self, place: str, callee: Function, state: State) -> bool:
        """Whether it comes back."""
        depth = len(self._frames)
        if depth >= kernels.MAX_CALLS:
            self.object_to(place, f"calls {callee.name}, {depth} calls deep")
            return False
        entry = State({n: state.get(n) for n in range(1, 6)}, dict(state.slots))
        entry.registers[FRAME] = Held.of(Stack(depth))
        left = self._function(callee, entry)
        if left is None:
            return False
        state.slots = {slot: held for slot, held in left.slots.items() if slot[0] < depth}
        state.after_call(left.get(0))
        return True

    def _helper(self, place: str, each: Instruction, state: State) -> Held:
        number = each.immediate
        name, since = self.helpers.get(number, (f"number {number}, which kernels.py lacks", NEVER))
        if name in self.taken_out and since.kernel > self.kernel:
            return Held(OR_NULL)
        self.object_to(place, f"calls bpf_{name}", since)
        for argument in range(1, 6):
            for pointer in state.get(argument).pointers:
                if isinstance(pointer, Context) and pointer.offset:
                    self.object_to(place, f"hands over the context plus {pointer.offset}")
                if isinstance(pointer, Stack):
                    self._use_stack(place, pointer, 0)
        for argument in MAPS_TAKE.get(number, ()):
            pointers = state.get(argument).pointers
            if not pointers or not all(isinstance(p, Stack) for p in pointers):
                what = f"gives bpf_{name} an argument {argument} that is not on the stack"
                self.object_to(place, what, kernels.KEY_IN_MAP_VALUE)
        if number in (LOOKUP, SK_STORAGE_GET):
            found = [MapValue(p.name) for p in state.get(1).pointers if isinstance(p, MapItself)]
            return Held(OR_NULL, frozenset(found))
        if name.startswith("skc_to_"):
            return Held(OR_NULL, frozenset([Socket()]))
        return UNKNOWN

    # ---- memory ----

    def _load(self, place: str, each: Instruction, state: State) -> Held:
        base, offset, size = state.get(each.source), each.offset, each.size
        result = Held()
        for pointer in self._pointers(place, each.source, base):
            loaded = Held(Number(0, (1 << 8 * size) - 1))
            if isinstance(pointer, Context):
                self._context(place, pointer, offset, size)
                if self.context is kernels.SOCK_ADDR and offset == kernels.CONTEXT_SK:
                    loaded = Held(OR_NULL, frozenset([Socket()]))
            elif isinstance(pointer, Stack):
                start = self._use_stack(place, pointer, offset)
                if start is not None and size == 8:
                    loaded = self._filled(state.slots.get((pointer.depth, start), UNKNOWN))
            else:
                self._other(place, pointer, offset, size, is_store=False)
            result = result.or_else(loaded)
        return result

    def _store(self, place: str, each: Instruction, state: State) -> None:
        base, offset, size = state.get(each.destination), each.offset, each.size
        is_atomic = each.kind == STX and each.mode == ATOMIC
        stored = UNKNOWN if is_atomic else state.get(each.source)
        for pointer in self._pointers(place, each.destination, base):
            if isinstance(pointer, Context):
                if is_atomic:
                    self.object_to(place, "adds to the context in memory")
                if each.kind == ST:
                    since = kernels.STORE_IMMEDIATE_TO_CONTEXT
                    self.object_to(place, "stores an immediate to the context", since)
                self._context(place, pointer, offset, size, is_store=True)
            elif isinstance(pointer, Stack):
                start = self._use_stack(place, pointer, offset)
                if start is not None:
                    state.forget_slots(pointer.depth, start, size)
                    if size == 8:
                        value = immediate(each) if each.kind == ST else stored
                        state.slots[pointer.depth, start] = value
            else:
                self._other(place, pointer, offset, size, is_store=True)
        if is_atomic and each.immediate & 1:  # BPF_FETCH
            state.registers[each.source] = UNKNOWN

    def _pointers(self, place: str, register: int, base: Held) -> frozenset[Pointer]:
        if not base.pointers:
            self.object_to(place, f"cannot tell what r{register} points to")
        return base.pointers

    def _filled(self, slot: Held) -> Held:
        """What comes back of what was spilt: of numbers, what the kernel keeps."""
        if slot.number is None or slot.number == OR_NULL:
            return slot
        known_since = kernels.SPILT_CONSTANT if slot.number.is_constant else kernels.SPILT_BOUNDS
        return slot if known_since.kernel <= self.kernel else Held(Number(), slot.pointers)

    def _use_stack(self, place: str, pointer: Stack, offset: int) -> int | None:
        if pointer.offset is None:
            self.object_to(place, "uses the stack at a variable offset", kernels.VARIABLE_STACK)
            return None
        start = pointer.offset + offset
        owner = self._frames[pointer.depth]
        self.stack[owner] = max(self.stack[owner], -start)
        return start

    def _context(
        self, place: str, pointer: Context, offset: int, size: int, *, is_store: bool = False
    ) -> None:
        if pointer.offset:
            self.object_to(place, f"uses the context plus {pointer.offset}, not as it was given")
            offset += pointer.offset
        start = max((known for known in self.context if known <= offset), default=0)
        about = self.context[start]
        end = start + (8 if about.whole == NEVER else 4)
        since = about.part
        if size == 8:
            both = start + 4 in self.context and self.context[start + 4] == about
            since = about.wide if offset % 8 == 0 and (both or about.whole == NEVER) else NEVER
        elif offset + size > end:
            since = NEVER
        elif size == 4:
            since = about.whole
        if is_store and (not about.is_writable or size < 4):
            since = NEVER
        doing = "stores" if is_store else "loads"
        self.object_to(place, f"{doing} {size} bytes of the context at {offset}", since)

    def _other(
        self, place: str, pointer: Pointer, offset: int, size: int, *, is_store: bool
    ) -> None:
        if isinstance(pointer, MapValue):
            end = self.maps[pointer.name].value_size
            last = pointer.high + offset + size
            if self.checks_bounds and (pointer.low + offset < 0 or last > end):
                self.object_to(place, f"may reach byte {last} of the {end} of {pointer.name}")
        elif isinstance(pointer, MapItself) or (is_store and not isinstance(pointer, GlobalData)):
            self.object_to(place, f"uses a {type(pointer).__name__} as memory")


def _loaded(function: Function, at: int) -> Held:
    """What an LD_IMM64 gives."""
    to = function.references.get(at)
    if to is None:
        low, high = function.code[at].immediate, function.code[at + 1].immediate
        number = (low & 0xFFFFFFFF) | (high & 0xFFFFFFFF) << 32
        return Held(Number(number, number))
    if to.section == ".maps":
        return Held.of(MapItself(to.symbol))
    return Held.of(GlobalData(to.section))
