# SPDX-License-Identifier: Apache-2.0
"""What holds on any API server: on ours always, on the real one where KUBEBUILDER_ASSETS says.

The log tells which of the two each test ran on.
"""

from __future__ import annotations

import json
import logging
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import httpx2 as httpx
import pytest
from kube.apiserver import ApiServer
from kube.objects import Json, piece, port, service
from kube.realserver import TOKEN, RealApiServer, assets

from hostreach.plain import PlainFrontend, PlainService
from hostreach.sources.kubernetes.client import ApiClient
from hostreach.sources.kubernetes.config import connection
from hostreach.sources.kubernetes.patience import Patience
from hostreach.sources.kubernetes.services import Rules
from hostreach.sources.kubernetes.source import SERVICES, KubernetesSource

log = logging.getLogger("hostreach.tests")
SECONDS = 30.0
OWN = "default/kubernetes"
"""The service that a real server makes for itself."""

NODE: Json = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": "zone-a"}},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
}


NEWER = {"resourceVersionMatch": "NotOlderThan"}
FUTURE = {"resourceVersion": "999999"}


class Server(Protocol):
    """What both can do."""

    @property
    def url(self) -> str: ...
    def put(self, *values: Json) -> None: ...
    def delete(self, *values: Json) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


class ApiContract:
    @pytest.fixture
    def server(self) -> Iterator[Server]:
        raise NotImplementedError

    @pytest.fixture
    def kubeconfig(self, server: Server, tmp_path: Path) -> Path:
        path = tmp_path / "kubeconfig"
        trust = ""
        if isinstance(server, RealApiServer):
            trust = f", certificate-authority: {server.certificate}"
        path.write_text(
            "{current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}],\n"
            f" users: [{{name: u, user: {{token: {TOKEN}}}}}],\n"
            f" clusters: [{{name: c, cluster: {{server: '{server.url}'{trust}}}}}]}}\n"
        )
        return path

    @pytest.fixture
    def http(self, server: Server) -> Iterator[httpx.Client]:
        trust = server.certificate if isinstance(server, RealApiServer) else None
        verify = ssl.create_default_context(cafile=trust)
        signed = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=server.url, verify=verify, headers=signed) as made:
            yield made

    @pytest.fixture
    def follower(self, server: Server, kubeconfig: Path) -> Iterator[Follower]:
        log.info("this runs on %s", type(server).__name__)
        server.put(NODE, service(), piece("web-1", "10.0.0.1"))
        following = Follower(kubeconfig)
        yield following
        following.source.close(5)

    def test_changes_are_followed(self, server: Server, follower: Follower) -> None:
        follower.shows({"default/web": "10.0.0.1:8080"})
        server.put(piece("web-1", "10.0.0.2"))
        follower.shows({"default/web": "10.0.0.2:8080"})
        server.put(service("api", "10.96.0.11"), piece("api-1", "10.0.0.3", of="api"))
        follower.shows({"default/web": "10.0.0.2:8080", "default/api": "10.0.0.3:8080"})
        server.delete(service(), piece("web-1"))
        follower.shows({"default/api": "10.0.0.3:8080"})

    def test_another_proxys_label_comes_and_goes(self, server: Server, follower: Follower) -> None:
        follower.shows({"default/web": "10.0.0.1:8080"})
        server.put(service(labels={"service.kubernetes.io/service-proxy-name": "other"}))
        follower.shows({})
        server.put(service())
        follower.shows({"default/web": "10.0.0.1:8080"})

    def test_lists_of_many(self, server: Server, follower: Follower) -> None:
        server.put(*(service(f"s{n}", f"10.96.3.{n}", ports=[port()]) for n in range(1, 120)))
        follower.until(lambda: len(follower.shown()) == 120)

    def test_a_server_that_is_restarted(self, server: Server, follower: Follower) -> None:
        follower.shows({"default/web": "10.0.0.1:8080"})
        server.stop()
        time.sleep(0.3)
        follower.sync()
        assert follower.shown() == {"default/web": "10.0.0.1:8080"}
        server.start()
        server.put(piece("web-1", "10.0.0.2"))
        follower.shows({"default/web": "10.0.0.2:8080"})
        assert not follower.removed

    @pytest.mark.parametrize(
        ("path", "params", "code"),
        [
            (SERVICES, {"limit": "1", "continue": "x", "resourceVersion": "1"}, 400),
            (SERVICES, NEWER, 422),
            (SERVICES, NEWER | FUTURE, 504),
            ("/api/v1/nodes/nobody", {}, 404),
            ("/api/v1/nothings", {}, 404),
        ],
        ids=str,
    )
    def test_what_is_refused(
        self, http: httpx.Client, path: str, params: dict[str, str], code: int
    ) -> None:
        answer = http.get(path, params=params)
        assert answer.status_code == code, answer.text

    def test_the_items_of_a_list_do_not_say_their_kind(
        self, server: Server, http: httpx.Client
    ) -> None:
        server.put(service())
        found = http.get(SERVICES).json()
        assert (found["kind"], found["apiVersion"]) == ("ServiceList", "v1")
        assert not [each for each in found["items"] if each.keys() & {"kind", "apiVersion"}]

    def test_nothing_is_said_of_a_version_that_is_yet_to_come(
        self, server: Server, http: httpx.Client
    ) -> None:
        """Not even by bookmarks: `Watcher` relies on it, to notice that versions have gone back."""
        server.put(service())
        params = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": "1", **FUTURE}
        answer = http.get(SERVICES, params=params)
        assert (answer.status_code, answer.text) == (200, "")

    def test_a_streamed_list(self, server: Server, http: httpx.Client) -> None:
        server.put(service("web"), service("api", "10.96.0.11"))
        params = {
            **NEWER,
            "watch": "1",
            "sendInitialEvents": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": "1",
            "resourceVersion": "",
        }
        answer = http.get(SERVICES, params=params)
        if answer.status_code == 422 and isinstance(server, RealApiServer):
            pytest.skip("it has no WatchList")  # before 1.32, or switched off
        *events, end = (json.loads(line) for line in answer.iter_lines())
        named = [(each["type"], each["object"]["metadata"]["name"]) for each in events]
        ours = [each for each in named if f"default/{each[1]}" != OWN]
        assert ours == [("ADDED", "api"), ("ADDED", "web")]
        assert end["type"] == "BOOKMARK"
        meta = end["object"]["metadata"]
        assert meta["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert int(meta["resourceVersion"]) > 0


class TestOurs(ApiContract):
    @pytest.fixture
    def server(self) -> Iterator[Server]:
        with ApiServer(token=TOKEN).running() as running:
            yield running


@pytest.mark.skipif(assets() is None, reason="KUBEBUILDER_ASSETS is not set: ran on ours alone")
class TestReal(ApiContract):
    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[Server]:
        binaries = assets()
        assert binaries
        with RealApiServer(binaries, tmp_path).running() as running:
            yield running


class Follower:
    """A source, and the table that somebody keeps by what it says."""

    def __init__(self, kubeconfig: Path) -> None:
        client = ApiClient(connection(str(kubeconfig)))
        patience = Patience(first=0.05, longest=0.5)
        self.source = KubernetesSource(client, "node-a", Rules(), patience)
        self.table: dict[PlainFrontend, PlainService] = {}
        self.removed: list[PlainFrontend] = []
        self.source.start()

    def sync(self) -> None:
        self.source.poll(0.02)
        if self.source.freshness.synced:
            for put, remove in self.source.state.take():
                self.table.update({entry[:3]: entry for entry in put})
                for frontend in remove:
                    self.removed.append(frontend)
                    del self.table[frontend]

    def shown(self) -> dict[str, str]:
        """Each service with its backends."""
        return {
            str(entry[3]): " ".join(backend[0] for backend in entry[6])
            for entry in self.table.values()
            if not str(entry[3]).startswith(OWN)
        }

    def shows(self, expected: dict[str, str]) -> None:
        self.until(lambda: self.shown() == expected)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.shown()
            self.sync()
