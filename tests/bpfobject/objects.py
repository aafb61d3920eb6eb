# SPDX-License-Identifier: Apache-2.0
"""The parts of a compiled BPF object: programs, the functions that they call, maps."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section, Symbol, SymbolTableSection

from .instructions import FUNCTION, LD_IMM64, Instruction, decode

MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian
EM_BPF = 247
EXECUTABLE = 0x4
BPFTOOL = shutil.which("bpftool", path="/usr/sbin:/usr/local/sbin:/usr/bin:/bin") or "bpftool"


@dataclass(frozen=True)
class Map:
    name: str
    type: int  # enum bpf_map_type
    flags: int  # BPF_F_*, of map creation
    value_size: int


@dataclass(frozen=True)
class Reference:
    """What a relocation puts into an instruction."""

    section: str  # "" if the object does not define it
    symbol: str
    offset: int  # in the section


@dataclass
class Function:
    name: str
    section: str
    is_global: bool
    code: list[Instruction]
    references: dict[int, Reference] = field(default_factory=dict)  # by instruction
    callees: dict[int, Function] = field(default_factory=dict)  # by instruction

    def reachable(self) -> list[Function]:
        """Itself, and each function that it may call; as libbpf appends them, once each."""
        found = {self: None}
        todo = [self]
        while todo:
            for called in todo.pop().callees.values():
                if called not in found:
                    found[called] = None
                    todo.append(called)
        return list(found)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class BpfObject:
    """One ELF image, as clang or `bpftool gen object` makes it."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        self._elf = ELFFile(io.BytesIO(image))
        self._sections: list[Section] = list(self._elf.iter_sections())
        self._symbols: list[Symbol] = [
            symbol
            for section in self._sections
            if isinstance(section, SymbolTableSection)
            for symbol in section.iter_symbols()
        ]

    @property
    def source(self) -> str:
        """The file that it was compiled from."""
        return next(s.name for s in self._symbols if s["st_info"]["type"] == "STT_FILE")

    @cached_property
    def programs(self) -> dict[str, Function]:
        """What user space loads: the functions in sections that name a hook."""
        functions = list(self._functions())
        return {f.name: f for f in functions if f.section != ".text"}

    @property
    def data_sections(self) -> set[str]:
        """Global data, which becomes maps of the object's own."""
        kinds = (".data", ".rodata", ".bss", ".kconfig")
        return {s.name for s in self._sections if s.name.startswith(kinds) and s["sh_size"]}

    @property
    def core_relocations(self) -> int:
        """Bytes of records that libbpf answers from the kernel's BTF (struct btf_ext_header)."""
        for section in self._sections:
            if section.name == ".BTF.ext":
                (header_size,) = struct.unpack_from("<I", section.data(), 4)
                return struct.unpack_from("<I", section.data(), 28)[0] if header_size > 24 else 0
        return 0

    @cached_property
    def maps(self) -> dict[str, Map]:
        """Those of the section ``.maps``."""
        with tempfile.NamedTemporaryFile(suffix=".bpf.o") as file:
            file.write(self.image)
            file.flush()
            command = [BPFTOOL, "--json", "btf", "dump", "file", file.name]
            done = subprocess.run(command, check=True, capture_output=True)
        return dict(_maps({each["id"]: each for each in json.loads(done.stdout)["types"]}))

    def _functions(self) -> Iterator[Function]:
        found: dict[tuple[str, int], Function] = {}
        for symbol in self._symbols:
            if symbol["st_info"]["type"] != "STT_FUNC":
                continue
            section = self._sections[symbol["st_shndx"]]
            start = symbol["st_value"]
            found[section.name, start] = Function(
                name=symbol.name,
                section=section.name,
                is_global=symbol["st_info"]["bind"] == "STB_GLOBAL"
                and symbol["st_other"]["visibility"] == "STV_DEFAULT",
                code=decode(section.data()[start : start + symbol["st_size"]]),
            )
        for (name, start), function in found.items():
            self._relocate(name, start, function)
            for at, each in enumerate(function.code):
                if each.calls(FUNCTION):
                    to = function.references.get(at)
                    callee, base = (to.section, to.offset) if to else (name, start + 8 * at)
                    if callee:  # or it is a function of the kernel
                        function.callees[at] = found[callee, base + 8 * (each.immediate + 1)]
        return iter(found.values())

    def _relocate(self, section: str, start: int, function: Function) -> None:
        for table in self._sections:
            if not isinstance(table, RelocationSection) or table.name != f".rel{section}":
                continue
            for relocation in table.iter_relocations():
                at, odd = divmod(relocation["r_offset"] - start, 8)
                if not 0 <= at < len(function.code) or odd:
                    continue
                symbol = self._symbols[relocation["r_info_sym"]]
                index = symbol["st_shndx"]
                defined = isinstance(index, int)
                offset = symbol["st_value"]
                if function.code[at].opcode == LD_IMM64:
                    offset += function.code[at].immediate
                function.references[at] = Reference(
                    section=self._sections[index].name if defined else "",
                    symbol=symbol.name,
                    offset=offset,
                )


def embedded(module: Path) -> dict[str, BpfObject]:
    """The objects inside a compiled module, by the name of their source: "x" for x.bpf.c."""
    content = module.read_bytes()
    found: dict[str, BpfObject] = {}
    at = content.find(MAGIC, 1)  # the module itself is the first
    while at >= 0:
        if content[at + 18 : at + 20] == struct.pack("<H", EM_BPF):
            each = BpfObject(content[at:])
            name = each.source.removesuffix(".bpf.c")
            assert name not in found, f"{module.name} has two objects made of {each.source}"
            found[name] = each
        at = content.find(MAGIC, at + 1)
    return found


@cache
def installed() -> dict[str, BpfObject]:
    """Those inside the installed `hostreach._core`; none if it is not built."""
    module = find_spec("hostreach._core")
    return embedded(Path(module.origin)) if module and module.origin else {}


def _maps(types: dict[int, Any]) -> Iterator[tuple[str, Map]]:
    """libbpf's map definitions: an array's length is a number, a pointer's target a type."""

    def resolve(number: int) -> Any:
        while types[number]["kind"] in ("TYPEDEF", "CONST", "VOLATILE"):
            number = types[number]["type_id"]
        return types[number]

    def size(number: int) -> int:
        kind = resolve(number)
        if kind["kind"] == "ARRAY":
            return int(kind["nr_elems"]) * size(kind["type_id"])
        return 8 if kind["kind"] == "PTR" else int(kind["size"])

    def read(name: str, number: int) -> Iterator[tuple[str, Map]]:
        about = {"map_flags": 0, "value_size": 0}
        for member in resolve(number)["members"]:
            target = resolve(member["type_id"])["type_id"]
            if member["name"] == "value":
                about["value_size"] = size(target)
            elif member["name"] == "values":  # an array of pointers to the maps inside
                yield from read(f"{name}[]", resolve(target)["type_id"])
            elif member["name"] != "key":
                about[member["name"]] = int(resolve(target)["nr_elems"])
        yield name, Map(name, about["type"], about["map_flags"], about["value_size"])

    section = next(
        (t for t in types.values() if (t["kind"], t["name"]) == ("DATASEC", ".maps")), None
    )
    for variable in section["vars"] if section else []:
        yield from read(types[variable["type_id"]]["name"], types[variable["type_id"]]["type_id"])
