# SPDX-License-Identifier: Apache-2.0
"""What `doctor` finds of an instance and its host, beside what the kernel can do.

Each of these reads what is there and changes nothing. ``broken`` is what does not do what was asked
for, and always has its fix; what is merely missing, or not asked for, is a ``note``.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from .cgroup import MOUNTINFO, OWN_MOUNT, find_mounts

if TYPE_CHECKING:
    from .explain import Lost
    from .running import Running
    from .status import Status

State = Literal["ok", "note", "broken"]

TABLES = 64 << 20
"""Bytes: what tables of the default size take, and the programs."""
_CAP_SYS_RESOURCE = 24


class Finding(NamedTuple):
    """One thing that was looked at."""

    name: str
    state: State
    text: str
    fix: str | None = None
    """What to do, in one line."""


def bpffs(pin: str, mountinfo: str = MOUNTINFO) -> Finding:
    """Whether the instance's directory is, or would be, on one."""
    found = [path for path, kind, *_ in find_mounts(mountinfo) if kind == "bpf"]
    over = [path for path in found if _is_below(pin, path)]
    if over:
        return Finding("bpffs", "ok", f"mounted at {max(over, key=len)}")
    if _is_below(pin, "/sys/fs/bpf"):
        return Finding("bpffs", "note", "not mounted at /sys/fs/bpf; attach and svc add mount it")
    where = f"; bpffs is at {', '.join(found)}" if found else ""
    return Finding(
        "bpffs",
        "broken",
        f"{pin} is on none{where}",
        f"mount -t bpf -o mode=0700 bpf {os.path.dirname(pin)}",  # noqa: PTH120 - it need not be there
    )


def cgroup_root(root: str, mountinfo: str = MOUNTINFO) -> Finding:
    """Where cgroup v2 is, and whether all of it is seen."""
    if not root:
        return Finding(
            "cgroup root", "note", f"cgroup v2 is not mounted; attach mounts it at {OWN_MOUNT}"
        )
    shown = {path: part for path, kind, part, *_ in find_mounts(mountinfo) if kind == "cgroup2"}
    if shown.get(root, "/") != "/":
        return Finding(
            "cgroup root", "note", f"{root} shows no more than {shown[root]} of the host's"
        )
    return Finding("cgroup root", "ok", root)


def attachment(
    status: Status, expected: Iterable[str] = (), agents: Iterable[Running] = ()
) -> Finding:
    """Whether our programs are where they were put, and on all hooks that are expected.

    ``agents`` are those that run: what they keep in step is meant to be served.
    """
    if status.cgroup is None:
        # One that was never in step is just starting, and attaches first.
        if agent := next((each for each in agents if each.synced is not None), None):
            return Finding(
                "attachment",
                "broken",
                f"nothing is attached, though agent '{agent.source}', pid {agent.pid}, keeps the "
                "tables in step",
                "start the agent again, which attaches; or end it, if nothing is to be served",
            )
        return Finding("attachment", "note", "nothing is attached")
    if status.cgroup.startswith("cgroup "):  # no path leads to it
        return Finding(
            "attachment", "note", f"to {status.cgroup}, which was removed or is not seen from here"
        )
    if not status.cgroup.startswith("/"):
        return Finding(
            "attachment",
            "broken",
            f"to {status.cgroup}",
            f"hostreach detach --pin {shlex.quote(status.pin)}, then attach anew",
        )
    attached = {p.name for p in status.programs if p.attached}
    wanted = {*expected, *(p.name for p in status.programs if p.program_id)}
    gone = sorted(wanted - attached)
    if gone:
        return Finding(
            "attachment", "broken", f"ours is gone from {', '.join(gone)}", attach_again(status)
        )
    idle = [p.name for p in status.programs if p.attached and p.effective is False]
    if idle:
        return Finding(
            "attachment",
            "broken",
            f"{', '.join(idle)} is attached, and the kernel does not run it",
            "see which programs are on the hook: hostreach status",
        )
    protocols = " and ".join(status.protocols)
    return Finding("attachment", "ok", f"to {status.cgroup}, for {protocols}")


def attach_again(status: Status) -> str:
    """The command that puts all of it back; namespaces and addresses of the host aside."""
    words = ["hostreach", "attach", "--cgroup", status.cgroup or "", "--pin", status.pin]
    if status.protocols and len(status.protocols) < 2:
        words += ["--protocols", *status.protocols]
    words += ["--protect-binds"] if status.protect_binds else []
    words += ["--first"] if status.first else []
    return shlex.join(words)


