"""The step that platform/README.md shows as a whole keeps the contract."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from paretune.compression import STEPS
from paretune.compression.base import Step
from paretune.testing import StepContract

README = Path("platform/README.md")


class TestStepOfTheReadme(StepContract):
    idle: ClassVar[dict[str, Any]] = {"percentile": 100.0}

    @pytest.fixture
    def subject(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Step:
        blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
        (text,) = [block for block in blocks if "(Step)" in block]
        (tmp_path / "readme_mystep.py").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "readme_mystep", raising=False)
        monkeypatch.setitem(STEPS.rows, "mystep", "readme_mystep:MyStep")
        found: Step = STEPS.load("mystep")()
        return found

    test_its_file_imports_no_heavy_library = None
