# SPDX-License-Identifier: Apache-2.0
"""The chart, as helm renders it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/hostreach"


def run(helm: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm, *arguments], capture_output=True, text=True, check=False)


def rendered(helm: str, *options: str) -> dict[str, Any]:
    """Objects by kind and name."""
    done = run(helm, "template", "hostreach", str(CHART), "--namespace", "kube-system", *options)
    assert done.returncode == 0, done.stderr
    found = [each for each in yaml.safe_load_all(done.stdout) if each]
    by_name = {f"{each['kind']}/{each['metadata']['name']}": each for each in found}
    assert len(by_name) == len(found)
    return by_name


def pod(objects: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = objects["DaemonSet/hostreach"]["spec"]["template"]["spec"]
    return found


def arguments(objects: dict[str, Any]) -> list[str]:
    found: list[str] = pod(objects)["containers"][0]["args"]
    return found


def waiter(objects: dict[str, Any]) -> dict[str, Any]:
    """The pod of the Job that `helm uninstall` waits for."""
    found: dict[str, Any] = objects["Job/hostreach-cleanup"]["spec"]["template"]["spec"]
    return found
