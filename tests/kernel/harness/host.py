# SPDX-License-Identifier: Apache-2.0
"""The box as a host with addresses of its own, and the namespaces of its pods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from . import linux
from .cgroup import Cgroup
from .namespace import NetNamespace

if TYPE_CHECKING:
    from hostreach.node import Node

    from .box import Box

T = TypeVar("T")

HOST_V4 = "192.0.2.1"
HOST_V6 = "2001:db8::1"
PORT = 30080  # of node: frontends


def give_addresses(box: Box) -> None:
    """HOST_V4 and HOST_V6, on a link that is down: local, and no packet can leave by it."""
    for command in (
        "link add node0 type veth peer name node1",
        f"address add {HOST_V4}/24 dev node0",
        f"address add {HOST_V6}/64 dev node0 nodad",
    ):
        done = box.run(["ip", *command.split()], bare=True)
        assert done.returncode == 0, done


@contextmanager
def opened(box: Box) -> Iterator[Node]:
    """An instance with small tables, as the fixture `node` is, but not attached."""
    import hostreach
    from hostreach.node import Capacities

    capacities = Capacities(services=256, backends=1024, slots=16384)
    with hostreach.open(str(box.pin), capacities=capacities) as node:
        yield node


def attach_inside(
    box: Box,
    node: Node,
    *,
    protect_binds: bool = False,
    node_addresses: Sequence[str] | None = None,
) -> None:
    """node.attach from the box's network namespace, which so becomes the host's."""

    def attach() -> None:
        node.close()  # the parent's lock must not be ours
        node.attach(
            cgroup=str(box.cgroup), protect_binds=protect_binds, node_addresses=node_addresses
        )

    box.call(attach, bare=True)


class Pod:
    """A network namespace beside the box's, with the same addresses on its own lo."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._namespace = NetNamespace()

    def enter(self) -> None:
        self._box.enter()
        self._namespace.enter()

    def call(self, function: Callable[..., T], *args: object) -> T:
        """As Box.call, in the pod's namespace and the box's cgroup."""

        def inside() -> T:
            self._namespace.enter()
            return function(*args)

        return self._box.call(inside)

    def close(self) -> None:
        self._namespace.close()


@contextmanager
def pods(box: Box, count: int) -> Iterator[list[Pod]]:
    made: list[Pod] = []
    try:
        made.extend(Pod(box) for _ in range(count))
        yield made
    finally:
        for pod in made:
            pod.close()


@contextmanager
def cgroups(parent: Path, *names: str) -> Iterator[list[Path]]:
    """Cgroups below parent, such as "a" and "a/b"; gone again at the end."""
    made: list[Cgroup] = []
    try:
        made.extend(Cgroup(parent / name) for name in names)
        yield [each.path for each in made]
    finally:
        for each in reversed(made):
            each.remove()


def mount_hierarchy(box: Box, where: str) -> None:
    """Into a mount namespace in which the box's cgroup is the root of cgroup v2, mounted there.

    Nowhere if ``where`` is empty; and /run is empty there.
    """
    box.enter()
    linux.unshare(linux.CLONE_NEWCGROUP)
    linux.private_mounts()
    for mount in reversed(Path("/proc/mounts").read_text().splitlines()):
        _, target, fstype, *_ = mount.split()
        if target.startswith("/sys/fs/cgroup") or fstype == "cgroup2":
            linux.umount(target)
    for target in ("/sys/fs/cgroup", "/run"):
        linux.mount("none", target, "tmpfs")
    if where:
        Path(where).mkdir(exist_ok=True)
        linux.mount("none", where, "cgroup2")


def move_to(cgroup: Path) -> None:
    """The calling process."""
    (cgroup / "cgroup.procs").write_text("0")
