# SPDX-License-Identifier: Apache-2.0
"""Commands load what they need: a model's or a library's import takes longer than most of them."""

from __future__ import annotations

import subprocess
import sys

from .harness import Box

VIP = "10.96.0.10:80/tcp"
LINES = (
    ("svc", "add", VIP, "--backend=10.0.0.2:80,weight=2", "--name=a/web:http"),
    ("svc", "set", VIP, "--backend=10.0.0.2:80", "--algorithm=maglev", "--on-removal=keep"),
    ("backend", "add", VIP, "10.0.0.3:80", "--weight=3", "--drain"),
    ("backend", "set", VIP, "10.0.0.3:80"),
    ("backend", "rm", VIP, "10.0.0.3:80"),
    ("svc", "ls"),
    ("status",),
    ("svc", "rm", VIP),
)


def test_without_models(box: Box) -> None:
    for line in LINES:
        command = [sys.executable, "-X", "importtime", "-m", "hostreach", *line, "--pin", box.pin]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        loaded = {each.rpartition("|")[2].strip() for each in done.stderr.splitlines()}
        assert "hostreach.services" in loaded
        assert not loaded & {"pydantic", "rich", "yaml", "msgspec", "asyncio"}, line
