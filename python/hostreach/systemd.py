# SPDX-License-Identifier: Apache-2.0
"""Units of systemd for this interpreter's hostreach, and how they are written.

A wheel cannot install units: it does not know where its interpreter will be.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from .errors import InvalidInput, Refused

Name = Literal["restore", "agent", "metrics"]

NAMES: tuple[Name, ...] = ("restore", "agent", "metrics")
DIRECTORY = "/etc/systemd/system"
SERVICES = "/etc/hostreach/services.yaml"
"""What is restored at boot."""
FOLLOWED = "/etc/hostreach/services.d"
"""What the agent follows unless told otherwise."""
CAPABILITIES = ("CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_RESOURCE")
"""docs/kubernetes.md says what each is for."""
_READS = ("CAP_NET_ADMIN", "CAP_SYS_ADMIN")
_MARK = "# Written by `hostreach systemd install`, sha256 "
BPFFS = "/sys/fs/bpf"
"""What the units may write to."""


class Unit(NamedTuple):
    """A unit's file name and text."""

    file: str
    text: str


class Installed(NamedTuple):
    """What became of a unit's file."""

    path: str
    action: Literal["added", "replaced", "unchanged"]


def unit(name: Name, pin: str | None = None, paths: Sequence[str] = ()) -> Unit:
    """``pin`` names another instance than the default one, ``paths`` what the agent follows."""
    followed = [str(Path(path).absolute()) for path in paths or (FOLLOWED,)]
    make = {"restore": _restore, "agent": _agent, "metrics": _metrics}[name]
    body = "\n".join(make([] if pin is None else [f"--pin={pin}"], followed)) + "\n"
    return Unit(f"hostreach-{name}.service", f"{_MARK}{_digest(body)}\n{body}")


def install(
    units: Iterable[Unit], directory: str = DIRECTORY, force: bool = False
) -> list[Installed]:
    """Write them; none if one is refused.

    What this function wrote and nobody changed since is replaced. Raises `Refused` for anything
    else that has a unit's name, unless ``force``; `InvalidInput` where there is no ``directory``;
    OSError.
    """
    if not Path(directory).is_dir():
        raise InvalidInput("is no directory", object=directory)
    done: list[Installed] = []
    new: list[tuple[Path, str]] = []
    for each in units:
        path = Path(directory, each.file)
        there = _read(path)
        if there == each.text:
            done.append(Installed(str(path), "unchanged"))
            continue
        if there is not None and not force and not _is_as_written(there):
            raise Refused(
                f"is not as hostreach wrote it; keep changes in a drop-in "
                f"(systemctl edit {each.file}), or pass --force to lose them",
                object=str(path),
            )
        done.append(Installed(str(path), "added" if there is None else "replaced"))
        new.append((path, each.text))
    for path, text in new:
        _write(path, text)
    return done


def _read(path: Path) -> str | None:
    """A link, such as that of a masked unit, is never as it was written."""
    if path.is_symlink():
        return ""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # what a run that was killed left, or a link to elsewhere
    file = new.open("x", encoding="utf-8")  # another run's stays as it is
    try:
        with file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def _is_as_written(text: str) -> bool:
    first, _, body = text.partition("\n")
    return first == _MARK + _digest(body)


# --- the units ---------------------------------------------------------------------------------


def _restore(pin: list[str], _: list[str]) -> list[str]:
    # A cgroup that is not there yet, as of a unit that starts later, keeps no other service away.
    apply = _command("apply", "--skip-missing-cgroups", "--file", SERVICES, *pin)
    reload = _command("apply", "--skip-missing-cgroups", "--prune", "--file", SERVICES, *pin)
    return [
        "[Unit]",
        f"Description=hostreach: the services of {SERVICES}, before the network",
        "Documentation=man:hostreach(1)",
        f"ConditionPathExists={SERVICES}",
        "DefaultDependencies=no",
        _mounts(SERVICES),
        "After=local-fs.target",
        "Before=network-pre.target shutdown.target",
        "Wants=network-pre.target",
        "Conflicts=shutdown.target",
        "",
        "[Service]",
        "Type=oneshot",
        "RemainAfterExit=yes",
        "EnvironmentFile=-/etc/default/hostreach",
        "# Tables first: nobody meets half of them.",
        f"ExecStart={apply}",
        f"ExecStart={_command('attach', *pin)} $HOSTREACH_ATTACH_OPTIONS",
        f"ExecReload={reload}",
        "# Programs and tables stay when the unit is stopped.",
        "TimeoutStartSec=90s",
        *_hardened(CAPABILITIES, [SERVICES]),
        "",
        "[Install]",
        "WantedBy=sysinit.target",
    ]


