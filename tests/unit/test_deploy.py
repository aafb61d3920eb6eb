# SPDX-License-Identifier: Apache-2.0
"""The chart, as helm renders it, and what is made from it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hostreach.agent import cleanup

from .chart import CHART, ROOT, arguments, pod, rendered, run, waiter


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
    (first,) = spec["initContainers"]
    assert first["name"] == "mount-bpffs"
    # Its default is 1777: somebody else could make the instance's directory first.
    assert first["args"][0].endswith("mount -t bpf -o mode=0700 bpf /sys/fs/bpf")
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
