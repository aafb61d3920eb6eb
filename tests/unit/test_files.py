# SPDX-License-Identifier: Apache-2.0
"""Files that are followed: real ones, changed in the ways in which editors and kubelets do."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from hostreach.sources.file import load_entries
from hostreach.sources.files import Changes
from hostreach.sources.reader import Entry
from hostreach.sources.watching import Heard

from .followed import Followed, at, follow, is_whole, replace, services, text, write

# --- how files change --------------------------------------------------------------------------


def test_written_in_place(directory: Path, followed: Followed) -> None:
    (directory / "a.yaml").write_text(text(1, 4))
    assert services(followed.wait()) == {2: None, 4: "10.0.0.2:80"}


def test_replaced_by_a_rename(directory: Path, followed: Followed) -> None:
    replace(directory / "a.yaml", 1, backend="10.0.0.9:80")
    assert services(followed.wait()) == {1: "10.0.0.9:80", 2: None}


def test_the_same_again_changes_nothing(directory: Path, followed: Followed) -> None:
    replace(directory / "a.yaml", 1, 2)
    assert followed.hears_nothing()
    assert not followed.files.problems


def test_added_and_deleted(directory: Path, followed: Followed) -> None:
    (directory / "c.json").write_text('{"version": 1, "services": [{"frontend": "node:9/udp"}]}')
    assert [str(each) for each in followed.wait()] == ["node:9/udp"]
    (directory / "a.yaml").unlink()
    assert services(followed.wait()) == {1: None, 2: None}
    assert followed.files.count == 2


def test_renamed_file_keeps_its_services(directory: Path, followed: Followed) -> None:
    (directory / "a.yaml").rename(directory / "z.yaml")
    assert followed.hears_nothing()
    assert len(followed.files.entries) == 3
    (directory / "z.yaml").rename(directory / "z.yaml.off")
    assert services(followed.wait()) == {1: None, 2: None}


@pytest.mark.parametrize(
    "name", [".a.yaml.swp", "4913", "a.yaml~", "#a.yaml#", ".#a.yaml", "a.yaml.tmp", "sedXYZ"]
)
def test_what_editors_leave_is_no_file(directory: Path, followed: Followed, name: str) -> None:
    (directory / name).write_text("neither YAML: nor: services")
    assert followed.hears_nothing()
    assert followed.files.count == 2
    assert not followed.files.problems


def test_half_written_file_is_not_read(directory: Path, followed: Followed) -> None:
    """What is there of it is YAML already, and lacks a service."""
    whole = text(1, 2, 5)
    half = whole.index("- frontend: 10.96.0.2")
    with (directory / "a.yaml").open("w") as file:
        file.write(whole[:half])
        file.flush()
        (directory / "b.yaml").write_text(text(6))  # news of another one
        assert services(followed.wait()) == {3: None, 6: "10.0.0.2:80"}
        time.sleep(0.7)
        followed.files.look(Heard(everything=True))
        assert at(2) in followed.files.entries
        file.write(whole[half:])
    assert services(followed.wait()) == {5: "10.0.0.2:80"}


def test_a_configmap_is_turned_over(tmp_path: Path) -> None:
    """The kubelet renames one link, ..data, over the old one."""

    def version(number: int) -> None:
        inside = tmp_path / f"..2026_{number}"
        inside.mkdir()
        write(inside / "services.yaml", number)
        (tmp_path / "..new").symlink_to(inside.name)
        (tmp_path / "..new").rename(tmp_path / "..data")

    version(1)
    (tmp_path / "services.yaml").symlink_to("..data/services.yaml")
    for path in (tmp_path, tmp_path / "services.yaml"):
        followed = follow(path)
        number = len(list(tmp_path.glob("..2026*")))
        assert services(followed.first) == {number: "10.0.0.2:80"}
        version(number + 1)
        assert services(followed.wait()) == {number: None, number + 1: "10.0.0.2:80"}
        followed.files.close()


def test_a_link_to_a_file_elsewhere(tmp_path: Path, directory: Path) -> None:
    target = tmp_path / "elsewhere" / "real"
    target.parent.mkdir()
    write(target, 1)
    (directory / "a.yaml").symlink_to(target)
    followed = follow(directory)
    target.write_text(text(2))
    assert services(followed.wait()) == {1: None, 2: "10.0.0.2:80"}
    target.unlink()
    followed.wait(0.2)
    assert "a link that leads nowhere; what it said before" not in followed.files.problems[0]
    assert "leads nowhere" in followed.files.problems[0]
    assert followed.frontends == ["10.96.0.2:80/tcp"]
    followed.files.close()


def test_directories_that_appear_later(tmp_path: Path) -> None:
    path = tmp_path / "one" / "two" / "services.d"
    followed = follow(path)
    assert not is_whole(followed)
    assert "no such file or directory" in followed.files.problems[0]
    path.parent.mkdir(parents=True)
    elsewhere = tmp_path / "made"
    elsewhere.mkdir()
    write(elsewhere / "a.yaml", 1)
    elsewhere.rename(path)
    while not (found := followed.wait()):
        assert followed.files.problems
    assert services(found) == {1: "10.0.0.2:80"}
    assert is_whole(followed)
    followed.files.close()


def test_a_named_path_that_goes_takes_nothing_with_it(tmp_path: Path, directory: Path) -> None:
    """Who names a path means it to be there; an unmounted disk is no wish to serve nothing."""
    write(directory / "a.yaml", 1)
    single = tmp_path / "single.yaml"
    write(single, 2)
    followed = follow(directory, single)
    single.unlink()
    directory.rename(tmp_path / "away")
    deadline = time.monotonic() + 10
    while len(followed.files.problems) < 2 and time.monotonic() < deadline:
        followed.files.look(followed.files.tree.watching.hear())
    assert [line.partition(": ")[2] for line in followed.files.problems] == [
        "cannot be read: no such file or directory"
    ] * 2
    assert followed.frontends == ["10.96.0.1:80/tcp", "10.96.0.2:80/tcp"]
    assert followed.files.whole  # what they said is known
    (tmp_path / "away").rename(directory)
    write(single, 3)
    changed: Changes = {}
    while 3 not in services(changed) and time.monotonic() < deadline:
        changed.update(followed.files.look(followed.files.tree.watching.hear()))
    assert services(changed) == {2: None, 3: "10.0.0.2:80"}
    assert not followed.files.problems
    followed.files.close()


def test_no_file_at_all_is_no_wish(directory: Path) -> None:
    """Its disk may not be mounted yet."""
    followed = follow(directory)
    assert not followed.files.problems
    assert not is_whole(followed)
    write(directory / "a.yaml", 1)
    assert services(followed.wait()) == {1: "10.0.0.2:80"}
    assert is_whole(followed)
    (directory / "a.yaml").unlink()
    assert services(followed.wait()) == {1: None}
    assert followed.files.whole
    followed.files.close()


def test_a_file_elsewhere_says_nothing_of_a_directory_without(
    tmp_path: Path, directory: Path
) -> None:
    """The services that the tables have may be those of the disk that is not there."""
    other = tmp_path / "other"
    other.mkdir()
    write(directory / "a.yaml", 1)
    followed = follow(directory, other)
    assert followed.frontends == ["10.96.0.1:80/tcp"]
    assert not is_whole(followed)
    assert followed.files.empty == {str(other)}
    write(other / "b.yaml", 2)
    assert services(followed.wait()) == {2: "10.0.0.2:80"}
    assert is_whole(followed)
    assert not followed.files.empty
    (other / "b.yaml").unlink()  # it was there: somebody has removed it
    assert services(followed.wait()) == {2: None}
    assert followed.files.whole
    followed.files.close()


# --- whatever is done ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_after_any_edits_it_is_as_if_it_had_just_started(tmp_path: Path, seed: int) -> None:
    """But for files that are wrong, of which it still knows what they said."""
    chance = random.Random(seed)
    directory, aside = tmp_path / "services.d", tmp_path / "aside"
    directory.mkdir()
    followed = Followed(directory)
    names = [f"{letter}.yaml" for letter in "abcdef"]

    def edit() -> None:
        path = directory / chance.choice(names)
        numbers = chance.sample(range(1, 12), chance.randrange(4))
        match chance.randrange(8):
            case 0 | 1 if directory.exists():
                path.write_text(text(*numbers, backend=f"10.0.0.{chance.randrange(2, 9)}:80"))
            case 2 if directory.exists():
                replace(path, *numbers)
            case 3:
                path.unlink(missing_ok=True)
            case 4 if path.exists():
                path.rename(directory / chance.choice(names))
            case 5 if path.exists() and chance.random() < 0.5:
                path.write_text("nonsense: [")
            case 6 if directory.exists():
                directory.rename(aside)
            case 7 if not path.exists() and directory.exists():
                (tmp_path / "target").write_text(text(*numbers))
                path.symlink_to("../target")
            case _:
                if not directory.exists():
                    aside.rename(directory)

    for _ in range(60):
        edit()
        if chance.random() < 0.4:
            followed.files.look(followed.files.tree.watching.hear())
    if not directory.exists():
        aside.rename(directory)
    for path in sorted(directory.iterdir()):  # in the end nothing is wrong, nor in two files
        path.unlink()
    for number, name in enumerate(names):
        if chance.random() < 0.8:
            replace(directory / name, *(10 * number + each for each in range(1, 4)))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        time.sleep(0.02)
        heard = followed.files.tree.watching.hear()
        if not heard and not followed.files.unsettled:
            break
        followed.files.look(heard)
    fresh = follow(directory)
    assert followed.files.entries == fresh.files.entries
    assert followed.files.problems == []
    assert is_whole(followed)
    for each in (fresh, followed):
        each.files.close()


# --- cost --------------------------------------------------------------------------------------


def test_only_what_changed_is_read(
    directory: Path, followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def noting(path: str, *, owner: str, alone: bool) -> list[Entry]:
        read.append(path)
        return load_entries(path, owner=owner, alone=alone)

    monkeypatch.setattr("hostreach.sources.files.load_entries", noting)
    replace(directory / "a.yaml", 1)
    followed.wait()
    followed.files.look(Heard(everything=True))
    assert read == [str(directory / "a.yaml")]


def test_news_of_one_file_look_at_no_other(
    directory: Path, followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    real = os.stat

    def noting(path: str) -> os.stat_result:
        looked.append(str(path))
        return real(path)

    (directory / "b.yaml").write_text(text(4))
    time.sleep(0.02)
    heard = followed.files.tree.watching.hear()
    monkeypatch.setattr(os, "stat", noting)
    assert services(followed.files.look(heard)) == {3: None, 4: "10.0.0.2:80"}
    assert looked == [str(directory / "b.yaml")]
