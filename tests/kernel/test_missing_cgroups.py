# SPDX-License-Identifier: Apache-2.0
"""`apply` of services for cgroups that are not there, as at boot."""

from __future__ import annotations

from pathlib import Path

import pytest

from .harness import Box, cli, kernel
from .harness.clients import TCP, V4, exchange
from .harness.host import cgroups

SERVER, VIP, SCOPED = "10.0.0.2:8080", "10.96.0.10:80/tcp", "10.96.0.11:80/tcp"


@pytest.fixture(autouse=True)
def _knows_cgroups() -> None:
    kernel.need(kernel.knows_cgroups(), "way for programs to tell a task's cgroup")


@pytest.fixture
def path(box: Box) -> Path:
    return box.cgroup / "later"


@pytest.fixture
def file(path: Path, tmp_path: Path) -> Path:
    made = tmp_path / "services.yaml"
    made.write_text(
        f"version: 1\nservices:\n- frontend: {VIP}\n  backends: [address: '{SERVER}']\n"
        f"- frontend: {SCOPED}\n  from_cgroup: {path}\n  backends: [address: '{SERVER}']\n"
    )
    return made


def listed(box: Box) -> list[str]:
    return [each["frontend"] for each in cli.run(box.pin, "svc", "ls", "--json").json["services"]]


@pytest.mark.parametrize("dry", [("--dry-run",), ()])
def test_refused_by_name(box: Box, path: Path, file: Path, dry: tuple[str, ...]) -> None:
    said = cli.run(box.pin, "apply", "-f", str(file), *dry)
    assert said == (
        *(2, ""),
        f"hostreach: {file}:5: {SCOPED}: from_cgroup {path}: no such cgroup v2 directory\n",
    )
    assert listed(box) == []
    for command in ("add", "set"):
        said = cli.run(box.pin, "svc", command, SCOPED, "--from-cgroup", str(path))
        assert said.status == 2
        assert said.stderr.startswith(f"hostreach: {SCOPED}: from_cgroup {path}: no such cgroup")


def test_skipped_until_they_come(box: Box, path: Path, file: Path) -> None:
    box.serve(f"{SERVER}/tcp")
    assert cli.run(box.pin, "attach", "--cgroup", str(box.cgroup)).status == 0
    apply = ("apply", "--skip-missing-cgroups", "-f", str(file))
    warning = f"hostreach: warning: {SCOPED} is left as it is: there is no cgroup {path}\n"
    assert cli.run(box.pin, *apply, "--dry-run").stderr == warning
    assert listed(box) == []
    assert cli.run(box.pin, *apply).stderr == warning
    assert listed(box) == [VIP]
    assert box.call(exchange, V4, TCP, ("10.96.0.10", 80)).server == SERVER
    with cgroups(box.cgroup, path.name):
        assert cli.run(box.pin, *apply).stderr == ""
        assert listed(box) == [VIP, SCOPED]
    assert cli.run(box.pin, *apply, "--prune").stderr == warning  # it is in the file
    assert listed(box) == [VIP, SCOPED]
    file.write_text(file.read_text().replace("from_cgroup:", "name: new\n  from_cgroup:"))
    said = cli.run(box.pin, *apply)  # of the cgroup that is gone the table knows all that it needs
    assert (said.stdout, said.stderr) == (f"~ {SCOPED}: name - -> new\n", "")
