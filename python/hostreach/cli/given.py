# SPDX-License-Identifier: Apache-2.0
"""Services and backends as a command line gives them.

Most are as plain as what the compiled module checks by itself; all else, whether it is right and
what is wrong, the models say, whose import takes half of a command's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from hostreach.errors import InvalidInput
from hostreach.sources.compiled import common_form
from hostreach.syntax import parse_backend

from .options import of_option

if TYPE_CHECKING:
    from hostreach.models import Backend, Service
    from hostreach.plain import PlainBackend, PlainService


def service_of(
    frontend: str, backends: Sequence[str], *, owner: str, **options: str | bool | None
) -> Service | PlainService:
    """``options`` are those of `Service.of`; raises `InvalidInput`."""
    said = {key: value for key, value in options.items() if value is not None}
    with suppress(InvalidInput):  # the models say what is wrong first
        entry = {"frontend": frontend, "backends": [*map(parse_backend, backends)], **said}
        plain: PlainService | None
        (plain,) = common_form([entry], owner)
        if plain is not None:
            return plain
    from hostreach.models import Service

    try:
        return Service.of(frontend, *backends, owner=owner, **options)  # type: ignore[arg-type]
    except InvalidInput as error:
        raise of_option(error, *options) from None


def backend_of(frontend: str, address: str, weight: int, state: str) -> Backend | PlainBackend:
    """One of the service at ``frontend``; raises `InvalidInput`."""
    values: dict[str, object] = {"address": address, "weight": weight, "state": state}
    plain: PlainService | None
    (plain,) = common_form([{"frontend": frontend, "backends": [values]}], "")
    if plain is not None:
        return plain[6][0]
    from hostreach.models import Backend, validate

    try:
        return validate(Backend, values)
    except InvalidInput as error:
        raise of_option(error, "weight") from None
