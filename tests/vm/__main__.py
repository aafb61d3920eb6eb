# SPDX-License-Identifier: Apache-2.0
"""Run the kernel tests on other kernels, with hostreach from the wheel as built.

Each kernel runs in a guest of its own: emulated by qemu, or User-Mode Linux. The guest sees the
host's root file system, and what it writes is lost. The kernels come from Debian's archive, once.
arm64, an emulated machine of another kind, takes the wheel of scripts/release-wheel and, once too,
packages of Debian's that it runs; what it needs here: qemu-system-arm, gcc-aarch64-linux-gnu,
libc6-dev-arm64-cross.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from debian_archive import FetchError

from . import arm64, kernels, report, subset
from .guest import Guest
from .initramfs import Job
from .report import Result

ROOT = Path(__file__).resolve().parent.parent.parent
OUTPUT = ROOT / "build/vm"
CLIENTS = OUTPUT / "clients"
# Files, for to read all the others is a third of a guest's time.
SUBSET = [*sorted({name.partition("::")[0] for name in subset.SUBSET}), "-m", "vm"]
EVERYTHING = ["tests/kernel", *(f"--ignore={path}" for path in subset.LEFT_OUT)]
SUBSET_TIMEOUT, TIMEOUT = 1800, 8 * 3600  # seconds, of one guest
# Python takes 11 to 18 times as long in an emulated machine, to start a process 40 to 70 times.
SCALE, UML_SCALE = "15", "4"
PASSED_ON = ("HOSTREACH_WITHOUT",)  # not HOSTREACH_NO_SKIP: what a kernel lacks is skipped there


def main() -> None:
    """Exits with 1 if a test failed on any kernel, or a kernel could not be had."""
    options, selection = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by default guests would stay behind
    OUTPUT.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        count = _prepare(selection)
    except subprocess.CalledProcessError as error:
        print(f"vm: {error}", file=sys.stderr)
        sys.exit(1)
    results = _run_all(options.kernels, selection, count, options.at_once)
    print(*report.table(results), sep="\n")
    bad = [r.kernel for r in results if r.failed or (r.problem and not options.optional)]
    took = f"{time.monotonic() - began:.0f} s"
    if bad:
        print(f"vm: failed on {', '.join(bad)}, {took}; logs: {OUTPUT.relative_to(ROOT)}/*.log")
        sys.exit(1)
    print(f"vm: {count} tests on each of {len(results)} kernels, none failed, {took}")


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    """The options, and pytest's arguments."""
    own, selection = sys.argv[1:], SUBSET
    if os.environ.get("HOSTREACH_LONG") == "1":
        selection = EVERYTHING  # but no test's long form: emulation makes it long enough
    if "--" in own:
        own, selection = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        prog="tests/vm/run",
        description=__doc__,
        usage="%(prog)s [--installed] [--optional] [--at-once N] [KERNEL...]"
        " [-- PYTEST ARGUMENT...]",
        epilog="Arguments after -- go to pytest instead of those that choose what is in subset.py, "
        "or with HOSTREACH_LONG=1 instead of tests/kernel, all but LEFT_OUT there.",
    )
    parser.add_argument(
        "kernels",
        nargs="*",
        metavar="KERNEL",
        help=f"{', '.join(kernels.SOURCES)}; default: all, without arm64",
    )
    parser.add_argument(
        "--optional", action="store_true", help="a kernel that cannot be had is no failure"
    )
    parser.add_argument(
        "--at-once", type=int, default=2, metavar="N", help="guests; each takes a processor"
    )
    options = parser.parse_args(own)
    for name in options.kernels:
        if name not in kernels.SOURCES:
            parser.error(f"no kernel {name!r} (choose from {', '.join(kernels.SOURCES)})")
    options.kernels = options.kernels or [*kernels.BY_DEFAULT]
    return options, selection


def _prepare(selection: list[str]) -> int:
    """What is quicker on the host: the clients are compiled. Returns how many tests there will be.

    Collecting the tests also leaves their bytecode, which guests would each compile again.
    """
    if lost := [path for path in subset.LEFT_OUT if not (ROOT / path).exists()]:
        sys.exit(f"vm: subset.py leaves out files that are not there: {', '.join(lost)}")
    _compile_clients(CLIENTS, {})
    collect = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", *selection]
    collected = subprocess.run(
        collect, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, text=True, check=True
    )
    if selection is SUBSET and (gone := subset.SUBSET - {*collected.stdout.splitlines()}):
        print("vm: subset.py names tests that are not there:", *sorted(gone), file=sys.stderr)
        sys.exit(1)
    (selected,) = re.findall(r"(\d+)(?:/\d+)? tests? collected", collected.stdout)
    return int(selected)


def _compile_clients(directory: Path, compilers: Mapping[str, str]) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    environment = {**_environment(), **compilers, "HOSTREACH_CLIENTS": str(directory)}
    command = [sys.executable, "-m", "kernel.harness.compiled"]
    subprocess.run(command, cwd=ROOT / "tests", env=environment, check=True)


def _environment() -> dict[str, str]:
    """The host's, for what prepares a guest."""
    left_out = {"PYTHONDONTWRITEBYTECODE", "HOSTREACH_LONG"}  # the second as in guests
    return {name: value for name, value in os.environ.items() if name not in left_out}


def _run_all(names: list[str], selection: list[str], count: int, at_once: int) -> list[Result]:
    """So many guests at once; what fails is told as soon as it is known."""
    results, waiting, running = list[Result](), [*names], list[Guest]()
    with ExitStack() as guests:
        while waiting or running:
            while waiting and len(running) < at_once:
                name = waiting.pop(0)
                try:
                    kernel = kernels.get(name)
                    guest = Guest(kernel, _job(kernel, selection), OUTPUT / f"{name}.log")
                except FetchError as error:
                    results.append(Result(name, "", problem=str(error)))
                    continue
                guests.callback(guest.close)
                running.append(guest)
            for guest in [each for each in running if each.is_done()]:
                running.remove(guest)
                guest.close()
                for line in report.failures(guest):
                    print(f"{guest.kernel.name}: {line}")
                results.append(report.result(guest, count))
            time.sleep(0.1)
    return sorted(results, key=lambda result: names.index(result.kernel))


def _job(kernel: kernels.Kernel, selection: list[str]) -> Job:
    """Raises FetchError."""
    python, clients = Path(sys.executable), CLIENTS
    if kernel.is_arm64:
        clients = OUTPUT / "clients-arm64"
        python = arm64.python(OUTPUT / "venv-arm64")
        _compile_clients(clients, arm64.compilers())
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # hypothesis and anyio start without theirs
        "COLUMNS": "200",  # so that a failure is told with its reason
        "HOSTREACH_FORKED_CLI": "1",
        "HOSTREACH_KEPT_INSTANCE": "1",
        "HOSTREACH_CLIENTS": str(clients),
        "HOSTREACH_TIMEOUT_SCALE": UML_SCALE if kernel.is_uml else SCALE,
    }
    # Each test by its name: a guest may be stopped before it comes to its summary.
    pytest = [str(python), "-m", "pytest", "--verbose", "--color=no", "--tb=short"]
    pytest += ["-p", "no:cacheprovider"]
    timeout = SUBSET_TIMEOUT if selection is SUBSET else TIMEOUT
    return Job([*pytest, *selection], environment, ROOT, timeout)


if __name__ == "__main__":
    main()
