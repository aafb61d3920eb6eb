# SPDX-License-Identifier: Apache-2.0
"""The chart, as helm renders it, and what is made from it.

helm comes by `scripts/fetch-helm`. Where it is missing these tests are skipped, but never where
HOSTREACH_NO_SKIP=1 or HOSTREACH_RELEASE=1 says that all must run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hostreach.agent import cleanup
from hostreach.agent.settings import parse_listen, parse_node_ports, parse_window
from hostreach.errors import InvalidInput
from hostreach.sources.kubernetes.config import connection

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/hostreach"


@pytest.fixture(scope="session")
def helm() -> str:
    found = shutil.which("helm") or str(ROOT / "build/tools/helm")
    if not Path(found).exists():
        if "1" in (os.environ.get("HOSTREACH_NO_SKIP"), os.environ.get("HOSTREACH_RELEASE")):
            pytest.fail("there is no helm here, and a release must have been rendered by it")
        pytest.skip("there is no helm here: run scripts/fetch-helm")
    return found


def run(helm: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm, *arguments], capture_output=True, text=True, check=False)


def rendered(helm: str, *options: str) -> dict[str, Any]:
    """Objects by kind and name."""
    done = run(helm, "template", "hostreach", str(CHART), "--namespace", "kube-system", *options)
    assert done.returncode == 0, done.stderr
    found = [each for each in yaml.safe_load_all(done.stdout) if each]
    by_name = {f"{each['kind']}/{each['metadata']['name']}": each for each in found}
    assert len(by_name) == len(found)
    return by_name


def pod(objects: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = objects["DaemonSet/hostreach"]["spec"]["template"]["spec"]
    return found


def arguments(objects: dict[str, Any]) -> list[str]:
    found: list[str] = pod(objects)["containers"][0]["args"]
    return found


def waiter(objects: dict[str, Any]) -> dict[str, Any]:
    """The pod of the Job that `helm uninstall` waits for."""
    found: dict[str, Any] = objects["Job/hostreach-cleanup"]["spec"]["template"]["spec"]
    return found


def test_lint(helm: str) -> None:
    done = run(helm, "lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_of_the_manual(helm: str) -> None:
    """What is not there when it is created at once: anything that cleans up."""
    objects = rendered(helm)
    assert set(objects) == {
        "ServiceAccount/hostreach",
        "ClusterRole/hostreach",
        "ClusterRoleBinding/hostreach",
        "DaemonSet/hostreach",
    }
    for each in objects.values():
        if "namespace" in each["metadata"]:
            assert each["metadata"]["namespace"] == "kube-system"
        assert "annotations" not in each["metadata"]


def test_the_pod(helm: str) -> None:
    objects = rendered(helm)
    spec = pod(objects)
    assert spec["hostNetwork"]
    assert spec["hostPID"]
    assert spec["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["priorityClassName"] == "system-node-critical"
    assert objects["DaemonSet/hostreach"]["spec"]["template"]["metadata"]["labels"]["k8s-app"] == (
        "hostreach"
    )
    (container,) = spec["containers"]
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert not context["privileged"]
    assert context["capabilities"]["drop"] == ["ALL"]
    mounts = {each["name"]: each for each in container["volumeMounts"]}
    assert mounts["bpffs"]["mountPropagation"] == "HostToContainer"
    assert {each["name"] for each in spec["volumes"]} == set(mounts)
    assert [each["name"] for each in spec["initContainers"]] == ["mount-bpffs"]
    assert "initContainers" not in pod(rendered(helm, "--set", "mountBpffs=false"))


@pytest.mark.parametrize("pods", [False, True])
def test_rights(helm: str, pods: bool) -> None:
    """Read-only; of nodes, one at a time; of pods, only if that is asked for."""
    objects = rendered(helm, "--set", f"podInfo.enabled={str(pods).lower()}")
    rules = objects["ClusterRole/hostreach"]["rules"]
    found = {resource: rule["verbs"] for rule in rules for resource in rule["resources"]}
    expected = {
        "services": ["list", "watch"],
        "endpointslices": ["list", "watch"],
        "nodes": ["get"],
    }
    assert found == (expected | {"pods": ["list", "watch"]} if pods else expected)
    assert ("--pod-info" in arguments(objects)) == pods


@pytest.mark.parametrize(
    ("options", "protocols"),
    [
        ((), "tcp,udp"),
        (("--set", "hostServices.protocols=tcp"), "tcp"),
        (("--set", "hostServices.protocols=tcp\\,udp"), "tcp,udp"),
        (("--set", "hostServices.protocols={udp,tcp}"), "udp,tcp"),
        (("--set", "global.hostServices.protocols=udp"), "udp"),
        (
            ("--set", "hostServices.protocols=tcp", "--set", "global.hostServices.protocols={udp}"),
            "udp",
        ),
    ],
)
def test_protocols(helm: str, options: tuple[str, ...], protocols: str) -> None:
    assert f"--protocols={protocols}" in arguments(rendered(helm, *options))


@pytest.mark.parametrize(
    ("options", "enabled"),
    [
        (("--set", "hostServices.enabled=true"), True),
        (("--set", "hostServices.enabled=false"), False),
        (("--set", "global.hostServices.enabled=true"), True),
        (("--set", "global.hostServices.enabled=false"), False),
        (
            ("--set", "hostServices.enabled=false", "--set", "global.hostServices.enabled=true"),
            True,
        ),
    ],
)
def test_enabled(helm: str, options: tuple[str, ...], enabled: bool) -> None:
    assert ("DaemonSet/hostreach" in rendered(helm, *options)) == enabled
    if not enabled:
        assert not rendered(helm, *options)


def test_switched_off_cleans_up(helm: str) -> None:
    """No hook runs after an upgrade: so it is a part of the release then."""
    off = ("--set", "hostServices.enabled=false", "--set", "cleanup.render=always")
    objects = rendered(helm, *off)
    assert [*objects] == ["DaemonSet/hostreach-cleanup"]
    only = objects["DaemonSet/hostreach-cleanup"]
    assert "annotations" not in only["metadata"]
    with_hooks = rendered(helm, "--set", "cleanup.render=always")["DaemonSet/hostreach-cleanup"]
    assert only["spec"] == with_hooks["spec"]


@pytest.mark.parametrize(
    ("host", "policy"),
    [
        ("", "ClusterFirstWithHostNet"),
        ("192.0.2.1", "ClusterFirstWithHostNet"),
        ("2001:db8::1", "ClusterFirstWithHostNet"),
        ("api.example", "Default"),
    ],
)
def test_who_resolves_the_api_servers_name(helm: str, host: str, policy: str) -> None:
    """Not the cluster's own DNS, which is a service: there is none before the agent has begun."""
    assert pod(rendered(helm, "--set", f"k8sServiceHost={host}"))["dnsPolicy"] == policy


