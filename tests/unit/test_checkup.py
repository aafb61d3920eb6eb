# SPDX-License-Identifier: Apache-2.0
"""What `doctor` makes of what it reads, on files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostreach import checkup
from hostreach.cgroup import find_mounts
from hostreach.running import Running
from hostreach.status import Status

MOUNTS = """\
21 1 0:20 / /sys/fs/bpf rw - bpf bpf rw,mode=700
22 1 0:21 / /sys/fs/cgroup rw - tmpfs tmpfs rw
23 22 0:22 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
24 22 0:23 /docker/1 /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
25 1 0:24 / /home/a\\040b rw - nfs4 server:/x rw,vers=4.2,clientaddr=10.0.0.9,addr=10.96.0.10
26 1 0:25 / /srv rw - cifs //server/x rw,addr=10.0.0.7
"""


@pytest.fixture
def mountinfo(tmp_path: Path) -> str:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    return str(tmp_path / "mountinfo")


def test_mounts(mountinfo: str) -> None:
    found = [*find_mounts(mountinfo)]
    assert found[4][:2] == ("/home/a b", "nfs4")
    assert found[3] == ("/sys/fs/cgroup/unified", "cgroup2", "/docker/1", "rw")


@pytest.mark.parametrize(
    ("pin", "state", "text"),
    [
        ("/sys/fs/bpf/hostreach", "ok", "mounted at /sys/fs/bpf"),
        ("/run/hostreach", "broken", "/run/hostreach is on none; bpffs is at /sys/fs/bpf"),
        ("/sys/fs/bpfs/x", "broken", "/sys/fs/bpfs/x is on none; bpffs is at /sys/fs/bpf"),
    ],
)
def test_bpffs(mountinfo: str, pin: str, state: str, text: str) -> None:
    found = checkup.bpffs(pin, mountinfo)
    assert (found.state, found.text) == (state, text)
    assert bool(found.fix) == (state == "broken")


def test_bpffs_not_mounted(tmp_path: Path) -> None:
    (tmp_path / "none").write_text("")
    assert checkup.bpffs("/sys/fs/bpf/x", str(tmp_path / "none")).state == "note"
    assert (
        checkup.bpffs("/run/x", str(tmp_path / "none")).fix == "mount -t bpf -o mode=0700 bpf /run"
    )


def test_nothing_attached_beside_an_agent() -> None:
    """Only one that was in step: who is just starting attaches next."""
    status = Status("/sys/fs/bpf/x")
    starting = Running("file", 7, True, None, [])
    assert checkup.attachment(status, (), [starting]).state == "note"
    found = checkup.attachment(status, (), [starting, Running("kubernetes", 8, True, 2.0, [])])
    assert found.state == "broken"
    assert "agent 'kubernetes', pid 8" in found.text


def test_scopes() -> None:
    """Nobody is below a cgroup that was made anew; one that is not there may be a unit's."""
    assert checkup.scopes([], "/p").state == "ok"
    gone = checkup.scopes([("10.0.0.1:1/tcp", "/a", "gone")], "/p")
    assert (gone.state, gone.text) == ("note", "10.0.0.1:1/tcp (from /a): there is no such cgroup")
    many = [(f"10.0.0.{i}:1/tcp", "/b", "anew") for i in range(5)]
    found = checkup.scopes([("10.0.0.9:1/tcp", "/a", "gone"), *many], "/p q")  # type: ignore[list-item]
    assert found.state == "broken"
    assert "10.0.0.2:1/tcp (from /b) and 2 more: the cgroup was made anew" in found.text
    assert found.fix
    assert "--pin '/p q' |" in found.fix


def test_cgroup_root(mountinfo: str) -> None:
    assert checkup.cgroup_root("", mountinfo).state == "note"
    found = checkup.cgroup_root("/sys/fs/cgroup/unified", mountinfo)
    assert (found.state, "/docker/1" in found.text) == ("note", True)
    assert checkup.cgroup_root("/elsewhere", mountinfo).state == "ok"


