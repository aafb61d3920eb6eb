# SPDX-License-Identifier: Apache-2.0
"""BPF maps by plain bpf(2): read past hostreach, or made as another version makes them."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, final

from .rawbpf import bpf, pinned

HASH, ARRAY, LRU_HASH = 1, 2, 9
MMAPABLE = 1 << 10
_CREATE, _LOOKUP, _UPDATE, _NEXT_KEY, _PIN, _INFO = 0, 1, 2, 4, 6, 15
_LOOKUP_BATCH, _UPDATE_BATCH = 24, 26  # since Linux 5.6

if TYPE_CHECKING:
    _Buffer = ctypes.Array[ctypes.c_char]


class Shape(NamedTuple):
    """What a map is made with: sizes in bytes."""

    kind: int
    key: int
    value: int
    entries: int
    flags: int


@final
class RawMap:
    """A descriptor of a map, closed at the end of a `with`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        info = ctypes.create_string_buffer(88)
        bpf(_INFO, struct.pack("=IIQ", fd, 88, ctypes.addressof(info)))
        kind, _, key, value, entries, flags = struct.unpack_from("=6I", info)
        self.shape = Shape(kind, key, value, entries, flags)

    @classmethod
    def pinned(cls, path: Path) -> RawMap:
        return cls(pinned(path))

    @classmethod
    def create(cls, name: str, shape: Shape) -> RawMap:
        attributes = struct.pack("=5III16s", *shape, 0, 0, name.encode()[:15])
        return cls(bpf(_CREATE, attributes))

    def memory(self) -> int:
        """Bytes, as the kernel tells them."""
        about = Path(f"/proc/self/fdinfo/{self._fd}").read_text()
        return int(about.partition("memlock:")[2].split()[0])

    def pin(self, path: Path) -> None:
        name = ctypes.create_string_buffer(os.fsencode(path))
        bpf(_PIN, struct.pack("=QII", ctypes.addressof(name), self._fd, 0))

    def __enter__(self) -> RawMap:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def __getitem__(self, key: bytes | int) -> bytes:
        """Raises KeyError; an int is an array's index."""
        value = ctypes.create_string_buffer(self.shape.value)
        try:
            self._element(_LOOKUP, key, ctypes.addressof(value))
        except FileNotFoundError:
            raise KeyError(key) from None
        return value.raw

    def __setitem__(self, key: bytes | int, value: bytes) -> None:
        assert len(value) == self.shape.value
        buffer = ctypes.create_string_buffer(value, len(value))
        self._element(_UPDATE, key, ctypes.addressof(buffer))

    def __iter__(self) -> Iterator[bytes]:
        """The keys of a hash that nobody writes to meanwhile."""
        key: bytes | None = None
        found = ctypes.create_string_buffer(self.shape.key)
        while True:
            try:
                self._element(_NEXT_KEY, key, ctypes.addressof(found))
            except FileNotFoundError:
                return
            key = found.raw
            yield key

    def mapped(self, *, writable: bool = False) -> memoryview:
        """An array's elements, read-only unless told otherwise, as they are from now on."""
        stride = -(-self.shape.value // 8) * 8
        assert stride == self.shape.value, "the kernel pads this array's elements"
        size = -(-stride * self.shape.entries // mmap.PAGESIZE) * mmap.PAGESIZE
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        whole = mmap.mmap(self._fd, size, mmap.MAP_SHARED, access)
        return memoryview(whole)[: stride * self.shape.entries]

    def elements(self) -> bytes:
        """All of an array's, in one call."""
        keys, values = self._batch()
        reached = ctypes.create_string_buffer(4)
        self._all(_LOOKUP_BATCH, ctypes.addressof(reached), keys, values)
        return values.raw

    def fill(self, value: bytes) -> None:
        """Write that into every element of an array, in one call."""
        assert len(value) == self.shape.value
        keys, values = self._batch()
        count = self.shape.entries
        keys.raw = struct.pack(f"={count}I", *range(count))
        values.raw = value * count
        self._all(_UPDATE_BATCH, 0, keys, values)

    def _batch(self) -> tuple[_Buffer, _Buffer]:
        """Room for the keys and the values of an array, whose elements stand without padding."""
        assert self.shape.value % 8 == 0
        count = self.shape.entries
        keys, values = (ctypes.create_string_buffer(count * n) for n in (4, self.shape.value))
        return keys, values

    def _all(self, command: int, reached: int, keys: _Buffer, values: _Buffer) -> None:
        addresses = ctypes.addressof(keys), ctypes.addressof(values)
        bpf(command, struct.pack("=4QII", 0, reached, *addresses, self.shape.entries, self._fd))

    def _element(self, command: int, key: bytes | int | None, value: int) -> None:
        if isinstance(key, int):
            key = struct.pack("=I", key)
        buffer = ctypes.create_string_buffer(key, len(key)) if key is not None else None
        address = ctypes.addressof(buffer) if buffer is not None else 0
        bpf(command, struct.pack("=I4xQQQ", self._fd, address, value, 0))
