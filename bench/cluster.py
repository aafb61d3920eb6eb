# SPDX-License-Identifier: Apache-2.0
"""A cluster of a given shape behind an API server that costs next to nothing itself.

Everything is encoded before it is asked for: what is measured is the agent.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any, NamedTuple

from kernel.harness import Line
from kube.objects import metadata, piece, port, service

SLICE_MAX = 100
"""Endpoints of one EndpointSlice, as the controller makes them."""


class Shape(NamedTuple):
    name: str
    services: int
    endpoints: int
    """Of each service."""


SHAPES = {
    "1": Shape("5,000 services of 50 endpoints", 5_000, 50),
    "2": Shape("30,000 services of 5 endpoints", 30_000, 5),
    "small": Shape("500 services of 10 endpoints", 500, 10),
}


def vip(number: int) -> str:
    return f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def endpoint_address(service_number: int, number: int) -> str:
    at = service_number * 64 + number
    return f"{11 + (at >> 24)}.{at >> 16 & 255}.{at >> 8 & 255}.{at & 255}"


def slice_of(shape: Shape, number: int, version: int, skip: int | None = None) -> bytes:
    """The EndpointSlice of one service as JSON; ``skip`` is one endpoint that is not ready."""
    endpoints = []
    for n in range(shape.endpoints):
        here: dict[str, Any] = {
            "addresses": [endpoint_address(number, n)],
            "conditions": {"ready": n != skip, "serving": n != skip, "terminating": False},
            "nodeName": f"node-{n}",
            "zone": f"zone-{n % 3}",
            "targetRef": {
                "kind": "Pod",
                "namespace": "bench",
                "name": f"service-{number}-6b8d5f7c9-{n:05}",
                "uid": f"00000000-0000-4000-8000-{number:06}{n:06}",
            },
        }
        endpoints.append(here)
    made = piece(
        f"service-{number}-abcde",
        *endpoints,
        of=f"service-{number}",
        namespace="bench",
        family="IPv4",
        ports=[port(8080, "http")],
    )
    made["metadata"]["resourceVersion"] = str(version)
    return json.dumps(made, separators=(",", ":")).encode()


def service_of(number: int, version: int) -> bytes:
    made = service(f"service-{number}", vip(number), namespace="bench", ports=[port(80, "http")])
    made["metadata"] |= metadata(f"service-{number}", "bench", resourceVersion=str(version))
    return json.dumps(made, separators=(",", ":")).encode()


def _event(kind: str, raw: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), raw)


def _chunked(raw: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(raw), raw)


def _end(kind: str, version: int) -> bytes:
    meta = {
        "resourceVersion": str(version),
        "annotations": {"k8s.io/initial-events-end": "true"},
    }
    return _event("BOOKMARK", json.dumps({"kind": kind, "metadata": meta}).encode())


class Api:
    """Answers by what the path says; pushes events to whoever watches slices."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        version = 1_000
        services = b"".join(
            _chunked(_event("ADDED", service_of(n, version))) for n in range(1, shape.services + 1)
        )
        slices = b"".join(
            _chunked(_event("ADDED", slice_of(shape, n, version)))
            for n in range(1, shape.services + 1)
        )
        self.lists = {
            "Service": services + _chunked(_end("Service", version)),
            "EndpointSlice": slices + _chunked(_end("EndpointSlice", version)),
        }
        self.version = version
        self.began = 0.0
        self.watch: socket.socket | None = None
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def push(self, *lines: bytes) -> float:
        """Send these events in one go; when."""
        assert self.watch
        raw = b"".join(_chunked(_event("MODIFIED", line)) for line in lines)
        now = time.time()
        self.watch.sendall(raw)
        return now

    def _accept(self) -> None:
        while True:
            client, _ = self._listening.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = b""
        while b"\r\n\r\n" not in head:
            part = client.recv(65536)
            if not part:
                return
            head += part
        path = head.split(b" ", 2)[1].decode()
        if "/nodes/" in path:
            body = json.dumps({"metadata": {"name": "node-1"}}).encode()
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            self._serve(client)
            return
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        kind = "EndpointSlice" if "endpointslices" in path else "Service"
        if not self.began:
            self.began = time.time()
        client.sendall(self.lists[kind])
        self._open.append(client)
        if kind == "EndpointSlice":
            self.watch = client


def serve(line: Line, shape: Shape) -> None:
    """An `Api` that does what the line says."""
    api = Api(shape)
    line.send((api.url, {kind: len(raw) for kind, raw in api.lists.items()}))
    while (asked := line.wait()) is not None:
        if asked[0] == "began":
            line.send(api.began)
            api.began = 0.0
        elif asked[0] == "flip":  # one endpoint of one service, once
            _, number, skip = asked
            api.version += 1
            line.send(api.push(slice_of(shape, number, api.version, skip)))
        elif asked[0] == "stream":
            line.send(_stream(api, *asked[1:]))


def _stream(api: Api, per_second: int, seconds: int) -> int:
    """Changes of one endpoint each, spread evenly; how many were sent."""
    lines = []
    for n in range(per_second * seconds):
        api.version += 1
        number = n * 7919 % api.shape.services + 1
        skip = (n + n // api.shape.services) % api.shape.endpoints  # another one each time
        lines.append(slice_of(api.shape, number, api.version, skip))
    began, burst = time.monotonic(), max(1, per_second // 100)
    for n in range(0, len(lines), burst):
        api.push(*lines[n : n + burst])
        time.sleep(max(0.0, began + (n + burst) / per_second - time.monotonic()))
    return len(lines)
