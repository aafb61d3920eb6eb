# SPDX-License-Identifier: Apache-2.0
"""One guest: a kernel with the host's root file system, whose writes are lost, and one program."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

from debian_archive import FetchError

from . import initramfs
from .kernels import Kernel

_MEMORY = "1G"
_COMMAND_LINE = (
    # loglevel: what the kernel says would stand between what the program says.
    "console={console} root_kind={root} quiet loglevel=3 panic=-1"
    # Nothing that only costs time in an emulated machine of minutes.
    " mitigations=off nokaslr tsc=reliable no_timer_check nowatchdog random.trust_cpu=on"
    " audit=0 apparmor=0"
    # With one processor an expedited grace period is over at once.
    " rcupdate.rcu_expedited=1"
)


class Job(NamedTuple):
    """What a guest is to run, and for how long at most."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path
    timeout: float


class Guest:
    """Under way from the beginning; `close` ends it, whatever it is at."""

    def __init__(self, kernel: Kernel, job: Job, log: Path) -> None:
        """What the guest says on its console goes to log. Raises FetchError."""
        self.kernel = kernel
        self._said = b""
        self._began = time.monotonic()
        self._deadline = self._began + job.timeout
        with ExitStack() as stack:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="hostreach-vm-"))
            scratch = Path(name)
            initrd = scratch / "initramfs"
            initrd.write_bytes(initramfs.build(kernel, job.argv, job.environment, job.cwd))
            self._console = stack.enter_context(log.open("w+b"))
            if kernel.is_uml:
                command = _uml(kernel, initrd, scratch)
            else:
                socket = scratch / "virtiofs"
                server = _start(stack, _virtiofsd(socket), subprocess.DEVNULL)
                _wait_for(socket, server)
                command = _qemu(kernel, initrd, socket)
            self._machine = _start(stack, command, self._console)
            self._stack = stack.pop_all()

    def is_done(self) -> bool:
        """Has it powered off, or has its time passed?"""
        if self._machine.poll() is not None:
            return True
        if late := time.monotonic() > self._deadline:
            self._console.write(b"\nvm: timed out\n")
            self._console.flush()
        return late

    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self._began

    def status(self) -> int | None:
        """The program's exit status; None if the guest ended without saying one."""
        said = re.findall(r"^vm: exit (\d+)", self.said(), re.MULTILINE)
        return int(said[-1]) if said else None

    def said(self) -> str:
        """All that came from its console, whatever became of the log by now."""
        if not self._console.closed:
            size = os.fstat(self._console.fileno()).st_size
            self._said = os.pread(self._console.fileno(), size, 0)
        return self._said.decode(errors="replace").replace("\r", "")

    def close(self) -> None:
        self.said()
        self._stack.close()


def _qemu(kernel: Kernel, initrd: Path, socket: Path) -> list[str]:
    command_line = _COMMAND_LINE.format(console="ttyS0", root="virtiofs")
    # Emulated even where there is /dev/kvm: nested in a cloud's machine it may not boot a kernel.
    return [
        "qemu-system-x86_64",
        # A plain processor: newer ones' vector instructions cost more to emulate than they save.
        # Debian asks for no more.
        *("-accel", "tcg", "-cpu", "qemu64,+rdrand", "-machine", "q35", "-smp", "1"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
        *("-kernel", str(kernel.image), "-initrd", str(initrd), "-append", command_line),
        # The root's file system: its server shares the guest's memory.
        *("-m", _MEMORY, "-numa", "node,memdev=memory"),
        *("-object", f"memory-backend-memfd,id=memory,size={_MEMORY},share=on"),
        *("-chardev", f"socket,id=root,path={socket}"),
        *("-device", "vhost-user-fs-pci,chardev=root,tag=root,queue-size=1024"),
    ]


def _virtiofsd(socket: Path) -> list[str]:
    """Serves the host's root; Debian 12's is qemu's own, later ones a program in Rust."""
    old, new = Path("/usr/lib/qemu/virtiofsd"), Path("/usr/libexec/virtiofsd")
    if new.exists():
        options = ["--shared-dir=/", "--cache=always", "--sandbox=none", "--readonly"]
        # Below an overlay, what is mounted in the host's root would be hidden.
        return [str(new), f"--socket-path={socket}", *options, "--no-announce-submounts"]
    options = ["-o", "source=/,cache=always,sandbox=chroot,log_level=err"]
    return [str(old), f"--socket-path={socket}", "-f", *options]


def _uml(kernel: Kernel, initrd: Path, scratch: Path) -> list[str]:
    """User-Mode Linux: a kernel that is a process of the host's, at nearly the host's speed."""
    command_line = _COMMAND_LINE.format(console="tty0", root="hostfs").split()
    own = [f"mem={_MEMORY}", f"initrd={initrd}", f"uml_dir={scratch}", "con0=null,fd:1", "con=null"]
    return [str(kernel.image), *own, *command_line]


def _start(
    stack: ExitStack, command: Sequence[str], output: IO[bytes] | int
) -> subprocess.Popen[bytes]:
    """A process group that is gone when the stack is."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise FetchError(f"no {command[0]} here: run .ci/deps") from None

    def stop() -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    stack.callback(stop)
    return process


def _wait_for(socket: Path, server: subprocess.Popen[bytes], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not socket.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise FetchError("virtiofsd does not start")
        time.sleep(0.01)