@pytest.mark.parametrize("name", ["hostreach", "hostreach-cleanup"])
def test_profiles_of_unprivileged_containers_are_not_for_us(helm: str, name: str) -> None:
    """They deny bpffs, and other pods' network namespaces."""

    def found(version: str, *options: str) -> tuple[dict[str, Any], dict[str, str]]:
        always = ("--set", "cleanup.render=always", "--kube-version", version)
        template = rendered(helm, *always, *options)[f"DaemonSet/{name}"]["spec"]["template"]
        spec = template["spec"]
        first = (spec["initContainers"] if name != "hostreach" else spec["containers"])[0]
        return first["securityContext"], template["metadata"].get("annotations", {})

    context, annotations = found("1.30.0")
    assert context["appArmorProfile"] == {"type": "Unconfined"}
    assert context["seLinuxOptions"] == {"type": "spc_t", "level": "s0"}
    assert not annotations
    context, annotations = found("1.29.4")
    assert "appArmorProfile" not in context
    (profile,) = annotations.items()
    container = "hostreach" if name == "hostreach" else "detach"
    assert profile == (
        f"container.apparmor.security.beta.kubernetes.io/{container}",
        "unconfined",
    )
    context, annotations = found("1.29.4", "--set", "appArmorProfile=,seLinuxOptions=null")
    assert not {"appArmorProfile", "seLinuxOptions"} & {*context}
    assert not annotations


