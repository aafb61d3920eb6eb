# SPDX-License-Identifier: Apache-2.0
"""Units of systemd: what is in them, and whose files are left alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hostreach import systemd

from .conftest import Run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "system"
    made.mkdir()
    return made


def values(text: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("name", systemd.NAMES)
def test_units_run_this_interpreter_and_are_hardened(name: systemd.Name) -> None:
    text = systemd.unit(name).text
    commands = values(text, "ExecStart")
    assert all(each.startswith(f"{sys.executable} -I -m hostreach ") for each in commands)
    assert values(text, "Type") == ["oneshot" if name == "restore" else "notify"]
    assert bool(values(text, "WatchdogSec")) == (name != "restore")
    assert values(text, "ProtectSystem") == ["strict"]
    assert values(text, "ReadWritePaths") == ["/sys/fs/bpf"]
    assert values(text, "NoNewPrivileges") == ["yes"]
    allowed = values(text, "CapabilityBoundingSet")[0].split()
    assert {*allowed} <= {*systemd.CAPABILITIES}


def test_as_many_capabilities_as_the_chart_has() -> None:
    """Which the kernel tests take away one by one."""
    text = (ROOT / "deploy/helm/hostreach/templates/_helpers.tpl").read_text()
    found = re.search(r"add: \[(.+)\]", text)
    assert found
    assert {f"CAP_{each}" for each in found[1].split(", ")} == {*systemd.CAPABILITIES}


def test_the_unit_of_the_kubernetes_agent_is_as_hardened() -> None:
    """But for what exec programs of a kubeconfig may need."""
    path = ROOT / "deploy/systemd/hostreach-agent.service"
    theirs = dict(re.findall(r"^(\w+)=(.*)$", path.read_text(), re.MULTILINE))
    ours = dict(re.findall(r"^(\w+)=(.*)$", systemd.unit("agent").text, re.MULTILINE))
    hardening = [key for key in [*ours][[*ours].index("CapabilityBoundingSet") :] if key in theirs]
    assert len(hardening) > 20
    where = ("ProtectHome", "PrivateTmp", "WantedBy")  # as the interpreter and the paths lie
    left = {key: theirs[key] for key in hardening if key not in where}
    assert left == {key: ours[key] for key in left}
    assert (theirs["ProtectHome"], theirs["PrivateTmp"]) == ("yes", "yes")
    assert ours.keys() - theirs.keys() == {"Documentation", "MemoryDenyWriteExecute"}


@pytest.mark.parametrize("name", systemd.NAMES)
def test_systemd_takes_them(tmp_path: Path, name: systemd.Name) -> None:
    if (analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("there is no systemd-analyze here")
    unit = systemd.unit(name, "/sys/fs/bpf/edge", [str(tmp_path / "50% of $HOME; 'x'")])
    path = tmp_path / unit.file
    path.write_text(unit.text)
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=45", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_restore_comes_before_the_network() -> None:
    text = systemd.unit("restore").text
    assert "network-pre.target" in values(text, "Before")[0]
    assert values(text, "ConditionPathExists") == [systemd.SERVICES]
    apply, attach = values(text, "ExecStart")
    assert apply.endswith(f" --file {systemd.SERVICES}")  # first: nobody meets half of it
    assert " apply --skip-missing-cgroups " in apply  # at boot few are there
    assert attach.endswith(" attach $HOSTREACH_ATTACH_OPTIONS")
    assert values(text, "DefaultDependencies") == ["no"]


def test_paths_and_pin_are_in_the_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--path", "/srv/a b", "--path", "/srv/100%", "--pin", "/sys/fs/bpf/edge")
    out = run("systemd", "print", "agent", *options).out
    (command,) = values(out, "ExecStart")
    assert "agent file --pin=/sys/fs/bpf/edge $HOSTREACH_OPTIONS " in command
    assert command.endswith(' "/srv/a b" /srv/100%%')
    monkeypatch.setenv("HOSTREACH_PIN", "/sys/fs/bpf/other")
    assert "--pin=/sys/fs/bpf/other" in run("systemd", "print", "restore").out
    monkeypatch.delenv("HOSTREACH_PIN")
    assert "--pin" not in run("systemd", "print").out


def test_what_has_no_effect_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("print", "install"):
        done = run("systemd", command, "restore", "metrics", "--path", "/srv/x")
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("hostreach: --path is what the unit 'agent' follows")
    monkeypatch.setenv("HOSTREACH_PIN", "")  # is none, as to all commands
    done = run("systemd", "print")
    assert (done.code, "--pin" in done.out) == (0, False)


def test_homes_are_seen_where_they_have_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for prefix, home in (("/opt/hostreach", "yes"), ("/root/.local/venv", "read-only")):
        monkeypatch.setattr(sys, "prefix", prefix)
        monkeypatch.setattr(sys, "base_prefix", "/usr")
        assert values(systemd.unit("agent").text, "ProtectHome") == [home]
    assert values(systemd.unit("agent", paths=["/tmp/x"]).text, "PrivateTmp") == ["no"]


def test_printed_as_installed(run: Run, directory: Path) -> None:
    done = run("systemd", "install", "--directory", str(directory))
    assert done.code == 0
    both = "hostreach-restore.service hostreach-agent.service"
    assert done.out.splitlines() == [
        f"added {directory}/hostreach-restore.service",
        f"added {directory}/hostreach-agent.service",
        f"next: systemctl daemon-reload && systemctl enable --now {both}",
    ]
    printed = run("systemd", "print").out
    files = [directory / "hostreach-restore.service", directory / "hostreach-agent.service"]
    assert printed == "\n".join(f"# {each.name}\n{each.read_text()}" for each in files)
    assert files[0].stat().st_mode & 0o777 == 0o644
    assert {*directory.iterdir()} == {*files}


def test_what_a_killed_run_left(directory: Path, tmp_path: Path) -> None:
    """Is replaced; and if it is a link, whatever it leads to stays as it is."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    unit = systemd.unit("metrics")
    left = directory / f".{unit.file}.new"
    left.symlink_to(elsewhere)
    systemd.install([unit], str(directory))
    assert [each.name for each in directory.iterdir()] == [unit.file]
    assert (directory / unit.file).read_text() == unit.text
    assert elsewhere.read_text() == "precious"


