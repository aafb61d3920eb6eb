# SPDX-License-Identifier: Apache-2.0
"""What cleans up after the agents, and when the chart has it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from hostreach.agent import cleanup

from .chart import CHART, rendered, run, waiter


def test_switched_off_cleans_up(helm: str) -> None:
    """No hook runs after an upgrade: so it is a part of the release then."""
    off = ("--set", "hostServices.enabled=false", "--set", "cleanup.render=always")
    objects = rendered(helm, *off)
    assert [*objects] == ["DaemonSet/hostreach-cleanup"]
    only = objects["DaemonSet/hostreach-cleanup"]
    assert "annotations" not in only["metadata"]
    with_hooks = rendered(helm, "--set", "cleanup.render=always")["DaemonSet/hostreach-cleanup"]
    assert only["spec"] == with_hooks["spec"]


def test_cleaning_up_comes_after_the_agents(helm: str) -> None:
    objects = rendered(helm, "--set", "cleanup.render=always")
    hooks = {
        name: each["metadata"]["annotations"]
        for name, each in objects.items()
        if "annotations" in each["metadata"]
    }
    assert {each["helm.sh/hook"] for each in hooks.values()} == {"post-delete"}
    weights = {name: int(each["helm.sh/hook-weight"]) for name, each in hooks.items()}
    assert max(weights, key=weights.__getitem__) == "Job/hostreach-cleanup"
    detach = objects["DaemonSet/hostreach-cleanup"]["spec"]["template"]["spec"]["initContainers"][0]
    assert "hostreach detach --purge" in detach["args"][0]
    assert not [name for name in rendered(helm, "--set", "cleanup.render=never") if "clean" in name]


def test_what_cleans_up_stays_until_it_is_done(helm: str) -> None:
    """It cleans up nodes later that are down when it ends: it is not helm that removes it."""
    objects = rendered(helm, "--set", "cleanup.render=always,cleanup.seconds=90")
    policies = {
        name: each["metadata"]["annotations"]["helm.sh/hook-delete-policy"].split(",")
        for name, each in objects.items()
        if "annotations" in each["metadata"]
    }
    assert policies.pop("DaemonSet/hostreach-cleanup") == ["before-hook-creation"]
    assert "hook-failed" not in policies.pop("Job/hostreach-cleanup")
    assert {*policies} == {
        f"{kind}/hostreach-cleanup" for kind in ("ServiceAccount", "Role", "RoleBinding")
    }
    assert all("hook-succeeded" in each for each in policies.values())
    assert objects["Role/hostreach-cleanup"]["rules"] == [
        {
            "apiGroups": ["apps"],
            "resources": ["daemonsets"],
            "resourceNames": ["hostreach-cleanup"],
            "verbs": ["get", "delete"],
        },
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    ]
    assert not [name for name in objects if name.startswith("Cluster") and "cleanup" in name]
    # What waits ends by itself, and says what is left, before it is ended.
    limit = objects["Job/hostreach-cleanup"]["spec"]["activeDeadlineSeconds"]
    assert limit > 90 + cleanup.PATIENCE + cleanup.IDLE


@pytest.fixture
def cluster() -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """As much of an API server as a template asks for: its URL, what it has, and what was asked."""
    asked: list[str] = []
    kinds = {"v1": ("namespaces", "Namespace"), "apps/v1": ("daemonsets", "DaemonSet")}
    there: dict[str, Any] = {
        "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "groups": [
                {"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}]}
            ],
        },
    }
    for group, (name, kind) in kinds.items():
        resource = {"name": name, "kind": kind, "namespaced": kind != "Namespace", "verbs": ["get"]}
        listed = {"kind": "APIResourceList", "groupVersion": group, "resources": [resource]}
        there[f"/apis/{group}" if "/" in group else f"/api/{group}"] = listed

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path.partition("?")[0])
            found = there.get(asked[-1])
            missing = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(missing if found is None else found).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", there, asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("annotations", "refused"),
    [
        ({"helm.sh/hook": "post-delete"}, True),
        (None, True),
        ({"meta.helm.sh/release-name": "hostreach"}, False),
    ],
)
def test_nothing_is_installed_beside_a_cleanup(
    helm: str,
    cluster: tuple[str, dict[str, Any], list[str]],
    annotations: dict[str, str] | None,
    refused: bool,
) -> None:
    """It would take the tables away when an agent is restarted; a release's own goes with that."""
    url, there, asked = cluster
    metadata: dict[str, Any] = {"name": "hostreach-cleanup", "namespace": "kube-system"}
    metadata |= {"annotations": annotations} if annotations else {}
    path = "/apis/apps/v1/namespaces/kube-system/daemonsets/hostreach-cleanup"
    there[path] = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata}
    command = ("template", "hostreach", str(CHART), "--namespace", "kube-system")
    server = ("--dry-run=server", "--kubeconfig", os.devnull, "--kube-apiserver", url)
    done = run(helm, *command, *server)
    wrong = (
        "a cleanup is not done: wait for it, or kubectl --namespace kube-system delete daemonset"
    )
    assert (wrong in done.stderr) == refused, done.stderr
    assert path in asked


def test_what_waits_is_not_for_nodes_that_are_down(helm: str) -> None:
    """It tolerates what has a name, and none of the taints that say how a node is."""
    control_plane = [
        {"key": f"node-role.kubernetes.io/{name}", "operator": "Exists"}
        for name in ("control-plane", "master")
    ]
    always = ("--set", "cleanup.render=always")
    assert waiter(rendered(helm, *always))["tolerations"] == control_plane
    pool = {"key": "pool", "operator": "Equal", "value": "a", "effect": "NoSchedule"}
    tolerated = [
        pool,
        {"operator": "Exists", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists"},
        {"key": "node.kubernetes.io/unschedulable", "operator": "Exists"},
        {"key": "node.cloudprovider.kubernetes.io/shutdown", "operator": "Exists"},
    ]
    chosen = ("--set-json", f"tolerations={json.dumps(tolerated)}")
    objects = rendered(helm, *always, *chosen)
    assert waiter(objects)["tolerations"] == [pool, *control_plane]
    for name in ("hostreach", "hostreach-cleanup"):
        spec = objects[f"DaemonSet/{name}"]["spec"]["template"]["spec"]
        assert spec["tolerations"] == tolerated
    none = ("--set", "cleanup.tolerations=null")
    assert waiter(rendered(helm, *always, *chosen, *none))["tolerations"] == [pool]
    assert "tolerations" not in waiter(rendered(helm, *always, *none))
