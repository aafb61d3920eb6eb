# SPDX-License-Identifier: Apache-2.0
"""Tells Prometheus of an instance, and writes nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from prometheus_client.metrics_core import Metric

from hostreach.node import Node

from .busiest import Busiest
from .metrics import Exported, version
from .notify import Notifier
from .samples import table_samples
from .settings import ExporterSettings
from .web import Answer, WebServer

log = logging.getLogger("hostreach.agent")

TICK = 0.5
"""Seconds: how soon a signal or the watchdog is seen to."""


class Exporter:
    """What every agent tells of the tables, where none runs that writes them."""

    def __init__(self, node: Node, settings: ExporterSettings) -> None:
        self._node = node
        self._settings = settings
        busiest = Busiest(settings.metrics_services)
        self._exported = Exported()
        self._exported.ask(_version)
        self._exported.ask(lambda: table_samples(node, busiest))

    def run(self, stopped: Callable[[], bool]) -> None:
        """Until ``stopped``."""
        self._node.check_place()  # where one may come to be is waited for it
        web, notifier = WebServer(), Notifier()
        try:
            port = web.listen_at(self._settings.listen, self._answer)
            log.info("listening on %s port %d", self._settings.listen[0], port)
            notifier.ready("telling of the tables")
            while not stopped():
                notifier.alive()
                time.sleep(TICK)
        finally:
            notifier.stopping()
            web.close()

    def _answer(self, path: str) -> Answer | Callable[[], Answer]:
        if path == "/metrics":
            return self._exported.answer
        if path in ("/healthz", "/livez", "/readyz"):
            return Answer(200, b"ok\n")
        return Answer(404, b"there are /healthz, /readyz and /metrics\n")


def _version() -> Iterator[Metric]:
    yield version()
