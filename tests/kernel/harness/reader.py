# SPDX-License-Identifier: Apache-2.0
"""The tables as a program reads them, without hostreach's code: bpf/hostreach.h in Python."""

from __future__ import annotations

import itertools
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from ipaddress import IPv6Address
from pathlib import Path
from typing import NamedTuple

from .rawmap import MMAPABLE, RawMap

ABI = 8
ALGORITHMS = ("random", "maglev", "least-conn")
STATES = ("active", "draining", "down")
ON_REMOVAL = (None, "reset", "keep")
NODE_SCOPE, NOBODY = 1, 2
NO_SERVICE = 0xFFFFFFFF
_UDP = 17

_RECORD = struct.Struct("=Q20sI")
_DETAILS = struct.Struct("=IIIIBBHBBH")
_MEMBER = struct.Struct("=IHBx")
_BACKEND = struct.Struct("=18sBBIII")
_WORD = 4
NO_ID, ROW = 0x7FFFFFFF, 1 << 31  # of hr_record.first
_HASHES = ("services", "allowed")
_SLOTS_MARK = 40  # offset in struct hr_meta


class Backend(NamedTuple):
    address: str
    state: str
    service: int
    incarnation: int


class Told(NamedTuple):
    """All that a service's block says; shares are selection slots, by place among the backends."""

    algorithm: str
    affinity_ms: int
    host_only: bool
    from_cgroup: str | None
    source_ranges: str | None
    on_removal: str | None
    name: str | None
    owner: str
    backends: Sequence[tuple[str, int, str]]  # address, weight, state
    shares: list[int]


class Found(NamedTuple):
    """A service that can be reached, and where it lies."""

    record: int  # its index
    told: Told
    ids: list[int]
    block: range  # bytes of `slots`


