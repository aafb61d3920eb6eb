# SPDX-License-Identifier: Apache-2.0
"""The file of services that ``apply`` reads and ``export`` writes.

    version: 1
    services:
    - frontend: 10.96.0.10:53/udp
      name: kube-system/kube-dns:dns
      backends:
      - address: 10.0.0.2:53
      - address: 10.0.0.3:53
        weight: 3
        state: draining
    - frontend: node:30080/tcp
      algorithm: least-conn
      affinity: 3h
      host_only: true
      from_cgroup: /sys/fs/cgroup/system.slice
      on_removal: reset

All but version, services, frontend and address may be left out.

A service may say how its backends are checked, which `hostreach agent file` alone does:

      check:
        kind: http
        path: /healthz

The same in JSON is read too, and JSON lines (`hostreach.sources.lines`). Values are taken as they
stand: ``weight: "3"`` is refused.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, NoReturn

from pydantic import BaseModel, ValidationError

from hostreach import collector
from hostreach.checks import EXPECTED, Check
from hostreach.errors import InvalidInput
from hostreach.models import Backend, Frontend, Service, describe, explain
from hostreach.plain import PlainFrontend, plain_frontend
from hostreach.syntax import OWNER_MAX, check_label, quote

from .document import Path, Tick, find_line, nothing, parse
from .lines import parse_lines

__all__ = ["SIZE_MAX", "dump", "dump_json", "load", "load_changes", "load_entries"]

SIZE_MAX = 256 * 1024 * 1024
"""Bytes; a file of 50,000 services with 10 backends each has 22 million."""


_TICKS = 256
"""Services, between one word of how far it is and the next."""


class Entry(NamedTuple):
    """What a file says of a service, and of how its backends are checked."""

    service: Service
    check: Check | None


class Changes(NamedTuple):
    """What a file asks for."""

    entries: list[Entry]
    removed: list[Frontend]


def load(path: str, *, owner: str = "manual") -> list[Service]:
    """The services in a file, in its order; ``-`` is standard input. See `load_entries`."""
    return [entry.service for entry in load_entries(path, owner=owner)]


def load_entries(path: str, *, owner: str = "manual", alone: bool = False) -> list[Entry]:
    """The services in a file and their checks, in its order; ``-`` is standard input.

    Services that name no owner get ``owner``; ``alone`` refuses those of others. Raises
    `InvalidInput`, whose line names the file, the line where it can be told, and what is wrong
    there; then nothing is returned of the rest either.
    """
    found = load_changes(path, owner=owner, alone=alone)
    if found.removed:
        where = "standard input" if path == "-" else _shown(path)
        raise InvalidInput("remove is for apply alone", object=where)
    return found.entries


def load_changes(
    path: str, *, owner: str = "manual", alone: bool = False, tick: Tick = nothing
) -> Changes:
    """The same, with the services that JSON lines remove; ``tick`` is told how far it is."""
    check_label(owner, "owner", OWNER_MAX)
    where = "standard input" if path == "-" else _shown(path)
    text = _read(path, where)
    with collector.paused():
        return _changes(text, where, owner, alone, tick)


def dump(services: Iterable[Service]) -> str:
    """As YAML, sorted, without the fields that have their default value."""
    entries = [_entry(service) for service in sorted(services, key=lambda s: s.sort_key)]
    if not entries:
        return "version: 1\nservices: []\n"
    lines = ["version: 1", "services:"]
    for entry in entries:
        backends = entry.pop("backends", ())
        lines += _mapping(entry, "- ", "  ")
        if backends:
            lines.append("  backends:")
        for backend in backends:
            lines += _mapping(backend, "  - ", "    ")
    lines.append("")
    return "\n".join(lines)


def dump_json(services: Iterable[Service]) -> str:
    """The same as JSON."""
    entries = [_entry(service) for service in sorted(services, key=lambda s: s.sort_key)]
    return json.dumps({"version": 1, "services": entries}, indent=2, ensure_ascii=False) + "\n"


def _read(path: str, where: str) -> str:
    try:
        if path == "-":
            data = sys.stdin.buffer.read(SIZE_MAX + 1)
        else:
            with open(path, "rb") as file:  # noqa: PTH123 - as given, "" included
                data = file.read(SIZE_MAX + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidInput(f"cannot be read: {reason}", object=where, errno=error.errno) from None
    except ValueError:
        raise InvalidInput("is no path", object=where) from None
    if len(data) > SIZE_MAX:
        raise InvalidInput(f"is larger than {SIZE_MAX >> 20} MiB", object=where)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidInput(
            f"is not UTF-8 (byte 0x{data[error.start]:02x})", object=f"{where}:{line}"
        ) from None
    if not text or text.isspace():
        raise InvalidInput("is empty", object=where)
    return text


def _changes(text: str, where: str, owner: str, alone: bool, tick: Tick) -> Changes:
    if lines := parse_lines(text, where):
        entries, numbers = lines

        def refuse_line(path: Path, message: str) -> NoReturn:
            assert isinstance(path[0], int)
            raise InvalidInput(message, object=f"{where}:{numbers[path[0]]}")

        return _Reader(owner, alone, tick, refuse_line).read((), entries)

    def refuse(path: Path, message: str) -> NoReturn:
        line = find_line(text, path)
        raise InvalidInput(message, object=f"{where}:{line}" if line else where + _steps(path))

    document = parse(text, where, lambda done: tick(done / 2))
    if not isinstance(document, dict):
        refuse((), f"must be a mapping with version and services, not {describe(document)}")
    for key in document:
        if key not in ("version", "services"):
            refuse((key,), f"unknown key {quote(key)}")
    for key in ("version", "services"):
        if key not in document:
            refuse((), f"{key} is missing")
    version, entries = document["version"], document["services"]
    if type(version) is not int or version != 1:
        refuse(("version",), f"version must be 1, not {describe(version)}")
    if not isinstance(entries, list):
        refuse(("services",), f"services must be a list ([] for none), not {describe(entries)}")
    first_at = partial(_first_line, text)
    reader = _Reader(owner, alone, lambda done: tick((1 + done) / 2), refuse, first_at)
    return reader.read(("services",), entries)


def _first_line(text: str, at: Path) -> str:
    first = find_line(text, at)
    return f"; first on line {first}" if first else ""


class _Reader:
    """Makes models of what was read, or refuses it where it stands."""

    def __init__(
        self,
        owner: str,
        alone: bool,
        tick: Tick,
        refuse: Callable[[Path, str], NoReturn],
        first_at: Callable[[Path], str] | None = None,
    ) -> None:
        self._owner = owner
        self._alone = alone
        self._tick = tick
        self._refuse = refuse
        self._first_at = first_at  # None: lines, which may remove too
        self._seen: dict[PlainFrontend, Path] = {}

    def read(self, above: Path, entries: list[Any]) -> Changes:
        found = Changes([], [])
        for i, entry in enumerate(entries):
            here = (*above, i)
            if not isinstance(entry, dict):
                self._refuse(here, f"a service must be a mapping, not {describe(entry)}")
            if "remove" in entry and self._first_at is None:
                found.removed.append(self._removed(here, entry))
            else:
                found.entries.append(self._entry(here, entry))
            if i % _TICKS == 0:
                self._tick(i / len(entries))
        return found

    def _removed(self, here: Path, entry: dict[str, Any]) -> Frontend:
        for key in entry:
            if key != "remove":
                self._refuse((*here, key), f"nothing stands beside remove, but {quote(key)} does")
        if not isinstance(entry["remove"], str):
            self._refuse(here, "remove must be a string such as 10.96.0.10:53/udp")
        try:
            frontend = Frontend.parse(entry["remove"])
        except InvalidInput as error:
            self._refuse(here, error.message)
        self._once(here, frontend)
        return frontend

    def _entry(self, here: Path, entry: dict[str, Any]) -> Entry:
        if isinstance(entry.get("frontend"), dict):
            self._refuse((*here, "frontend"), "frontend must be a string such as 10.96.0.10:53/udp")
        check = self._check((*here, "check"), entry.pop("check")) if "check" in entry else None
        try:
            service = Service.model_validate({"owner": self._owner, **entry})
        except ValidationError as error:
            path, message = explain(error)
            self._refuse((*here, *path), message)
        if self._alone and service.owner != self._owner:
            self._refuse(
                (*here, "owner"),
                f"owner {quote(service.owner)} is somebody else; "
                f"here all are {quote(self._owner)}'s",
            )
        self._once(here, service.frontend)
        return Entry(service, check)

    def _check(self, here: Path, said: object) -> Check:
        if not isinstance(said, dict):
            self._refuse(here, f"check must be {EXPECTED['check']}, not {describe(said)}")
        try:
            return Check.model_validate(said)
        except ValidationError as error:
            path, message = explain(error, EXPECTED)
            self._refuse((*here, *path), message)

    def _once(self, here: Path, frontend: Frontend) -> None:
        first = self._seen.setdefault(plain_frontend(frontend), here)
        if first is not here:
            before = self._first_at(first) if self._first_at else ""
            self._refuse(here, f"{frontend} is given twice{before}")


def _steps(path: Path) -> str:
    steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return f": {steps.lstrip('.')}" if steps else ""


def _shown(path: str) -> str:
    return path if path.isprintable() and path else quote(path)


# Left unquoted: only what no version of YAML takes for anything but a string.
_PLAIN = re.compile(
    r"[A-Za-z][\w./-]*(:[\w/][\w./-]*)*"
    r"|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+:[0-9]+(/[a-z]+)?"
    r"|[1-9][0-9]*(ms|s|m|h|d)"
    r"|(/[\w.-]+)+",
    re.ASCII,
)
_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if isinstance(value, int) or (_PLAIN.fullmatch(text) and text.lower() not in _WORDS):
        return text
    return json.dumps(text, ensure_ascii=False)


def _mapping(values: dict[str, object], first: str, rest: str) -> Iterator[str]:
    for key, value in values.items():
        yield f"{first}{key}: {_scalar(value)}"
        first = rest


def _options(model: type[BaseModel]) -> dict[str, object]:
    """The fields that have a default, but for the lists, and it."""
    return {
        key: field.default
        for key, field in model.model_fields.items()
        if not field.is_required() and field.default != ()
    }


_SERVICE = _options(Service)
_BACKEND = _options(Backend)


def _entry(service: Service) -> dict[str, Any]:
    entry: dict[str, Any] = {"frontend": str(service.frontend), **_set(service, _SERVICE)}
    if service.backends:
        entry["backends"] = [{"address": b.address, **_set(b, _BACKEND)} for b in service.backends]
    return entry


def _set(model: BaseModel, defaults: dict[str, object]) -> dict[str, object]:
    values = model.__dict__
    return {key: values[key] for key, default in defaults.items() if values[key] != default}