def _agent(pin: list[str], paths: list[str]) -> list[str]:
    return [
        "[Unit]",
        f"Description=hostreach: services of {' '.join(map(_literal, paths))}, and their health",
        "Documentation=man:hostreach-agent(1)",
        _TRIED_FOR_EVER,
        _mounts(*paths),
        "After=hostreach-restore.service network.target",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        "EnvironmentFile=-/etc/default/hostreach",
        f"ExecStart={_command('agent', 'file', *pin)} $HOSTREACH_OPTIONS {_quoted(*paths)}",
        "# Programs and tables stay when the agent goes: a restart fails no connection.",
        *_kept_running(),
        "MemoryMax=1G",
        *_hardened(CAPABILITIES, paths),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]


def _metrics(pin: list[str], _: list[str]) -> list[str]:
    return [
        "[Unit]",
        "Description=hostreach: metrics of the tables",
        "Documentation=man:hostreach-agent(1)",
        _TRIED_FOR_EVER,
        _mounts(),
        "After=hostreach-restore.service network.target",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        "EnvironmentFile=-/etc/default/hostreach",
        f"ExecStart={_command('agent', 'metrics', *pin)} $HOSTREACH_METRICS_OPTIONS",
        *_kept_running(),
        "MemoryMax=256M",
        *_hardened(_READS, []),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]


_TRIED_FOR_EVER = "StartLimitIntervalSec=0"
"""By default systemd gives up after five starts in ten seconds, though what is missing may come."""


def _kept_running() -> list[str]:
    return ["Restart=always", "RestartSec=2s", "WatchdogSec=60s", "TimeoutStopSec=10s"]


def _mounts(*paths: str) -> str:
    """Pins that were made in a mount of the unit's own would go with it."""
    return f"RequiresMountsFor={BPFFS} {_quoted(sys.prefix, *map(os.path.dirname, paths))}"


def _hardened(capabilities: Sequence[str], paths: Sequence[str]) -> list[str]:
    """The whole system is read-only but for pins and /run/hostreach.

    A filter that names the allowed system calls is left out: which they are depends on the
    interpreter and the C library, and a wrong guess would show in a failure alone.
    """
    seen = [sys.prefix, sys.base_prefix, *paths]
    home = any(_is_below(path, ("/home", "/root", "/run/user")) for path in seen)
    scratch = any(_is_below(path, ("/tmp", "/var/tmp")) for path in seen)
    return [
        f"CapabilityBoundingSet={' '.join(capabilities)}",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ReadOnlyPaths=/sys /proc/sys",
        f"ReadWritePaths={BPFFS}",
        "RuntimeDirectory=hostreach",
        "RuntimeDirectoryPreserve=yes",
        f"ProtectHome={'read-only' if home else 'yes'}",
        f"PrivateTmp={'no' if scratch else 'yes'}",
        "PrivateDevices=yes",
        "ProtectControlGroups=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelLogs=yes",
        "ProtectClock=yes",
        "ProtectHostname=yes",
        "# Sockets of a backend that went are ended in their own network namespaces.",
        "RestrictNamespaces=net",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
        "MemoryDenyWriteExecute=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=~@clock @cpu-emulation @module @obsolete @raw-io @reboot @swap",
    ]


def _is_below(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def _command(*arguments: str) -> str:
    """By this interpreter, whatever the environment says of others."""
    return _quoted(sys.executable, "-I", "-m", "hostreach", *arguments)


def _literal(text: str) -> str:
    """Without specifiers (systemd.unit(5))."""
    return text.replace("%", "%%")


def _quoted(*words: str) -> str:
    """As systemd.service(5) reads a command line."""
    return " ".join(_quote(word) for word in words)


def _quote(word: str) -> str:
    text = _literal(word).replace("$", "$$").replace("\\", "\\\\")
    if not word or not set(word).isdisjoint(" \t\"';"):
        return '"' + text.replace('"', '\\"') + '"'
    return text
