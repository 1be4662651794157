"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The folder of real photographs."""
    folder = os.environ.get("PARETUNE_DATASETS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PARETUNE_DATASETS names no folder of photographs")
    return Path(folder)
