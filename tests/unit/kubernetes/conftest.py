# SPDX-License-Identifier: Apache-2.0
"""A server with a node and a service, and who follows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kube.apiserver import ApiServer
from kube.objects import piece, service

from .follower import NODE, Follow, Follower


@pytest.fixture(params=["streamed", "paged"])
def server(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """Both with WatchList and without: all that follows holds either way."""
    with ApiServer(streamed_lists=request.param == "streamed").running() as running:
        running.put(NODE, service(), piece("web-1", "10.0.0.1"))
        yield running


@pytest.fixture
def follow(server: ApiServer) -> Iterator[Follow]:
    made: list[Follower] = []

    def follow(**options: Any) -> Follower:
        made.append(Follower(server, **options))
        return made[-1]

    yield follow
    for each in made:
        each.source.close(5)
        assert not any(thread.is_alive() for thread in each.source._threads)


@pytest.fixture
def follower(follow: Follow) -> Follower:
    following = follow()
    following.shows({"10.96.0.10": "10.0.0.1:8080"})
    return following


@pytest.fixture
def token_server() -> Iterator[ApiServer]:
    """It lets in who has the token "one", and has the service "web"."""
    with ApiServer(token="one").running() as running:
        running.put(service())
        yield running


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration of the machine's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
