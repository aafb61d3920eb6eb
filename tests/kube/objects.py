# SPDX-License-Identifier: Apache-2.0
"""Services and EndpointSlices as the API has them: plain JSON values, with few words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from hostreach.sources.kubernetes import objects
from hostreach.sources.kubernetes.intake import (
    ExemptPod,
    KubeService,
    Place,
    Slice,
    take_pod,
    take_service,
    take_slice,
)

Json = dict[str, Any]

HERE = Place("node-a", "zone-a")
OLD, NEW = "2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z"


def metadata(name: str, namespace: str = "default", **more: Any) -> Json:
    return {"name": name, "namespace": namespace, "uid": f"uid-{namespace}-{name}", **more}


def port(number: int = 80, name: str = "", protocol: str = "TCP", **more: Any) -> Json:
    return {"port": number, "name": name, "protocol": protocol, **more}


def service(
    name: str = "web",
    *vips: str,
    namespace: str = "default",
    ports: Sequence[Json] | None = None,
    created: str = OLD,
    labels: Json | None = None,
    ingress: Sequence[Json] = (),
    **spec: Any,
) -> Json:
    """A ClusterIP service at ``vips`` (default: 10.96.0.10), port 80/tcp."""
    vips = vips or ("10.96.0.10",)
    body: Json = {
        "type": "ClusterIP",
        "clusterIP": vips[0],
        "clusterIPs": [*vips],
        "ports": [port()] if ports is None else [*ports],
        **spec,
    }
    made = metadata(name, namespace, creationTimestamp=created)
    if labels is not None:
        made["labels"] = labels
    found: Json = {"apiVersion": "v1", "kind": "Service", "metadata": made, "spec": body}
    found["status"] = {"loadBalancer": {"ingress": [*ingress]} if ingress else {}}
    return found


def endpoint(
    address: str,
    *,
    node: str | None = None,
    ready: bool | None = None,
    serving: bool | None = None,
    terminating: bool | None = None,
    zones: Sequence[str] = (),
    nodes: Sequence[str] = (),
    more: Sequence[str] = (),
) -> Json:
    """Conditions that are None are left out, as the API may."""
    said = {"ready": ready, "serving": serving, "terminating": terminating}
    hints: Json = {}
    if zones:
        hints["forZones"] = [{"name": zone} for zone in zones]
    if nodes:
        hints["forNodes"] = [{"name": each} for each in nodes]
    found: Json = {"addresses": [address, *more]}
    found["conditions"] = {key: value for key, value in said.items() if value is not None}
    if node is not None:
        found["nodeName"] = node
    if hints:
        found["hints"] = hints
    return found


def ready(address: str, **more: Any) -> Json:
    return endpoint(address, ready=True, serving=True, terminating=False, **more)


def unready(address: str, **more: Any) -> Json:
    return endpoint(address, ready=False, serving=False, terminating=False, **more)


def leaving(address: str, *, serving: bool = True, **more: Any) -> Json:
    return endpoint(address, ready=False, serving=serving, terminating=True, **more)


def piece(
    name: str = "web-1",
    *endpoints: Json | str,
    of: str | None = "web",
    namespace: str = "default",
    ports: Sequence[Json] | None = None,
    family: str | None = None,
    labels: Json | None = None,
    changed: str | None = None,
) -> Json:
    """An EndpointSlice; endpoints given as text are ready ones."""
    found = [ready(each) if isinstance(each, str) else each for each in endpoints]
    if family is None:
        first = found[0]["addresses"][0] if found and found[0]["addresses"] else ""
        family = "IPv6" if ":" in first else "IPv4"
    named = {} if of is None else {"kubernetes.io/service-name": of}
    made = metadata(name, namespace, labels={**named, **(labels or {})})
    if changed:
        made["annotations"] = {"endpoints.kubernetes.io/last-change-trigger-time": changed}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": made,
        "addressType": family,
        "endpoints": found or None,
        "ports": [port(8080)] if ports is None else [*ports],
    }


def pod(
    name: str = "web-0",
    *,
    uid: str | None = None,
    exempt: str | None = "true",
    phase: str = "Running",
    node: str = "node-a",
    namespace: str = "default",
    **annotations: str,
) -> Json:
    """With the annotation that exempts it, unless that is None."""
    said = {**annotations} if exempt is None else {"hostreach.io/exempt": exempt, **annotations}
    made = metadata(name, namespace, annotations=said)
    if uid is not None:
        made["uid"] = uid
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "none"}]}
    status = {"phase": phase, "podIPs": [{"ip": "10.244.0.7"}], "qosClass": "Burstable"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": made, "spec": spec, "status": status}


def taken_pod(value: Json) -> ExemptPod | None:
    return take_pod(msgspec.json.decode(json.dumps(value), type=objects.Pod))


def taken_service(value: Json) -> KubeService | None:
    """Through JSON, as it would come."""
    return take_service(msgspec.json.decode(json.dumps(value), type=objects.Service))


def taken_slice(value: Json, place: Place = HERE) -> Slice | None:
    return take_slice(msgspec.json.decode(json.dumps(value), type=objects.EndpointSlice), place)
