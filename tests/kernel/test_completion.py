# SPDX-License-Identifier: Apache-2.0
"""Tab, in the shells themselves, with services that are there."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from hostreach import Service
from hostreach.node import Node
from hostreach.rates import SORTS

from .harness import Box, cli, kernel
from .harness.timing import scaled

Complete = Callable[[str], list[str]]
"""What the shell offers after a line."""

SERVICES = ("10.96.0.10:53/udp", "10.96.0.11:80/tcp", "[fd00:96::a]:53/udp")


def environment(box: Box) -> Mapping[str, str]:
    path = f"{Path(cli.SCRIPT).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOSTREACH_PIN": str(box.pin), "TERM": "dumb"}


def run(box: Box, *command: str) -> list[str]:
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(box), check=False, timeout=60
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def script(shell: str) -> str:
    said = cli.run(None, "completion", shell)
    assert said.status == 0
    return said.stdout


def bash(box: Box, line: str) -> list[str]:
    """As readline would put it in, with the part that stands on the line already."""
    program = (
        f"{script('bash')}\nCOMP_LINE=$1 COMP_POINT=${{#1}}; COMP_WORDBREAKS=$2\n"
        "$(complete -p hostreach | sed 's/.*-F \\([^ ]*\\).*/\\1/') hostreach\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    breaks = " \t\n\"'@><=;|&(:"
    found = run(box, "bash", "--norc", "-c", program, "bash", line, breaks)
    word = line.rpartition(" ")[2]
    stands = word[: word.rfind(":") + 1]
    return [stands + each for each in found if each]


def fish(box: Box, line: str) -> list[str]:
    program = f"{script('fish')}\ncomplete -C $argv[1]"
    return [each.partition("\t")[0] for each in run(box, "fish", "-c", program, line)]


def zsh(box: Box, line: str) -> list[str]:
    """On a terminal, for only there it completes: what it lists, or puts in if there is but one."""
    home = Path(os.environ.get("TMPDIR", "/tmp"), f"zsh-{os.getpid()}")
    home.mkdir(exist_ok=True)
    (home / "_hostreach").write_text(script("zsh"))
    setup = (
        f"fpath=({home} $fpath); autoload -Uz compinit; compinit -u -D; "
        "PROMPT='REA''DY>'; setopt no_beep; LISTMAX=0; stty columns 200 rows 50\n"
    )
    pid, terminal = pty.fork()
    if not pid:
        os.execvpe("zsh", ["zsh", "-f", "-i"], environment(box))
    try:
        os.write(terminal, setup.encode())
        # Not as it is typed, which the terminal and zsh show once or twice.
        _read(terminal, lambda text: "READY>" in text, quiet=0.1)
        word, text = line.rpartition(" ")[2], ""
        for typed in (f"{line}\t", "\t"):  # what all have in common, and then a list
            os.write(terminal, typed.encode())
            text += _read(terminal, lambda _: not _works(pid), quiet=0.4)
        found = {*re.findall(rf"(?<!\S)({re.escape(word)}[^\s\x1b]*)", text.replace("\\", ""))}
        # What was typed, and what all have in common, is on the terminal too.
        begun = {each for each in found for other in found - {each} if other.startswith(each)}
        return sorted(found - begun)
    finally:
        os.close(terminal)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        shutil.rmtree(home)


def _read(terminal: int, enough: Callable[[str], bool], quiet: float) -> str:
    """Until it is enough, and nothing has come for so many seconds since it was."""
    text, was_enough = "", False
    deadline = time.monotonic() + scaled(30)
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], scaled(quiet))[0]:
            text += os.read(terminal, 65536).decode(errors="replace")
            was_enough = False
        elif was_enough and enough(text):
            break
        else:
            was_enough = enough(text)
    return text


def _works(shell: int) -> bool:
    """Does it wait for a command to say what there is?"""
    return Path(f"/proc/{shell}/task/{shell}/children").read_text() != ""


@pytest.fixture(params=[bash, fish, zsh])
def complete(request: pytest.FixtureRequest, box: Box) -> Complete:
    shell: Callable[[Box, str], list[str]] = request.param
    if shutil.which(shell.__name__) is None:
        pytest.skip(f"there is no {shell.__name__} here")
    return lambda line: shell(box, line)


def test_commands_options_and_services(node: Node, complete: Complete) -> None:
    for frontend in SERVICES:
        family = "[fd00::2]:80" if frontend.startswith("[") else "10.0.0.2:80"
        node.services.add(Service.of(frontend, family))
    assert {"exempt", "export"} <= {*complete("hostreach ex")}
    assert "--affinity" in complete("hostreach svc add x --aff")
    assert {*complete("hostreach svc show 10.96")} == {*SERVICES[:2]}
    assert complete("hostreach svc show 10.96.0.10:") == [SERVICES[0]]
    assert {*complete("hostreach explain 10.96")} == {*SERVICES[:2]}
    assert {*complete("hostreach trace --service 10.96")} == {*SERVICES[:2]}
    assert complete("hostreach svc add x --algorithm l") == ["least-conn"]


def test_backends_of_the_service_that_the_line_names(node: Node, box: Box) -> None:
    backends = ["10.0.0.2:53", "10.0.0.3:53"]
    node.services.add(Service.of(SERVICES[0], *backends))
    assert bash(box, f"hostreach backend rm {SERVICES[0]} ") == backends
    assert bash(box, f"hostreach backend rm {SERVICES[0]} 10.0.0.3:") == backends[1:]
    assert bash(box, "hostreach backend rm 10.96.0.99:53/udp ") == []


def test_what_options_take(node: Node, box: Box) -> None:
    """Owners and exempt cgroups that are there, and names that are fixed."""
    node.services.add(Service.of(SERVICES[0], owner="web"))
    node.services.add(Service.of(SERVICES[1], owner="edge"))
    for command in ("svc ls", "svc add x", "export", "apply"):
        assert bash(box, f"hostreach {command} --owner ") == ["edge", "web"]
    assert bash(box, "hostreach trace --verdict r") == ["refused"]
    assert {*bash(box, "hostreach top --sort ")} == {*SORTS}
    if kernel.knows_cgroups():
        node.exempt.add(str(box.bare))
        assert bash(box, "hostreach exempt rm ") == [str(box.bare)]


def test_files_where_nothing_else_is_known(box: Box, tmp_path: Path) -> None:
    """bash and zsh do that by themselves where nothing is offered."""
    (tmp_path / "services.yaml").touch()
    if shutil.which("fish") is None:
        pytest.skip("there is no fish here")
    assert fish(box, f"hostreach apply --file {tmp_path}/serv") == [f"{tmp_path}/services.yaml"]


def test_no_tables_no_noise(box: Box) -> None:
    """A line that is being typed is no place for errors; nothing is made either."""
    assert bash(box, "hostreach svc show 1") == []
    assert not box.pin.exists()


def test_quick(box: Box, node: Node) -> None:
    """As quick as any other command: no library is loaded that it does not need."""
    node.services.add(Service.of(SERVICES[0], "10.0.0.2:53"))
    words = "hostreach\nsvc\nshow\n10"
    program = (
        "import sys\nfrom hostreach.cli import main\n"
        "try:\n    main([])\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    variables = {"_HOSTREACH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "3"}
    python = str(Path(cli.SCRIPT).with_name("python3"))
    done = subprocess.run(
        [python, "-c", program],
        env={**environment(box), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{SERVICES[0]}\n"
    modules = {*done.stderr.split()}
    assert not modules & {"pydantic", "yaml", "rich.console", "prometheus_client", "asyncio"}


def test_names_that_a_shell_would_run(node: Node, complete: Complete) -> None:
    """Owners and cgroups are named as somebody likes; zsh evaluates what it is offered."""
    mark = f"pwned-{os.getpid()}"
    node.services.add(Service.of(SERVICES[0], owner=f"a\\$(pwd>{mark})"))
    node.services.add(Service.of(SERVICES[1], owner="web"))
    try:
        found = complete("hostreach export --owner ")
        assert not Path(mark).exists()
        assert not [each for each in found if "pwd" in each]
    finally:
        Path(mark).unlink(missing_ok=True)
