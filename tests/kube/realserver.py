# SPDX-License-Identifier: Apache-2.0
"""kube-apiserver and etcd from the folder that KUBEBUILDER_ASSETS names, as `ApiServer` is used."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx

from .objects import Json

TOKEN = "tests-only"
_PATHS = {
    "Service": "/api/v1/namespaces/{}/services",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
    "Node": "/api/v1/nodes",
}
_SECONDS = 60


def assets() -> Path | None:
    """None if there are none."""
    named = os.environ.get("KUBEBUILDER_ASSETS")
    return Path(named) if named else None


class RealApiServer:
    """Everyone who has the token may do anything."""

    def __init__(self, binaries: Path, directory: Path) -> None:
        self._binaries, self._directory = binaries, directory
        self._etcd_port, self._peer_port, self._port = _free_port(), _free_port(), _free_port()
        self._running: list[subprocess.Popen[bytes]] = []
        self._server: subprocess.Popen[bytes] | None = None
        (directory / "tokens.csv").write_text(f'{TOKEN},tests,1,"system:masters"\n')
        key = directory / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        self._http = httpx.Client(
            base_url=self.url, verify=False, headers={"Authorization": f"Bearer {TOKEN}"}
        )

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    @property
    def certificate(self) -> Path:
        """Made by the server for itself, and its own authority."""
        return self._directory / "certificates" / "apiserver.crt"

    def put(self, *values: Json) -> None:
        for value in values:
            path = self._path(value)
            there = self._http.get(path)
            if there.status_code == 404:
                answer = self._http.post(path.rpartition("/")[0], json=_sent(value))
            else:
                version = there.json()["metadata"]["resourceVersion"]
                answer = self._http.put(path, json=_sent(value, version))
            assert answer.is_success, answer.text
            if value["kind"] == "Node" or value.get("status", {}).get("loadBalancer"):
                answer = self._http.patch(
                    f"{path}/status",
                    json={"status": value["status"]},
                    headers={"Content-Type": "application/merge-patch+json"},
                )
                assert answer.is_success, answer.text

    def delete(self, *values: Json) -> None:
        for value in values:
            answer = self._http.delete(self._path(value))
            assert answer.is_success, answer.text

    def start(self) -> None:
        """Until it answers."""
        d = self._directory
        self._server = self._spawn(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={d / 'certificates'}",
            f"--token-auth-file={d / 'tokens.csv'}",
            f"--service-account-key-file={d / 'accounts.key'}",
            f"--service-account-signing-key-file={d / 'accounts.key'}",
            "--service-account-issuer=https://tests.invalid",
            "--authorization-mode=AlwaysAllow",
            "--disable-admission-plugins=ServiceAccount",
            "--service-cluster-ip-range=10.96.0.0/16",
        )
        self._wait("/readyz")

    def stop(self) -> None:
        """As killed."""
        assert self._server
        self._server.kill()
        self._server.wait()
        self._running.remove(self._server)

    @contextlib.contextmanager
    def running(self) -> Iterator[RealApiServer]:
        try:
            self._spawn(
                "etcd",
                f"--data-dir={self._directory / 'etcd'}",
                f"--listen-client-urls=http://127.0.0.1:{self._etcd_port}",
                f"--advertise-client-urls=http://127.0.0.1:{self._etcd_port}",
                f"--listen-peer-urls=http://127.0.0.1:{self._peer_port}",
            )
            self.start()
            yield self
        finally:
            for process in self._running:
                process.kill()
                process.wait()
            self._http.close()

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._directory / f"{program}.log").open("ab") as log:
            process = subprocess.Popen(
                [self._binaries / program, *arguments], stdout=log, stderr=subprocess.STDOUT
            )
        self._running.append(process)
        return process

    def _wait(self, path: str) -> None:
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if self._http.get(path).is_success:
                    return
            time.sleep(0.2)
        raise TimeoutError((self._directory / "kube-apiserver.log").read_text()[-2000:])

    def _path(self, value: Json) -> str:
        meta = value["metadata"]
        return f"{_PATHS[value['kind']].format(meta.get('namespace'))}/{meta['name']}"


def _sent(value: Json, version: str | None = None) -> Json:
    """Without what the server alone may say."""
    hidden = ("uid", "creationTimestamp", "resourceVersion")
    meta: Json = {key: each for key, each in value["metadata"].items() if key not in hidden}
    if version:
        meta["resourceVersion"] = version
    kind = value["kind"]
    group: dict[str, Any] = {"apiVersion": value.get("apiVersion", "v1"), "kind": kind}
    return {**{k: v for k, v in value.items() if k != "status"}, **group, "metadata": meta}


def _free_port() -> int:
    """None of those that the kernel gives to connections: one could have it before we listen."""
    for port in random.sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no free port")
