# SPDX-License-Identifier: Apache-2.0
"""cgroup v2 on nodes where nobody mounted it: those with cgroup v1 alone.

Every process is in the root of that hierarchy, whether it is mounted or not. The mount stays, for
the next command to find what is attached, until it is unmounted by hand or the node starts anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock

from .cgroup import OWN_MOUNT, find_root
from .datapath import mount_cgroup2, mounted_root, unmount_cgroup2
from .errors import Refused


@contextmanager
def root_to_attach(cgroup: str | None) -> Iterator[str]:
    """Where cgroup v2 is mounted; `OWN_MOUNT`, and mounted now, where it is not.

    If the body raises, it is unmounted again. Nothing is mounted for a ``cgroup`` that lies
    elsewhere. Raises `Refused`, `PermissionDenied`, `KernelError`.
    """
    wants_ours = cgroup is None or os.path.realpath(cgroup).startswith(OWN_MOUNT)
    if mounted_root() or not wants_ours:
        yield find_root()
        return
    with _locked(f"{OWN_MOUNT}.lock"):
        ours = not mounted_root()  # another may have been quicker
        if ours:
            _make_directory(OWN_MOUNT)
            mount_cgroup2(OWN_MOUNT)
        try:
            yield find_root()
        except BaseException:
            if ours:
                unmount_cgroup2(OWN_MOUNT)
            raise


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """By a file that root alone can open: whoever can open it can keep it locked for ever."""
    _make_directory(path.rpartition("/")[0])
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _nowhere(path, error) from None
    try:
        flock(lock, LOCK_EX)
        yield
    finally:
        os.close(lock)


def _make_directory(path: str) -> None:
    from pathlib import Path

    try:
        if not Path(path).is_dir():
            Path(path).mkdir(parents=True, exist_ok=True)
            Path(path).chmod(0o755)  # whatever the umask
    except OSError as error:
        raise _nowhere(path, error) from None


def _nowhere(path: str, error: OSError) -> Refused:
    why = (error.strerror or str(error)).lower()
    return Refused(f"no cgroup v2 is mounted, and nothing can be mounted here: {why}", object=path)
