"""The training beside a probe runs on its cores while it is to, and stands still otherwise."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from paretune.config.plan import read_plan
from paretune.results.sweep_folder import Sweep, new_sweep
from paretune.workflows.core_sharing import TrainingLoad
from tests_support import SMALL_JOB, SMALL_SPACE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    small = SMALL_JOB.replace("{shapes: {}}", "{shapes: {train: 8, val: 4}}").replace("160", "64")
    (tmp_path / "job.yaml").write_text(small + "training: {batch_size: 4}\n")
    (tmp_path / "space.yaml").write_text(SMALL_SPACE.replace("[128, 160]", "[64]"))
    monkeypatch.chdir(tmp_path)
    return new_sweep(read_plan(Path("job.yaml")), "one")


def test_a_training_runs_only_while_it_is_to(sweep: Sweep) -> None:
    core = min(os.sched_getaffinity(0))
    with TrainingLoad(sweep, [core], 1) as load:
        (process,) = load._processes
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "State:\tT" in status
        assert f"Cpus_allowed_list:\t{core}\n" in status
        before = load.cpu_seconds()
        time.sleep(0.5)
        assert load.cpu_seconds() == before
        with load.running():
            end = time.monotonic() + 60
            while load.cpu_seconds() - before < 0.1 and time.monotonic() < end:
                time.sleep(0.05)
        assert load.cpu_seconds() - before >= 0.1
        process.kill()
        process.wait()
        with pytest.raises(RuntimeError, match="the training beside died"):
            load.cpu_seconds()
