"""Every row of the table of samplers keeps the contract."""

from __future__ import annotations

import pytest

from paretune.search.samplers import SAMPLERS, Sampler
from paretune.testing import SamplerContract
from paretune.testing.heavy_imports import heavy_imports


class TestSamplers(SamplerContract):
    @pytest.fixture(params=SAMPLERS.names)
    def subject(self, request: pytest.FixtureRequest) -> Sampler:
        return SAMPLERS.load(request.param)()

    test_its_file_imports_no_heavy_library = None  # of all rows at once, below
    test_proposes_inside_the_space = pytest.mark.slow(SamplerContract.test_proposes_inside_the_space)
    test_the_same_seed_proposes_the_same = pytest.mark.slow(SamplerContract.test_the_same_seed_proposes_the_same)


def test_their_files_import_no_library() -> None:
    assert heavy_imports("paretune.search.samplers", "SAMPLERS", SamplerContract.heavy) == ""
