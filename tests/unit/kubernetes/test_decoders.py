# SPDX-License-Identifier: Apache-2.0
"""Two threads that are the first to need one type of msgspec's crash: none is left to threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import hostreach.sources.kubernetes

_THREADS = """
import sys, threading
from contextlib import suppress
from msgspec import DecodeError
sys.setswitchinterval(1e-6)
from hostreach.sources.kubernetes import heads, source, telling, watch
together = threading.Barrier(3)
def decode(said):
    together.wait()
    for each in said:
        with suppress(DecodeError):  # what suits some does not suit all
            each.decode(b'{"kind":"X","metadata":{"name":"a"},"type":"X","object":{"metadata":{}}}')
decoders = [watch._page, watch._raw, watch._mark, watch._error]
decoders += [heads._head, source._node, telling._partial]
threads = [threading.Thread(target=decode, args=(decoders,)) for _ in range(3)]
for each in threads: each.start()
for each in threads: each.join()
"""


def test_no_type_is_left_to_threads() -> None:
    folder = Path(hostreach.sources.kubernetes.__file__).parent
    for path in folder.glob("*.py"):
        assert "json.decode(" not in path.read_text(), path


def test_decoders_are_for_many_threads() -> None:
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", _THREADS], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
