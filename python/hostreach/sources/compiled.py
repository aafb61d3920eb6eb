# SPDX-License-Identifier: Apache-2.0
"""What of reading files the compiled module does quickly. Where it is not, the models do it all."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["common_form", "count_keys"]

try:
    from hostreach._core import common_form, count_keys
except ModuleNotFoundError:
    if not TYPE_CHECKING:

        def common_form(services: list[object], owner: str) -> list[None]:  # noqa: ARG001
            """Nothing is known to be right."""
            return [None] * len(services)

        def count_keys(value: object) -> int:  # noqa: ARG001
            """Less than any text has."""
            return -1