def test_probes_go_where_the_agent_listens(helm: str) -> None:
    for address, asked in (("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("192.0.2.7", "192.0.2.7")):
        (container,) = pod(rendered(helm, "--set", f"metrics.address={address}"))["containers"]
        assert container["livenessProbe"]["httpGet"]["host"] == asked


def test_where_the_api_server_is(helm: str) -> None:
    assert not [each for each in arguments(rendered(helm)) if each.startswith("--api-server")]
    for host, url in (("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "[2001:db8::1]")):
        options = ("--set", f"k8sServiceHost={host}", "--set", "k8sServicePort=7443")
        assert f"--api-server=https://{url}:7443" in arguments(rendered(helm, *options))


def test_every_option_is_one_that_its_command_knows(helm: str) -> None:
    """With all that the chart can say: the agent's, and those of what waits for the nodes."""
    values = {
        "k8sServiceHost": "192.0.2.1",
        "k8sServerName": "api.example",
        "tables.maxServices": "1000",
        "tables.maxBackends": "2000",
        "tables.maxSlots": "3000",
        "nodePorts": "false",
        "externalIPs": "false",
        "healthCheckNodePorts": "false",
        "protectBinds": "true",
        "detachOnExit": "true",
        "podInfo.enabled": "true",
        "cleanup.render": "always",
        "cleanup.seconds": "90",
    }
    options = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    from hostreach.cli.agent import kubernetes

    annotations = re.sub(r"_", "-", " ".join(kubernetes.__annotations__))
    known = {f"--{each}" for each in annotations.split()} | {"--context"}
    objects = rendered(helm, *options)
    asked = arguments(objects)
    assert asked[:2] == ["agent", "kubernetes"]
    for each in asked[2:]:
        assert each.partition("=")[0].replace("--no-", "--") in known, each

    (container,) = waiter(objects)["containers"]
    assert container["command"] == ["python3", "-m", cleanup.__name__]
    chosen = cleanup.options(container["args"])
    assert (chosen.namespace, chosen.daemonset) == ("kube-system", "hostreach-cleanup")
    assert chosen.seconds == 90
    where = [each for each in asked if each.startswith("--api-server")]
    assert where == [
        f"--api-server={chosen.api_server}",
        f"--api-server-name={values['k8sServerName']}",
    ]
    assert chosen.api_server_name == values["k8sServerName"]


@pytest.mark.parametrize("cgroup", ["/sys/fs/cgroup/", "/sys/fs/cgroup/a.slice/b@1.service:"])
def test_cgroups_as_yaml_would_not_read_them(helm: str, cgroup: str) -> None:
    assert f"--cgroup={cgroup}" in arguments(rendered(helm, "--set", f"cgroup={cgroup}"))


def test_a_service_monitor(helm: str) -> None:
    objects = rendered(
        helm, "--set", "serviceMonitor.enabled=true", "--set", "metrics.address=0.0.0.0"
    )
    assert "ServiceMonitor/hostreach" in objects
    assert objects["Service/hostreach-metrics"]["spec"]["clusterIP"] == "None"
    assert "--listen=0.0.0.0:9879" in arguments(objects)
    assert pod(objects)["containers"][0]["livenessProbe"]["httpGet"]["host"] == "127.0.0.1"


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


@pytest.mark.parametrize(
    "bad",
    [
        "hostServices.protocols=sctp",
        "hostServices.protocols={tcp,tcp}",
        "hostServices.enabled=maybe",
        "podInfo.enabled=maybe",
        "log.level=loud",
        "pin=/var/lib/hostreach",
        "pin=/sys/fs/bpf/x; reboot",
        "cgroup=/sys/fs/cgroup/../../etc",
        "cgroup=/sys/fs/cgroups",
        "window=soon",
        "window=120m",
        "k8sServiceHost=https://192.0.2.1",
        "k8sServiceHost=192.0.2.1:6443",
        "k8sServicePort=0",
        "k8sServerName=https://api.example",
        "metrics.address=localhost",
        "metrics.address=[::1]",
        "metrics.port=0",
        "nodePortAddresses=node",
        "nodePortAddresses=192.0.2.1",
        "podLabels.k8s-app=other",
        "podLabels.helm\\.sh/chart=other",
        "serviceMonitor.labels.k8s-app=other",
        "cleanup.tolerations[0].operator=Exists",
        "unknown=1",
    ],
)
def test_values_that_cannot_be(helm: str, bad: str) -> None:
    done = run(helm, "template", "hostreach", str(CHART), "--set", bad)
    assert done.returncode
    assert bad.partition("=")[0].partition(".")[0] in done.stderr


@pytest.mark.parametrize(
    "good",
    [
        "k8sServiceHost=api.example",
        "k8sServiceHost=2001:db8::1",
        "k8sServerName=192.0.2.1",
        "metrics.address=::",
        "metrics.address=2001:db8::7",
        "nodePortAddresses=primary",
        "nodePortAddresses=192.0.2.0/24\\,2001:db8::/32",
        "window=1m",
        "podLabels.app=other",
        "serviceMonitor.labels.release=other",
    ],
)
def test_values_that_can_be(helm: str, good: str) -> None:
    assert "DaemonSet/hostreach" in rendered(helm, "--set", good)


def fits(schema: Any, text: str) -> bool:
    """Whether it takes ``text``, as far as our schema goes in what it says of texts."""
    whole = json.loads((CHART / "values.schema.json").read_text())
    checks: dict[str, Callable[[Any], bool]] = {
        "$ref": lambda name: fits(whole["definitions"][name.rpartition("/")[2]], text),
        "allOf": lambda parts: all(fits(part, text) for part in parts),
        "anyOf": lambda parts: any(fits(part, text) for part in parts),
        "enum": lambda values: text in values,
        "type": lambda name: name == "string",
        "pattern": lambda given: re.search(given.replace("$", r"\Z"), text) is not None,
    }
    return all(checks[key](value) for key, value in schema.items() if key != "$comment")


def value(*path: str) -> Any:
    found = json.loads((CHART / "values.schema.json").read_text())
    for key in path:
        found = found["properties"][key]
    return found


def takes(parse: Callable[[str], object], text: str) -> str | None:
    """What the agent has against it."""
    try:
        parse(text)
    except InvalidInput as error:
        return error.message
    return None


PARTS = (
    "::",
    ":",
    ".",
    "0",
    "1",
    "9",
    "00",
    "25",
    "255",
    "256",
    "aF",
    "12345",
    "1.2.3.4",
    "g",
    "%",
)
DURATIONS = ("0", "00", "1", "5", "59", "60", "61", "999", "ms", "s", "m", "h", "d", " ", "-", ".")


def made_of(*parts: str, most: int) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(parts), max_size=most).map("".join)


ADDRESSES = st.one_of(
    made_of(*PARTS, most=6),
    st.lists(st.sampled_from(("", "1", "Fe", "1.2.3.4")), min_size=2, max_size=10).map(":".join),
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda address: address.exploded),
)


@given(ADDRESSES)
def test_addresses_to_listen_on_are_the_agents(text: str) -> None:
    """But for those with an interface, where a kubelet could not ask."""
    at = f"[{text}]:9879" if ":" in text else f"{text}:9879"  # as the chart writes it
    wrong = takes(parse_listen, at)
    assert fits(value("metrics", "address"), text) == (wrong is None and "%" not in text)


PREFIXES = st.integers(0, 140).map(lambda bits: f"/{bits}") | st.sampled_from(
    ("", "/", "/08", "/-1")
)


@given(
    st.lists(st.tuples(ADDRESSES, PREFIXES).map("".join), max_size=3).map(",".join)
    | st.ip_addresses().map(lambda address: f"{address}/{address.max_prefixlen}")
    | st.sampled_from(("all", "primary", "none", "all,primary", "0.0.0.0/0,::/0", "::/0,", ",::/0"))
)
def test_networks_of_node_ports_are_the_agents(text: str) -> None:
    """As far as patterns can tell."""
    wrong = takes(parse_node_ports, text)
    if fits(value("nodePortAddresses"), text):
        beyond = r"bits set beyond its prefix| twice|IPv4 in IPv6 form"
        assert wrong is None or re.search(beyond, wrong)
    else:
        assert wrong is not None


@given(made_of(*DURATIONS, most=3) | st.integers(59_990, 60_010).map(lambda each: f"{each}ms"))
def test_windows_are_the_agents(text: str) -> None:
    assert fits(value("window"), text) == (takes(parse_window, text) is None)


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("", True),
        ("api", True),
        ("API.example.", True),
        ("control_plane.x-1.example", True),
        ("192.0.2.1", True),
        ("2001:db8::1", True),
        ("2001:db8::192.0.2.1", True),
        ("192.0.2.300", False),
        ("192.0.2", False),
        ("https://192.0.2.1", False),
        ("https://api.example", False),
        ("api.example:6443", False),
        ("api.example/x", False),
        ("[2001:db8::1]", False),
        ("fe80::1%eth0", False),
        ("2001:db8::1::", False),
        ("a b", False),
        ("-a.example", False),
        ("a..example", False),
    ],
)
def test_hosts(host: str, good: bool, tmp_path: Path) -> None:
    """An address or a name, and none that the agent would not find in the URL again."""
    for key in ("k8sServiceHost", "k8sServerName"):
        assert fits(value(key), host) == good
    if good and host:
        path = tmp_path / "config"
        path.write_text(
            "{current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}],"
            " users: [{name: u, user: {}}], clusters: [{name: c, cluster: {server: x}}]}"
        )
        url = f"https://[{host}]:6443" if ":" in host else f"https://{host}:6443"
        assert connection(str(path), None, url).server == url


