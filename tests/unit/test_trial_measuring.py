"""A duet whose process was killed is measured again; one that fails of itself is not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paretune.config.job import Job
from paretune.core.types import Data
from paretune.profiling.latency.worker_client import MeasuringKilled
from paretune.workflows import trial_stages
from paretune.workflows.trial_context import TrialContext
from paretune.workflows.trial_stages import Instruments, measure


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Measure by a duet that raises the errors in turn; return how often it was asked."""
    job = Job.model_validate({"dataset": {"shapes": {}}, "detector": "yolo", "space": "s.yaml"})
    context = TrialContext(job, Data((), {"val": ()}, ""), tmp_path, tmp_path)  # type: ignore[dict-item]
    monkeypatch.setattr(trial_stages, "measuring_images", lambda _: [])

    def asked(*errors: Exception) -> int:
        calls: list[Exception] = []

        def duet(*_: Any, **__: Any) -> Any:
            if len(calls) < len(errors):
                calls.append(errors[len(calls)])
                raise calls[-1]
            return SimpleNamespace(save_samples=lambda _: None)

        measure(context, 0, SimpleNamespace(folder=tmp_path), Instruments(duet=duet))  # type: ignore[arg-type]
        return len(calls) + 1

    return asked


def test_a_killed_duet_is_measured_again(measured: Any) -> None:
    killed = MeasuringKilled("the measuring process was killed by SIGKILL")
    assert measured() == 1
    assert measured(killed, killed) == 3
    with pytest.raises(MeasuringKilled):
        measured(killed, killed, killed)  # search.retries is 2


def test_a_duet_that_fails_of_itself_is_not(measured: Any) -> None:
    with pytest.raises(RuntimeError, match="ended with 1"):
        measured(RuntimeError("the measuring process ended with 1: no such operator"))