def others(status: Status) -> Finding:
    """Other vendors' programs on our hooks, of which only those matter that rewrite addresses."""
    if status.cgroup is None:
        return Finding("other programs", "ok", "not looked for: nothing is attached")
    there = [
        (other, p.name)
        for p in status.programs
        if p.name[:-1] in ("connect", "sendmsg")
        for other in p.others
    ]
    if not there:
        return Finding("other programs", "ok", "none on connect and sendmsg")
    named = sorted({f"{other.name} ({hook})" for other, hook in there})
    first = any(other.before for other, _ in there)
    text = f"{', '.join(named)}; those that run before ours win" if first else ", ".join(named)
    return Finding(
        "other programs", "note", text, "attach --first runs before them" if first else None
    )


def tables(status: Status) -> Finding:
    """How full they are, and what was lost."""
    usages = {"services": status.services, "backends": status.backends, "slots": status.slots}
    used = {name: each for name, each in usages.items() if each is not None}
    if not used:
        return Finding("tables", "note", "there are none yet")
    full = [
        f"{name} {u.used} of {u.capacity}"
        for name, u in used.items()
        if u.used * 10 > u.capacity * 9
    ]
    if full:
        return Finding(
            "tables",
            "note",
            f"nearly full: {', '.join(full)}",
            "hostreach attach with a larger --max-services, --max-backends or --max-slots",
        )
    if status.interrupted:
        return Finding(
            "tables", "note", "a writer was killed at work; the next one mends what it left"
        )
    if status.unremembered:
        return Finding(
            "tables",
            "note",
            f"{status.unremembered} sockets could not be remembered",
            "raise net.core.optmem_max",
        )
    return Finding("tables", "ok", ", ".join(f"{u.used} {name}" for name, u in used.items()))


def scopes(lost: Sequence[tuple[str, str, Lost]], pin: str) -> Finding:
    """Services for a cgroup that is another one by now, or not there: `Node.lost_cgroups`."""
    anew = [f"{frontend} (from {path})" for frontend, path, how in lost if how == "anew"]
    if anew:
        at = f"--pin {shlex.quote(pin)}"
        return Finding(
            "scopes",
            "broken",
            f"{_some(anew)}: the cgroup was made anew since, so nobody is served",
            f"hostreach export {at} | hostreach apply {at} --skip-missing-cgroups -f -",
        )
    if lost:
        gone = [f"{frontend} (from {path})" for frontend, path, _ in lost]
        return Finding("scopes", "note", f"{_some(gone)}: there is no such cgroup")
    return Finding("scopes", "ok", "each service's cgroup is there")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


# ---- memory ----


def memory_limit(has_tables: bool, proc: str = "/proc/self", needed: int = TABLES) -> Finding:
    """What the memory controller leaves to whoever makes tables: they count for its cgroup."""
    left, where = _memory_left(proc)
    if left is None:
        return Finding("memory limit", "ok", "none above this process")
    text = f"{left >> 20} MB left below {where}"
    if has_tables or left >= needed:
        return Finding("memory limit", "ok", text)
    return Finding(
        "memory limit",
        "broken",
        f"{text}, and tables of the default size take {needed >> 20} MB",
        "attach from another cgroup, or with smaller --max-services, --max-backends, --max-slots",
    )


def _memory_left(proc: str) -> tuple[int | None, str]:
    """The least of this process's cgroup and those above, v2's and v1's."""
    mounts = [*find_mounts(f"{proc}/mountinfo")]
    least: tuple[int | None, str] = (None, "")
    for line in _lines(f"{proc}/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        names = ("memory.max", "memory.current")
        if number != "0":
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        for mount in _memory_mounts(mounts, v2=number == "0"):
            for directory in _upwards(mount, path):
                limit, used = (_number(f"{directory}/{name}") for name in names)
                if limit is None or used is None or limit >= 1 << 62:
                    continue
                if least[0] is None or limit - used < least[0]:
                    least = max(0, limit - used), directory
    return least


def _memory_mounts(mounts: Sequence[tuple[str, str, str, str]], *, v2: bool) -> Iterator[str]:
    for path, kind, _, options in mounts:
        if kind == ("cgroup2" if v2 else "cgroup") and (v2 or "memory" in options.split(",")):
            yield path


def _upwards(mount: str, path: str) -> Iterator[str]:
    """The directory of a cgroup and of all above it."""
    steps = [step for step in path.split("/") if step]
    for depth in range(len(steps), -1, -1):
        yield "/".join([mount, *steps[:depth]])


def memlock(is_new: bool, proc: str = "/proc/self") -> Finding:
    """Before Linux 5.11 maps count as locked memory; libbpf raises the limit where it may.

    ``is_new``: something was found that only later kernels have.
    """
    if is_new:
        return Finding("memlock", "ok", "tables do not count as locked memory here")
    limit = next(
        (x.split()[4] for x in _lines(f"{proc}/limits") if x[:17] == "Max locked memory"), ""
    )
    caps = next((x.split()[1] for x in _lines(f"{proc}/status") if x[:7] == "CapEff:"), "0")
    if limit in ("", "unlimited") or int(caps, 16) >> _CAP_SYS_RESOURCE & 1:
        return Finding("memlock", "ok", "unlimited, or can be made so")
    return Finding(
        "memlock",
        "note",
        f"at most {int(limit) >> 10} KB, of which kernels before 5.11 take the tables",
        "ulimit -l unlimited, or CAP_SYS_RESOURCE",
    )


def tagging(controllers: Sequence[str]) -> Finding:
    """Those of cgroup v1 that take sockets away from v2; see `hostreach.doctor.tagging`."""
    if not controllers:
        return Finding("cgroup v1", "ok", "neither net_cls nor net_prio is in use")
    return Finding(
        "cgroup v1",
        "note",
        f"{' and '.join(controllers)} of cgroup v1 in use: before Linux 5.15 all sockets then "
        "count as the root cgroup's, and what is attached to another serves none",
        "attach to the cgroup v2 root",
    )


# ---- what the hooks do not reach ----

_SANDBOXES = {
    "gVisor": re.compile(r"runsc(-sandbox|-gofer)?|containerd-shim-runsc-v\d+"),
    "Kata": re.compile(r"containerd-shim-kata-v\d+|kata-(shim|proxy|runtime|agent)"),
    "virtual machines": re.compile(
        r"qemu-(system-\w+|kvm)|kvm|firecracker|cloud-hyperviso(r)?|crosvm"
    ),
}
_KERNEL_FILESYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "ceph", "afs", "lustre", "9p", "gfs2"}
_SERVER = re.compile(r"(?:^|,)(?:addr|ip|mountaddr)=([0-9a-fA-F.:]+)")


