"""A trial survives too little memory and a full disk, and a stage that hangs ends with a record."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from paretune.config.job import Job
from paretune.core.types import Data
from paretune.storage.trial_events import EventLog, read_events
from paretune.workflows import trial_guard
from paretune.workflows.stages import Stages
from paretune.workflows.trial_context import TrialContext
from paretune.workflows.trial_guard import HUNG, is_full_disk, is_out_of_memory, stage_limit, with_half_batch
from paretune.workflows.trial_worker import record_of


@pytest.mark.parametrize(
    ("error", "out"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("[ONNXRuntimeError] BFCArena: Failed to allocate memory for requested buffer"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("shapes differ"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
    ],
)
def test_too_little_memory_is_recognised(error: Exception, out: bool) -> None:
    assert is_out_of_memory(error) == out


def test_a_full_disk_is_recognised_through_what_was_made_of_it() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert is_full_disk(full)
    outer, later = RuntimeError("the weights cannot be written"), ValueError("while it was handled")
    outer.__cause__, later.__context__ = full, outer
    assert is_full_disk(outer)
    assert is_full_disk(later)
    assert not is_full_disk(OSError(errno.EACCES, "Permission denied"))
    assert not is_full_disk(None)


def test_half_of_the_batch_takes_half_of_the_steps(tmp_path: Path) -> None:
    job = Job.model_validate(
        {"dataset": {"shapes": {}}, "detector": "yolo", "space": "s.yaml", "training": {"batch_size": 5, "lr": 0.01}}
    )
    context = TrialContext(job, Data((), {}, ""), tmp_path, tmp_path)
    smaller = with_half_batch(context)
    assert smaller is not None
    assert (smaller.job.training.batch_size, smaller.job.training.lr) == (2, pytest.approx(0.004))
    least = with_half_batch(smaller)
    assert least is not None
    assert least.job.training.batch_size == 1
    assert with_half_batch(least) is None


def test_it_waits_for_space_and_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([0, 0, trial_guard.FREE - 1, trial_guard.FREE])
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=next(free)))
    lines: list[str] = []
    slept: list[float] = []
    trial_guard.wait_for_space(tmp_path, lines.append, sleep=slept.append)
    assert len(lines) == 1
    assert len(slept) == 2


def test_a_stage_that_takes_too_long_is_given_up_and_others_are_not() -> None:
    reasons: list[str] = []
    noticed = threading.Event()

    def overrun(reason: str) -> None:
        reasons.append(reason)
        noticed.set()

    stages = Stages()
    with stage_limit(stages, 0.4, overrun):
        for _ in range(4):
            with stages.stage("quick"):
                assert not noticed.wait(0.15)
        with stages.stage("finetune"):
            assert noticed.wait(5)
    assert len(reasons) == 1
    assert "finetune" in reasons[0]
    with stage_limit(stages, None, overrun), stages.stage("endless"):
        assert len(reasons) == 1


SCRIPT = """
import sys, time
from pathlib import Path
from paretune.config.job import Job
from paretune.config.recipe import Recipe
from paretune.core.types import Data
from paretune.workflows import trial
from paretune.workflows.trial_context import TrialContext
from paretune.workflows.trial_stages import Instruments

job = Job.model_validate({"dataset": {"shapes": {"train": 1, "val": 1}}, "detector": "yolo", "space": "s.yaml",
                          "search": {"stage_hours": 0.0002}})
folder = Path(sys.argv[1])
context = TrialContext(job, job.dataset.open(folder / "cache"), folder, folder / "baseline")

def build(_start, _recipe, _context, _folder, stages, **_):
    with stages.stage("finetune"):
        time.sleep(60)

trial.run(context, 3, Recipe.model_validate({"runtime": "eager"}), origin="sampled", instruments=Instruments(build))
"""


def test_a_process_with_a_stage_that_hangs_ends_with_a_record(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], timeout=50, check=False, capture_output=True)
    assert done.returncode == HUNG, done.stderr
    record: dict[str, Any] = json.loads((tmp_path / "trials" / "0003" / "record.json").read_text())
    assert record["state"] == "failed"
    assert record["failure"].startswith("TimeoutError: stage finetune")


STOPPED = """
import os, signal, sys, time
from pathlib import Path
from paretune.storage.trial_events import EventLog
from paretune.workflows import trial_guard
from paretune.workflows.stages import Stages

trial_guard.MARGIN = 1.0
stages = Stages(events=EventLog(Path(sys.argv[1])))
with trial_guard.stage_limit(stages, 2.0, print):
    for name in ("one", "two"):
        with stages.stage(name):
            time.sleep(1.5)
    with stages.stage("finetune"):
        os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_process_that_is_stopped_is_killed_from_outside_and_its_trial_runs_again(tmp_path: Path) -> None:
    folder = tmp_path / "trials" / "0003"
    done = subprocess.run([sys.executable, "-c", STOPPED, str(folder)], timeout=50, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    begun = [event.stage for event in read_events(folder) if event.kind == "begin"]
    assert begun == ["one", "two", "finetune"]
    said: list[str] = []
    proposal = {"number": 3, "recipe": {"runtime": "eager"}, "origin": "sampled"}
    assert record_of(tmp_path, proposal, retries=1, say=said.append) is None
    assert "stage_hours" in said[0]
    EventLog(folder).add("begin", "prune")
    record = record_of(tmp_path, proposal, retries=1)
    assert record is not None
    assert record.state == "failed"
