"""Every row of the table of steps keeps the contract, with every format that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from paretune.compression import STEPS
from paretune.compression.base import Step
from paretune.core.model import Format
from paretune.core.spec import parse_plugin
from paretune.testing import StepContract
from paretune.testing.heavy_imports import heavy_imports
from paretune.testing.step_contract import FORMATS

QUICK: dict[str, dict[str, Any]] = {
    "finetune": {"epochs": 1},
    "quantize": {"images": 4},
    "factorize": {"rank": 0.25},
    "recalibrate": {"images": 4},
}
"""Fields with which a step is quick; the defaults where there are none."""
IDLE: dict[str, dict[str, Any]] = {
    "finetune": {"epochs": 0},
    "prune": {"ratio": 0.0},
    "factorize": {"rank": 1.0},
    "sparsify": {"sparsity": 0.0},
    "quantize": {"images": 4, "keep_float": 1000},
}
"""Fields with which a step does nothing, where there are such."""
ROWS = [(name, form) for name in STEPS.names for form in FORMATS[STEPS.load(name).accepts]]


class TestSteps(StepContract):
    @pytest.fixture(params=ROWS, ids="-".join)
    def row(self, request: pytest.FixtureRequest) -> tuple[str, Format]:
        found: tuple[str, Format] = request.param
        return found

    @pytest.fixture
    def subject(self, row: tuple[str, Format]) -> Step:
        found: Step = parse_plugin({row[0]: QUICK.get(row[0], {})}, STEPS)
        return found

    @pytest.fixture
    def form(self, row: tuple[str, Format]) -> Format:
        return row[1]

    @pytest.fixture
    def idle_fields(self, row: tuple[str, Format]) -> Mapping[str, Any] | None:
        return IDLE.get(row[0])

    test_its_file_imports_no_heavy_library = None  # of all rows at once, below
    test_the_same_seed_gives_the_same = pytest.mark.slow(StepContract.test_the_same_seed_gives_the_same)
    test_changes_something_or_notes_that_it_does_not = pytest.mark.slow(
        StepContract.test_changes_something_or_notes_that_it_does_not
    )


def test_importing_their_files_imports_no_heavy_library() -> None:
    assert heavy_imports("paretune.compression", "STEPS", StepContract.heavy) == ""


def test_every_row_that_can_do_nothing_is_asked_to() -> None:
    assert set(IDLE) <= set(STEPS.names)
    assert set(QUICK) <= set(STEPS.names)
