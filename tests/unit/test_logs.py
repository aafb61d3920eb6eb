# SPDX-License-Identifier: Apache-2.0
"""What others say reaches a log, and the terminal that shows it, as text alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from hostreach.agent import logs


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("hostreach").level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    logging.getLogger("hostreach").setLevel(before[2])


@pytest.mark.parametrize("form", logs.FORMATS)
@pytest.mark.parametrize("hostile", ["\x1b[31m", "\x9b31m", "a\nb", "\u202e", "\ud800"])
def test_control_characters(capsys: pytest.CaptureFixture[str], form: str, hostile: str) -> None:
    """Those of C1 too, which JSON takes for text."""
    logs.set_up("info", form)
    logging.getLogger("hostreach.agent").info("said: %s, and zürich", hostile)
    line = capsys.readouterr().err
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    if form == "json":
        assert json.loads(line)["message"] == f"said: {hostile}, and zürich"
