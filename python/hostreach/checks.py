# SPDX-License-Identifier: Apache-2.0
"""What a health check of a service's backends is: a frozen pydantic model without any I/O.

A check belongs to an entry of a file, not to the tables: those hold the states that it comes to.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    model_validator,
)

from .errors import InvalidInput
from .rules import FieldProblem
from .syntax import format_duration, parse_duration, quote

Kind = Literal["tcp", "http", "dns"]
AllDown = Literal["use-all", "refuse"]

INTERVAL_MIN = 100
"""Milliseconds."""
PATH_MAX = 1024

# What may stand in a request line, and in a header.
_PATH = re.compile(r"/[!-~]*")
_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,255}")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_STATUS = re.compile(r"([1-5][0-9][0-9])(?:-([1-5][0-9][0-9]))?")


def _duration(text: str, what: str, least: int) -> str:
    try:
        milliseconds = parse_duration(text)
    except InvalidInput as error:
        raise InvalidInput(f"{what} {error.message}") from None
    if milliseconds < least:
        raise InvalidInput(f"{what} must be at least {format_duration(least)}, not {quote(text)}")
    return format_duration(milliseconds)


def _path(text: str) -> str:
    if not _PATH.fullmatch(text) or len(text) > PATH_MAX:
        raise InvalidInput(f"path {quote(text)} is none; write it as /healthz, escaped by %")
    return text


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise InvalidInput(f"host {quote(text)} is no host's name")
    return text


def _name(text: str) -> str:
    labels = text.removesuffix(".").split(".")
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidInput(f"name {quote(text)} is no name that DNS knows")
    return text


def parse_statuses(text: str) -> tuple[tuple[int, int], ...]:
    """``200-299,404`` as ranges, both ends in them; raises `InvalidInput`."""
    ranges = []
    for part in text.split(","):
        found = _STATUS.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise InvalidInput(f"status {quote(text)} is none; write it as 200 or 200-299,404")
        ranges.append((first, last))
    return tuple(ranges)


def _status(text: str) -> str:
    parse_statuses(text)
    return text


def _status_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


class Check(BaseModel):
    """How it is found out whether a backend answers.

    Attributes:
        kind: ``tcp`` connects; ``http`` asks for ``path`` and wants one of ``status``; ``dns`` asks
            for ``name`` and wants an answer without an error, by the service's protocol.
        path, status, host: of http; ``host`` is the header's, by default the backend's address.
        name: of dns: whose IPv4 address is asked for.
        port: where, if not on the backend's own.
        interval: from one check's beginning to the next one's.
        timeout: after which a check has failed.
        jitter: each interval is longer by up to so much, at random; default: a tenth of it.
        rise, fall: so many results one after the other change what a backend is taken for.
        all_down: what becomes of new connections when all backends fail: all are used as if none
            did, or all are refused. None leaves it to the agent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kind: Kind
    path: Annotated[StrictStr, AfterValidator(_path)] | None = None
    status: Annotated[StrictStr, BeforeValidator(_status_text), AfterValidator(_status)] | None = (
        None
    )
    host: Annotated[StrictStr, AfterValidator(_host)] | None = None
    name: Annotated[StrictStr, AfterValidator(_name)] | None = None
    port: Annotated[StrictInt, Field(ge=1, le=65535)] | None = None
    interval: Annotated[
        StrictStr, AfterValidator(lambda text: _duration(text, "interval", INTERVAL_MIN))
    ] = "5s"
    timeout: Annotated[StrictStr, AfterValidator(lambda text: _duration(text, "timeout", 1))] = "2s"
    jitter: (
        Annotated[StrictStr, AfterValidator(lambda text: _duration(text, "jitter", 0))] | None
    ) = None
    rise: Annotated[StrictInt, Field(ge=1, le=1000)] = 2
    fall: Annotated[StrictInt, Field(ge=1, le=1000)] = 3
    all_down: AllDown | None = None

    @model_validator(mode="after")
    def _check_kind(self) -> Check:
        for field, kind in (
            ("path", "http"),
            ("status", "http"),
            ("host", "http"),
            ("name", "dns"),
        ):
            if getattr(self, field) is not None and self.kind != kind:
                raise FieldProblem(f"{field} is of {kind} checks, not of {self.kind} ones", field)
        if self.kind == "dns" and self.name is None:
            raise FieldProblem("a dns check needs a name to ask for")
        return self

    @property
    def interval_s(self) -> float:
        """Seconds."""
        return parse_duration(self.interval) / 1000

    @property
    def timeout_s(self) -> float:
        """Seconds."""
        return parse_duration(self.timeout) / 1000

    @property
    def jitter_s(self) -> float:
        """Seconds."""
        return self.interval_s / 10 if self.jitter is None else parse_duration(self.jitter) / 1000


EXPECTED = {
    "all_down": "use-all or refuse",
    "check": "a mapping such as {kind: tcp}",
    "fall": "an integer from 1 to 1000",
    "host": "a string such as www.example.com",
    "interval": "a duration such as 5s",
    "jitter": "a duration such as 500ms",
    "kind": "tcp, http or dns",
    "name": "a string such as www.example.com",
    "path": "a string such as /healthz",
    "port": "an integer from 1 to 65535",
    "rise": "an integer from 1 to 1000",
    "status": "a status such as 200, or a string such as 200-299,404",
    "timeout": "a duration such as 2s",
}
"""What `hostreach.models.explain` says of each field."""
