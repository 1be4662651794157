"""Rows that other packages add to a plug-in table."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from paretune.core import registry
from paretune.core.errors import UserError

OURS = {"counted": "collections:Counter"}


@pytest.fixture
def installed(monkeypatch):
    """Let packages add rows, by name; returns the table with them."""

    def add(**rows):
        asked = []
        points = [EntryPoint(name, row, "paretune.step") for name, row in rows.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: asked.append(group) or points)
        table = registry.Registry("step", OURS)
        assert table.names == sorted({*OURS, *rows})
        assert asked == ["paretune.step"]
        return table

    return add


def test_a_row_of_another_package_is_loaded_beside_ours(installed):
    from collections import Counter, OrderedDict

    table = installed(ordered="collections:OrderedDict")
    assert table.load("ordered") is OrderedDict
    assert table.load("counted") is Counter


def test_another_package_cannot_take_the_place_of_ours(installed):
    from collections import Counter

    assert installed(counted="collections:OrderedDict").load("counted") is Counter


@pytest.mark.parametrize(
    ("row", "said"),
    [("collections:Ordered", "no attribute 'Ordered'"), ("collection:OrderedDict", "No module named 'collection'")],
)
def test_a_row_that_leads_nowhere_is_told_in_one_line(row, said, installed):
    table = installed(ordered=row)
    with pytest.raises(UserError) as raised:
        table.load("ordered")
    assert str(raised.value).startswith("step 'ordered' cannot be loaded: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_row_of_another_package_that_leads_nowhere_hinders_no_other(installed):
    from collections import Counter, OrderedDict

    table = installed(broken="collection:OrderedDict", ordered="collections:OrderedDict")
    assert table.loadable() == [Counter, OrderedDict]


def test_a_row_of_ours_that_leads_nowhere_is_told():
    with pytest.raises(UserError, match="step 'broken' cannot be loaded"):
        registry.Registry("step", {"broken": "collection:OrderedDict"}).loadable()


def test_a_name_that_is_in_no_table_is_told_with_those_that_are(installed):
    with pytest.raises(UserError, match=r"unknown step 'countd' \(did you mean 'counted'\?\); known: counted, ordered"):
        installed(ordered="collections:OrderedDict").load("countd")
