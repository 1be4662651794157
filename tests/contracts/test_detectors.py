"""Every row of the table of detectors keeps the contract."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from paretune.core.spec import parse_plugin
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.testing import DetectorContract
from paretune.testing.heavy_imports import heavy_imports

SMALLER: dict[str, dict[str, Any]] = {"faster_rcnn": {"proposals": 16, "samples": 32}}
"""Fields that make a row quick without making it another."""


def rows() -> list[Any]:
    """Every variant of every row; the first of each row in `make test`, the others in `make test-all`."""
    found = []
    for name in DETECTORS.names:
        field = DETECTORS.load(name).model_fields.get("variant")
        variants = list(get_args(field.annotation)) if field else [None]
        for variant in variants:
            fields = {**({"variant": variant} if variant else {}), **SMALLER.get(name, {})}
            first = variant == (field.default if field else None)
            marks = [] if first else [pytest.mark.full, pytest.mark.timeout(900)]
            found.append(pytest.param({name: fields}, id=f"{name}-{variant}", marks=marks))
    return found


class TestDetectors(DetectorContract):
    @pytest.fixture(params=rows())
    def subject(self, request: pytest.FixtureRequest) -> Detector:
        found: Detector = parse_plugin(request.param, DETECTORS)
        return found

    test_its_file_imports_no_heavy_library = None  # of all rows at once, below
    test_loss_falls_when_trained_on_one_batch = pytest.mark.slow(
        DetectorContract.test_loss_falls_when_trained_on_one_batch
    )
    test_exports_prunes_and_quantizes = pytest.mark.slow(
        pytest.mark.timeout(300)(DetectorContract.test_exports_prunes_and_quantizes)
    )


def test_importing_their_files_imports_no_heavy_library() -> None:
    heavy = DetectorContract.heavy
    assert heavy_imports("paretune.detectors", "DETECTORS", heavy, DetectorContract.touch) == ""
