# SPDX-License-Identifier: Apache-2.0
"""Where the command line's words go: narrow terminals, and streams that are full or closed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

import hostreach as package
from hostreach.cli import output

from .conftest import Run


def test_no_summary_is_cut_in_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for group in ([], ["svc"], ["backend"], ["exempt"], ["sockets"], ["agent"], ["systemd"]):
        lines = run(*group, "--help").out.splitlines()
        assert [line for line in lines[lines.index("Commands:") :] if line.endswith("...")] == []


def hostreach(*argv: str, stdout: int | TextIO) -> subprocess.Popen[str]:
    code = "import sys; from hostreach.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *argv]
    return subprocess.Popen(command, text=True, stdout=stdout, stderr=subprocess.PIPE)


def test_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = hostreach("--help", stdout=writer)
    os.close(writer)
    assert process.communicate()[1] == ""
    assert process.returncode == 141


def test_interrupt_while_all_is_loaded_is_quiet() -> None:
    """The script's own first import is followed by no other before an interrupt is expected."""
    code = (
        "import sys; from hostreach.start import main\n"
        "assert 'typing' not in sys.modules\n"
        "class Interrupted:\n"
        "    def find_spec(name, *_): raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted)\n"
        "sys.exit(main())"
    )
    command = [sys.executable, "-S", "-c", code]  # what site does is nobody's here
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (130, "")


def test_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        process = hostreach("--help", stdout=full)
        message = "hostreach: standard output: no space left on device\n"
        assert process.communicate()[1] == message
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("closed", "arguments", "status", "message"),
    [
        (">&-", "--help", 1, "standard output: bad file descriptor"),
        ("<&-", "apply --file -", 2, "standard input: cannot be read: bad file descriptor"),
        ("2>&-", "svc nothing", 2, ""),
        ("<&- >&- 2>&-", "--version", 1, ""),
    ],
)
def test_closed_streams(closed: str, arguments: str, status: int, message: str) -> None:
    """Each command says so where it can, and nothing goes to another stream."""
    command = f"{sys.executable} -m hostreach {arguments} {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == (f"hostreach: {message}\n" if message else "")


def test_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One column is cut, so that no line is broken; if even that is not enough, they are."""
    rows = [("10.96.0.1:80/tcp", "shop/frontend:http", None), ("10.96.0.2:80/tcp", "web", 12)]
    shown = []
    for columns in (40, 34, 20):
        monkeypatch.setattr(output, "width", lambda columns=columns: columns)
        output.print_columns(("FRONTEND", "NAME", "BACKENDS"), rows, gives_way=1)
        shown.append(capsys.readouterr().out.splitlines()[1:])
    assert shown == [
        ["10.96.0.1:80/tcp  shop/fronte…  -", "10.96.0.2:80/tcp  web           12"],
        ["10.96.0.1:80/tcp  shop/fr…  -", "10.96.0.2:80/tcp  web       12"],
        ["10.96.0.1:80/tcp  shop/fr…  -", "10.96.0.2:80/tcp  web       12"],
    ]


def test_as_many_descriptors_as_there_may_be() -> None:
    """Each network namespace that is looked at takes one, and any user can make some."""
    code = (
        "import resource; from hostreach.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))\n"
        "main(['--version']); print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "300 300"
