# SPDX-License-Identifier: Apache-2.0
"""Exemptions over any `hostreach.exempt.ExemptTable`.

A subclass whose name begins with Test gives the fixtures ``table``, fresh and empty, and
``cgroups``, the paths of two cgroup v2 directories in the order of their names.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hostreach.errors import AlreadyExists, HostreachError, InvalidInput, NotFound
from hostreach.exempt import Exemptions, ExemptTable


class ExemptContract:
    @pytest.fixture
    def table(self) -> ExemptTable:
        raise NotImplementedError

    @pytest.fixture
    def cgroups(self) -> tuple[str, str]:
        raise NotImplementedError

    @pytest.fixture
    def exempt(self, table: ExemptTable) -> Exemptions:
        return Exemptions(table)

    def test_empty(self, exempt: Exemptions, cgroups: tuple[str, str]) -> None:
        assert exempt.list() == []
        assert exempt.remove(*cgroups, if_exists=True) == []
        with pytest.raises(NotFound, match=f"^{cgroups[0]}: is not exempt$"):
            exempt.remove(cgroups[0])

    def test_add_and_remove(self, exempt: Exemptions, cgroups: tuple[str, str]) -> None:
        a, b = cgroups
        assert exempt.add(b, a) == [b, a]
        assert exempt.list() == list(exempt) == [a, b]
        assert exempt.remove(b) == [b]
        assert exempt.list() == [a]
        assert exempt.add(b) == [b]
        assert exempt.remove(a, b) == [a, b]
        assert exempt.list() == []

    def test_another_spelling(self, exempt: Exemptions, cgroups: tuple[str, str]) -> None:
        a, _ = cgroups
        exempt.add(Path(f"/{a}/"))
        assert exempt.list() == [a]
        assert exempt.remove(a.replace("/", "//")) == [a]

    def test_twice(self, exempt: Exemptions, cgroups: tuple[str, str]) -> None:
        a, b = cgroups
        exempt.add(a)
        with pytest.raises(AlreadyExists, match=f"^{a}: is exempt already$"):
            exempt.add(a)
        assert exempt.add(a, b, if_missing=True) == [b]
        exempt.remove(a)
        with pytest.raises(NotFound, match=f"^{a}: is not exempt$"):
            exempt.remove(a)
        assert exempt.remove(a, b, if_exists=True) == [b]

    def test_all_or_nothing(self, exempt: Exemptions, cgroups: tuple[str, str]) -> None:
        a, b = cgroups
        exempt.add(a)
        with pytest.raises(AlreadyExists):
            exempt.add(b, a)
        assert exempt.list() == [a]
        with pytest.raises(NotFound):
            exempt.remove(a, b)
        assert exempt.list() == [a]

    @pytest.mark.parametrize("bad", ["", "system.slice", "/sys/../x", "/a\nb", "/a\0b"])
    def test_bad_paths(self, exempt: Exemptions, cgroups: tuple[str, str], bad: str) -> None:
        for change in (exempt.add, exempt.remove):
            with pytest.raises(InvalidInput):
                change(cgroups[0], bad)
            with pytest.raises(InvalidInput, match="this cgroup is given twice"):
                change(cgroups[0], cgroups[0] + "/")
        assert exempt.list() == []

    def test_lock_is_given_back_after_an_error(
        self, exempt: Exemptions, cgroups: tuple[str, str]
    ) -> None:
        a, b = cgroups
        exempt.add(a)
        for _ in range(3):
            with pytest.raises(HostreachError):
                exempt.add(a)
            with pytest.raises(HostreachError):
                exempt.remove(b)
        exempt.add(b)
