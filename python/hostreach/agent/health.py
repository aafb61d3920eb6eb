# SPDX-License-Identifier: Apache-2.0
"""healthCheckNodePort: tells external load balancers whether this node has endpoints.

What is said is, to the letter, what kube-proxy says (pkg/proxy/healthcheck/service_health.go).
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

from hostreach.sources.kubernetes.state import HealthPort

from .web import Answer, WebServer

log = logging.getLogger("hostreach.agent")

KUBE_PROXY = ("127.0.0.1", 10256)
"""Where kube-proxy, or who takes its place, tells of its own health (healthzBindAddress)."""


class HealthPorts:
    """A server for each service that wants one, unless kube-proxy has them.

    It takes the traffic that these ports are asked about, so what it says of itself counts; and a
    port that we were quicker at it would try again at its next sync only.

    Attributes:
        failed: ports that somebody else has, such as kube-proxy; tried again at each `follow`.
    """

    def __init__(self, web: WebServer, healthy: Callable[[], bool]) -> None:
        self.failed: dict[str, int] = {}
        self._web = web
        self._healthy = healthy
        self._wanted: dict[str, HealthPort] = {}
        self._served: dict[str, int] = {}
        self._left = False

    def follow(self, wanted: Mapping[str, HealthPort]) -> None:
        """Listen for these services and no others."""
        self._wanted = dict(wanted)
        if wanted.keys() - self._served.keys():
            self._look()
        self._listen_to({} if self._left else wanted)

    def again(self) -> None:
        """Now and then: kube-proxy, or who else had a port, may have come or gone."""
        if self._wanted:
            self._look()
            self._listen_to({} if self._left else self._wanted)

    def _look(self) -> None:
        before, self._left = self._left, _is_listening(KUBE_PROXY)
        if self._left and not before:
            log.info(
                "healthCheckNodePorts are left to kube-proxy, which answers at %s:%d", *KUBE_PROXY
            )

    def _listen_to(self, wanted: Mapping[str, HealthPort]) -> None:
        for service, port in [*self._served.items()]:
            if service not in wanted or wanted[service].port != port:
                del self._served[service]
                self._web.stop(service)
        self.failed = {
            service: port
            for service, port in self.failed.items()
            if service in wanted and wanted[service].port == port
        }
        for service, (port, _) in wanted.items():
            if service not in self._served:
                self._listen(service, port)

    def _listen(self, service: str, port: int) -> None:
        try:
            self._web.listen(service, None, port, lambda _: self._answer(service))
        except OSError as error:
            if self.failed.get(service) != port:
                log.warning(
                    "Service %s: cannot listen on healthCheckNodePort %d: %s; "
                    "if kube-proxy does, all is well",
                    service,
                    port,
                    (error.strerror or str(error)).lower(),
                )
            self.failed[service] = port
        else:
            self._served[service] = port
            with suppress(KeyError):
                del self.failed[service]

    def _answer(self, service: str) -> Answer:
        namespace, _, name = service.partition("/")
        found = self._wanted.get(service)
        count = found.endpoints if found else 0
        healthy = self._healthy()
        body = (
            "{\n"
            '\t"service": {\n'
            f'\t\t"namespace": {json.dumps(namespace)},\n'
            f'\t\t"name": {json.dumps(name)}\n'
            "\t},\n"
            f'\t"localEndpoints": {count},\n'
            f'\t"serviceProxyHealthy": {json.dumps(healthy)}\n'
            "}"
        )
        headers = {
            "Content-Type": "application/json",
            "X-Content-Type-Options": "nosniff",
            "X-Load-Balancing-Endpoint-Weight": str(count),
        }
        return Answer(200 if count and healthy else 503, body.encode(), headers)


def _is_listening(where: tuple[str, int]) -> bool:
    try:
        socket.create_connection(where, 0.2).close()
    except OSError:
        return False
    return True
