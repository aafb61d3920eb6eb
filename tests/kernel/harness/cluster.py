# SPDX-License-Identifier: Apache-2.0
"""An API server in the box, and the agent that follows it there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kube.apiserver import ApiServer
from kube.chaos import storm

from .agents import AgentProcess, running
from .box import Box
from .host import HOST_V4
from .line import Line


def node_object(zone: str = "zone-a", address: str = HOST_V4) -> dict[str, Any]:
    """The API's object of this node."""
    labels = {"topology.kubernetes.io/zone": zone}
    status = {"addresses": [{"type": "InternalIP", "address": address}]}
    return {"kind": "Node", "metadata": {"name": "node-a", "labels": labels}, "status": status}


def serve(line: Line) -> None:
    """An `ApiServer` that does what the line says: a method's name and its arguments."""
    api = ApiServer()
    api.start()
    line.send(api.url)
    while (asked := line.wait()) is not None:
        name, arguments = asked
        if name == "trouble":
            for key, value in arguments[0].items():
                setattr(api.trouble, key, value)
            line.send(None)
        elif name == "storm":
            line.send(storm(api, *arguments))
        else:
            found = getattr(api, name)
            line.send(found(*arguments) if callable(found) else found)


class Cluster:
    """The API server, from the test's side: `put`, `delete`, and all that goes wrong."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.url = line.recv()

    def put(self, *values: object) -> None:
        self._line.ask(("put", values))

    def delete(self, *values: object) -> None:
        self._line.ask(("delete", values))

    def do(self, name: str, *arguments: object) -> Any:
        """Any other method, or an attribute's value."""
        return self._line.ask((name, arguments))

    def start(self, name: str, *arguments: object) -> None:
        """As `do`, without waiting; `answered` tells when `recv` has what it came to."""
        self._line.send((name, arguments))

    def answered(self) -> bool:
        return self._line.has_news()

    def recv(self) -> Any:
        return self._line.recv()

    def trouble(self, **what: object) -> None:
        self._line.ask(("trouble", (what,)))


@contextmanager
def cluster(box: Box, timeout: float = 600) -> Iterator[Cluster]:
    """Stands for as long as the block."""
    with box.talk(serve, timeout=timeout) as line:
        yield Cluster(line)
        line.send(None)


class Agent(AgentProcess):
    """`hostreach agent kubernetes` as a process of the box."""

    def __init__(
        self,
        box: Box,
        url: str,
        *arguments: str,
        directory: Path,
        variables: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.kubeconfig = directory / "kubeconfig"
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "current-context": "here",
                    "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [{"name": "c", "cluster": {"server": url}}],
                    "users": [{"name": "u", "user": {}}],
                }
            )
        )
        super().__init__(
            box,
            "kubernetes",
            f"--kubeconfig={self.kubeconfig}",
            "--node-name=node-a",
            *arguments,
            directory=directory,
            variables=variables,
            wrapper=wrapper,
        )


@contextmanager
def agent(
    box: Box,
    url: str,
    *arguments: str,
    directory: Path,
    variables: Mapping[str, str] | None = None,
    wrapper: Sequence[str] = (),
) -> Iterator[Agent]:
    """``wrapper``: a program that becomes the agent."""
    with running(
        Agent(box, url, *arguments, directory=directory, variables=variables, wrapper=wrapper)
    ) as process:
        yield process
