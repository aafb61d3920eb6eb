# SPDX-License-Identifier: Apache-2.0
"""The compiled module: tables and programs in plain values. Use `hostreach.open` instead.

Ports are in host byte order and addresses are text. Every function may raise `PermissionDenied`
and `KernelError`; others are named where they occur.
"""

from typing import Literal, TypeAlias

from .plain import PlainFrontend, PlainService

_Row: TypeAlias = tuple[str, str | None, str, str, int]
"""Frontend as text, name, owner, algorithm, number of backends."""
Program: TypeAlias = tuple[str, bool, bool | None, int, list[tuple[int, str]]]
"""Hook, attached, in effect (None: unknown), program id, and all that run there, in order, by id
and name."""

ABI_VERSION: int
"""The version of the tables' layout."""

def common_form(services: list[object], owner: str) -> list[PlainService | None]:
    """Of each decoded service its plain values, if it is right and canonical beyond doubt.

    None says nothing but that the models have to look. Services without an owner are ``owner``'s.
    """

def count_keys(value: object) -> int:
    """How many keys the dicts in this value have, whatever lists and dicts they are in."""

class Table:
    """The tables pinned below ``pin``. Not for two threads at once.

    All methods but `create`, `lock` and `unlock` need the lock; `write` and `purge` need
    it exclusive.
    """

    def __init__(self, pin: str, timeout_ms: int, cgroup_mount: str) -> None:
        """``timeout_ms``: how long to wait for the lock; Python sees no signal meanwhile."""

    def grow(self, services: int, backends: int, slots: int) -> bool:
        """Make the tables larger, under traffic; 0 leaves a capacity as it is.

        False if they are that large already. Raises `Refused` if they are larger.
        """

    def create(self, services: int, backends: int, slots: int) -> bool:
        """Make the tables with these capacities, unless they are there; True if it made them.

        A capacity of 0 is the default. Raises `InvalidInput` for a pin path outside bpffs,
        `Refused` if they are there with another capacity, `AbiMismatch`, `TableBusy`.
        """

    def lock(self, exclusive: bool) -> None:
        """Raises `NotFound` if there are no tables, `AbiMismatch`, `TableBusy`."""

    def lock_only(self) -> None:
        """The exclusive lock without opening the tables, for `detach` and `purge`."""

    def migrate(self) -> bool:
        """Bring tables of an older layout to this version's, under traffic.

        False if they are that already. Needs `lock_only`. Raises `AbiMismatch` for a newer one.
        """

    def unlock(self) -> None: ...
    def ends_due(self) -> bool:
        """Whether `end_sockets` should be called since some write; needs no lock."""

    def close(self) -> None:
        """Let go of the maps; `lock` opens them again."""

    def abandon(self) -> None:
        """Never free it, as what another thread was changing when this process was forked."""

    def purge(self) -> None:
        """Remove the tables and all pins, and give the lock back."""

    def get(self, frontend: PlainFrontend) -> PlainService | None: ...
    def rows(self, owner: str | None) -> list[_Row]:
        """Sorted as `list`."""

    def differing(self, services: list[PlainService]) -> list[int]:
        """Indexes of those that the table lacks or holds differently."""

    def write(self, put: list[PlainService], remove: list[PlainFrontend]) -> None:
        """Remove those, add or replace these; raises `TableFull` before anything is written."""

    def check_room(self, put: list[PlainService], remove: list[PlainFrontend]) -> None:
        """Raise `TableFull` if `write` would, as things are; needs a lock."""

    def check_room_anew(
        self, services: int, backends: int, slots: int, put: list[PlainService]
    ) -> None:
        """The same of tables that are to be made, with these capacities; 0 is a default."""

    def backend_ids(self, frontend: PlainFrontend) -> list[int]:
        """Of each backend, in the service's order; empty if it is not there. Needs a lock."""

    def shares(self, frontend: PlainFrontend) -> list[int]:
        """Selection slots of each backend, in the order of `get`; empty if there is no service."""

    def active(self, frontend: PlainFrontend) -> list[int]:
        """Open connections to each backend, in the order of `get`."""

    def set_host(self, netns: int, networks: list[tuple[str, int]], addresses: list[str]) -> None:
        """The cookie of the host's network namespace, the networks, each with its prefix's length,
        that the addresses of node frontends are in (none are all), and the addresses it has.

        Needs the exclusive lock, as all below. Raises `TableFull`.
        """

    def host(self) -> tuple[int, list[tuple[str, int]]]:
        """What `set_host` was told."""

    def admits(self) -> bool:
        """Whether there is anything for `admit` to do. Needs a lock."""

    def node_addresses(self) -> list[str]:
        """Where node frontends are, loopback aside."""

    def is_admitted(self, frontend: PlainFrontend, netns: int) -> bool:
        """Whether the service's source ranges, if it has any, let this network namespace in."""

    def stuck_to(self, frontend: PlainFrontend, client: int, v4: bool) -> tuple[str, int] | None:
        """The backend of a client's affinity that it might go to again, and when it did last, by
        CLOCK_MONOTONIC in nanoseconds. Whether that is too long ago is not looked at.
        """

    def look_for_clients(self) -> None:
        """Which network namespaces have which addresses now, for `admit`. Needs no lock."""

    def admit(self) -> int:
        """Let those into services with source ranges, and no others; how many services have any.

        `write` does this for those that it writes.
        """

    def is_attached(self) -> bool:
        """Whether any program is pinned."""

    def is_interrupted(self) -> bool:
        """Whether the last writer was killed at work; the next one mends what it left."""

    def refresh_node_addresses(self) -> None:
        """Read them anew, if this is the host's network namespace."""

    def exempt(self, cgroup_id: int, level: int) -> bool:
        """Leave tasks of this cgroup alone; False if it was so before."""

    def unexempt(self, cgroup_id: int) -> bool:
        """False if it was not exempt."""

    def exempted(self) -> list[int]:
        """Cgroup ids; some may be gone."""

    def counts(self) -> tuple[int, int, int]:
        """Services, backends and selection slots in use."""

    def capacities(self) -> tuple[int, int, int]:
        """Services, backends and selection slots that fit."""

    def traffic(self, frontend: PlainFrontend | None) -> tuple[int, int]:
        """Translations and refusals of one service, or of all, since each was added."""

    def events(self) -> list[int]:
        """Overflowed origins, failed socket storages, unremembered sockets."""

    def list(self, owner: str | None) -> list[PlainService]:
        """Sorted by family, address, port, protocol."""

