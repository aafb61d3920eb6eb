# SPDX-License-Identifier: Apache-2.0
"""An installation without extras: all but the Kubernetes agent works with the base dependencies.

What else the tests' own environment has is hidden from a fresh interpreter.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hostreach

HIDING = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""
EXTRA = ("hostreach.sources.kubernetes.", "hostreach.agent.cleanup")  # the latter: the chart's


def needed(name: str = "hostreach") -> Iterator[str]:
    """The distributions that come with it when nobody asks for an extra."""
    yield canonicalize_name(name)
    for line in requires(name) or ():
        required = Requirement(line)
        if required.marker is None or required.marker.evaluate({"extra": ""}):
            yield from needed(required.name)


def without_extras(*code: str) -> subprocess.CompletedProcess[str]:
    base = {*needed()}
    hidden = {
        module
        for module, homes in packages_distributions().items()
        if base.isdisjoint(map(canonicalize_name, homes))
    }
    assert {"httpx2", "lightkube", "pytest"} <= hidden
    script = "\n".join((HIDING.format(hidden=hidden), *code))
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_other_module_can_be_imported() -> None:
    root = Path(hostreach.__file__).parent
    names = [
        ".".join(("hostreach", *path.relative_to(root).with_suffix("").parts))
        for path in root.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    ]
    names = sorted(name for name in names if not name.startswith(EXTRA))
    assert len(names) > 50
    done = without_extras(
        "import importlib",
        "sys.modules['hostreach._core'] = None",  # which the kernel tests have
        "lost = {}",
        f"for name in {names}:",
        "    try: importlib.import_module(name)",
        "    except ModuleNotFoundError as error: lost[name] = error.name",
        "import json; print(json.dumps(lost))",
    )
    assert done.returncode == 0, done.stderr
    lost = json.loads(done.stdout)
    assert {*lost.values()} <= {"hostreach._core"}, lost


@pytest.mark.parametrize(
    "command", ["--help", "apply --help", "svc --help", "agent file --help", "agent kubernetes -h"]
)
def test_help(command: str) -> None:
    done = without_extras(f"from hostreach.cli import main; sys.exit(main({command.split()}))")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: hostreach" in done.stdout


def test_the_agent_says_what_to_install() -> None:
    done = without_extras("from hostreach.cli import main; sys.exit(main(['agent', 'kubernetes']))")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "install hostreach[kubernetes]" in done.stderr
