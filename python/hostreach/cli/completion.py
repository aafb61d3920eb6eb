# SPDX-License-Identifier: Apache-2.0
"""``completion``: what a shell has to run so that Tab knows our commands, options and services.

Typer finds the completions; the scripts are our own where its do badly: bash breaks words at
colons, which frontends have, and fish would run us twice.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hostreach.errors import HostreachError, InvalidInput

if TYPE_CHECKING:
    from hostreach import Node

MOST = 500
"""Names that are offered: a terminal shows no more."""

_PLAIN = re.compile(r"[\w@%+=:,./\[\]-]+")
"""What no shell reads otherwise: each puts a word into the line as it is, and zsh evaluates it."""

_BASH = r"""
_hostreach_completion() {
    # By the line, not by COMP_WORDS: those end at colons.
    local line="${COMP_LINE:0:COMP_POINT}" cur IFS
    local -a words
    read -ra words <<< "$line"
    case "$line" in *[[:space:]]) words+=("");; esac
    cur="${words[-1]}"
    IFS=$'\n'
    COMPREPLY=( $(COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) \
        _HOSTREACH_COMPLETE=complete_bash "$1" 2>/dev/null) )
    # What stands before the last colon stays as it is typed.
    if [[ "$cur" == *:* && "$COMP_WORDBREAKS" == *:* ]]; then
        COMPREPLY=( "${COMPREPLY[@]#"${cur%"${cur##*:}"}"}" )
    fi
}
complete -o default -F _hostreach_completion hostreach
"""
_ZSH = r"""
#compdef hostreach
_hostreach_completion() {
    eval "$(_TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _HOSTREACH_COMPLETE=complete_zsh \
        "${words[1]}" 2>/dev/null)"
}
if [ "$funcstack[1]" = _hostreach ]; then
    _hostreach_completion
else
    compdef _hostreach_completion hostreach
fi
"""
_FISH = r"""
function __hostreach_completion
    set --local line (commandline --cut-at-cursor --current-process)
    set --local found (_TYPER_COMPLETE_ARGS="$line" _TYPER_COMPLETE_FISH_ACTION=get-args \
        _HOSTREACH_COMPLETE=complete_fish hostreach 2>/dev/null)
    if set --query found[1]; and test -n "$found[1]"
        printf '%s\n' $found
    else
        __fish_complete_path (commandline --current-token)
    end
end
complete --command hostreach --no-files --arguments '(__hostreach_completion)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def completion(
    shell: Annotated[
        str,
        typer.Argument(
            metavar="bash|zsh|fish",
            help="Which one.",
            autocompletion=lambda incomplete: choices("bash", "zsh", "fish")(incomplete),
        ),
    ],
) -> None:
    """Print what makes a shell complete commands and services."""
    if shell not in _SCRIPTS:
        raise InvalidInput(f"'{shell}' is no shell that is known; they are bash, zsh and fish")
    typer.echo(_SCRIPTS[shell].strip())


def complete(command: Any, argv: list[str]) -> None:
    """What the shell asks for, by typer; ends the process."""
    from typer.completion import get_completion_inspect_parameters

    # Typer would draw descriptions with it, which takes as long as all the rest.
    sys.modules["rich"] = None  # type: ignore[assignment]
    get_completion_inspect_parameters()  # lets typer know the shells
    command.main(argv, prog_name="hostreach", standalone_mode=False)


def choices(*values: str) -> Callable[[str], list[str]]:
    """Completes an option that takes one of these."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def frontends(context: typer.Context, incomplete: str) -> list[str]:
    """Of services that are there; none for those who may not look."""
    found: list[str] = []
    for node in _opened(context):
        found = [row.frontend for row in node.services.rows()]
    return _offered(found, incomplete)


def backends(context: typer.Context, incomplete: str) -> list[str]:
    """Of the service that the line names."""
    found: list[str] = []
    for node in _opened(context):
        service = node.services.get(str(context.params.get("frontend")))
        found = [backend.address for backend in service.backends]
    return _offered(found, incomplete)


def owners(context: typer.Context, incomplete: str) -> list[str]:
    """Of services that are there."""
    found: set[str] = set()
    for node in _opened(context):
        found = {row.owner for row in node.services.rows()}
    return _offered(sorted(found), incomplete)


def exempted(context: typer.Context, incomplete: str) -> list[str]:
    """Cgroups that are exempt."""
    found: list[str] = []
    for node in _opened(context):
        found = node.exempt.list()
    return _offered(found, incomplete)


def _offered(names: Iterable[str], incomplete: str) -> list[str]:
    """Those that a shell takes as they stand: owners and cgroups may have any name."""
    fit = (each for each in names if each.startswith(incomplete) and _PLAIN.fullmatch(each))
    return [*islice(fit, MOST)]


def _opened(context: typer.Context) -> Iterator[Node]:
    """The instance; whatever goes wrong is no matter of a line that is being typed."""
    import hostreach

    try:
        pin = context.params.get("pin") or context.find_root().params.get("pin")
        with hostreach.open(pin or os.environ.get("HOSTREACH_PIN")) as node:
            yield node
    except (HostreachError, OSError):
        return
