# SPDX-License-Identifier: Apache-2.0
"""Credentials from a program: the exec section of a kubeconfig, as cloud providers use it."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
from collections.abc import Generator
from contextlib import ExitStack
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
    """A token, a client certificate or both, asked for when first needed, expired, or refused.

    Certificates are put into ``context``, with which connections to the server are made.
    """

    def __init__(self, program: UserExec, cluster: Cluster, context: ssl.SSLContext) -> None:
        version = program.apiVersion.removeprefix(_GROUP)
        if version not in _VERSIONS:
            raise Refused(f"exec credentials {program.apiVersion} are unknown", object="kubeconfig")
        self._program = program
        self._cluster = cluster
        self._context = context
        self._has_certificate = False
        self._token = ""
        self._until = 0.0

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """As httpx asks for it; raises `Refused` if the program fails."""
        fresh = time.time() >= self._until
        if fresh:
            self._renew()
        self._sign(request)
        if fresh and self._has_certificate:
            # This may go by a connection that was made with the last one, and must not stay.
            request.headers["Connection"] = "close"
        response = yield request
        if response.status_code == 401 and (not fresh or self._has_certificate):
            if not fresh:
                self._renew()
            self._sign(request)
            if self._has_certificate:
                request.headers["Connection"] = "close"
            yield request

    def _sign(self, request: httpx.Request) -> None:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"

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
            certificate = status.get("clientCertificateData")
            if certificate:
                _load(self._context, certificate, status["clientKeyData"])
            self._has_certificate = bool(certificate)
            self._token = status.get("token", "") if certificate else status["token"]
            until = status.get("expirationTimestamp")
            self._until = _timestamp(until) - _EARLY if until else float("inf")
        except ssl.SSLError as error:
            what = f"gave a certificate that cannot be used: {error.reason or error}"
            raise Refused(what, object=program.command) from None
        except (KeyError, TypeError, ValueError, AttributeError):
            what = "gave neither a token nor a certificate and its key"
            raise Refused(what, object=program.command) from None


def _load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """OpenSSL reads files alone: these are in memory, and nobody else's."""
    with ExitStack() as stack:
        paths = []
        for text in (certificate, key):
            file = stack.enter_context(os.fdopen(os.memfd_create("hostreach"), "wb"))
            file.write(text.encode())
            file.flush()
            paths.append(f"/proc/self/fd/{file.fileno()}")
        context.load_cert_chain(*paths)


def _timestamp(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
