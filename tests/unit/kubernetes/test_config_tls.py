# SPDX-License-Identifier: Apache-2.0
"""Certificates and authorities: whom they let in, and that files of them may be rotated."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
from pathlib import Path

import pytest
from kube.apiserver import ApiServer
from kube.objects import service

from hostreach.sources.kubernetes.client import ApiClient, ApiError
from hostreach.sources.kubernetes.config import connection
from hostreach.sources.kubernetes.source import SERVICES

from .configured import kubeconfig, names

pytestmark = pytest.mark.usefixtures("nowhere")


@pytest.fixture
def server(token_server: ApiServer) -> ApiServer:
    return token_server


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


def test_a_certificate_that_is_not_checked(
    secure: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    careless = {"insecure-skip-tls-verify": True}
    assert names(kubeconfig(tmp_path / "config", secure, {"token": "one"}, **careless)) == ["web"]
    assert [each for each in caplog.messages if "its certificate is not checked" in each]


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
