# SPDX-License-Identifier: Apache-2.0
"""How the API server is found and how one is let in: kubeconfigs, service accounts, proxies."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kube.apiserver import ApiServer
from kube.objects import service

from hostreach.errors import InvalidInput, Refused
from hostreach.sources.kubernetes.client import ApiClient, ApiError
from hostreach.sources.kubernetes.config import connection
from hostreach.sources.kubernetes.patience import Patience
from hostreach.sources.kubernetes.services import Rules
from hostreach.sources.kubernetes.source import SERVICES, KubernetesSource


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer(token="one").running() as running:
        running.put(service())
        yield running


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration of the machine's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)


def kubeconfig(path: Path, server: str, user: dict[str, Any], **cluster: Any) -> str:
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
                "users": [{"name": "u", "user": user}],
            }
        )
    )
    return str(path)


def names(path: str | None = None, **options: Any) -> list[str]:
    """The services that a client with this configuration sees."""
    client = ApiClient(connection(path, **options))
    try:
        found = json.loads(client.get(SERVICES, {}))
    finally:
        client.close()
    return [each["metadata"]["name"] for each in found["items"]]


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


# --- TLS ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of its own, for api.example and not for an address."""
    path = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=api.example"),
            *("-addext", "subjectAltName=DNS:api.example,DNS:kubernetes.default.svc"),
            *("-keyout", path / "key.pem", "-out", path / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return path


@pytest.fixture
def secure(server: ApiServer, certificate: Path) -> str:
    """The same server over TLS; its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    listening = server._server
    assert listening is not None
    listening.socket = context.wrap_socket(listening.socket, server_side=True)
    return server.url.replace("http://", "https://")


def test_a_ca_bundle_and_a_server_name(secure: str, certificate: Path, tmp_path: Path) -> None:
    named = {"tls-server-name": "api.example"}
    bundle = {"certificate-authority": str(certificate / "cert.pem")}
    data = base64.b64encode((certificate / "cert.pem").read_bytes()).decode()
    inline = {"certificate-authority-data": data}
    for trust in (bundle, inline):
        path = kubeconfig(tmp_path / "config", secure, {"token": "one"}, **trust, **named)
        assert names(path) == ["web"]


def test_an_unknown_authority(secure: str, tmp_path: Path) -> None:
    named = {"tls-server-name": "api.example"}
    with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
        names(kubeconfig(tmp_path / "config", secure, {"token": "one"}, **named))


def test_a_certificate_for_another_name(secure: str, certificate: Path, tmp_path: Path) -> None:
    bundle = {"certificate-authority": str(certificate / "cert.pem")}
    with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
        names(kubeconfig(tmp_path / "config", secure, {"token": "one"}, **bundle))


def test_a_client_certificate_by_exec(server: ApiServer, certificate: Path, tmp_path: Path) -> None:
    """The server lets in nobody without; a token comes with it, or does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate / "cert.pem")
    listening = server._server
    assert listening is not None
    listening.socket = context.wrap_socket(listening.socket, server_side=True)
    url = server.url.replace("http://", "https://")
    named = {
        "tls-server-name": "api.example",
        "certificate-authority": str(certificate / "cert.pem"),
    }
    with pytest.raises(ApiError):
        names(kubeconfig(tmp_path / "config", url, {"token": "one"}, **named))
    status = {
        "clientCertificateData": (certificate / "cert.pem").read_text(),
        "clientKeyData": (certificate / "key.pem").read_text(),
    }
    for token in (None, "one"):
        server.token = token
        answer = json.dumps({"status": {**status, **({"token": token} if token else {})}})
        (tmp_path / "answer").write_text(answer)
        section = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "/bin/cat",
            "args": [str(tmp_path / "answer")],
        }
        assert names(kubeconfig(tmp_path / "config", url, {"exec": section}, **named)) == ["web"]


