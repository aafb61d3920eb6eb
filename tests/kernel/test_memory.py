# SPDX-License-Identifier: Apache-2.0
"""The kernel memory that the tables take at their default sizes, here and on larger machines."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import hostreach

from .harness import Box
from .harness.bpf import pinned_maps

MEGABYTE = 10**6
CPUS = (2, 16, 128)
LIMITS = {16: 72 * MEGABYTE, 128: 160 * MEGABYTE}

_F_NO_PREALLOC = 1 << 0
_F_MMAPABLE = 1 << 10
_HASH_ELEMENT = 48  # sizeof(struct htab_elem)
_BUCKET = 16  # sizeof(struct bucket)
_POINTER = 8


class Map(NamedTuple):
    """A map as it was made."""

    kind: str
    key: int
    value: int
    entries: int
    flags: int


def memory(table: Map, cpus: int, *, full: bool = True) -> int:
    """What a map takes when it is ``full``, or holds nothing, but for its head of under 1 KB.

    Only a hash that is not preallocated knows the difference.

    As htab_map_mem_usage() in the kernel's kernel/bpf/hashtab.c, array_map_mem_usage() in
    arraymap.c, and bpf_local_storage_map_mem_usage() in bpf_local_storage.c add it up.
    """
    value = _round_up(table.value, 8)
    if table.kind == "percpu_array":
        return table.entries * (_POINTER + value * cpus)
    if table.kind in {"array", "array_of_maps"}:
        size = table.entries * value
        if table.flags & _F_MMAPABLE:  # the map's head has a page of its own
            return mmap.PAGESIZE + _round_up(size, mmap.PAGESIZE)
        return size
    if table.kind in {"hash", "lru_hash"}:
        element = _HASH_ELEMENT + _round_up(table.key, 8) + value
        buckets = _power_of_two(table.entries)
        if table.flags & _F_NO_PREALLOC:
            return buckets * _BUCKET + (table.entries * element if full else 0)
        # Without an LRU each CPU has one element in hand, to replace another without a search.
        spare = cpus * (element + _POINTER) if table.kind == "hash" else 0
        return table.entries * element + buckets * _BUCKET + spare
    assert table.kind == "sk_storage", table
    return max(2, _power_of_two(cpus)) * _BUCKET  # its values are the sockets' memory


def estimate(table: Map, cpus: int) -> int:
    """What bpf_map_memory_footprint() said of any map in Linux 5.11 to 6.3."""
    value = _round_up(table.value, 8) * cpus if table.kind == "percpu_array" else table.value
    return _round_up(table.entries * _round_up(table.key + value, 8), mmap.PAGESIZE)


@pytest.fixture
def made(box: Box) -> dict[str, dict[str, Any]]:
    """The tables of an instance with nothing but defaults, as bpftool describes them."""
    hostreach.open(str(box.pin)).attach(cgroup=str(box.cgroup))
    return pinned_maps(box.pin)


def test_default_tables_stay_small(made: dict[str, dict[str, Any]]) -> None:
    sizes = {name: {n: memory(_as_made(map_), n) for n in CPUS} for name, map_ in made.items()}
    totals = {n: sum(size[n] for size in sizes.values()) for n in CPUS}
    lines = [f"{name:14}" + "".join(f"{size[n]:13,}" for n in CPUS) for name, size in sizes.items()]
    print(*lines, f"{'all':14}" + "".join(f"{totals[n]:13,}" for n in CPUS), sep="\n")
    for cpus, limit in LIMITS.items():
        assert totals[cpus] <= limit


def test_the_kernel_counts_the_same(made: dict[str, dict[str, Any]]) -> None:
    cpus = _possible_cpus()

    def calculated(how: Callable[[Map, int], int]) -> dict[str, int]:
        return {name: how(_as_made(map_), cpus) for name, map_ in made.items()}

    reported = {name: map_["bytes_memlock"] for name, map_ in made.items()}
    if reported == calculated(estimate):
        pytest.skip("this kernel estimates a map's memory; Linux 6.4 and later count it")
    for name, size in calculated(partial(memory, full=False)).items():
        # Linux before 5.11 counts whole pages, and a table that fills as if it were full.
        near = partial(pytest.approx, rel=0.03, abs=mmap.PAGESIZE)
        assert reported[name] in (near(size), near(memory(_as_made(made[name]), cpus))), name


def _as_made(map_: dict[str, Any]) -> Map:
    fields = ("type", "bytes_key", "bytes_value", "max_entries", "flags")
    return Map(*(map_[field] for field in fields))


def _possible_cpus() -> int:
    ranges = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")
    ends = [(part.split("-")[0], part.split("-")[-1]) for part in ranges]
    return sum(int(last) - int(first) + 1 for first, last in ends)


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