def test_manifests_are_what_the_chart_makes(helm: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(helm).parent}:{os.environ['PATH']}"}
    script = ["bash", str(ROOT / "scripts/render-manifests"), str(tmp_path)]
    subprocess.run(script, env=environment, check=True)
    for name in ("hostreach.yaml", "cleanup.yaml"):
        made, kept = tmp_path / name, ROOT / "deploy/kubernetes" / name
        assert made.read_text() == kept.read_text(), "run scripts/render-manifests"


def test_manifests_without_helm() -> None:
    """What those without helm get says nothing of it, and cleans up only when that is asked for."""
    text = (ROOT / "deploy/kubernetes/hostreach.yaml").read_text()
    assert "helm" not in text.partition("\n---\n")[2].lower()
    kinds = [each["kind"] for each in yaml.safe_load_all(text) if each]
    assert kinds == ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "DaemonSet"]
    cleanup = (ROOT / "deploy/kubernetes/cleanup.yaml").read_text()
    (only,) = [each for each in yaml.safe_load_all(cleanup) if each]
    assert only["kind"] == "DaemonSet"
    assert "annotations" not in only["metadata"]


def test_versions_agree() -> None:
    from hostreach import __version__

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


def test_the_dashboard_asks_for_metrics_that_are_there() -> None:
    text = (ROOT / "deploy/grafana/hostreach.json").read_text()
    panels = json.loads(text)["panels"]
    asked = {
        name
        for each in panels
        for target in each["targets"]
        for name in re.findall(r"hostreach_\w+", target["expr"])
    }
    source = "".join(
        (ROOT / "python/hostreach/agent" / name).read_text()
        for name in ("metrics.py", "samples.py")
    )
    named = set(re.findall(r'"(\w+)"', source)) | {
        f"service_{n}" for n in ("translations", "refusals")
    }
    for name in asked:
        bare = re.sub(r"_(total|bucket|count)$", "", name.removeprefix("hostreach_"))
        assert bare in named, name


