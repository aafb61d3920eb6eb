# SPDX-License-Identifier: Apache-2.0
"""What imports what: the compiled module is behind the node, and pydantic behind the models."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hostreach
from hostreach import changes, errors, exempt, services, table, testing
from hostreach.cli.app import _name_of, build
from hostreach.errors import HostreachError, InvalidInput, Refused
from hostreach.sources import file


def imported(*code: str) -> set[str]:
    """The modules that a fresh interpreter has after running ``code``, without the compiled one."""
    script = "\n".join(
        ("import sys", "sys.modules['hostreach._core'] = None", *code, "print(*sys.modules)")
    )
    command = [sys.executable, "-c", script]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return set(out.splitlines()[-1].split())


@pytest.mark.parametrize(
    "module",
    [
        "hostreach",
        "hostreach.errors",
        "hostreach.syntax",
        "hostreach.models",
        "hostreach.services",
        "hostreach.exempt",
        "hostreach.testing",
        "hostreach.sources.file",
        "hostreach.sources.kubernetes.source",
        "hostreach.agent.programmer",
        "hostreach.agent.web",
        "hostreach.cli",
        "hostreach.cli.app",
    ],
)
def test_imports_without_the_compiled_module(module: str) -> None:
    assert module in imported(f"import {module}")


@pytest.mark.parametrize(
    "module",
    [
        "hostreach.syntax",
        "hostreach.services",
        "hostreach.exempt",
        "hostreach.testing",
        "hostreach.cli.app",
    ],
)
def test_imports_without_pydantic(module: str) -> None:
    assert "pydantic" not in imported(f"import {module}")


def test_light_commands_stay_light() -> None:
    modules = imported(
        "import hostreach",
        "from hostreach.cli import main",
        "from hostreach.exempt import Exemptions",
        "from hostreach.services import Services",
        "from hostreach.testing import MemoryTable",
        "class Node:",
        "    services = Services(MemoryTable())",
        "    exempt = Exemptions(MemoryTable())",
        "    def __enter__(self): return self",
        "    def __exit__(self, *_): pass",
        "hostreach.open = lambda pin, **options: Node()",
        "hostreach.Capacities = lambda *sizes: sizes",
        "assert main(['--help']) == main(['--version']) == main(['svc', 'ls']) == 0",
        "assert main(['exempt', 'add', '/a']) == main(['exempt', 'ls']) == 0",
    )
    assert not {each for each in modules if each.startswith("hostreach.agent")}
    for heavy in ("pydantic", "rich", "yaml", "msgspec", "httpx2", "lightkube", "asyncio"):
        assert heavy not in modules


def test_changes_are_told_without_models() -> None:
    before = "('10.0.0.1', 80, 'tcp', None, 'manual', 'random', [('10.0.1.1:80', 1, 'active'), "
    before += "('10.0.1.2:80', 3, 'down')], 0, False, None, None, None)"
    modules = imported(
        "from hostreach.changes import Change",
        "from hostreach.cli.output import print_change",
        f"before = {before}",
        "after = (*before[:6], before[6][:1], 90000, *before[8:])",
        "print_change(Change('set', before, after), '10.0.0.1:80/tcp', False)",
        "print_change(Change('remove', after, None), '10.0.0.1:80/tcp', False)",
    )
    assert "hostreach.cli.differences" in modules
    assert "pydantic" not in modules


def test_models_do_no_input_or_output() -> None:
    modules = imported("import hostreach.models")
    assert not modules & {"yaml", "typer", "hostreach.services", "hostreach.sources"}


@pytest.mark.parametrize(
    "module", [hostreach, changes, errors, exempt, services, table, testing, file]
)
def test_exports_are_sorted_and_there(module: object) -> None:
    names: list[str] = module.__all__  # type: ignore[attr-defined]
    assert names == sorted(names)
    # What the compiled module stands behind is tried with the kernel.
    for name in set(names) - {"Capacities", "Node", "Status", "open"}:
        assert getattr(module, name) is not None


def test_every_error_is_exported() -> None:
    assert set(errors.__all__) <= set(hostreach.__all__)


def test_errors_print_one_line() -> None:
    assert str(HostreachError("went wrong", object="it")) == "it: went wrong"
    assert str(InvalidInput("went wrong")) == "went wrong"
    assert InvalidInput("x").exit_code == 2
    assert Refused("x", errno=13).errno == 13
    assert errors.ProgramRejected("x", log="a\nb").log == "a\nb"


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("svc set 10.96.0.1:80/tcp", ["set"]),
        ("--pin /sys/fs/bpf/x svc --pin=/sys/fs/bpf/x rm", ["rm"]),
        ("svc st", None),  # said with what there is
        ("svc --help", None),
        ("--json svc ls", ["ls"]),  # which is refused: --json stands behind
        ("svc --nonsense ls", None),
        ("svc", None),
    ],
)
def test_no_more_commands_are_made_than_a_line_may_mean(line: str, made: list[str] | None) -> None:
    for argv in (line.split(), None):  # a line leaves nothing behind for the next
        app = build(argv)
        (group,) = (each for each in app.registered_groups if each.name == "svc")
        assert group.typer_instance is not None
        found = [_name_of(each) for each in group.typer_instance.registered_commands]
        assert found == (made if argv and made else ["add", "set", "rm", "ls", "show"])