def made_certificate(path: Path, name: str) -> None:
    """With its key in the same file, as kubelets have it."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *(
                "-nodes",
                "-days",
                "2",
                "-subj",
                f"/CN={name}",
                "-addext",
                "subjectAltName=DNS:api.example",
            ),
            *("-keyout", path, "-out", path.with_suffix(".crt")),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())


class Rotating:
    """A server whose clients are known by their certificates, and a client with files of them.

    Certificates are named "one" and "two"; `current` is the client's.
    """

    def __init__(self, server: ApiServer, path: Path) -> None:
        self.server, self.path = server, path
        for name in ("one", "two"):
            made_certificate(path / f"{name}.pem", name)
        self.trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.trusted.verify_mode = ssl.CERT_REQUIRED
        for name in ("one", "two"):
            self.trusted.load_verify_locations(path / f"{name}.crt")
        self.serve_as("one")
        assert server._server is not None
        listening = server._server.socket
        server._server.socket = self.trusted.wrap_socket(listening, server_side=True)
        self.current = path / "current.pem"
        self.current.symlink_to("one.pem")
        self.authority = path / "ca.crt"
        self.authority.write_bytes((path / "one.crt").read_bytes())
        self.server.certificate, self.server.token = "one", None

    def serve_as(self, name: str) -> None:
        self.trusted.load_cert_chain(self.path / f"{name}.pem")

    def client(self, **user: str) -> ApiClient:
        url = self.server.url.replace("http://", "https://")
        user = user or {"client-certificate": "current.pem", "client-key": "current.pem"}
        named = {"tls-server-name": "api.example", "certificate-authority": "ca.crt"}
        return ApiClient(connection(kubeconfig(self.path / "config", url, user, **named)))

    def rotate(self, name: str) -> None:
        """As kubelets do, at once."""
        fresh = self.path / "fresh"
        fresh.symlink_to(f"{name}.pem")
        fresh.rename(self.current)


@pytest.fixture
def rotating(server: ApiServer, tmp_path: Path) -> Rotating:
    return Rotating(server, tmp_path)


def test_a_rotated_certificate_is_read_again(rotating: Rotating) -> None:
    """Nor is a connection used that was made with the last one."""
    client = rotating.client()
    assert client.get(SERVICES, {})
    rotating.server.certificate = "two"
    with pytest.raises(ApiError, match="401"):
        client.get(SERVICES, {})
    rotating.rotate("two")
    assert client.get(SERVICES, {})
    client.close()


def test_a_watch_goes_on_while_certificates_are_rotated(rotating: Rotating) -> None:
    """And its connection is closed with it, though nobody uses that client any more."""
    client = rotating.client()
    watch = {"watch": "1", "resourceVersion": str(rotating.server.version)}
    with client.lines(SERVICES, watch) as lines:
        rotating.rotate("two")
        rotating.server.certificate = "two"
        assert client.get(SERVICES, {})
        rotating.server.put(service("api", "10.96.0.11"))
        assert any(isinstance(line, bytes) and b'"api"' in line for line in lines)
        old = client._connections._users
        assert len(old) == 1
    assert not client._connections._users
    client.close()


def test_half_a_certificate_is_waited_out(
    rotating: Rotating, caplog: pytest.LogCaptureFixture
) -> None:
    """A pair in two files is new one by one: until both are, the old pair is used."""
    path = rotating.path
    for name, kind in (("cert", "crt"), ("key", "pem")):
        (path / name).write_bytes((path / f"one.{kind}").read_bytes())
    client = rotating.client(**{"client-certificate": "cert", "client-key": "key"})
    (path / "cert").write_bytes((path / "two.crt").read_bytes())
    for _ in range(3):
        assert client.get(SERVICES, {})
    (path / "cert").unlink()
    assert client.get(SERVICES, {})
    said = [each.getMessage() for each in caplog.records if "certificates" in each.getMessage()]
    assert len(said) == 2
    assert said[0].endswith("cannot be used: KEY_VALUES_MISMATCH")
    rotating.server.certificate = "two"
    for name, kind in (("cert", "crt"), ("key", "pem")):
        (path / name).write_bytes((path / f"two.{kind}").read_bytes())
    assert client.get(SERVICES, {})
    client.close()


def test_a_rotated_authority_is_read_again(rotating: Rotating) -> None:
    """What it was before is trusted no longer."""
    client = rotating.client()
    assert client.get(SERVICES, {})
    rotating.serve_as("two")
    rotating.authority.write_bytes((rotating.path / "two.crt").read_bytes())
    assert client.get(SERVICES, {})
    rotating.serve_as("one")
    fresh = rotating.client()
    with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
        fresh.get(SERVICES, {})
    for each in (client, fresh):
        each.close()


def test_files_that_are_written_again_are_the_same(rotating: Rotating) -> None:
    """As those of service accounts are, each hour: connections stay."""
    client = rotating.client()
    assert client.get(SERVICES, {})
    before = client._connections._http
    rotating.authority.write_bytes(rotating.authority.read_bytes())
    assert client.get(SERVICES, {})
    assert client._connections._http is before
    client.close()


def account(path: Path, certificate: Path, token: str) -> str:
    (path / "token").write_text(token)
    (path / "namespace").write_text("kube-system")
    (path / "ca.crt").write_bytes((certificate / "cert.pem").read_bytes())
    return str(path)


def test_in_cluster_with_another_server(secure: str, certificate: Path, tmp_path: Path) -> None:
    """Without kube-proxy the address in the environment leads nowhere, if there is one at all."""
    where = account(tmp_path, certificate, "one")
    named = {"api_server": secure, "server_name": "api.example"}
    assert names(service_account=where, **named) == ["web"]


def test_in_cluster_token_is_read_again(
    server: ApiServer, secure: str, certificate: Path, tmp_path: Path
) -> None:
    where = account(tmp_path, certificate, "one")
    client = ApiClient(connection(None, None, secure, "api.example", where))
    assert client.get(SERVICES, {})
    server.token = "two"
    with pytest.raises(ApiError, match="401"):
        client.get(SERVICES, {})
    account(tmp_path, certificate, "two")
    assert client.get(SERVICES, {})
    client.close()


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
