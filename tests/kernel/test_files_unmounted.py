# SPDX-License-Identifier: Apache-2.0
"""A disk with files of services that is unmounted: a real one, in a mount namespace."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from hostreach.sources.files import Files
from hostreach.sources.watching import Heard

from .harness import linux, scaled


def test_what_was_on_it_stays(tmp_path: Path) -> None:
    """It leaves an empty directory behind, which is no wish to serve nothing."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(_unmount, tmp_path).result(scaled(30))


def _unmount(directory: Path) -> None:
    linux.private_mounts()
    linux.mount("tmpfs", str(directory), "tmpfs")
    _write(directory / "a.yaml", 1)
    files = Files([str(directory)], "file")
    assert _look(files) == {"10.96.0.1:80/tcp": True}
    linux.umount(str(directory))
    assert not _look(files)
    assert files.problems == [f"{directory}: cannot be read: its file system was unmounted"]
    assert [str(frontend) for frontend in files.entries] == ["10.96.0.1:80/tcp"]
    linux.mount("tmpfs", str(directory), "tmpfs")
    _write(directory / "b.yaml", 2)
    assert _look(files) == {"10.96.0.1:80/tcp": False, "10.96.0.2:80/tcp": True}
    assert not files.problems
    (directory / "b.yaml").unlink()  # on a disk that is there, it is a wish
    assert _look(files) == {"10.96.0.2:80/tcp": False}
    files.close()


def _look(files: Files) -> dict[str, bool]:
    """Which services came, and which went."""
    found = files.look(Heard(everything=True))
    while files.unsettled:
        time.sleep(0.05)
        found.update(files.look(Heard()))
    return {str(frontend): entry is not None for frontend, entry in found.items()}


def _write(path: Path, number: int) -> None:
    path.write_text(
        f"version: 1\nservices:\n- frontend: 10.96.0.{number}:80/tcp\n"
        "  backends: [address: '10.0.0.2:80']\n"
    )