def test_kernel_mounts(mountinfo: str) -> None:
    """The server's address is what counts, not the client's."""
    found = checkup.kernel_mounts(["10.96.0.10"], mountinfo)
    assert found.state == "note"
    assert found.text.startswith("/home/a b by a service")
    found = checkup.kernel_mounts(["10.0.0.9"], mountinfo)
    assert (found.state, found.text) == ("ok", "2 of cifs, nfs4, none by a service")


def process(proc: Path, pid: int, *command: str) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cmdline").write_bytes("\0".join([*command, ""]).encode())


def test_sandboxes(tmp_path: Path) -> None:
    process(tmp_path, 1, "/sbin/init")
    process(tmp_path, 2)  # a thread of the kernel's
    process(tmp_path, 3, "/usr/bin/vim", "runsc.md")
    assert checkup.sandboxes(str(tmp_path)).state == "ok"
    process(tmp_path, 4, "/usr/local/bin/containerd-shim-kata-v2", "-namespace", "k8s.io")
    process(tmp_path, 5, "runsc-sandbox", "boot")
    process(tmp_path, 6, "/usr/bin/qemu-system-x86_64", "-m", "1G")
    process(tmp_path, 7, "/opt/kata/bin/cloud-hypervisor")
    found = checkup.sandboxes(str(tmp_path))
    assert found.state == "note"
    for name in ("Kata (1 processes)", "gVisor (1 processes)", "virtual machines (2 processes)"):
        assert name in found.text


def memory(tmp_path: Path, root: Path, cgroup: str) -> str:
    (tmp_path / "mountinfo").write_text(f"30 1 0:1 / {root} rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "cgroup").write_text(f"0::{cgroup}\n")
    return str(tmp_path)


def limit(directory: Path, most: str, used: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.max").write_text(f"{most}\n")
    (directory / "memory.current").write_text(f"{used}\n")


def test_memory_limit(tmp_path: Path) -> None:
    """The least of all cgroups above counts; what is there already needs no room."""
    root = tmp_path / "root"
    proc = memory(tmp_path, root, "/a/b")
    limit(root / "a/b", "max", 1 << 20)
    assert checkup.memory_limit(False, proc).text == "none above this process"
    limit(root / "a", str(100 << 20), 90 << 20)
    found = checkup.memory_limit(False, proc)
    assert (found.state, found.text.partition(",")[0]) == ("broken", f"10 MB left below {root}/a")
    assert found.fix
    assert checkup.memory_limit(True, proc).state == "ok"
    limit(root / "a", str(200 << 20), 90 << 20)
    assert checkup.memory_limit(False, proc).state == "ok"


def test_memlock(tmp_path: Path) -> None:
    (tmp_path / "limits").write_text("Max locked memory         65536    65536    bytes\n")
    (tmp_path / "status").write_text("CapEff:\t0000000000000000\n")
    found = checkup.memlock(False, str(tmp_path))
    assert (found.state, found.text[:16]) == ("note", "at most 64 KB, o")
    assert checkup.memlock(True, str(tmp_path)).state == "ok"
    (tmp_path / "status").write_text("CapEff:\t000001ffffffffff\n")
    assert checkup.memlock(False, str(tmp_path)).state == "ok"


def test_ports() -> None:
    assert checkup.ports([], "").state == "ok"
    found = checkup.ports([32000, 32001], "8080,9000-9010")
    assert found.fix == ("sysctl -w net.ipv4.ip_local_reserved_ports=8080,9000-9010,32000,32001")
    assert checkup.ports([*range(40000, 40020)], "").text.startswith("40000, ")
    assert checkup.ports([40000], "", protect_binds=True).text.endswith("bind to port 0 fails")
    assert "and 12 more" in checkup.ports([*range(40000, 40020)], "").text
