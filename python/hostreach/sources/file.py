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

The same in JSON is read too. Values are taken as they stand: ``weight: "3"`` is refused.
"""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

from pydantic import BaseModel, ValidationError

from hostreach.checks import EXPECTED, Check
from hostreach.errors import InvalidInput
from hostreach.models import Backend, Frontend, Service, describe, explain
from hostreach.syntax import OWNER_MAX, check_label, quote

from .document import Path, find_line, parse

__all__ = ["SIZE_MAX", "dump", "dump_json", "load", "load_entries"]

SIZE_MAX = 256 * 1024 * 1024
"""Bytes; a file of 50,000 services with 10 backends each has 22 million."""


class Entry(NamedTuple):
    """What a file says of a service, and of how its backends are checked."""

    service: Service
    check: Check | None


def load(path: str, *, owner: str = "manual") -> list[Service]:
    """The services in a file, in its order; ``-`` is standard input. See `load_entries`."""
    return [entry.service for entry in load_entries(path, owner=owner)]


def load_entries(path: str, *, owner: str = "manual", alone: bool = False) -> list[Entry]:
    """The services in a file and their checks, in its order; ``-`` is standard input.

    Services that name no owner get ``owner``; ``alone`` refuses those of others. Raises
    `InvalidInput`, whose line names the file, the line where it can be told, and what is wrong
    there; then nothing is returned of the rest either.
    """
    check_label(owner, "owner", OWNER_MAX)
    where = "standard input" if path == "-" else _shown(path)
    text = _read(path, where)
    with _gc_paused():
        return _entries(text, where, owner, alone=alone)


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


def _entries(text: str, where: str, owner: str, *, alone: bool) -> list[Entry]:
    def refuse(path: Path, message: str) -> NoReturn:
        line = find_line(text, path)
        raise InvalidInput(message, object=f"{where}:{line}" if line else where + _steps(path))

    document = parse(text, where)
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

    services: dict[Frontend, Entry] = {}
    for i, entry in enumerate(entries):
        here: Path = ("services", i)
        if not isinstance(entry, dict):
            refuse(here, f"a service must be a mapping, not {describe(entry)}")
        if isinstance(entry.get("frontend"), dict):
            refuse((*here, "frontend"), "frontend must be a string such as 10.96.0.10:53/udp")
        check = None
        if "check" in entry:
            said = entry.pop("check")
            if not isinstance(said, dict):
                refuse((*here, "check"), f"check must be {EXPECTED['check']}, not {describe(said)}")
            try:
                check = Check.model_validate(said)
            except ValidationError as error:
                path, message = explain(error, EXPECTED)
                refuse((*here, "check", *path), message)
        try:
            service = Service.model_validate({"owner": owner, **entry})
        except ValidationError as error:
            path, message = explain(error)
            refuse((*here, *path), message)
        if alone and service.owner != owner:
            refuse(
                (*here, "owner"),
                f"owner {quote(service.owner)} is somebody else; here all are {quote(owner)}'s",
            )
        if service.frontend in services:
            first = find_line(text, ("services", [*services].index(service.frontend)))
            before = f"; first on line {first}" if first else ""
            refuse(here, f"{service.frontend} is given twice{before}")
        services[service.frontend] = Entry(service, check)
    return [*services.values()]


def _steps(path: Path) -> str:
    steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return f": {steps.lstrip('.')}" if steps else ""


def _shown(path: str) -> str:
    return path if path.isprintable() and path else quote(path)


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Millions of objects and no cycle among them: the collector would take a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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
