"""Contract tests that a package with plug-ins of its own inherits.

Write one class for each plug-in in a test module, and run pytest::

    from paretune.testing import DetectorContract

    class TestMine(DetectorContract):
        plugin = Mine(width=0.25)

The entry point must be installed (``pip install -e .``), since artefacts name a plug-in by its row in the table.
pytest is needed here only; Paretune runs without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paretune.testing.dataset_contract import DatasetContract
    from paretune.testing.detector_contract import DetectorContract
    from paretune.testing.device_contract import DeviceContract
    from paretune.testing.runtime_contract import RuntimeContract
    from paretune.testing.sampler_contract import SamplerContract
    from paretune.testing.step_contract import StepContract

__all__ = [
    "DatasetContract",
    "DetectorContract",
    "DeviceContract",
    "RuntimeContract",
    "SamplerContract",
    "StepContract",
]


def __getattr__(name: str) -> Any:
    """Import a contract when it is asked for: the other modules of this package need no pytest."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest

    module = f"{__name__}.{name.removesuffix('Contract').lower()}_contract"
    pytest.register_assert_rewrite(f"{__name__}.plugin_contract", module)  # a failed assert shows its values
    return getattr(importlib.import_module(module), name)
