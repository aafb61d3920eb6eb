# SPDX-License-Identifier: Apache-2.0
"""How the API server is found and how one is let in: kubeconfigs, service accounts, proxies."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from kube.apiserver import ApiServer

from hostreach.errors import InvalidInput, Refused
from hostreach.sources.kubernetes.client import ApiClient, ApiError
from hostreach.sources.kubernetes.config import connection
from hostreach.sources.kubernetes.patience import Patience
from hostreach.sources.kubernetes.services import Rules
from hostreach.sources.kubernetes.source import SERVICES, KubernetesSource

from .configured import kubeconfig, names

pytestmark = pytest.mark.usefixtures("nowhere")


@pytest.fixture
def server(token_server: ApiServer) -> ApiServer:
    return token_server


def test_token(server: ApiServer, tmp_path: Path) -> None:
    assert names(kubeconfig(tmp_path / "config", server.url, {"token": "one"})) == ["web"]


def test_refused_token(server: ApiServer, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="401 Unauthorized") as raised:
        names(kubeconfig(tmp_path / "config", server.url, {"token": "two"}))
    assert raised.value.code == 401


def test_kubeconfig_by_environment(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kubeconfig(tmp_path / "config", server.url, {"token": "one"})
    monkeypatch.setenv("KUBECONFIG", path)
    assert names() == ["web"]


def test_a_rotated_token_is_read_again(server: ApiServer, tmp_path: Path) -> None:
    """The path is relative to the kubeconfig, and the client stays the same."""
    (tmp_path / "token").write_text("one\n")
    path = kubeconfig(tmp_path / "config", server.url, {"tokenFile": "token"})
    client = ApiClient(connection(path))
    assert client.get(SERVICES, {})
    server.token = "two"
    (tmp_path / "token").write_text("two\n")
    assert client.get(SERVICES, {})
    client.close()


def test_a_token_that_is_not_there_yet(server: ApiServer, tmp_path: Path) -> None:
    """Whoever asks is told so, each time, and the node's own thread goes on to ask."""
    path = kubeconfig(tmp_path / "config", server.url, {"tokenFile": "token"})
    client = ApiClient(connection(path))
    with pytest.raises(ApiError, match="token"):
        client.get(SERVICES, {})
    source = KubernetesSource(client, "node-a", Rules(), Patience(first=0.02, longest=0.2))
    source.start()
    try:
        time.sleep(0.2)
        (tmp_path / "token").write_text("one\n")
        deadline = time.monotonic() + 30
        while not source.freshness.synced:
            assert time.monotonic() < deadline
            source.poll(0.02)
    finally:
        source.close(5)


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_exec_credentials(server: ApiServer, tmp_path: Path, version: str) -> None:
    """The program runs once, again when the token is refused, and is told of the cluster."""
    program = tmp_path / "login"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, os, pathlib, sys\n"
        "info = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        "assert info['kind'] == 'ExecCredential' and info['spec']['cluster']['server']\n"
        "assert sys.argv[1:] == ['--as', os.environ['WHO']] == ['--as', 'me']\n"
        "count = pathlib.Path(__file__).with_name('count')\n"
        "count.write_text((count.read_text() if count.exists() else '') + '.')\n"
        "token = pathlib.Path(__file__).with_name('token').read_text()\n"
        "print(json.dumps({'status': {'token': token}}))\n"
    )
    program.chmod(0o755)
    (tmp_path / "token").write_text("one")
    exec_section = {
        "apiVersion": f"client.authentication.k8s.io/{version}",
        "command": str(program),
        "args": ["--as", "me"],
        "env": [{"name": "WHO", "value": "me"}],
        "interactiveMode": "Never",
    }
    path = kubeconfig(tmp_path / "config", server.url, {"exec": exec_section})
    client = ApiClient(connection(path))
    assert client.get(SERVICES, {})
    assert client.get(SERVICES, {})
    assert (tmp_path / "count").read_text() == "."
    server.token = "two"
    (tmp_path / "token").write_text("two")
    assert client.get(SERVICES, {})
    assert (tmp_path / "count").read_text() == ".."
    client.close()


