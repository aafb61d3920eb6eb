# SPDX-License-Identifier: Apache-2.0
"""The bench runs as a user would run it; what it measures is no matter here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from .harness import kernel, scaled
from .harness.box import environment
from .harness.compiled import need

BENCH = Path(__file__).parents[2] / "bench" / "run"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCH), *arguments],
        capture_output=True,
        text=True,
        timeout=scaled(60),
        env=environment(),
        check=False,
    )


def test_smoke(tmp_path: Path) -> None:
    """Every call of it reaches its server, or it fails; all figures and pictures are there."""
    for program in ("cc", "nginx", "dnsmasq"):
        need(program)
    kernel.need(kernel.remembers_on_sockets(), "socket storage")
    figures, plots = tmp_path / "figures.json", tmp_path / "plots"
    # Without "programs", which compiles for long what other tests do.
    parts = "memory,hooks,latency,library,files,starts,growth,variety,rivals"
    done = run("--smoke", "--only", parts, "--json", str(figures), "--plots", str(plots))
    assert done.returncode == 0, done.stderr
    written = json.loads(figures.read_text())
    assert all(written[part] for part in parts.split(","))
    latency, rates = written["rivals"]["latency"], written["rivals"]["rates"]
    installed = [*written["rivals"]["versions"]]
    assert [row["way"] for row in latency] == ["direct", "empty programs", "hostreach", *installed]
    assert len(rates) == 6
    assert all(row["direct_per_s"] > 0 and row["hostreach"]["x"] > 0 for row in rates)
    for row in (*written["growth"]["services_room"], *written["growth"]["backends_room"]):
        about = 0.1 if kernel.counts_memory() else 0.3
        assert row["kernel_mb"] == pytest.approx(row["by_model_mb"], rel=about)
    drawn = {path.stem: ElementTree.parse(path).getroot() for path in plots.iterdir()}
    assert {"rivals-p50", "growth-hooks-services", "growth-memory-backends"} <= {*drawn}
    assert all(root.findall(".//{*}circle") for root in drawn.values())


def test_refused_arguments() -> None:
    for arguments in (["--only", "nothing"], ["--rounds", "0"], ["--quick", "--smoke"]):
        assert run(*arguments).returncode == 2
