# SPDX-License-Identifier: Apache-2.0
"""An instance without a kernel, and the command line run on it."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from typing_extensions import Self

import hostreach
from hostreach.cli import main
from hostreach.exempt import Exemptions
from hostreach.services import Change, Services
from hostreach.sources.compiled import count_keys
from hostreach.testing import MemoryTable

if TYPE_CHECKING:
    from .followed import Followed

# The first text drawn takes a second, on a loaded machine more: times say nothing here.
settings.register_profile(
    "unit", deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("unit")


@pytest.fixture
def compiled() -> None:
    """Only a checkout that was never built is without; HOSTREACH_NO_SKIP=1 says that none is."""
    if count_keys({}) < 0:
        assert os.environ.get("HOSTREACH_NO_SKIP") != "1", "the compiled module is not here"
        pytest.skip("the compiled module is not here")


@pytest.fixture(scope="session")
def helm() -> str:
    """Comes by `scripts/fetch-helm`.

    Where it is missing its tests are skipped, but never where HOSTREACH_NO_SKIP=1 or
    HOSTREACH_RELEASE=1 says that all must run.
    """
    from .chart import ROOT

    found = shutil.which("helm") or str(ROOT / "build/tools/helm")
    if not Path(found).exists():
        if "1" in (os.environ.get("HOSTREACH_NO_SKIP"), os.environ.get("HOSTREACH_RELEASE")):
            pytest.fail("there is no helm here, and a release must have been rendered by it")
        pytest.skip("there is no helm here: run scripts/fetch-helm")
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "services.d"
    made.mkdir()
    return made


@pytest.fixture
def followed(directory: Path) -> Iterator[Followed]:
    """Of two files there, with three services."""
    from .followed import follow, write

    write(directory / "a.yaml", 1, 2)
    write(directory / "b.yaml", 3)
    found = follow(directory)
    assert found.frontends == ["10.96.0.1:80/tcp", "10.96.0.2:80/tcp", "10.96.0.3:80/tcp"]
    assert found.files.whole
    yield found
    found.files.close()


class Result(NamedTuple):
    """What one command line did."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


class FakeCapacities(NamedTuple):
    """As `hostreach.Capacities`, which the compiled module stands behind."""

    services: int | None = None
    backends: int | None = None
    slots: int | None = None


class FakeAttachResult(NamedTuple):
    """As `hostreach.status.AttachResult`."""

    cgroup: str
    protocols: tuple[str, ...]
    changes: list[tuple[str, str]]
    grown: bool = False
    migrated: bool = False


class FakeNode:
    """As `hostreach.Node`, as far as tables go; ``attach`` notes what it was asked for."""

    last_ended: None = None
    pin = "/sys/fs/bpf/no-such-instance"

    def __init__(self, table: MemoryTable, attached: list[dict[str, object]]) -> None:
        self.services = Services(table)
        self.plain = table
        self.exempt = Exemptions(table)
        self._attached = attached

    def attach(
        self, cgroup: str | None, protocols: tuple[str, ...], **options: object
    ) -> FakeAttachResult:
        self._attached.append(options)
        return FakeAttachResult(cgroup or "/sys/fs/cgroup", protocols, [])

    def addresses(self) -> list[str]:
        return ["192.0.2.1"]

    def lost_cgroup(self, _: str) -> None:
        pass

    def would_end(self, changes: Iterable[Change]) -> None:
        for _ in changes:
            pass

    def knows_host(self) -> bool:
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class FakeHost:
    """What `hostreach.open` finds: one table for each pin."""

    def __init__(self) -> None:
        self.tables: dict[str | None, MemoryTable] = {}
        self.attached: list[dict[str, object]] = []

    def open(
        self,
        pin: str | None = None,
        *,
        capacities: FakeCapacities = FakeCapacities(),  # noqa: B008
        at_least: bool = False,  # noqa: ARG002 - of the real one
    ) -> FakeNode:
        services, backends, slots = capacities
        made = MemoryTable(
            max_services=services or 8, max_backends=backends or 32, max_slots=slots or 8192
        )
        return FakeNode(self.tables.setdefault(pin, made), self.attached)

    @property
    def services(self) -> Services:
        return self.open().services


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    fake = FakeHost()
    monkeypatch.setitem(vars(hostreach), "open", fake.open)
    monkeypatch.setitem(vars(hostreach), "Capacities", FakeCapacities)
    return fake


@pytest.fixture
def run(
    host: FakeHost,  # noqa: ARG001 - the instance that is opened
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Run one command line on ``host``."""

    def run(*argv: str, stdin: str | bytes = b"") -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        code = main(argv)
        return Result(code, *capsys.readouterr())

    return run
