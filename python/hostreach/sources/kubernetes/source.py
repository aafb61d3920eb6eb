# SPDX-License-Identifier: Apache-2.0
"""The cluster as this node sees it: watched in threads, kept in a `State` by the one that polls."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec

from hostreach.syntax import quote

from . import objects
from .client import ApiClient, ApiError
from .intake import (
    ExemptPod,
    KubeService,
    Place,
    Problem,
    Slice,
    take_pod,
    take_service,
    take_slice,
)
from .news import Changed, Listed, Listing, News, Spoiled, Taken
from .patience import Backoff, Patience
from .services import Rules
from .state import Kind, State
from .telling import Resource
from .watch import Watcher, is_older, quote_line

log = logging.getLogger("hostreach.kubernetes")

_node = msgspec.json.Decoder(objects.Node)  # here, for threads: see watch.py

SERVICES = "/api/v1/services"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
PODS = "/api/v1/pods"
NODE_SECONDS = 60.0
"""How often, about, this node is read again for its zone and addresses."""
NO_ZONE_SECONDS = 2.0
"""And at first, while it has no zone: a cloud's controller gives it one soon after it has come."""
_NO_NODE = "no such Node, so no endpoint counts as local to it; pass --node-name"
_SERVED: tuple[Kind, ...] = ("Service", "EndpointSlice")
_AT_ONCE = 5000
"""News that one poll takes in, so that writing is not put off for ever."""


class NodeSeen(NamedTuple):
    """What matters of this node's object."""

    zone: str | None
    addresses: tuple[str, ...]


@dataclass
class Freshness:
    """How well the state is known.

    Attributes:
        synced: both lists were complete once.
        heard: when the last of both watches was last heard of, by time.monotonic(); 0 is never.
    """

    synced: bool
    connected: bool
    heard: float


