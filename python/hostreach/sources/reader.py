# SPDX-License-Identifier: Apache-2.0
"""What was decoded of a file of services, as services: right in every part, or refused.

Most of a large file is in the common form, which the compiled module checks at once and gives as
plain values. What it passes by the models look at, which alone know what is wrong; they take 80 ms
to import, and are where nothing needs them not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from hostreach.errors import InvalidInput
from hostreach.plain import PlainFrontend, PlainService, plain_frontend
from hostreach.syntax import describe, format_frontend, parse_frontend, quote

from .compiled import common_form
from .document import Path, Tick

if TYPE_CHECKING:
    from hostreach.checks import Check
    from hostreach.models import Service

_TICKS = 256
"""Services, between one word of how far it is and the next."""


class Entry(NamedTuple):
    """What a file says of a service, and of how its backends are checked."""

    service: Service
    check: Check | None


class Places(NamedTuple):
    """Where things stand in a file: for messages."""

    file: str
    line: Callable[[Path], int | None]
    above: Path
    """Where the services are in the document."""

    def refuse(self, path: Path, message: str) -> NoReturn:
        """What stands there, from the top of the document."""
        raise InvalidInput(message, object=self._name(path))

    def _name(self, path: Path) -> str:
        line = self.line(path)
        return f"{self.file}:{line}" if line else self.file + _steps(path)


class Changes(NamedTuple):
    """What a file asks `apply` for."""

    services: list[Service | PlainService]
    removed: list[PlainFrontend]
    checked: int
    """How many of the services say how their backends are checked."""
    places: Places
    numbers: dict[PlainFrontend, int]
    """Which entry of the file each service is."""

    def refuse(self, error: InvalidInput) -> NoReturn:
        """Raise it with its place in the file, if it is about a service there."""
        shown = error.object or ""
        for frontend, i in self.numbers.items():
            if format_frontend(*frontend) == shown:
                self.places.refuse((*self.places.above, i), f"{shown}: {error.message}")
        raise error


class Decoded(NamedTuple):
    """What stands in a file, not yet looked at."""

    entries: list[Any]
    places: Places
    removes: bool
    """These are lines, which may remove services too."""


class Reader:
    """Makes services of what was decoded, or refuses it where it stands."""

    def __init__(self, decoded: Decoded, owner: str, *, alone: bool, tick: Tick) -> None:
        """``alone`` refuses services of others than ``owner``."""
        self._decoded = decoded
        self._owner = owner
        self._alone = alone
        self._tick = tick
        self._seen: dict[PlainFrontend, int] = {}

    def entries(self) -> list[Entry]:
        """With models, and without removals."""
        found = []
        for i, entry in enumerate(self._decoded.entries):
            found.append(self._entry(i, self._mapping(i, entry, "remove is for apply alone")))
            self._tell(i)
        return found

    def changes(self) -> Changes:
        """In plain values where they need no more looking at."""
        entries = self._decoded.entries
        found = Changes([], [], 0, self._decoded.places, self._seen)
        checked = 0
        for i, plain in enumerate(common_form(entries, self._owner)):
            if plain is not None:
                self._once(i, plain[:3])
                found.services.append(plain)
            elif "remove" in (entry := self._mapping(i, entries[i])):
                found.removed.append(self._removed(i, entry))
            else:
                service, check = self._entry(i, entry)
                found.services.append(service)
                checked += check is not None
            self._tell(i)
        return found._replace(checked=checked)

    def _tell(self, i: int) -> None:
        if i % _TICKS == 0:
            self._tick(i / len(self._decoded.entries))

    def _refuse(self, path: Path, message: str) -> NoReturn:
        places = self._decoded.places
        places.refuse((*places.above, *path), message)

    def _mapping(self, i: int, entry: object, no_removals: str = "") -> dict[str, Any]:
        if not isinstance(entry, dict):
            self._refuse((i,), f"a service must be a mapping, not {describe(entry)}")
        if "remove" in entry:
            if not self._decoded.removes:
                self._refuse((i, "remove"), "unknown key 'remove'")
            if no_removals:
                self._refuse((i,), no_removals)
        return entry

    def _removed(self, i: int, entry: dict[str, Any]) -> PlainFrontend:
        for key in entry:
            if key != "remove":
                self._refuse((i, key), f"nothing stands beside remove, but {quote(key)} does")
        if not isinstance(entry["remove"], str):
            self._refuse((i,), "remove must be a string such as 10.96.0.10:53/udp")
        try:
            frontend = parse_frontend(entry["remove"])
        except InvalidInput as error:
            self._refuse((i,), error.message)
        self._once(i, frontend)
        return frontend

    def _entry(self, i: int, entry: dict[str, Any]) -> Entry:
        from pydantic import ValidationError

        from hostreach.models import Service, explain

        if isinstance(entry.get("frontend"), dict):
            self._refuse((i, "frontend"), "frontend must be a string such as 10.96.0.10:53/udp")
        check = self._check((i, "check"), entry.pop("check")) if "check" in entry else None
        try:
            service = Service.model_validate({"owner": self._owner, **entry})
        except ValidationError as error:
            path, message = explain(error)
            self._refuse((i, *path), message)
        if self._alone and service.owner != self._owner:
            self._refuse(
                (i, "owner"),
                f"owner {quote(service.owner)} is somebody else; "
                f"here all are {quote(self._owner)}'s",
            )
        self._once(i, plain_frontend(service.frontend))
        return Entry(service, check)

    def _check(self, path: Path, said: object) -> Check:
        from pydantic import ValidationError

        from hostreach.checks import EXPECTED, Check
        from hostreach.models import explain

        if not isinstance(said, dict):
            self._refuse(path, f"check must be {EXPECTED['check']}, not {describe(said)}")
        try:
            return Check.model_validate(said)
        except ValidationError as error:
            below, message = explain(error, EXPECTED)
            self._refuse((*path, *below), message)

    def _once(self, i: int, frontend: PlainFrontend) -> None:
        first = self._seen.setdefault(frontend, i)
        if first != i:
            places = self._decoded.places
            line = places.line((*places.above, first))
            before = f"; first on line {line}" if line else ""
            self._refuse((i,), f"{format_frontend(*frontend)} is given twice{before}")


def _steps(path: Path) -> str:
    steps = "".join(f"[{step}]" if isinstance(step, int) else f".{shown(step)}" for step in path)
    return f": {steps.lstrip('.')}" if steps else ""


def shown(name: str) -> str:
    """As it is, where that can be printed."""
    return name if name.isprintable() and name else quote(name)
