# SPDX-License-Identifier: Apache-2.0
"""A disk with files of services that is unmounted: a real one, in a mount namespace."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from hostreach.sources.files import Files
from hostreach.sources.watching import Heard

from .harness import linux, scaled

ONE, TWO = "10.96.0.1:80/tcp", "10.96.0.2:80/tcp"


def test_what_was_on_it_stays(tmp_path: Path) -> None:
    """It leaves an empty directory behind, which is no wish to serve nothing."""
    _in_a_mount_namespace(_a_disk, tmp_path)


def test_of_a_bind_mount_too(tmp_path: Path) -> None:
    """It has the device of what is below it."""
    _in_a_mount_namespace(_a_bind_mount, tmp_path)


@pytest.mark.parametrize("keeps_what", ["the directory", "one below it"])
def test_of_one_that_is_still_open(tmp_path: Path, keeps_what: str) -> None:
    """Unmounted lazily it goes on to tell of its files, by whoever still has it open."""
    _in_a_mount_namespace(_a_lazy_one, tmp_path, keeps_what == "one below it")


def _in_a_mount_namespace(function: Callable[..., None], *arguments: object) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(function, *arguments).result(scaled(30))


def _a_disk(directory: Path) -> None:
    linux.private_mounts()
    linux.mount("tmpfs", str(directory), "tmpfs")
    _write(directory / "a.yaml", 1)
    files = Files([str(directory)], "file")
    assert _look(files) == {ONE: True}
    linux.umount(str(directory))
    assert not _look(files)
    _is_kept(files, directory)
    linux.mount("tmpfs", str(directory), "tmpfs")
    _write(directory / "b.yaml", 2)
    assert _look(files) == {ONE: False, TWO: True}
    assert not files.problems
    (directory / "b.yaml").unlink()  # on a disk that is there, it is a wish
    assert _look(files) == {TWO: False}
    files.close()


def _a_bind_mount(directory: Path) -> None:
    linux.private_mounts()
    shown, below = directory / "shown", directory / "below"
    shown.mkdir()
    below.mkdir()
    _write(shown / "a.yaml", 1)
    linux.mount(str(shown), str(below), flags=linux.MS_BIND)
    files = Files([str(below)], "file")
    assert _look(files) == {ONE: True}
    linux.umount(str(below))
    assert shown.stat().st_dev == below.stat().st_dev
    assert not _look(files)
    _is_kept(files, below)
    files.close()


def _a_lazy_one(directory: Path, below: bool) -> None:
    linux.private_mounts()
    linux.mount("tmpfs", str(directory), "tmpfs")
    at = directory / "below" if below else directory
    at.mkdir(exist_ok=True)
    _write(at / "a.yaml", 1)
    files = Files([str(at)], "file")
    assert _look(files) == {ONE: True}
    opened = (at / "a.yaml").open("r+")
    linux.umount(str(directory), linux.MNT_DETACH)
    with opened:  # its end is heard, by a watch on what is no longer at this path
        opened.write("version: 1\nservices: []\n")
    _hear(files, of=str(at / "a.yaml"))
    assert [str(frontend) for frontend in files.entries] == [ONE]
    assert not _look(files)
    assert [str(frontend) for frontend in files.entries] == [ONE]
    assert files.problems
    files.close()


def _is_kept(files: Files, directory: Path) -> None:
    assert files.problems == [f"{directory}: cannot be read: its file system was unmounted"]
    assert [str(frontend) for frontend in files.entries] == [ONE]


def _hear(files: Files, of: str) -> None:
    """Take in what is heard of a file, as the agent does."""
    deadline = time.monotonic() + scaled(5)
    while of not in (heard := files.tree.watching.hear()).paths and not heard.everything:
        assert time.monotonic() < deadline
        assert not files.look(heard)
        time.sleep(0.01)
    assert not files.look(heard)


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
