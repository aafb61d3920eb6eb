# SPDX-License-Identifier: Apache-2.0
"""What holds of a service as a whole, for models and plain values alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from .errors import InvalidInput
from .slots import MAGLEV_SIZES
from .syntax import NODE, format_frontend

BACKENDS_MAX = 4096
"""Backends of one service: each usable one needs a slot of its own."""


class FieldProblem(InvalidInput):
    """Found by a model as a whole, but to be shown where a part of it stands."""

    def __init__(self, message: str, *path: int | str) -> None:
        super().__init__(message)
        self.path = path


def check_backends(
    frontend: tuple[str, int, str], algorithm: str, addresses: Sequence[str]
) -> None:
    """May a service have backends at these canonical addresses? Raises `InvalidInput`."""
    if len(addresses) > BACKENDS_MAX:
        raise FieldProblem(
            f"backends must be a list of at most {BACKENDS_MAX} backends, "
            f"not a list of {len(addresses)}",
            "backends",
        )
    if frontend[0] != NODE:
        is_v6 = ":" in frontend[0]
        for i, address in enumerate(addresses):
            if (address[0] == "[") is not is_v6:
                raise FieldProblem(
                    f"backend {address} is IPv{4 if is_v6 else 6}, "
                    f"but frontend {format_frontend(*frontend)} is IPv{6 if is_v6 else 4}",
                    "backends",
                    i,
                )
    if len(set(addresses)) != len(addresses):
        twice = next(i for i, address in enumerate(addresses) if address in addresses[:i])
        raise FieldProblem(f"backend {addresses[twice]} is given twice", "backends", twice)
    if algorithm == "maglev" and len(addresses) > MAGLEV_SIZES[-1]:
        raise InvalidInput(
            f"maglev takes at most {MAGLEV_SIZES[-1]} backends, not {len(addresses)}"
        )


def removal(protocol: str, on_removal: str | None) -> Literal["reset", "keep"]:
    """What becomes of a backend's connections when it goes.

    Nothing tells a UDP client that its backend went; TCP may end what it began.
    """
    if on_removal is None:
        return "reset" if protocol == "udp" else "keep"
    return "reset" if on_removal == "reset" else "keep"