def sandboxes(proc: str = "/proc") -> Finding:
    """Guests whose sockets are not this kernel's, found by what runs."""
    running: dict[str, int] = {}
    for program in _programs(proc):
        for name, pattern in _SANDBOXES.items():
            if pattern.fullmatch(program):
                running[name] = running.get(name, 0) + 1
                break
    if not running:
        return Finding("sandboxes", "ok", "none runs")
    found = ", ".join(f"{name} ({count} processes)" for name, count in running.items())
    return Finding(
        "sandboxes",
        "note",
        f"{found}: the sockets inside are not this kernel's, and see no service",
        "let another balancer serve them",
    )


def _programs(proc: str) -> Iterator[str]:
    """A name for each process: its program's, or as it calls itself."""
    for pid in os.listdir(proc):  # noqa: PTH208 - names alone
        if not pid.isdigit():
            continue
        first = b""
        with suppress(OSError):
            first = Path(proc, pid, "cmdline").read_bytes().split(b"\0", 1)[0]
        if first:
            yield os.path.basename(first.decode("utf-8", "replace"))  # noqa: PTH119 - no path


def kernel_mounts(addresses: Iterable[str], mountinfo: str = "/proc/1/mountinfo") -> Finding:
    """File systems that the kernel itself connects for; ``addresses`` are services'."""
    try:
        mounts = [*find_mounts(mountinfo)]
    except OSError:
        mounts = [*find_mounts()]
    network = [
        (path, kind, options) for path, kind, _, options in mounts if kind in _KERNEL_FILESYSTEMS
    ]
    services = {*addresses}
    by_service = sorted(
        path
        for path, _, options in network
        if (server := _SERVER.search(options)) and server[1] in services
    )
    if by_service:
        return Finding(
            "kernel mounts",
            "note",
            f"{', '.join(by_service)} by a service: kernels before 6.7 (0bdf399342c5, "
            "86a7e0b69bd5) connect to the same backend for ever",
            "mount by the server's own address",
        )
    if not network:
        return Finding("kernel mounts", "ok", "no NFS, CIFS or Ceph")
    kinds = ", ".join(sorted({kind for _, kind, _ in network}))
    return Finding("kernel mounts", "ok", f"{len(network)} of {kinds}, none by a service")


# ---- ports ----


def ports(risky: Sequence[int], reserved: str, *, protect_binds: bool = False) -> Finding:
    """Ports of services that any socket may be given; ``reserved`` is what is so by now."""
    if not risky:
        return Finding("reserved ports", "ok", "no service has a port that the kernel gives away")
    listed = ",".join(map(str, risky))
    many = f" and {len(risky) - 8} more" if len(risky) > 8 else ""
    wanted = f"{reserved},{listed}" if reserved else listed
    return Finding(
        "reserved ports",
        "note",
        f"{', '.join(map(str, risky[:8]))}{many} of this node's own may be given to any socket"
        f"{'; then its bind to port 0 fails' if protect_binds else ''}",
        f"sysctl -w net.ipv4.ip_local_reserved_ports={wanted}",
    )


# ---- files ----


def _is_below(path: str, above: str) -> bool:
    return path == above or path.startswith(f"{above.rstrip('/')}/")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def _number(path: str) -> int | None:
    text = "".join(_lines(path)[:1])
    return int(text) if text.isdigit() else None
