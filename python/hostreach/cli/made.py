# SPDX-License-Identifier: Apache-2.0
"""Whether this command has changed anything yet: for the line that tells of its early end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hostreach import Node

_nodes: list[Node] = []
_noted: list[str] = []


def begin() -> None:
    """A command begins, and another one may have been before it in this process."""
    _nodes.clear()
    _noted.clear()


def watch(node: Node) -> Node:
    """What is written through this counts."""
    _nodes.append(node)
    return node


def note(what: str) -> None:
    """Something else is done."""
    _noted.append(what)


def anything() -> bool:
    """Is something done that stays?"""
    return bool(_noted) or any(node.wrote for node in _nodes)
