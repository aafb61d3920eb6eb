# SPDX-License-Identifier: Apache-2.0
"""Debian's archive by apt, with a configuration of its own: the host's lists and sources stay."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DEFAULT_MIRROR = "http://deb.debian.org/debian"


class FetchError(Exception):
    """What is told in one line."""


class Archive:
    """One suite of the archive that this host's own apt uses; what apt writes stays in scratch."""

    def __init__(
        self, suite: str, scratch: Path, *, kind: str = "deb", architecture: str = ""
    ) -> None:
        """Fetches the suite's lists; kind "deb-src" is that of source packages.

        Packages are of this host's architecture, or of another by Debian's name for it.
        """
        (scratch / "lists" / "partial").mkdir(parents=True)
        (scratch / "cache" / "archives" / "partial").mkdir(parents=True)
        (scratch / "status").touch()
        source = f"{kind} [signed-by={KEYRING}] {_mirror()} {suite} main\n"
        (scratch / "sources.list").write_text(source)
        settings = {
            "Dir::Etc::sourcelist": scratch / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State::lists": scratch / "lists",
            "Dir::State::status": scratch / "status",
            "Dir::Cache": scratch / "cache",
            "APT::Sandbox::User": "root",  # the scratch directory is closed to apt's own user
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "APT::Update::Error-Mode": "any",
        }
        if architecture:
            settings |= {"APT::Architecture": architecture, "APT::Architectures": architecture}
        self._scratch = scratch
        self._options = ["--quiet"]
        for key, value in settings.items():
            self._options += ["-o", f"{key}={value}"]
        self.get("update")

    def get(self, *arguments: str) -> None:
        """apt-get; what it downloads arrives in scratch. Raises FetchError."""
        run(["apt-get", *self._options, *arguments], cwd=self._scratch)

    def show(self, package: str) -> str:
        """The package's control fields, of its newest version; FetchError if there is none."""
        return run(["apt-cache", *self._options, "show", "--no-all-versions", package])


def run(command: list[str], *, cwd: Path | None = None) -> str:
    """A program's output; FetchError with the first reason that it gives."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise FetchError(f"no {command[0]} here") from None
    if done.returncode != 0:
        told = [line for line in done.stderr.splitlines() if line.startswith(("E: ", "ERROR: "))]
        reason = told[0].partition(": ")[2] if told else "no reason given"
        raise FetchError(f"{command[0]}: {reason}")
    return done.stdout


def _mirror() -> str:
    """The Debian archive that this host's own apt uses: of all its sources the one with updates."""
    listed = run(["apt-get", "update", "--print-uris"])
    updates = re.search(r"'([^']+)/dists/[a-z]+-updates/InRelease'", listed)
    return updates[1] if updates else DEFAULT_MIRROR