@pytest.mark.parametrize("named", ["config", "/config"])
def test_a_program_beside_the_kubeconfig(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """As kubectl has it: not one of that name where the agent was started, or in PATH."""
    for directory, token in (("beside", "one"), ("elsewhere", "two")):
        program = tmp_path / directory / "bin" / "login"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\necho \'{{"status": {{"token": "{token}"}}}}\'\n')
        program.chmod(0o755)
    section = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./bin/login"}
    path = kubeconfig(tmp_path / "beside" / "config", server.url, {"exec": section})
    monkeypatch.setenv("PATH", f"{tmp_path}/elsewhere/bin:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path / ("beside" if named == "config" else "elsewhere"))
    assert names(named if named == "config" else path) == ["web"]


def test_a_kubeconfig_that_others_may_write(
    server: ApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What it names is run."""
    path = kubeconfig(tmp_path / "config", server.url, {"token": "one"})
    Path(path).chmod(0o644)
    connection(path)
    assert not caplog.messages
    Path(path).chmod(0o620)
    connection(path)
    assert caplog.messages == [f"{path}: others may write to it, and so say what is run here"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no such user >&2; exit 3", "status 3: no such user"),
        ("echo '{}'", "gave neither a token nor a certificate and its key"),
        ("echo '[]'", "gave neither a token nor a certificate and its key"),
        ("""echo '{"status": {"clientCertificateData": "x"}}'""", "gave neither"),
        (
            """echo '{"status": {"clientCertificateData": "x", "clientKeyData": "y"}}'""",
            "gave a certificate that cannot be used",
        ),
    ],
)
def test_exec_credentials_that_fail(
    server: ApiServer, tmp_path: Path, script: str, message: str
) -> None:
    section = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "/bin/sh",
        "args": ["-c", script],
    }
    with pytest.raises(ApiError, match=message):
        names(kubeconfig(tmp_path / "config", server.url, {"exec": section}))


def test_a_proxy_of_the_kubeconfig(server: ApiServer, tmp_path: Path) -> None:
    """The server's name means nothing here: only the proxy can have been asked."""
    where = "http://api.invalid:6443"
    path = kubeconfig(tmp_path / "config", where, {"token": "one"}, **{"proxy-url": server.url})
    assert names(path) == ["web"]
    assert server.requests == [f"{where}{SERVICES}"]


def test_a_proxy_of_the_environment(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    where = "http://api.invalid:6443"
    assert names(kubeconfig(tmp_path / "config", where, {"token": "one"})) == ["web"]


def test_another_server(server: ApiServer, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", "http://api.invalid:1", {"token": "one"})
    assert names(path, api_server=server.url) == ["web"]


# --- what cannot be used -----------------------------------------------------------------------


def test_nothing_to_go_by() -> None:
    with pytest.raises(Refused, match="--kubeconfig"):
        connection(service_account="/nonexistent")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: no such file"):
        connection(str(tmp_path / "none"))


@pytest.mark.parametrize(
    "text", ["", "[]", "a: [", "clusters: {}", "current-context: x\ncontexts: []\nclusters: []"]
)
def test_files_that_are_no_kubeconfigs(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(InvalidInput) as raised:
        connection(str(path))
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_no_such_context(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", "http://127.0.0.1:1", {})
    with pytest.raises(InvalidInput, match="'there' not found"):
        connection(path, context="there")


@pytest.mark.parametrize("text", ["ftp://x", "https://", "http://a b"])
def test_servers_that_cannot_be(tmp_path: Path, text: str) -> None:
    path = kubeconfig(tmp_path / "config", "http://127.0.0.1:1", {})
    with pytest.raises(InvalidInput, match="--api-server"):
        connection(path, api_server=text)


def test_exec_credentials_of_another_kind(tmp_path: Path) -> None:
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v9", "command": "x"}}
    with pytest.raises(Refused, match="v9"):
        connection(kubeconfig(tmp_path / "config", "http://127.0.0.1:1", user))
