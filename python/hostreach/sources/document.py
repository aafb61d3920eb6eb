# SPDX-License-Identifier: Apache-2.0
"""YAML and JSON text as plain values, and the line on which each of them stands.

The YAML is read from libyaml's events, not through PyYAML's constructor: that is several times as
fast, knows the line of whatever it refuses, and builds nothing that a file of services cannot
need. So anchors, aliases and tags are refused where they stand (no alias, no YAML bomb), as are
duplicate keys and a second document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import msgspec
import yaml

from hostreach.errors import InvalidInput
from hostreach.syntax import quote

from .compiled import count_keys

Path = tuple[int | str, ...]
"""Keys and indexes from the top of the document to a value."""

DEPTH_MAX = 20

_T = TypeVar("_T")

Tick = Callable[[float], None]
"""Told now and then how much is done: 0 is nothing, 1 all."""
_TICKS = 256
"""Services."""


def nothing(_: float) -> None:
    """Nobody wants to know."""


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# By first character: what YAML 1.1 does not take for a string when it is not quoted.
_NOT_TEXT = {
    first: re.compile("|".join(f"(?:{regexp.pattern})" for _, regexp in resolvers), re.VERBOSE)
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_WORDS = {
    **dict.fromkeys(("", "~", "null")),
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}
_SPACED_KEY = re.compile(r'"\s+:')
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")


@dataclass(frozen=True)
class Unquoted:
    """An unquoted scalar that is neither text nor a plain decimal integer: ``1.5``, ``0x10``."""

    text: str

    def __str__(self) -> str:
        return self.text


def parse(text: str, where: str, tick: Tick = nothing) -> object:
    """The one document in ``text`` as dicts, lists, str, int, bool, None and `Unquoted`.

    It is JSON if it begins with ``{``, otherwise YAML. ``where`` begins the line of `InvalidInput`.
    """
    if text.lstrip()[:1] == "{":
        return _parse_json(text, where)
    return _YamlReader(text, where, tick=tick).document()


def quickly(text: str, decode: Callable[[], _T]) -> _T | None:
    """What ``decode`` makes of JSON ``text`` by msgspec; None if it may have to be refused.

    msgspec is several times as fast as json, but passes over keys that are given twice. Where no
    space follows a quoted key, each is one quote and colon in the text: no more of these than
    there are keys, and all of them are different.
    """
    if _SPACED_KEY.search(text):
        return None
    try:
        value = decode()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return value if text.count('":') == count_keys(value) else None


def parse_json(line: str, where: str) -> object:
    """One line of JSON; ``where`` names it, and begins the line of `InvalidInput`."""
    try:
        return _decode(line)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"is no JSON: {error.msg}", object=where) from None
    except RecursionError:
        raise InvalidInput("is nested too deeply", object=where) from None
    except _DuplicateKeyError as error:
        raise InvalidInput(f"key {quote(str(error))} is given twice", object=where) from None
    except ValueError:  # an integer of more than 4,300 digits
        raise InvalidInput("is no JSON: a number is too long", object=where) from None


def find_line(text: str, path: Path) -> int | None:
    """The line, from 1, of the value at ``path`` or of the nearest one around it, if there is one.

    A second reading, for messages only. It serves JSON too, which is YAML but for a few escapes.
    """
    lines: dict[Path, int] = {}
    try:
        _YamlReader(text, "", lines).document()
    except InvalidInput:
        return None
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path)


class _YamlReader:
    def __init__(
        self,
        text: str,
        where: str,
        lines: dict[Path, int] | None = None,
        tick: Tick = nothing,
    ) -> None:
        self._text = text
        self._tick = tick
        self._where = where
        self._lines = lines
        self._path: list[int | str] = []
        self._next: Callable[[], Any] = lambda: None

    def document(self) -> object:
        try:
            loader = _Loader(self._text)
            try:
                self._next = loader.get_event
                return self._document()
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._refuse(mark, _yaml_problem(error))
        except yaml.reader.ReaderError as error:
            line = self._text.encode().count(b"\n", 0, error.position) + 1
            what = "has a character that YAML does not allow"
            raise InvalidInput(what, object=f"{self._where}:{line}") from None

    def _document(self) -> object:
        self._next()  # the stream's start
        event = self._next()
        if type(event) is yaml.StreamEndEvent:
            self._refuse(None, "is empty")
        value = self._value(self._next())
        self._next()  # the document's end
        event = self._next()
        if type(event) is not yaml.StreamEndEvent:
            self._refuse(event.start_mark, "a second document begins here; give one file each")
        return value

    def _value(self, event: Any) -> object:
        kind = type(event)
        if event.anchor is not None:
            what = "aliases (*)" if kind is yaml.AliasEvent else "anchors (&)"
            self._refuse(event.start_mark, f"{what} are not allowed here")
        if kind is yaml.ScalarEvent:
            unquoted, quoted = event.implicit
            if unquoted:
                return _plain(event.value)
            if quoted:
                return event.value
            self._refuse(event.start_mark, "tags (!) are not allowed here")
        if not event.implicit:
            self._refuse(event.start_mark, "tags (!) are not allowed here")
        if len(self._path) >= DEPTH_MAX:
            self._refuse(event.start_mark, "is nested too deeply")
        return self._mapping() if kind is yaml.MappingStartEvent else self._sequence()

    def _sequence(self) -> list[object]:
        result: list[object] = []
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            result.append(self._below(len(result), event, event))
            if len(result) % _TICKS == 0:
                self._tick(event.start_mark.index / len(self._text))
        return result

    def _mapping(self) -> dict[str, object]:
        result: dict[str, object] = {}
        while type(event := self._next()) is not yaml.MappingEndEvent:
            if type(event) is not yaml.ScalarEvent:
                self._refuse(event.start_mark, "a key must be a plain word")
            if event.anchor is not None or event.tag is not None:
                self._value(event)  # which refuses it
            key = event.value
            if key in result:
                self._refuse(event.start_mark, f"key {quote(key)} is given twice")
            result[key] = self._below(key, event, self._next())
        return result

    def _below(self, step: int | str, begin: Any, event: Any) -> object:
        self._path.append(step)
        if self._lines is not None:
            self._lines[tuple(self._path)] = begin.start_mark.line + 1
        value = self._value(event)
        self._path.pop()
        return value

    def _refuse(self, mark: Any, what: str) -> NoReturn:
        where = self._where if mark is None else f"{self._where}:{mark.line + 1}"
        raise InvalidInput(what, object=where) from None


def _plain(text: str) -> object:
    other = _NOT_TEXT.get(text[:1])
    if other is None or not other.match(text):
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    return int(text) if _INTEGER.fullmatch(text) else Unquoted(text)


def _yaml_problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "it cannot be read"
    if "nesting depth" in problem:  # since PyYAML 6.0.4 it has a limit of its own
        return "is nested too deeply"
    if problem.startswith("did not find expected"):
        problem += "; is the indentation right, and an IPv6 address in quotes?"
    elif "cannot start any token" in problem:
        problem += "; indent with spaces, not tabs, and put what begins with @, ` or % in quotes"
    return f"is no YAML: {problem}"


class _DuplicateKeyError(ValueError):
    pass


def _parse_json(text: str, where: str) -> object:
    if (value := quickly(text, lambda: quick_decode(text))) is not None:
        return value
    try:
        return _decode(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"is no JSON: {error.msg}", object=f"{where}:{error.lineno}") from None
    except RecursionError:
        raise InvalidInput("is nested too deeply", object=where) from None
    except _DuplicateKeyError as error:
        # Only YAML's reader knows the line; should it stumble over something else, so be it.
        _YamlReader(text, where).document()
        raise InvalidInput(f"key {quote(str(error))} is given twice", object=where) from None
    except ValueError:  # an integer of more than 4,300 digits
        raise InvalidInput("is no JSON: a number is too long", object=where) from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(next(key for i, key in enumerate(keys) if key in keys[:i]))
    return result


_decode = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=Unquoted).decode

quick_decode = msgspec.json.Decoder().decode
"""Of one JSON text, for `quickly`."""
