"""Every row of the table of runtimes keeps the contract; a new row is tested without another line here."""

from __future__ import annotations

import pytest

from paretune.runtimes import RUNTIMES
from paretune.runtimes.base import Runtime
from paretune.testing import RuntimeContract
from paretune.testing.heavy_imports import heavy_imports

SLOW = {"compiled"}
"""Runtimes that take their time to load anything; what is made for the tests is kept, so one minute is enough."""
ROWS = [
    pytest.param(name, marks=[pytest.mark.slow, pytest.mark.timeout(240)] if name in SLOW else [])
    for name in RUNTIMES.names
]


class TestRuntimes(RuntimeContract):
    @pytest.fixture(params=ROWS)
    def subject(self, request: pytest.FixtureRequest) -> Runtime:
        return RUNTIMES.load(request.param)()

    test_its_file_imports_no_heavy_library = None  # of all rows at once, below


def test_their_files_import_no_library() -> None:
    """What hinders a runtime on a CPU is found as quickly as its fields are read."""
    assert heavy_imports("paretune.runtimes", "RUNTIMES", RuntimeContract.heavy, RuntimeContract.touch) == ""
