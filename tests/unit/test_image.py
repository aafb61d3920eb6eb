# SPDX-License-Identifier: Apache-2.0
"""The image: what a build of it is sent, and what it is checked for."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

import pytest

from .chart import ROOT


def dockerfile() -> list[str]:
    """Its instructions, each on one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "deploy/Dockerfile").read_text(), flags=re.MULTILINE)
    return text.replace("\\\n", "").splitlines()


def sent(path: str) -> bool:
    """Whether it is in the context of a build: the last rule that matches it, or a parent, says."""
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    found = True
    for line in patterns:
        pattern = PurePosixPath(line.removeprefix("!")).parts
        begin = PurePosixPath(path).parts[: len(pattern)]
        if not line or line.startswith("#") or len(begin) < len(pattern):
            continue
        if all(fnmatchcase(*both) for both in zip(begin, pattern, strict=True)):
            found = line.startswith("!")
    return found


def test_a_build_of_the_image_is_sent_wheels_alone() -> None:
    wheels = [
        "dist/hostreach-0.1.0-cp311-cp311-linux_x86_64.whl",
        "dist/release/hostreach-0.1.0-cp311-cp311-manylinux_2_28_x86_64.whl",
    ]
    assert [each for each in wheels if sent(each)] == wheels
    others = [each.name for each in ROOT.iterdir()]
    others += [
        "deploy/Dockerfile",
        "dist/hostreach-0.1.0.tar.gz",
        "build/tools/helm",
        ".git/config",
    ]
    assert not [each for each in others if sent(each)]
    # Whatever is copied is one of them, where the manual says that wheels are.
    (default,) = (line.partition("WHEEL=")[2] for line in dockerfile() if line.startswith("ARG "))
    manual = (ROOT / "docs/kubernetes.md").read_text()
    (other,) = re.findall(r"--build-arg WHEEL='([^']+)'", manual)
    for pattern, wheel in zip((default, other), wheels, strict=True):
        assert fnmatchcase(wheel, pattern)


@pytest.mark.parametrize("missing", ["", "hostreach._core", "lightkube", "httpx2", "pydantic"])
def test_the_image_is_checked_for_what_the_agent_loads(missing: str) -> None:
    (run,) = (line for line in dockerfile() if line.startswith("RUN"))
    (code,) = re.findall(r'python -c "([^"]+)"', run)
    hidden = f"import sys; sys.modules.update(dict.fromkeys({[missing] if missing else []}))"
    done = subprocess.run([sys.executable, "-c", f"{hidden}; {code}"], check=False)
    assert (done.returncode != 0) == bool(missing)


def test_the_image_is_checked_for_all_that_the_agent_loads() -> None:
    """Once that is there, the agent's own imports load nothing of other packages."""
    (run,) = (line for line in dockerfile() if line.startswith("RUN"))
    (code,) = re.findall(r'python -c "([^"]+)"', run)
    agent = (ROOT / "python/hostreach/cli/agent.py").read_text()
    body = agent.partition("def kubernetes(")[2].partition("\ndef ")[0]
    own = sorted({*re.findall(r"from (hostreach[\w.]*) import", body)})
    assert {"hostreach.agent.loop", "hostreach.sources.kubernetes.source"} <= {*own}
    later = "\n".join(
        (
            f"before = {{*sys.modules}}; import {', '.join(own)}",
            "after = {name.partition('.')[0] for name in {*sys.modules} - before}",
            "print(*after - {'hostreach', *sys.stdlib_module_names})",
        )
    )
    command = [sys.executable, "-c", f"import sys; {code}\n{later}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not done.stdout.split()
