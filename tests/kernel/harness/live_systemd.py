# SPDX-License-Identifier: Apache-2.0
"""systemd itself, as the first process of a machine of its own: namespaces, and a cgroup as root.

It has no units but those of the test, an /etc, a /run and a console of its own, settings of the
kernel that it can only read, and the box's network.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from . import linux
from .box import Box, environment
from .cgroup import Cgroup
from .timing import scaled, wait_until

T = TypeVar("T")

SYSTEMD = Path("/lib/systemd/systemd")
_TARGETS = {
    "local-fs.target": "",
    "sysinit.target": "After=local-fs.target\nWants=local-fs.target\n",
    "basic.target": "Requires=sysinit.target\nAfter=sysinit.target\n",
    "network-pre.target": "",
    "network.target": "After=network-pre.target\n",
    "multi-user.target": "Requires=basic.target\nAfter=basic.target\nWants=network.target\n",
    "shutdown.target": "DefaultDependencies=no\n",
}
_OF_ETC = ("group", "hosts", "ld.so.cache", "nsswitch.conf", "passwd")
# $1: the test's directory; the rest: what becomes the first process.
_BEGIN = """
set -e
umount --lazy /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /run
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount --bind "$1/etc" /etc
[ ! -e /dev/console ] || mount --bind "$1/systemd.log" /dev/console
: > "$1/begun"
shift
exec "$@"
"""


class LiveSystemd:
    """A machine that is booted by `boot`; what it is to have in /etc is below ``etc`` before."""

    def __init__(self, box: Box, directory: Path) -> None:
        if not SYSTEMD.exists():
            pytest.skip("systemd is not installed")
        self._box = box
        self.etc, self.units = directory / "etc", directory / "units"
        self._directory = directory
        for path in (self.etc, self.units):
            path.mkdir()
        for name in _OF_ETC:
            if (source := Path("/etc", name)).exists():
                shutil.copy(source, self.etc / name)
        (self.etc / "machine-id").touch()
        for name, text in _TARGETS.items():
            (self.units / name).write_text(f"[Unit]\nDescription={name}\n{text}")
        self._log = directory / "systemd.log"
        self._process: subprocess.Popen[bytes] | None = None

    def enable(self, name: str) -> None:
        """As `systemctl enable` does."""
        for line in (self.units / name).read_text().splitlines():
            if line.startswith("WantedBy="):
                wants = self.units / f"{line.removeprefix('WantedBy=')}.wants"
                wants.mkdir(exist_ok=True)
                (wants / name).symlink_to(self.units / name)

    def boot(self) -> None:
        """Until it answers."""
        self.cgroup = Cgroup(self._box.cgroup / "machine")
        variables = {
            **environment(),
            "container": "test",
            "SYSTEMD_UNIT_PATH": str(self.units),
            "SYSTEMD_LOG_TARGET": "console",
        }

        def enter() -> None:
            linux.die_with_parent()
            self._box.enter()
            self.cgroup.enter()

        own = ("--pid", "--mount", "--uts", "--ipc", "--cgroup", "--propagation=private")
        first = (str(SYSTEMD), "--system", "--unit=multi-user.target")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("unshare", *own, "--mount-proc", "--fork", "--kill-child", "--"),
                    *("sh", "-c", _BEGIN, "sh", str(self._directory), *first),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=enter,  # noqa: PLW1509 - the tests have no threads
                env=variables,
            )
        wait_until((self._directory / "begun").exists, f"its mounts; {self._log}")
        wait_until(lambda: self.ctl("is-system-running") in ("running", "degraded"), "boot", 60)

    @property
    def first_pid(self) -> int:
        """As it is outside; 0 before it is there."""
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def ctl(self, *arguments: str) -> str:
        """`systemctl` in the machine; what it prints, whatever its status."""
        if not (pid := self.first_pid):
            return ""
        spaces = ("--mount", "--pid", "--cgroup", "--uts", "--ipc")
        done = subprocess.run(
            ["nsenter", f"--target={pid}", *spaces, "--", "systemctl", *arguments],
            capture_output=True,
            text=True,
            timeout=scaled(30),
            env=environment(),
            check=False,
        )
        return done.stdout.strip() or done.stderr.strip()

    def show(self, unit: str) -> Mapping[str, str]:
        """The unit's properties."""
        lines = self.ctl("show", unit).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """function(*arguments) by a process in the machine's cgroup."""

        def within() -> T:
            place = self.cgroup.path / "clients"
            place.mkdir(exist_ok=True)
            (place / "cgroup.procs").write_text("0")
            return function(*arguments)

        return self._box.call(within)

    def close(self) -> None:
        if self._process is not None:
            first = self.first_pid if self._process.poll() is None else 0
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            wait_until(lambda: not first or not Path(f"/proc/{first}").exists(), "its end")
            self.cgroup.remove()


def of_pid(machine: LiveSystemd, pid: str) -> Path:
    """The directory in /proc, outside, of a process that has this number in the machine."""
    space = Path(f"/proc/{machine.first_pid}/ns/pid").readlink()
    found = (each for each in Path("/proc").glob("[0-9]*") if _is(each, space, pid))
    return next(found)


def _is(process: Path, space: Path, pid: str) -> bool:
    try:
        if (process / "ns/pid").readlink() != space:
            return False
        numbers = re.search(r"^NSpid:.*\t(\d+)$", (process / "status").read_text(), re.MULTILINE)
    except OSError:  # it is no more
        return False
    return numbers is not None and numbers[1] == pid
