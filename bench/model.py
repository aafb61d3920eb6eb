# SPDX-License-Identifier: Apache-2.0
"""What the tables take of the kernel's memory, as bpf/hostreach.h and cpp/tables.cpp have it."""

from __future__ import annotations

from pathlib import Path

from hostreach.options import Capacities

HASH_ELEMENT = 48 + 24 + 8  # the kernel's own part, struct hr_key and the index, rounded up to 8
BUCKET = 16  # of a hash; their number is the next power of two
RECORD = 32  # struct hr_record
DETAILS = 24 * 4  # kWordsPerService: struct hr_details, name and owner
REFUSALS = 8
POINTER, COUNTER = 8, 8  # of translations: a counter for each CPU
BACKEND = 32  # struct hr_backend
ACTIVE = 8
MEMBER = 2 * 4  # kWordsPerBackend: struct hr_member
SLOT = 4
_SLOTS_PER_SERVICE = 4096
_LARGEST_BLOCK = (4 * _SLOTS_PER_SERVICE + 6 + 2176) * SLOT
RESERVE = 2 * _LARGEST_BLOCK + _SLOTS_PER_SERVICE * (BACKEND + ACTIVE)
"""For a service of any size that is replaced."""


def per_service(cpus: int) -> int:
    """Bytes, but for the hash's buckets."""
    return HASH_ELEMENT + RECORD + DETAILS + REFUSALS + POINTER + COUNTER * cpus


PER_BACKEND = BACKEND + ACTIVE + MEMBER
PER_SLOT = SLOT


def sized_bytes(capacities: Capacities, cpus: int) -> int:
    """Of the maps that the capacities decide on; some pages are left out, of 7 maps' heads."""
    services, backends, slots = (size or 0 for size in capacities)  # none is None here
    buckets = 1 << max(services - 1, 0).bit_length()
    by_size = PER_BACKEND * backends + PER_SLOT * slots + RESERVE
    return per_service(cpus) * services + BUCKET * buckets + by_size


def possible_cpus() -> int:
    """As the kernel counts them for maps: also those that may be plugged in."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(text.split(",")[-1].rpartition("-")[2]) + 1