def check(cgroup: str, tcp: bool, udp: bool, protect_binds: bool, first: bool) -> None:
    """Whether `attach` is worth trying: raises as it does, and changes nothing."""

def check_attached(table: Table, cgroup: str) -> None:
    """Raises `AttachedElsewhere` if the instance is attached to another cgroup."""

def attach(
    table: Table,
    cgroup: str,
    tcp: bool,
    udp: bool,
    protect_binds: bool,
    first: bool,
    cgroup_mount: str,
) -> list[tuple[str, str]]:
    """Bring the hooks to this; each change as hook and "added", "replaced" or "removed".

    Needs the exclusive lock. All or nothing. Raises `InvalidInput` for what is no cgroup v2,
    `AttachedElsewhere`, `Refused` where the kernel cannot do it, `ProgramRejected`.
    """

def detach(table: Table) -> list[str]:
    """Remove our programs and give back their hooks. Needs the exclusive lock."""

def status(table: Table, cgroup_mount: str) -> dict[str, object]:
    """Keys: cgroup (str or None), tcp, udp, protect_binds, first (bool), remembers ("sockets" or
    "lru"), attached_by ("link" or "program"), programs (list of `Program`)."""

EndedSocket: TypeAlias = tuple[str, str, str, str, int, int]
"""Protocol, frontend that was asked for, backend, own address, inode of the network namespace,
cookie."""

Ended: TypeAlias = tuple[list[EndedSocket], int, int, int, Literal["bpf", "netlink", ""], str]
"""Also the namespaces looked into, those that could not be, sockets left in those, "bpf", "netlink"
or "" where the kernel cannot, and why."""

def end_sockets(table: Table, dry_run: bool) -> Ended:
    """End the sockets of backends that are gone; ``dry_run`` only finds them.

    Needs no lock, but that the table was locked once.
    """

def find_sockets(table: Table, backends: set[int]) -> Ended:
    """As `end_sockets` with ``dry_run``, if the backends with these ids were gone."""

def count_sockets(table: Table) -> int | None:
    """Those connected to where a service sent them; None where the kernel does not tell."""

class Listener:
    """One who hears of calls; dropped, it is no more. Needs the lock when it is made.

    Raises `Refused` where the kernel has no ring buffer, or if as many as can listen already.
    """

    def __init__(
        self,
        table: Table,
        service: PlainFrontend | None,
        pid: int,
        cgroup: tuple[int, int] | None,
        verdicts: list[str],
        size: int,
    ) -> None:
        """Of this service, process (0: any), cgroup (id and depth), verdicts (none: any) alone;
        ``size`` of the buffer in bytes.
        """

    def read(
        self, timeout_ms: int, most: int
    ) -> list[tuple[int, int, int, bytes, int, int, str, str, str | None, str]]:
        """CLOCK_MONOTONIC in nanoseconds, process, thread, its name, cgroup id, cookie of the
        network namespace, service, what was asked for, backend, and "translated", "no-backend",
        "not-admitted" or "unanswerable"; waits for the first, until the time is up or a signal
        comes.
        """

    def lost(self) -> int:
        """Calls that found no room in the buffer."""

    def is_heard(self) -> bool:
        """False if the place went to another, or the tables went."""

def netns_cookie(path: str | None) -> int:
    """Of the namespace there, or of our own; 0 before Linux 5.14. Raises `InvalidInput`."""

def local_addresses(path: str | None) -> list[str]:
    """All addresses of the network namespace there, or of our own, but loopback's; sorted.

    Raises `InvalidInput`.
    """

def cgroup(path: str, cgroup_mount: str) -> tuple[int, int]:
    """Id and depth below the root. Raises `InvalidInput` for what is no cgroup v2 directory."""

def cgroup_path(cgroup_id: int, cgroup_mount: str) -> str | None:
    """None if it is gone."""

def mount_cgroup2(path: str) -> None:
    """On a directory that is there."""

def unmount_cgroup2(path: str) -> None: ...
def features() -> dict[str, bool]:
    """What this kernel can do, found by doing it: 0.3 ms."""

def socket_features() -> dict[str, bool]:
    """What it can do about open sockets: btf, sock_destroy, sock_diag, pidfd; 25 ms."""
