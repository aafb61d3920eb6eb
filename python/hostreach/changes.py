# SPDX-License-Identifier: Apache-2.0
"""`Change`: what became of a service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from .plain import frontend_model, model_of
from .syntax import format_frontend

if TYPE_CHECKING:
    from .models import Frontend, Service
    from .plain import PlainFrontend, PlainService

__all__ = ["Change"]


class Change:
    """One service before and after: ``add`` has no before, ``remove`` no after.

    It knows them as plain values; their models are made when somebody asks for them.
    """

    __slots__ = ("_after", "_before", "action", "plain_after", "plain_before")

    def __init__(
        self,
        action: Literal["add", "set", "remove"],
        before: PlainService | None,
        after: PlainService | None,
    ) -> None:
        self.action = action
        self.plain_before = before
        self.plain_after = after
        self._before: Service | None = None
        self._after: Service | None = None

    @property
    def key(self) -> PlainFrontend:
        """The frontend, as plain values."""
        either = self.plain_after or self.plain_before
        assert either is not None
        return either[:3]

    @property
    def frontend(self) -> Frontend:
        """Whose service changes."""
        return frontend_model(self.key)

    @property
    def before(self) -> Service | None:
        """What it was."""
        if self._before is None and self.plain_before is not None:
            self._before = model_of(self.plain_before)
        return self._before

    @property
    def after(self) -> Service | None:
        """What it is."""
        if self._after is None and self.plain_after is not None:
            self._after = model_of(self.plain_after)
        return self._after

    def __iter__(self) -> Iterator[object]:
        return iter((self.action, self.frontend, self.before, self.after))

    def __eq__(self, other: object) -> bool:
        """With such a tuple too."""
        return isinstance(other, (Change, tuple)) and (*self,) == (*other,)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Change: {self.action} {format_frontend(*self.key)}>"
