# SPDX-License-Identifier: Apache-2.0
"""What the agent counts, and what it knows when it is asked, for Prometheus.

A counter's labels are all there from the beginning, where they are known: of what is first told
when it is 1, nobody sees that it rose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hostreach import errors
from hostreach._version import __version__
from hostreach.checks import Kind

from .checks.runner import Result
from .web import Answer

_SYNC = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PROGRAMMING = (
    *(0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, *map(float, range(1, 60))),
    *map(float, range(60, 120, 5)),
    *map(float, range(120, 330, 30)),
)
"""kube-proxy's, and some below: there is more to tell there."""

Samples = Callable[[], Iterator[Metric]]


class Exported:
    """What is told to those who ask, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)

    def ask(self, samples: Samples) -> None:
        """Let these be told too, each time that somebody asks."""
        self.registry.register(_Asked(samples))

    def answer(self) -> Answer:
        """As Prometheus reads it."""
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Answer(200, generate_latest(self.registry), {"Content-Type": kind})


class Metrics(Exported):
    """Of an agent that writes."""

    def __init__(self) -> None:
        super().__init__()
        make = {"registry": self.registry, "namespace": "hostreach"}
        self.sync = Histogram(
            "sync_duration_seconds",
            "From changes that were taken in to the tables that hold them",
            buckets=_SYNC,
            **make,  # type: ignore[arg-type]
        )
        self.failures = Counter(
            "sync_failures",
            "Syncs that failed, and were tried again",
            ["error"],
            **make,  # type: ignore[arg-type]
        )
        for error in errors.__all__:
            self.failures.labels(error)
        self.writes = Counter(
            "table_writes",
            "Services written to the tables",
            ["action"],
            **make,  # type: ignore[arg-type]
        )
        for action in ("put", "remove"):
            self.writes.labels(action)


def programming(registry: CollectorRegistry) -> Histogram:
    """How long a cluster's changes take to get here."""
    return Histogram(
        "network_programming_duration_seconds",
        "From an EndpointSlice's last change to the tables that hold it",
        buckets=_PROGRAMMING,
        registry=registry,
        namespace="hostreach",
    )


class CheckMetrics:
    """Of health checks; called with each one's kind, what it came to, and seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._results = Counter(
            "check_results",
            "Health checks, by what they came to; not-done is for want of something on this node",
            ["kind", "result"],
            registry=registry,
            namespace="hostreach",
        )
        for kind in get_args(Kind):
            for result in get_args(Result):
                self._results.labels(kind, result)
        self._seconds = Histogram(
            "check_duration_seconds",
            "Of a health check",
            ["kind"],
            buckets=_SYNC,
            registry=registry,
            namespace="hostreach",
        )

    def __call__(self, kind: str, result: str, seconds: float) -> None:
        self._results.labels(kind, result).inc()
        self._seconds.labels(kind).observe(seconds)


class _Asked(Collector):
    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def describe(self) -> list[Metric]:
        """Nothing: it would have to be collected first."""
        return []

    def collect(self) -> Iterator[Metric]:
        return self._samples()


def gauge(name: str, text: str, value: float) -> Metric:
    """One value."""
    return GaugeMetricFamily(f"hostreach_{name}", text, value=value)


def gauges(
    name: str, text: str, labels: tuple[str, ...], values: dict[tuple[str, ...], float]
) -> Metric:
    """A value for each combination of labels."""
    family = GaugeMetricFamily(f"hostreach_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def counters(
    name: str, text: str, labels: tuple[str, ...], values: dict[tuple[str, ...], float]
) -> Metric:
    """The same for what only rises."""
    family = CounterMetricFamily(f"hostreach_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def version() -> Metric:
    """Which hostreach this is."""
    return gauges("build_info", "Always 1", ("version",), {(__version__,): 1.0})