def dockerfile() -> list[str]:
    """Its instructions, each on one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "deploy/Dockerfile").read_text(), flags=re.MULTILINE)
    return text.replace("\\\n", "").splitlines()


def sent(path: str) -> bool:
    """Whether it is in the context of a build: the last rule that matches it, or a parent, says."""
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    found = True
    for line in patterns:
        pattern = PurePosixPath(line.removeprefix("!")).parts
        begin = PurePosixPath(path).parts[: len(pattern)]
        if not line or line.startswith("#") or len(begin) < len(pattern):
            continue
        if all(fnmatchcase(*both) for both in zip(begin, pattern, strict=True)):
            found = line.startswith("!")
    return found


def test_a_build_of_the_image_is_sent_wheels_alone() -> None:
    wheels = [
        "dist/hostreach-0.1.0-cp311-cp311-linux_x86_64.whl",
        "dist/release/hostreach-0.1.0-cp311-cp311-manylinux_2_28_x86_64.whl",
    ]
    assert [each for each in wheels if sent(each)] == wheels
    others = [each.name for each in ROOT.iterdir()]
    others += [
        "deploy/Dockerfile",
        "dist/hostreach-0.1.0.tar.gz",
        "build/tools/helm",
        ".git/config",
    ]
    assert not [each for each in others if sent(each)]
    # Whatever is copied is one of them, where the manual says that wheels are.
    (default,) = (line.partition("WHEEL=")[2] for line in dockerfile() if line.startswith("ARG "))
    manual = (ROOT / "docs/kubernetes.md").read_text()
    (other,) = re.findall(r"--build-arg WHEEL='([^']+)'", manual)
    for pattern, wheel in zip((default, other), wheels, strict=True):
        assert fnmatchcase(wheel, pattern)


@pytest.mark.parametrize("missing", ["", "hostreach._core", "lightkube", "httpx2", "pydantic"])
def test_the_image_is_checked_for_what_the_agent_loads(missing: str) -> None:
    (run,) = (line for line in dockerfile() if line.startswith("RUN"))
    (code,) = re.findall(r'python -c "([^"]+)"', run)
    hidden = f"import sys; sys.modules.update(dict.fromkeys({[missing] if missing else []}))"
    done = subprocess.run([sys.executable, "-c", f"{hidden}; {code}"], check=False)
    assert (done.returncode != 0) == bool(missing)


def test_the_image_is_checked_for_all_that_the_agent_loads() -> None:
    """Once that is there, the agent's own imports load nothing of other packages."""
    (run,) = (line for line in dockerfile() if line.startswith("RUN"))
    (code,) = re.findall(r'python -c "([^"]+)"', run)
    agent = (ROOT / "python/hostreach/cli/agent.py").read_text()
    body = agent.partition("def kubernetes(")[2].partition("\ndef ")[0]
    own = sorted({*re.findall(r"from (hostreach[\w.]*) import", body)})
    assert {"hostreach.agent.loop", "hostreach.sources.kubernetes.source"} <= {*own}
    later = "\n".join(
        (
            f"before = {{*sys.modules}}; import {', '.join(own)}",
            "after = {name.partition('.')[0] for name in {*sys.modules} - before}",
            "print(*after - {'hostreach', *sys.stdlib_module_names})",
        )
    )
    command = [sys.executable, "-c", f"import sys; {code}\n{later}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not done.stdout.split()