class Reader:
    """Raises AssertionError where a program would go astray."""

    def __init__(self, pin: Path) -> None:
        self._stack = ExitStack()
        names = ("meta", "services", "records", "slots", "backends", "ports", "allowed")
        self._maps = {name: self._stack.enter_context(RawMap.pinned(pin / name)) for name in names}
        self.is_mapped = bool(self._maps["records"].shape.flags & MMAPABLE)
        self._views: dict[str, memoryview] = {}
        self._hints: set[tuple[bytes, int]] = set()
        for name in names:
            if self.is_mapped and name not in _HASHES:
                self._views[name] = self._maps[name].mapped()
        self.refresh()
        assert struct.unpack_from("=I", self._views["meta"])[0] == ABI

    def close(self) -> None:
        self._views.clear()
        self._stack.close()

    def refresh(self) -> None:
        """Reads anew what is not mapped; of `slots` what lies below its mark."""
        if self.is_mapped:
            return
        for name, array in self._maps.items():
            if name in _HASHES:
                continue
            entries = array.shape.entries
            if name == "slots":
                (mark,) = struct.unpack_from("=I", self._views["meta"], _SLOTS_MARK)
                entries = -(-mark // 16)
            self._views[name] = memoryview(b"".join(array[i] for i in range(entries)))

    def keys(self) -> dict[bytes, int]:
        services = self._maps["services"]
        return {key: struct.unpack("=I", services[key])[0] for key in services}

    def allowed(self) -> set[tuple[int, int]]:
        """Network namespace, by its cookie, and service, by its index."""
        return {struct.unpack("=QI4x", key)[:2] for key in self._maps["allowed"]}

    def services(self) -> dict[str, Found]:
        """Whatever the hash leads to, or any hint that a program may have left, by frontend."""
        self._hints |= {*self.keys().items()}
        found: dict[str, Found] = {}
        for key, index in sorted(self._hints):
            if self.record_key(index) == key:
                assert frontend(key) not in found, "two records are one service's"
                found[frontend(key)] = self.follow(key, index)
        for key, index in self.keys().items():
            own = self.record_key(index)
            assert own in (key, nobodys(key)), f"{frontend(key)}: another's, {frontend(own)}"
        return found

    def follow(self, key: bytes, index: int) -> Found:
        set_word, _, beside = _RECORD.unpack_from(self._views["records"], _RECORD.size * index)
        if not self.is_mapped:
            assert beside == (set_word * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 32
        base, count = set_word & 0xFFFFFFFF, set_word >> 32 & 0x1FFF
        count6, algorithm, flags = set_word >> 45 & 0x1FFF, set_word >> 58 & 3, set_word >> 60
        slots = self._views["slots"]
        at = (base + count + count6) * _WORD
        members, affinity, low, high, _, removal, path, name, owner, ranges = _DETAILS.unpack_from(
            slots, at
        )
        at += _DETAILS.size
        texts_at = at + members * _MEMBER.size
        end = texts_at + name + owner + path + ranges
        assert end <= len(slots)
        ids, backends = [], []
        for number in range(members):
            backend, weight, state = _MEMBER.unpack_from(slots, at + number * _MEMBER.size)
            ids.append(backend)
            backends.append((self.backend(backend).address, weight, STATES[state]))
        ends = itertools.accumulate((name, owner, path, ranges), initial=texts_at)
        texts = [bytes(slots[a:b]).decode() for a, b in itertools.pairwise(ends)]
        drawn = struct.unpack_from(f"={count + count6}I", slots, base * _WORD)
        if self.is_mapped:
            assert beside in (NO_ID, first_of(drawn)), "another set's first id"
        selection = Counter(drawn)
        assert selection.keys() <= set(ids), "a slot holds a backend that is not the service's"
        assert bool(flags & 1) == bool(affinity)
        assert bool(flags & 4) == bool(low or high)
        assert bool(flags & 8) == bool(ranges)
        told = Told(
            ALGORITHMS[algorithm],
            affinity,
            bool(flags & 2),
            texts[2] or None,
            texts[3] or None,
            ON_REMOVAL[removal],
            texts[0] or None,
            texts[1],
            backends,
            [selection[each] for each in ids],
        )
        assert self.has_port(key), f"{frontend(key)}: no bit says that there is such a port"
        return Found(index, told, ids, range(base * _WORD, -(-end // _WORD) * _WORD))

    def backend(self, number: int) -> Backend:
        endpoint, state, _, service, incarnation, _ = _BACKEND.unpack_from(
            self._views["backends"], _BACKEND.size * number
        )
        return Backend(_endpoint(endpoint), STATES[state], service, incarnation)

    def all_backends(self) -> Iterator[tuple[int, Backend]]:
        for number in range(self._maps["backends"].shape.entries):
            yield number, self.backend(number)

    def has_port(self, key: bytes) -> bool:
        (port,) = struct.unpack_from("=H", key, 16)
        protocol, scope = key[18], key[19]
        line = (protocol == _UDP) * 256 + port // 256
        at = line * 64 + (scope * 8 + port // 32 % 8) * 4
        word = struct.unpack_from("=I", self._views["ports"], at)[0]
        return bool(word >> port % 32 & 1)

    def block(self, where: range) -> bytes:
        return bytes(self._views["slots"][where.start : where.stop])

    def words_behind(self) -> int:
        """How many of `slots` lie behind the last service's block."""
        end = max((found.block.stop for found in self.services().values()), default=0)
        shape = self._maps["slots"].shape
        return (shape.entries * shape.value - end) // _WORD

    def record_key(self, index: int) -> bytes:
        key: bytes = _RECORD.unpack_from(self._views["records"], _RECORD.size * index)[1]
        return key


def first_of(slots: Sequence[int]) -> int:
    """hr_record.first of a set with these ids in its slots."""
    if not slots:
        return NO_ID
    is_row = [*slots] == [*range(slots[0], slots[0] + len(slots))]
    return slots[0] | (ROW if is_row else 0)


def nobodys(key: bytes) -> bytes:
    """The same of a service that is about to come or to go."""
    return key[:-1] + bytes([NOBODY])


def frontend(key: bytes) -> str:
    protocol = "udp" if key[18] == _UDP else "tcp"
    (port,) = struct.unpack_from("!H", key, 16)
    place = f"node:{port}" if key[19] == NODE_SCOPE else _endpoint(key[:18])
    return f"{place}/{protocol}"


def _endpoint(raw: bytes) -> str:
    """16 bytes of address and two of port, both in network byte order."""
    address, (port,) = IPv6Address(raw[:16]), struct.unpack("!H", raw[16:])
    return f"{address.ipv4_mapped}:{port}" if address.ipv4_mapped else f"[{address}]:{port}"
