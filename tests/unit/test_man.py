# SPDX-License-Identifier: Apache-2.0
"""The manual pages: as the command line's help is now, and as groff likes them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "man").glob("*.1"))


def test_they_are_what_the_help_says(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts/render-man", tmp_path], check=True)
    assert [each.name for each in PAGES] == sorted(each.name for each in tmp_path.iterdir())
    for page in PAGES:
        made = (tmp_path / page.name).read_text()
        assert made == page.read_text(), "run scripts/render-man"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_groff_finds_nothing_wrong(page: Path) -> None:
    if (groff := shutil.which("groff")) is None:
        pytest.skip("there is no groff here")
    done = subprocess.run(
        [groff, "-man", "-ww", "-Tutf8", page], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    shown = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout)
    assert "\nNAME\n" in shown
    assert page.stem in shown
    assert "--help" in shown  # which can be copied as it stands
    for name in re.findall(r"(hostreach[a-z-]*)\(1\)", shown):
        assert (ROOT / "man" / f"{name}.1").exists()


def test_every_option_is_there() -> None:
    """Of the command that has the most of them."""
    text = (ROOT / "man/hostreach-agent.1").read_text().replace("\\-", "-")
    help_text = subprocess.run(
        [sys.executable, "-m", "hostreach", "agent", "file", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.findall(r"^  (--[a-z-]+)", help_text, re.MULTILINE)
    assert len(found) > 15
    for option in found:
        assert f".B {option}" in text, option
