# SPDX-License-Identifier: Apache-2.0
"""Objects of one kind, as a list or a watch has them, told as news: the bad ones, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from hostreach.errors import InvalidInput

from . import objects
from .client import Params
from .heads import text_of
from .intake import Problem
from .news import Changed, News, Spoiled, Taken
from .state import Kind

_partial = msgspec.json.Decoder(objects.PartialObject)  # here, for threads: see watch.py


@dataclass(frozen=True)
class Resource:
    """What to watch, and how to read it; ``take`` may raise `InvalidInput`."""

    kind: Kind
    path: str
    params: Params
    type: type
    take: Callable[[Any], Taken | None]
    spares: Params = field(default_factory=dict)
    """Also asked, unless the server does not know it: what it spares us, ``take`` leaves out."""


class Teller:
    """Of the objects of a resource."""

    def __init__(self, resource: Resource, tell: Callable[[News], None]) -> None:
        self._resource = resource
        self._tell = tell
        self._object: msgspec.json.Decoder[Any] = msgspec.json.Decoder(resource.type)

    def item(self, raw: bytes) -> None:
        """One of a list."""
        try:
            self.changed(self._object.decode(raw), gone=False)
        except msgspec.DecodeError as error:
            self.spoiled(raw, str(error))

    def changed(self, found: Any, *, gone: bool) -> None:
        """One that was decoded."""
        kind, meta = self._resource.kind, found.metadata
        key = f"{meta.namespace}/{meta.name}"
        if gone:
            self._tell(Changed(kind, key, None))
            return
        try:
            value = self._resource.take(found)
        except InvalidInput as error:
            self._tell(Spoiled(kind, key, Problem("invalid", str(error))))
            return
        self._tell(Changed(kind, key, value))

    def spoiled(self, raw: bytes, message: str, *, gone: bool = False) -> None:
        """One that cannot be decoded."""
        try:
            meta = _partial.decode(raw).metadata
        except msgspec.DecodeError:
            meta = objects.PartialMetadata()
        if gone:
            self._tell(Changed(self._resource.kind, f"{meta.namespace}/{meta.name}", None))
        else:
            problem = Problem("invalid", message.replace(" - at `", " at `"))
            self._named(meta.namespace, meta.name, problem)

    def too_large(self, head: bytes) -> None:
        """One of which only the beginning was read."""
        namespace, name = (text_of(head, key) for key in ("namespace", "name"))
        self._named(namespace, name, Problem("too-large", "it is too large to be read"))

    def _named(self, namespace: str | None, name: str | None, problem: Problem) -> None:
        key = f"{namespace or '?'}/{name or '?'}"
        self._tell(Spoiled(self._resource.kind, key, problem))
