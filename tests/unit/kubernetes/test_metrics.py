# SPDX-License-Identifier: Apache-2.0
"""What an agent counts by kinds and reasons is told from the beginning, as 0.

Else rate() and increase() would not see the first of each: for the first failure it is most wanted.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric

from hostreach.agent import samples
from hostreach.agent.metrics import CheckMetrics, Exported, Metrics
from hostreach.errors import TableBusy
from hostreach.sources.kubernetes.client import ApiError
from hostreach.sources.kubernetes.patience import Patience
from hostreach.sources.kubernetes.watch import Watcher


def lines(exported: Exported) -> list[str]:
    return exported.answer().body.decode().splitlines()


def watcher(kind: str = "Service") -> Watcher:
    resource: Any = SimpleNamespace(
        kind=kind, path="/api/v1/services", params={}, spares={}, type=dict
    )
    client: Any = None
    return Watcher(client, resource, lambda _: None, threading.Event(), Patience())


def test_failed_syncs() -> None:
    metrics = Metrics()
    assert 'hostreach_sync_failures_total{error="TableBusy"} 0.0' in lines(metrics)
    assert 'hostreach_sync_failures_total{error="KernelError"} 0.0' in lines(metrics)
    metrics.failures.labels(type(TableBusy("no")).__name__).inc()
    assert 'hostreach_sync_failures_total{error="TableBusy"} 1.0' in lines(metrics)


@pytest.mark.parametrize("kind", ["tcp", "http", "dns"])
@pytest.mark.parametrize("result", ["pass", "fail", "not-done"])
def test_checks(kind: str, result: str) -> None:
    exported = Exported()
    told = CheckMetrics(exported.registry)
    name = f'hostreach_check_results_total{{kind="{kind}",result="{result}"}}'
    assert f"{name} 0.0" in lines(exported)
    told(kind, result, 0.1)
    assert f"{name} 1.0" in lines(exported)


def restarts(*watchers: Watcher) -> dict[tuple[str, str], float]:
    kinds = ("Service", "EndpointSlice")
    agent: Any = SimpleNamespace(
        source=SimpleNamespace(
            state=SimpleNamespace(counts=(0, 0), pending=0, ranged=(), problems={}),
            queued=0,
            watchers=dict(zip(kinds, watchers, strict=False)),
        ),
        pods=None,
        health=SimpleNamespace(failed={}),
    )
    found: dict[str, Metric] = {each.name: each for each in samples.cluster_samples(agent)}
    told = found["hostreach_watch_restarts"].samples
    return {(each.labels["kind"], each.labels["reason"]): each.value for each in told}


def test_watches_that_end() -> None:
    first, second = watcher(), watcher("EndpointSlice")
    told = restarts(first, second)
    assert {*told.values()} == {0}
    assert len(told) == 2 * len(samples.RESTARTS)
    first.state.restarts["expired"] += 1
    assert restarts(first, second)["Service", "expired"] == 1
    assert restarts(first, second)["EndpointSlice", "expired"] == 0


def test_no_other_reason_is_told() -> None:
    """What a server's answers are counted as."""
    told = watcher()
    for code in (0, 400, 401, 403, 404, 410, 418, 422, 429, 500, 503, 504):
        told._failed(ApiError(code, "no"))
    assert told.state.restarts.keys() <= {*samples.RESTARTS}
    assert len(told.state.restarts) >= 6
