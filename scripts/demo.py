# SPDX-License-Identifier: Apache-2.0
"""A TCP and a UDP service at work, in a network namespace and cgroup of their own.

Nothing here can leave the machine: the namespace has a loopback interface and nothing else. The
instance is pinned apart from any other, and everything is removed at the end.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hostreach.cgroup import find_root

NAME = f"hostreach-demo-{os.getpid()}"
DNS_VIP, WEB_VIP = "10.96.0.10:53/udp", "10.96.0.11:80/tcp"
DNS_BACKENDS = ("10.0.0.2", "10.0.0.3")
WEB_BACKENDS = ("10.0.0.4", "10.0.0.5")

CLONE_NEWNET = 0x40000000


def main() -> None:
    """Build it up, show it, take it down."""
    with ExitStack() as stack:
        cgroup = stack.enter_context(child_cgroup())
        enter_private_network()
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=NAME))
        for number, address in enumerate(DNS_BACKENDS, 1):
            stack.enter_context(dns_server(address, number, Path(folder)))
        for address in WEB_BACKENDS:
            stack.enter_context(web_server(address, Path(folder)))
        stack.callback(hostreach, "detach", "--purge")

        hostreach("attach", "--cgroup", str(cgroup))
        hostreach("svc", "add", WEB_VIP, *(f"--backend={a}:80" for a in WEB_BACKENDS))
        hostreach("svc", "add", DNS_VIP, *(f"--backend={a}:53" for a in DNS_BACKENDS))

        title("TCP: connect to 10.96.0.11:80")
        for _ in range(6):
            connect_once()

        title("UDP: dig @10.96.0.10, where each backend answers with its own address")
        for _ in range(4):
            dig_once()

        title("and without backends")
        hostreach("svc", "set", WEB_VIP)
        try:
            socket.create_connection(("10.96.0.11", 80), timeout=5)
        except OSError as error:
            print(f"connect to 10.96.0.11:80: {error}")
        hostreach("status")
    print("namespace, cgroup and servers are gone too")


def hostreach(*arguments: str) -> None:
    """Run the command line on an instance of our own, and show it."""
    title(f"hostreach {' '.join(arguments)}")
    command = [Path(sys.executable).with_name("hostreach"), "--pin", f"/sys/fs/bpf/{NAME}"]
    subprocess.run([*command, *arguments], check=True)


def title(text: str) -> None:
    """What comes next."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n# {text}", flush=True)


def connect_once() -> None:
    """Show the address that the client sees, and who answered."""
    with socket.create_connection(("10.96.0.11", 80), timeout=5) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while chunk := client.recv(4096):
            answer += chunk
        peer = client.getpeername()
    print(f"client sees {peer[0]}:{peer[1]}, answered by {answer.decode().split()[-1]}")


def dig_once() -> None:
    """dig says which server it believes to have heard, and the answer who it was."""
    out = subprocess.run(
        ["dig", "@10.96.0.10", "whoami.demo", "A", "+tries=1", "+time=5"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    answer = next(line.split()[-1] for line in out.splitlines() if line.startswith("whoami"))
    server = next(line for line in out.splitlines() if "SERVER:" in line).split()[2]
    print(f"client sees {server}, answered by {answer}")


@contextmanager
def child_cgroup() -> Iterator[Path]:
    """A cgroup below the root, with this process in it until the end."""
    root = Path(find_root())
    before = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].split("\n")[0]
    child = root / NAME
    child.mkdir()
    try:
        (child / "cgroup.procs").write_text(str(os.getpid()))
        yield child
    finally:
        (root / before / "cgroup.procs").write_text(str(os.getpid()))
        retry(child.rmdir)


def retry(action: Callable[[], object]) -> None:
    """A cgroup is busy until the last of its processes has been waited for."""
    for _ in range(100):
        try:
            action()
        except OSError:  # noqa: PERF203 - it waits anyway
            time.sleep(0.05)
        else:
            return
    action()


def enter_private_network() -> None:
    """A network namespace of our own; it ends with this process."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        sys.exit(f"demo: cannot make a network namespace: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in (*DNS_BACKENDS, *WEB_BACKENDS):
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)


@contextmanager
def dns_server(address: str, number: int, folder: Path) -> Iterator[None]:
    """A dnsmasq that resolves whoami.demo to its own address."""
    command = ["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]
    command += ["--bind-interfaces", f"--listen-address={address}", "--user=root"]
    command += [f"--address=/whoami.demo/{address}", f"--pid-file={folder}/dns{number}.pid"]
    with running(command, address, 53):
        yield


@contextmanager
def web_server(address: str, folder: Path) -> Iterator[None]:
    """A web server that answers with its own address."""
    root = folder / address
    root.mkdir()
    (root / "index.html").write_text(f"{address}:80\n")
    command = [sys.executable, "-m", "http.server", "80", "--bind", address, "--directory", root]
    with running([str(word) for word in command], address, 80):
        yield


@contextmanager
def running(command: list[str], address: str, port: int) -> Iterator[None]:
    """A server from when it accepts connections until the end of the block."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet) as server:
        try:
            retry(lambda: socket.create_connection((address, port), timeout=1).close())
            yield
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
