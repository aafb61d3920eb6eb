# SPDX-License-Identifier: Apache-2.0
"""What waits for a DaemonSet when the chart is uninstalled, as far as the API server tells it."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from kube.objects import Json

from hostreach.agent import cleanup

DAEMONSET = "/apis/apps/v1/namespaces/kube-system/daemonsets/hostreach-cleanup"
PODS = "/api/v1/namespaces/kube-system/pods"
NAMES = ("--namespace", "kube-system", "--daemonset", "hostreach-cleanup")
ASKED = {
    "labelSelector": "app.kubernetes.io/name=hostreach-cleanup",
    "fieldSelector": "status.phase!=Running",
}

Wait = Callable[..., int]


class Cluster:
    """A DaemonSet and what became of its pods; ``answers`` are codes for the next requests."""

    def __init__(self) -> None:
        self.pods: list[Json] = []
        self.ready = 0
        self.made: int | None = None
        self.seen = 1
        self.answers: list[int] = []
        self.refuses: set[str] = set()
        self.loses_deletion = False
        self.requests: list[str] = []
        self.removed = False

    def pod(self, node: str, phase: str = "Pending", *, taken: bool, of: str = "new") -> None:
        """On ``node``, or nowhere yet; whether a kubelet has taken it."""
        number = len(self.pods)
        spec = {"nodeName": node} if node else {}
        status = {"phase": phase} | ({"startTime": "2026-01-01T00:00:00Z"} if taken else {})
        metadata = {"name": f"pod-{number}", "ownerReferences": [{"uid": of}]}
        self.pods.append({"metadata": metadata, "spec": spec, "status": status})

    def answer(self, method: str, path: str) -> tuple[int, Json] | None:
        url = urlsplit(path)
        self.requests.append(f"{method} {url.path}")
        if self.answers:
            return self.answers.pop(0), {"message": "not now"}
        if method in self.refuses:
            return 403, {"message": "it may not"}
        if url.path == PODS:
            assert dict(parse_qsl(url.query)) == ASKED
            found = [pod for pod in self.pods if pod["status"]["phase"] != "Running"]
            return 200, {"items": found or None}
        assert url.path == DAEMONSET
        if self.removed:
            return 404, {"message": "there is none"}
        if method == "DELETE":
            self.removed = True
            return None if self.loses_deletion else (200, {})
        owners = [pod["metadata"]["ownerReferences"][0]["uid"] for pod in self.pods]
        wanted = owners.count("new")
        status = {
            "desiredNumberScheduled": wanted,
            "currentNumberScheduled": wanted if self.made is None else self.made,
            "numberReady": self.ready,
        }
        status |= {"observedGeneration": self.seen} if self.seen else {}
        return 200, {"metadata": {"uid": "new"}, "status": status}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def server(cluster: Cluster) -> Iterator[ThreadingHTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer = cluster.answer(self.command, self.path)
            if answer is None:
                self.close_connection = True
                return
            body = json.dumps(answer[1]).encode()
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def kubeconfig(path: Path, url: str, **cluster: str) -> str:
    text = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "one"}}],
        "clusters": [{"name": "c", "cluster": {"server": url, **cluster}}],
    }
    path.write_text(json.dumps(text))
    return str(path)


@pytest.fixture
def wait(server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wait:
    """What it ends with, after so many seconds at most."""
    monkeypatch.setattr(cleanup, "PERIOD", 0.02)
    monkeypatch.setattr(cleanup, "PATIENCE", 0.2)
    path = kubeconfig(tmp_path / "config", f"http://127.0.0.1:{server.server_port}")

    def wait(seconds: float = 0.1) -> int:
        return cleanup.main([*NAMES, "--kubeconfig", path, "--seconds", str(seconds)])

    return wait


def test_all_nodes(cluster: Cluster, wait: Wait, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the time is over, and pods are not even looked at."""
    for name in "abc":
        cluster.pod(name, "Running", taken=True)
    cluster.ready = 3
    assert wait(60) == 0
    assert capsys.readouterr().out == "3 of 3 nodes are cleaned up\n"
    assert cluster.removed
    assert f"GET {PODS}" not in cluster.requests


def test_none_before_the_controller_has_seen_it(cluster: Cluster, wait: Wait) -> None:
    cluster.seen = 0
    assert wait() == 1
    assert not cluster.removed


