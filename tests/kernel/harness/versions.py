# SPDX-License-Identifier: Apache-2.0
"""Tables as older versions of hostreach made them: of today's, without what came since."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

from .rawmap import ARRAY, MMAPABLE, RawMap, Shape

# struct hr_meta_v1 in cpp/layout_v1.hpp, and what is struct hr_meta now.
META = struct.Struct("=4I4I Q 3I 3I Q 2I")
_META_2 = struct.Struct("=4I 2Q 4I")
_META_7_SIZE = _META_2.size + 8  # with exempt_filter
_FLAG = struct.Struct("=Q")
_RECORD = struct.Struct("=Q20sI")
CURRENT, OLDER = 8, (1, 2, 3, 4, 5, 6, 7)
TRIED = OLDER if os.environ.get("HOSTREACH_LONG") == "1" else (1, 3, 7)
"""By each test that is about them all."""
_SINCE_2 = ("flags", "node_networks", "allowed", "more_datagrams")
_SINCE_3 = ("listening", "listeners")
_SINCE_4 = ("holders", "places")
_SINCE_5 = ("hints",)
_HINTS_5 = Shape(ARRAY, 4, 64, 4096, 0)
_HINTS_6 = Shape(ARRAY, 4, 16, 65536, 0)
_PORTS_5 = Shape(ARRAY, 4, 64, 512, 0)
STAGED = ("services", "records", "slots", "backends", "active", "translations", "refusals")


def turn_back(pin: Path, to: int) -> None:
    """What is pinned there becomes that version. Attached programs go on with what they have.

    Before version 4 there were no places: sockets that hold one are to be told apart, or not there.
    """
    gone = {7: (), 6: (), 5: (), 4: _SINCE_5, 3: _SINCE_4 + _SINCE_5}.get(
        to, _SINCE_3 + _SINCE_4 + _SINCE_5
    )
    for name in gone:
        (pin / name).unlink(missing_ok=True)
    with RawMap.pinned(pin / "meta") as now, RawMap.pinned(pin / "flags") as all_flags:
        meta, mapped = now[0], now.shape.flags
        abi, services, backends, slots, generation, netns, *marks, levels = _META_2.unpack_from(
            meta
        )
        assert abi == CURRENT
        flags = [_FLAG.unpack(all_flags[n])[0] for n in range(3)]
    if to >= 5 and (pin / "hints").exists():
        _replace(pin, "hints", _HINTS_5 if to == 5 else _HINTS_6)
    with RawMap.pinned(pin / "events") as events:
        counted = [events[n] for n in range(3)]
    _replace(pin, "events", Shape(ARRAY, 4, 8, 3, mapped), counted)
    if to < 6:  # to be made anew, so it may be empty
        _replace(pin, "ports", _PORTS_5._replace(flags=mapped))
    if to > 1:
        size = _META_7_SIZE if to == 7 else _META_2.size
        _write(pin, struct.pack("=I", to) + meta[4:size], mapped)
    if to >= 3:
        return
    if to == 2:
        with RawMap.create("flags", Shape(ARRAY, 4, _FLAG.size, 3, mapped)) as old:
            for n, flag in enumerate(flags):
                old[n] = _FLAG.pack(flag)
            (pin / "flags").unlink()
            old.pin(pin / "flags")
        return
    overflow_used, moved, ends_due = flags
    with RawMap.pinned(pin / "node_networks") as networks:
        addresses_given = any(True for _ in networks)
    _write(
        pin,
        META.pack(
            *(1, services, backends, slots),
            *(0, 0, 0, addresses_given),
            generation,
            *marks,
            *(overflow_used, moved, 0),
            netns,
            *(levels, ends_due),
        ),
    )
    for name in _SINCE_2:
        (pin / name).unlink(missing_ok=True)


def say_checks(pin: Path) -> None:
    """What records had before version 8 where a first id is now: it leads programs astray."""
    with RawMap.pinned(pin / "records") as records, RawMap.pinned(pin / "meta") as meta:
        for n in range(_META_2.unpack_from(meta[0])[6]):
            word, rest, _ = _RECORD.unpack(records[n])
            check = (word * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 32
            records[n] = _RECORD.pack(word, rest, check)


def _replace(pin: Path, name: str, shape: Shape, values: Sequence[bytes] = ()) -> None:
    (pin / name).unlink()
    with RawMap.create(name, shape) as old:
        for n, value in enumerate(values):
            old[n] = value
        old.pin(pin / name)


def begin_growth(pin: Path, larger: Path) -> None:
    """As if killed while tables grew to those pinned at `larger`, which hold the same services."""
    with RawMap.pinned(pin / "meta") as meta, RawMap.pinned(larger / "meta") as target:
        values = list(META.unpack(meta[0]))
        values[4:7] = _META_2.unpack_from(target[0])[1:4]
    _write(pin, META.pack(*values))
    (pin / "next").mkdir(mode=0o700)
    for name in STAGED:
        (larger / name).rename(pin / "next" / name)


def _write(pin: Path, meta: bytes, flags: int = MMAPABLE) -> None:
    with RawMap.create("meta", Shape(ARRAY, 4, len(meta), 1, flags)) as old:
        old[0] = meta
        (pin / "meta").unlink()
        old.pin(pin / "meta")


def version(pin: Path) -> int:
    """Of the tables pinned there."""
    with RawMap.pinned(pin / "meta") as meta:
        number: int = struct.unpack_from("=I", meta[0])[0]
    return number
