# SPDX-License-Identifier: Apache-2.0
"""Which pods are to see no service, and where their cgroups are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from kube.objects import pod, taken_pod

from hostreach.agent.pods import PodExemptions, pod_cgroups
from hostreach.errors import InvalidInput
from hostreach.exempt import Exemptions
from hostreach.sources.kubernetes.intake import ExemptPod
from hostreach.testing import MemoryTable

UID = "0f9d3c1e-7c0b-4d5e-9a51-2f8f4f0c8a11"
SLICE = UID.replace("-", "_")


def test_a_pod_that_asks_for_it() -> None:
    found = taken_pod(pod("web-0", uid=UID))
    assert found is not None
    assert found == ("default/web-0", UID)


@pytest.mark.parametrize("said", [None, "false"])
def test_a_pod_that_does_not(said: str | None) -> None:
    assert taken_pod(pod(uid=UID, exempt=said)) is None


@pytest.mark.parametrize(
    ("phase", "exempt"),
    [
        ("Pending", True),
        ("Running", True),
        ("Unknown", True),
        ("Succeeded", False),
        ("Failed", False),
    ],
)
def test_for_as_long_as_it_may_run(phase: str, exempt: bool) -> None:
    assert (taken_pod(pod(uid=UID, phase=phase)) is not None) == exempt


@pytest.mark.parametrize("said", ["True", "yes", "", "1", "true\n"])
def test_what_the_annotation_cannot_say(said: str) -> None:
    with pytest.raises(InvalidInput, match=r'hostreach\.io/exempt is "true" or "false"') as caught:
        taken_pod(pod(uid=UID, exempt=said))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("uid", ["", "../../x", "a" * 65, "0f9d3c1e/7c0b"])
def test_what_is_no_uid(uid: str) -> None:
    with pytest.raises(InvalidInput, match="is no uid"):
        taken_pod(pod(uid=uid))


def test_a_static_pod_is_known_by_its_files_hash() -> None:
    """The API gives its mirror another uid than the kubelet names the cgroup by."""
    mirror = {"kubernetes.io/config.mirror": "b1946ac92492d2347c6235b4d2611184"}
    found = taken_pod(pod(uid=UID, **mirror))
    assert found is not None
    assert found.uid == "b1946ac92492d2347c6235b4d2611184"


@pytest.mark.parametrize("said", ["6d1d9b1e-1111-4d5e-9a51-2f8f4f0c8a11", "", "../x", "a" * 64])
def test_a_mirror_cannot_name_another_pod(said: str) -> None:
    """Whoever may make a pod may write that annotation."""
    found = taken_pod(pod(uid=UID, **{"kubernetes.io/config.mirror": said}))
    assert found is not None
    assert found.uid == UID


@pytest.mark.parametrize(
    "path",
    [
        f"kubepods/pod{UID}",
        f"kubepods/burstable/pod{UID}",
        f"kubepods/besteffort/pod{UID}",
        f"kubepods.slice/kubepods-pod{SLICE}.slice",
        f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE}.slice",
        f"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SLICE}.slice",
        f"kubelet/kubepods/besteffort/pod{UID}",
        f"custom/root/kubepods/burstable/pod{UID}",
    ],
)
def test_where_a_pods_cgroup_is(tmp_path: Path, path: str) -> None:
    """By either driver, in any class, below a root of the kubelet's own."""
    (tmp_path / path / "cri-containerd-1234.scope").mkdir(parents=True)
    (tmp_path / "system.slice" / f"pod{UID}").mkdir(parents=True)  # somebody's joke
    (tmp_path / "kubepods" / "burstable").mkdir(parents=True, exist_ok=True)
    (tmp_path / "kubepods" / f"pod{UID}.txt").write_text("no cgroup")
    (tmp_path / "link").symlink_to(tmp_path)
    assert [*pod_cgroups(str(tmp_path))] == [(UID, str(tmp_path / path))]


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    assert not [*pod_cgroups(str(tmp_path / "nowhere"))]


def test_nobody_else_writes_which_exemptions_are_ours(tmp_path: Path) -> None:
    """Whatever the umask: the agent takes back what stands there."""
    cgroup = tmp_path / "kubepods" / "pod12345678"
    cgroup.mkdir(parents=True)
    notes = tmp_path / "run" / "exempt.json"
    exemptions = PodExemptions(Exemptions(MemoryTable()), str(tmp_path), notes)
    before = os.umask(0)
    try:
        exemptions.follow([ExemptPod("default/web", "12345678")], complete=True)
        exemptions.look()
    finally:
        os.umask(before)
    assert json.loads(notes.read_text()) == {"12345678": str(cgroup)}
    assert notes.stat().st_mode & 0o777 == 0o644