def test_a_node_that_is_down(
    cluster: Cluster, wait: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named, and what would clean it up stays."""
    cluster.pod("a", "Running", taken=True)
    cluster.pod("c", taken=False)
    cluster.pod("b", taken=False)
    cluster.ready = 1
    assert wait() == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "1 of 3 nodes are cleaned up; not reached: b, c; the DaemonSet "
        "kube-system/hostreach-cleanup stays, and cleans up those that come back: delete it then"
    )
    assert not cluster.removed


def test_many_nodes_that_are_down(
    cluster: Cluster, wait: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(100, 123):
        cluster.pod(f"n{number}", taken=False)
    assert wait() == 0
    assert "n118, n119 and 3 more; the DaemonSet" in capsys.readouterr().out


@pytest.mark.parametrize(("node", "taken", "named"), [("b", True, "b"), ("", False, "pod-1")])
def test_a_node_that_is_up_and_not_done(
    cluster: Cluster,
    wait: Wait,
    capsys: pytest.CaptureFixture[str],
    node: str,
    taken: bool,
    named: str,
) -> None:
    """No other node that is down makes it good."""
    cluster.pod("a", "Running", taken=True)
    cluster.pod(node, taken=taken)
    cluster.pod("c", taken=False)
    cluster.ready = 1
    assert wait() == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"not all of 3 nodes are cleaned up in time: not done: {named}; not reached: c; "
        "the DaemonSet kube-system/hostreach-cleanup stays"
    )
    assert not cluster.removed


def test_a_pod_that_is_yet_to_be_made(cluster: Cluster, wait: Wait) -> None:
    cluster.pod("a", "Running", taken=True)
    cluster.pod("b", "Running", taken=True)
    cluster.ready = cluster.made = 1
    assert wait() == 1
    assert not cluster.removed


def test_a_node_that_went_down_after_it_was_cleaned_up(
    cluster: Cluster, wait: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its pod is not ready any more, but has run. One of an earlier DaemonSet says nothing."""
    cluster.pod("a", "Running", taken=True)
    cluster.pod("b", "Running", taken=True)
    cluster.ready = 1
    cluster.pod("b", taken=True, of="old")
    assert wait() == 0
    assert "2 of 2 nodes are cleaned up\n" in capsys.readouterr().out
    assert cluster.removed


def test_an_api_server_that_is_away_for_a_moment(cluster: Cluster, wait: Wait) -> None:
    cluster.pod("a", taken=False)
    cluster.answers = [503, 503]
    assert wait(0) == 0


def test_an_api_server_that_says_no(
    cluster: Cluster, wait: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.refuses = {"GET"}
    assert wait() == 1
    assert "403 it may not" in capsys.readouterr().out


def test_a_daemonset_that_cannot_be_removed(
    cluster: Cluster, wait: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.pod("a", "Running", taken=True)
    cluster.ready = 1
    cluster.refuses = {"DELETE"}
    assert wait() == 1
    assert "the DaemonSet is not removed: 403 Forbidden" in capsys.readouterr().out


def test_an_answer_that_is_lost(cluster: Cluster, wait: Wait) -> None:
    """To what removed the DaemonSet: that it is gone then is as it should be."""
    cluster.pod("a", "Running", taken=True)
    cluster.ready = 1
    cluster.loses_deletion = True
    assert wait() == 0
    assert cluster.removed


def test_a_certificate_for_another_name(
    cluster: Cluster, server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the agent takes it: what is reached by an address need not be known by it."""
    monkeypatch.setattr(cleanup, "PATIENCE", 0.0)
    files = {name: tmp_path / f"{name}.pem" for name in ("key", "cert")}
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=api.example"),
            *("-addext", "subjectAltName=DNS:api.example"),
            *("-keyout", files["key"], "-out", files["cert"]),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["cert"], files["key"])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://127.0.0.1:{server.server_port}"
    path = kubeconfig(tmp_path / "config", url, **{"certificate-authority": str(files["cert"])})
    asked = [*NAMES, "--seconds", "0", "--kubeconfig", path, "--api-server", url]
    cluster.pod("a", "Running", taken=True)
    cluster.ready = 1
    assert cleanup.main(asked) == 1
    assert cleanup.main([*asked, "--api-server-name", "api.example"]) == 0
    assert cluster.removed