class KubernetesSource:
    """Reads Services, EndpointSlices, this node and, if asked to, its pods.

    What it knows belongs to the thread that polls.

    Attributes:
        state: of services and slices.
        exempt_pods: pods of this node that are to see no service, by key.
        pods_changed: whether those may be others than before; whoever acts on it resets it.
    """

    def __init__(
        self,
        client: ApiClient,
        node: str,
        rules: Rules,
        patience: Patience = Patience(),  # noqa: B008 - immutable
        *,
        pods: bool = False,
    ) -> None:
        self.state = State(rules, time.time())
        self.exempt_pods: dict[str, ExemptPod] = {}
        self.pods_changed = False
        self._client = client
        self._place = Place(node)
        self._node_version = ""
        self._patience = patience
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._news: queue.Queue[News | NodeSeen] = queue.Queue(maxsize=10_000)
        self._seen: dict[Kind, set[str]] = {}
        self._listed: set[Kind] = set()
        self._logged: dict[tuple[Kind, str], tuple[Problem, ...]] = {}
        services = Resource(
            "Service",
            SERVICES,
            {"labelSelector": "!service.kubernetes.io/service-proxy-name"},
            objects.Service,
            take_service,
            {"fieldSelector": "spec.clusterIP!=None"},  # known since Kubernetes 1.31
        )
        slices = Resource(
            "EndpointSlice",
            SLICES,
            {"labelSelector": "!service.kubernetes.io/headless"},
            objects.EndpointSlice,
            self._take_slice,
        )
        on_node = {"fieldSelector": f"spec.nodeName={node}"}
        resources = [services, slices]
        if pods:
            resources.append(Resource("Pod", PODS, on_node, objects.Pod, take_pod))
        self.watchers: dict[Kind, Watcher] = {
            each.kind: Watcher(client, each, self._tell, self._stop, patience) for each in resources
        }

    def start(self) -> None:
        """Begin to read. The node comes first: what is local and near depends on it."""
        self._spawn(self.watchers["Service"].run)
        self._spawn(self._follow_node)
        if "Pod" in self.watchers:
            self._spawn(self.watchers["Pod"].run)

    def close(self, seconds: float = 1.0) -> None:
        """Stop reading; what is under way is broken off, and waited for no longer than that."""
        self._stop.set()
        deadline = time.monotonic() + seconds
        for thread in [*self._threads]:
            while thread.is_alive() and time.monotonic() < deadline:
                self._client.abort()  # again and again: one may be just connecting
                thread.join(0.02)
        self._client.close()

    def poll(self, timeout: float) -> bool:
        """Wait up to so many seconds for news, and take in what there is; False: there was none."""
        try:
            news = self._news.get(timeout=max(0.0, timeout))
            for _ in range(_AT_ONCE):
                self._take(news)
                news = self._news.get_nowait()
            self._take(news)
        except queue.Empty:
            pass
        else:
            return True
        return False

    @property
    def queued(self) -> int:
        """News that were not taken in yet."""
        return self._news.qsize()

    @property
    def freshness(self) -> Freshness:
        """See there; pods have no part in it."""
        states = [self.watchers[kind].state for kind in _SERVED]
        return Freshness(
            self._listed.issuperset(_SERVED),
            all(state.connected for state in states),
            min(state.heard for state in states),
        )

    @property
    def pods_known(self) -> bool:
        """Whether their list was complete once."""
        return "Pod" in self._listed

    def problems_to_log(self) -> list[str]:
        """A line for each object whose problems are new or other ones; each is given once."""
        now = dict(self.state.problems)
        lines = [
            f"{kind} {quote(key)[1:-1]}: {quote_line('; '.join(p.message for p in problems[:3]))}"
            for (kind, key), problems in now.items()
            if self._logged.get((kind, key)) != problems
        ]
        self._logged = now
        return lines

    # --- in the thread that polls ----------------------------------------------------------------

    def _take(self, news: News | NodeSeen) -> None:
        if isinstance(news, Changed):
            self._note(news.kind, news.key, here=news.value is not None)
            self._put(news.kind, news.key, news.value)
        elif isinstance(news, Spoiled):
            self._note(news.kind, news.key, here=True)
            if news.kind == "Pod":
                self._put_pod(news.key, None, (news.problem,))
            else:
                self.state.refuse(news.kind, news.key, news.problem)
        elif isinstance(news, Listing):
            self._seen[news.kind] = set()
        elif isinstance(news, Listed):
            self._complete(news.kind)
        else:
            self._node_seen(news)

    def _put(self, kind: Kind, key: str, value: Taken | None) -> None:
        if kind == "Service":
            assert value is None or isinstance(value, KubeService)
            self.state.put_service(key, value)
        elif kind == "EndpointSlice":
            assert value is None or isinstance(value, Slice)
            self.state.put_slice(key, value)
        else:
            assert value is None or isinstance(value, ExemptPod)
            self._put_pod(key, value)

    def _put_pod(self, key: str, pod: ExemptPod | None, problems: tuple[Problem, ...] = ()) -> None:
        self.state.report("Pod", key, problems)
        before = self.exempt_pods.pop(key, None)
        if pod is not None:
            self.exempt_pods[key] = pod
        self.pods_changed |= pod != before

    def _note(self, kind: Kind, key: str, *, here: bool) -> None:
        if (seen := self._seen.get(kind)) is not None:
            seen.add(key) if here else seen.discard(key)

    def _complete(self, kind: Kind) -> None:
        """Forget what a whole list did not name."""
        seen = self._seen.pop(kind, set())
        known = self.state.keys(kind) if kind in _SERVED else self._pods()
        for key in known:
            if key not in seen:
                self._put(kind, key, None)
        self._listed.add(kind)
        self.pods_changed |= kind == "Pod"

    def _pods(self) -> list[str]:
        refused = [key for kind, key in self.state.problems if kind == "Pod"]
        return [*self.exempt_pods, *refused]

    def _node_seen(self, node: NodeSeen) -> None:
        if node.zone != self._place.zone:
            log.info("this node is in zone %s", node.zone or "unknown")
            self._place = self._place._replace(zone=node.zone)
            self.watchers["EndpointSlice"].relist()
        if node.addresses and node.addresses != self.state.rules.host_addresses:
            self.state.rules = replace(self.state.rules, host_addresses=node.addresses)
            self.state.touch_all()

    # --- in threads of their own -----------------------------------------------------------------

    def _spawn(self, target: Any) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _tell(self, news: News | NodeSeen) -> None:
        """Wait while too much is waiting: whoever sends it then waits too."""
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._news.put(news, timeout=0.2)
                return

    def _take_slice(self, piece: objects.EndpointSlice) -> Slice | None:
        return take_slice(piece, self._place)

    def _follow_node(self) -> None:
        started, told = False, ""
        backoff = Backoff(self._patience)
        without_zone = Backoff(Patience(first=NO_ZONE_SECONDS, longest=2 * NODE_SECONDS))
        while not self._stop.is_set():
            delay = NODE_SECONDS * random.uniform(0.8, 1.2)
            try:
                seen = self._read_node()
                if seen.zone is None:
                    delay = min(delay, without_zone.take())
                if not started:  # then the first slices are read rightly
                    self._place = self._place._replace(zone=seen.zone)
                self._tell(seen)
                told = ""
            except Exception as error:
                # Whatever it is: without this thread nobody would ever watch slices.
                known = isinstance(error, (ApiError, msgspec.DecodeError))
                code = error.code if isinstance(error, ApiError) else 0
                text = _NO_NODE if code == 404 else str(error)
                if text != told:
                    log.warning(
                        "node %s: %s",
                        self._place.node,
                        quote_line(text),
                        exc_info=None if known else error,
                    )
                told = text
                if not started and code not in (403, 404):
                    after = error.retry_after if isinstance(error, ApiError) else None
                    self._stop.wait(backoff.take(after))
                    continue
            if not started:
                started = True
                self._spawn(self.watchers["EndpointSlice"].run)
            # One that is not there may be just coming, as its kubelet registers it.
            self._stop.wait(backoff.take() if told == _NO_NODE else delay)

    def _read_node(self) -> NodeSeen:
        """From the server's cache, unless that is behind what was seen of another one's before."""
        path = f"/api/v1/nodes/{self._place.node}"
        node = _node.decode(self._client.get(path, {"resourceVersion": "0"}))
        if is_older(node.metadata.resource_version, self._node_version):
            node = _node.decode(self._client.get(path, {}))
        self._node_version = node.metadata.resource_version
        labels = node.metadata.labels
        given = (node.status and node.status.addresses) or []
        addresses = [a.address for a in given if a.type in ("InternalIP", "ExternalIP")]
        return NodeSeen(labels.zone if labels else None, tuple(addresses))
