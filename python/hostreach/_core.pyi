# SPDX-License-Identifier: Apache-2.0
"""The compiled module: tables and programs in plain values. Use `hostreach.open` instead.

Ports are in host byte order and addresses are text. Every function may raise `PermissionDenied`
and `KernelError`; others are named where they occur.
"""

from typing import TypeAlias

_Frontend: TypeAlias = tuple[str, int, str]
"""Address, port, "tcp" or "udp"."""
_Service: TypeAlias = tuple[str, int, str, str | None, str, str, list[tuple[str, int]]]
"""Address, port, protocol, name, owner, algorithm, and each backend's endpoint and weight."""
_Row: TypeAlias = tuple[str, str | None, str, str, int]
"""Frontend as text, name, owner, algorithm, number of backends."""
Program: TypeAlias = tuple[str, bool, bool | None, int, list[tuple[int, str]]]
"""Hook, attached, in effect (None: unknown), program id, and others' programs by id and name."""

ABI_VERSION: int
"""The version of the tables' layout."""

class Table:
    """The tables pinned below ``pin``. Not for two threads at once.

    All methods but `create`, `lock` and `unlock` need the lock; `write` and `purge` need
    it exclusive.
    """

    def __init__(self, pin: str, timeout_ms: int) -> None:
        """``timeout_ms``: how long to wait for the lock; Python sees no signal meanwhile."""

    def create(self, services: int, backends: int, slots: int) -> bool:
        """Make the tables with these capacities, unless they are there; True if it made them.

        A capacity of 0 is the default. Raises `InvalidInput` for a pin path outside bpffs,
        `Refused` if they are there with another capacity, `AbiMismatch`, `TableBusy`.
        """

    def lock(self, exclusive: bool) -> None:
        """Raises `NotFound` if there are no tables, `AbiMismatch`, `TableBusy`."""

    def lock_only(self) -> None:
        """The exclusive lock without opening the tables, for `detach` and `purge`."""

    def unlock(self) -> None: ...
    def close(self) -> None:
        """Let go of the maps; `lock` opens them again."""

    def purge(self) -> None:
        """Remove the tables and all pins, and give the lock back."""

    def get(self, frontend: _Frontend) -> _Service | None: ...
    def rows(self, owner: str | None) -> list[_Row]:
        """Sorted as `list`."""

    def differing(self, services: list[_Service]) -> list[int]:
        """Indexes of those that the table lacks or holds differently."""

    def write(self, put: list[_Service], remove: list[_Frontend]) -> None:
        """Remove those, add or replace these; raises `TableFull` before anything is written."""

    def counts(self) -> tuple[int, int, int]:
        """Services, backends and selection slots in use."""

    def capacities(self) -> tuple[int, int, int]:
        """Services, backends and selection slots that fit."""

    def traffic(self, frontend: _Frontend | None) -> tuple[int, int]:
        """Translations and refusals of one service, or of all, since each was added."""

    def events(self) -> list[int]:
        """Overflowed origins, failed socket storages, unremembered sockets."""

    def list(self, owner: str | None) -> list[_Service]:
        """Sorted by family, address, port, protocol."""

def check(cgroup: str, tcp: bool, udp: bool) -> None:
    """Whether `attach` is worth trying: raises as it does, and changes nothing."""

def attach(
    table: Table, cgroup: str, tcp: bool, udp: bool, cgroup_mount: str
) -> list[tuple[str, str]]:
    """Bring the hooks to this; each change as hook and "added", "replaced" or "removed".

    Needs the exclusive lock. All or nothing. Raises `InvalidInput` for what is no cgroup v2,
    `AttachedElsewhere`, `Refused` where the kernel cannot do it, `ProgramRejected`.
    """

def detach(table: Table) -> list[str]:
    """Remove our programs and give back their hooks. Needs the exclusive lock."""

def status(table: Table, cgroup_mount: str) -> dict[str, object]:
    """Keys: cgroup (str or None), tcp, udp (bool), programs (list of `Program`)."""

def features() -> dict[str, bool]:
    """What this kernel can do, found by doing it."""