def test_what_was_written_and_not_changed_is_replaced(run: Run, directory: Path) -> None:
    install = ("systemd", "install", "agent", "--directory", str(directory))
    path = str(directory / "hostreach-agent.service")
    assert run(*install).out.startswith(f"added {path}")
    assert run(*install).out == f"unchanged {path}\n"
    said = json.loads(run(*install, "--path", "/srv/x", "--json").out)
    assert said["units"] == [{"path": path, "action": "replaced"}]


@pytest.mark.parametrize("change", ["edited", "theirs", "masked", "empty"])
def test_what_others_changed_is_left_alone(run: Run, directory: Path, change: str) -> None:
    install = ("systemd", "install", "restore", "agent", "--directory", str(directory))
    path = directory / "hostreach-agent.service"
    if change == "edited":
        run(*install)
        path.write_text(path.read_text().replace("MemoryMax=1G", "MemoryMax=2G"))
        (directory / "hostreach-restore.service").unlink()
    elif change == "masked":
        path.symlink_to("/dev/null")
    else:
        path.write_text("[Service]\n" if change == "theirs" else "")
    before = path.read_text()
    done = run(*install)
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert f"{path}: is not as hostreach wrote it" in done.err
    assert path.read_text() == before
    assert not (directory / "hostreach-restore.service").exists()  # none at all
    done = run(*install, "--force")
    assert done.code == 0
    assert not path.is_symlink()
    assert "MemoryMax=1G" in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("print", "kubelet"), "'kubelet' is no unit; they are restore, agent, metrics"),
        (("install", "--directory", "/no/such"), "/no/such: is no directory"),
        (("print", "--pin", "relative"), "relative: units are for pins below /sys/fs/bpf"),
        (("print", "--pin", "/mnt/bpf/x"), "/mnt/bpf/x: units are for pins below /sys/fs/bpf"),
        (("print", "--pin", "/sys/fs/bpf/../x"), "units are for pins below /sys/fs/bpf"),
        (("print", "--pin", ""), "--pin is empty"),
        (("print", "--path", ""), "--path is empty"),
        (("install", "--directory", ""), "--directory is empty"),
        (("print", "--path", "a\nExecStart=/bin/sh"), "a character that cannot be printed"),
    ],
)
def test_bad_usage(run: Run, arguments: tuple[str, ...], message: str) -> None:
    done = run("systemd", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
