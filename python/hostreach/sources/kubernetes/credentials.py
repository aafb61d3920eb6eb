# SPDX-License-Identifier: Apache-2.0
"""Credentials from a program: the exec section of a kubeconfig, as cloud providers use it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Generator
from datetime import datetime

import httpx2 as httpx
from lightkube.config.models import Cluster, UserExec

from hostreach.errors import Refused

_GROUP = "client.authentication.k8s.io/"
_VERSIONS = ("v1", "v1beta1", "v1alpha1")
_SECONDS = 60
"""More than any of these programs takes, a login to a cloud included."""
_EARLY = 30
"""Seconds before it expires that a token is renewed."""


class ExecCredentials(httpx.Auth):
    """A token that is asked for when it is first needed, has expired, or is refused."""

    def __init__(self, program: UserExec, cluster: Cluster) -> None:
        version = program.apiVersion.removeprefix(_GROUP)
        if version not in _VERSIONS:
            raise Refused(f"exec credentials {program.apiVersion} are unknown", object="kubeconfig")
        self._program = program
        self._cluster = cluster
        self._token = ""
        self._until = 0.0

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """As httpx asks for it; raises `Refused` if the program fails."""
        fresh = time.time() >= self._until
        if fresh:
            self._renew()
        request.headers["Authorization"] = f"Bearer {self._token}"
        response = yield request
        if response.status_code == 401 and not fresh:
            self._renew()
            request.headers["Authorization"] = f"Bearer {self._token}"
            yield request

    def _renew(self) -> None:
        program = self._program
        named = {each.name: each.value for each in program.env or ()}
        info = {
            "apiVersion": program.apiVersion,
            "kind": "ExecCredential",
            "spec": {"interactive": False, "cluster": {"server": self._cluster.server}},
        }
        environment = {**os.environ, **named, "KUBERNETES_EXEC_INFO": json.dumps(info)}
        try:
            done = subprocess.run(
                [program.command, *(program.args or ())],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except OSError as error:
            raise Refused((error.strerror or "").lower(), object=program.command) from None
        except subprocess.TimeoutExpired:
            raise Refused(f"gave no answer in {_SECONDS} s", object=program.command) from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().split("\n")[-1]
            raise Refused(f"status {done.returncode}: {said}", object=program.command)
        try:
            status = json.loads(done.stdout)["status"]
            self._token = status["token"]
            until = status.get("expirationTimestamp")
            self._until = _timestamp(until) - _EARLY if until else float("inf")
        except (KeyError, TypeError, ValueError):
            raise Refused("gave no token", object=program.command) from None


def _timestamp(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
