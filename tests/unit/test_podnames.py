# SPDX-License-Identifier: Apache-2.0
"""From a cgroup's path to a pod's name, as kubelets lay both out."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostreach.podnames import PodNames, uid_of

UID = "6a1b2c3d-1111-2222-3333-444455556666"
SYSTEMD = UID.replace("-", "_")
SLICES = "/kubepods.slice/kubepods-besteffort.slice"


@pytest.mark.parametrize(
    ("cgroup", "uid"),
    [
        (f"/kubepods/burstable/pod{UID}/0123abcd", UID),
        (f"/kubepods/pod{UID}", UID),
        (f"{SLICES}/kubepods-besteffort-pod{SYSTEMD}.slice/cri-containerd-0123abcd.scope", UID),
        (f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SYSTEMD}.slice", UID),
        ("/system.slice/podman.service", None),
        ("/user.slice/user-0.slice", None),
        ("/", None),
    ],
)
def test_uid(cgroup: str, uid: str | None) -> None:
    assert uid_of(cgroup) == uid


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pods that come later too, once it is looked again."""
    names = PodNames(str(tmp_path))
    assert names.name(UID) is None
    (tmp_path / f"shop_web-5d9c7_{UID}").mkdir()
    (tmp_path / "lost+found").mkdir()
    assert names.name(UID) is None
    monkeypatch.setattr("hostreach.podnames.LOOK_AGAIN", 0)
    assert names.name(UID) == "shop/web-5d9c7"


def test_no_kubelet(tmp_path: Path) -> None:
    assert PodNames(str(tmp_path / "none")).name(UID) is None
