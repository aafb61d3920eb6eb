# SPDX-License-Identifier: Apache-2.0
"""One guest: a kernel with the host's root file system, whose writes are lost, and one program.

One of another machine has a root of its own, and the job's working directory from the host.
"""

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
from typing import IO

from debian_archive import FetchError

from . import arm64, initramfs
from .initramfs import Job
from .kernels import COMMAND_LINES, Kernel

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
            root = arm64.userland() if kernel.is_arm64 else Path("/")
            initrd.write_bytes(initramfs.build(kernel, _busybox(root), job))
            self._console = stack.enter_context(log.open("w+b"))
            if kernel.is_uml:
                command = _uml(kernel, initrd, scratch)
            else:
                shared = {"root": root}
                if kernel.is_arm64:
                    shared["checkout"] = job.cwd
                for tag, directory in shared.items():
                    command = _virtiofsd(scratch / tag, directory)
                    server = _start(stack, command, subprocess.DEVNULL)
                    _wait_for(scratch / tag, server)
                command = _qemu(kernel, initrd, scratch, shared)
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


def _busybox(root: Path) -> Path:
    """Of that root."""
    for directory in ("usr/bin", "bin"):
        if (found := root / directory / "busybox").exists():
            return found
    raise FetchError("no busybox here: apt-get install busybox-static")


# A plain processor: newer ones' vector instructions cost more to emulate than they save. Debian
# asks for no more.
_X86 = ("qemu-system-x86_64", "-cpu", "qemu64,+rdrand", "-machine", "q35")
# One with atomic instructions (LSE), as those that clouds have.
_ARM64 = ("qemu-system-aarch64", "-cpu", "neoverse-n1", "-machine", "virt")


def _qemu(kernel: Kernel, initrd: Path, sockets: Path, shared: Mapping[str, Path]) -> list[str]:
    """With what is shared by its tag, and served at a socket of that name."""
    console = "ttyAMA0" if kernel.is_arm64 else "ttyS0"
    command_line = _COMMAND_LINE.format(console=console, root="virtiofs")
    command_line += f" {COMMAND_LINES.get(kernel.name, '')}"
    if "checkout" in shared:
        command_line += f" checkout={shared['checkout']}"
    command = [
        # Emulated even where there is /dev/kvm: nested in a cloud's machine it may boot no kernel.
        *(*(_ARM64 if kernel.is_arm64 else _X86), "-accel", "tcg", "-smp", "1"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
        *("-kernel", str(kernel.image), "-initrd", str(initrd), "-append", command_line),
        # File systems: their servers share the guest's memory.
        *("-m", _MEMORY, "-numa", "node,memdev=memory"),
        *("-object", f"memory-backend-memfd,id=memory,size={_MEMORY},share=on"),
    ]
    for tag in shared:
        command += ["-chardev", f"socket,id={tag},path={sockets / tag}"]
        command += ["-device", f"vhost-user-fs-pci,chardev={tag},tag={tag},queue-size=1024"]
    return command


def _virtiofsd(socket: Path, directory: Path) -> list[str]:
    """Serves a directory; Debian 12's is qemu's own, later ones a program in Rust."""
    old, new = Path("/usr/lib/qemu/virtiofsd"), Path("/usr/libexec/virtiofsd")
    if new.exists():
        options = [f"--shared-dir={directory}", "--cache=always", "--sandbox=none", "--readonly"]
        # Below an overlay, what is mounted in the host's root would be hidden.
        return [str(new), f"--socket-path={socket}", *options, "--no-announce-submounts"]
    options = ["-o", f"source={directory},cache=always,sandbox=chroot,log_level=err"]
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
