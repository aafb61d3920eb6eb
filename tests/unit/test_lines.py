# SPDX-License-Identifier: Apache-2.0
"""JSON lines: what a script writes, and how `apply` takes it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from hostreach.cli import progress
from hostreach.errors import InvalidInput, OwnerConflict
from hostreach.models import Service
from hostreach.services import Services
from hostreach.sources.file import load, load_changes
from hostreach.testing import MemoryTable

ONE = '{"frontend": "10.96.0.1:80/tcp", "backends": [{"address": "10.0.0.1:80"}]}\n'
TWO = '{"frontend": "10.96.0.2:80/tcp", "owner": "web"}\n'
GONE = '{"remove": "10.96.0.3:80/tcp"}\n'


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "lines.json"
    path.write_text(text)
    return str(path)


def test_services_and_removals(tmp_path: Path) -> None:
    found = load_changes(write(tmp_path, f"{ONE}\n{TWO}{GONE}"))
    services = Services(MemoryTable())
    services.apply(found.services)
    assert services.list() == [
        Service.of("10.96.0.1:80/tcp", "10.0.0.1:80"),
        Service.of("10.96.0.2:80/tcp", owner="web"),
    ]
    assert found.removed == [("10.96.0.3", 80, "tcp")]


def test_one_line_and_no_newline(tmp_path: Path) -> None:
    assert len(load(write(tmp_path, ONE.strip()))) == 1


def test_a_document_is_no_lines(tmp_path: Path) -> None:
    whole = json.dumps({"version": 1, "services": [json.loads(ONE)]})
    assert load(write(tmp_path, whole)) == load(write(tmp_path, ONE))


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        (ONE + "\n" + ONE, 3, "10.96.0.1:80/tcp is given twice; first on line 1"),
        ('{"fronted": "10.96.0.1:80/tcp"}\n' + ONE, 1, "unknown key 'fronted'"),
        (ONE + '{"remove": "10.96.0.1:80/tcp"}', 2, "10.96.0.1:80/tcp is given twice"),
        (f"{ONE}\n[]", 3, "a service must be a mapping, not an empty list"),
        (f"{ONE}\n{{", 3, "is no JSON: Expecting property name enclosed in double quotes"),
        (ONE + '{"frontend": "10.96.0.2:80/tcp", "owner": "a", "owner": "b"}', 2, "given twice"),
        (ONE + '{"frontend": "10.96.0.2:80"}', 2, "'10.96.0.2:80' has no protocol"),
        (ONE + '{"remove": "10.96.0.2:80/tcp", "owner": "a"}', 2, "nothing stands beside remove"),
        (ONE + '{"remove": 1}', 2, "remove must be a string"),
        (ONE + '{"remove": "10.96.0.2"}', 2, "'10.96.0.2' has no protocol"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, text: str, line: int, why: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InvalidInput, match=why) as caught:
        load_changes(path)
    assert caught.value.object == f"{path}:{line}"


def test_removals_are_for_apply_alone(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="remove is for apply alone"):
        load(write(tmp_path, GONE))


def test_apply_removes() -> None:
    services = Services(MemoryTable())
    mine, theirs = Service.of("10.96.0.3:80/tcp"), Service.of("10.96.0.4:80/tcp", owner="web")
    services.apply([mine, theirs])
    with pytest.raises(OwnerConflict):
        services.apply([], remove=["10.96.0.3:80/tcp", "10.96.0.4:80/tcp"])
    assert services.list() == [mine, theirs]
    with pytest.raises(InvalidInput, match="given twice"):
        services.apply([mine], remove=[mine.frontend])
    changes = services.apply([], remove=["10.96.0.3:80/tcp", "10.96.0.9:80/tcp"])
    assert changes == [("remove", mine.frontend, mine, None)]
    assert services.list() == [theirs]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("patience", [0.0, 60.0])
def test_a_bar_when_it_takes_long(monkeypatch: pytest.MonkeyPatch, patience: float) -> None:
    monkeypatch.setattr(progress, "PATIENCE", patience)
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with progress.Progress("[file]") as bar:
        bar(0.25)
        bar(0.5)
    assert ("[file]" in terminal.getvalue()) is (patience == 0.0)


def test_no_bar_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr("sys.stderr", pipe := io.StringIO())
    with progress.Progress("file") as bar:
        bar(0.5)
    assert pipe.getvalue() == ""
