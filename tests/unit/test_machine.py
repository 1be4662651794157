"""What this machine cannot do of a job: refused where it would run here, only noted by ``check``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paretune.cli.main import main
from paretune.config.plan import read_plan
from paretune.training.settings import Training
from paretune.workflows import machine_check as machine
from paretune.workflows.machine_check import gpus_of_driver, sweep_problems, training_problems

JOB = """\
dataset: {shapes: {}}
detector: {yolo: {variant: nano}}
input_size: 160
space: space.yaml
targets: {card: {device: cpu}}
"""
SPACE = "{input_size: 160, steps: [{prune: {ratio: {low: 0.1, high: 0.5}}}], runtime: eager}"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "space.yaml").write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    return tmp_path


def fields(gpus: int, **changes: Any) -> list[str]:
    """The fields of what is told."""
    job = read_plan(Path("job.yaml"), changes).job
    return [problem.partition(":")[0] for problem in sweep_problems(job, lambda: gpus)]


@pytest.mark.parametrize(
    ("changes", "gpus", "told"),
    [
        ({}, 0, []),
        ({"targets.card.device": "cuda"}, 0, ["targets.card.device"]),
        ({"targets.card.device": "cuda"}, 1, []),
        ({"targets.card.threads": 3}, 0, ["targets.card.threads"]),
        ({"training.device": "cuda"}, 0, ["training.device"]),
        ({"training.device": "cuda"}, 1, []),
        ({"training.workers": 2}, 0, []),
        ({"training.workers": 3}, 0, ["training"]),
        ({"training.workers": 2, "training.threads": 2}, 0, ["training"]),
        (
            {"training.workers": 2, "training.device": "cuda"},
            1,
            ["training.device is cuda, but this machine has 1 GPUs for 2 workers"],
        ),
        ({"training.threads": 9}, 0, []),  # without Ray they wait for each other, and are done
        ({"resources.cpu": 3}, 0, ["resources"]),
        ({"resources.gpu": 1}, 0, ["resources"]),
        ({"resources.gpu": 1}, 1, []),
        ({"resources.custom": {"rtx4090": 1}}, 8, ["resources"]),
        (
            {"targets.card.device": "cuda", "training.device": "cuda", "resources.cpu": 3},
            0,
            ["targets.card.device", "training.device", "resources"],
        ),
    ],
)
def test_each_thing_that_is_not_here_is_told_by_its_field(changes: dict[str, Any], gpus: int, told: list[str]) -> None:
    assert fields(gpus, **changes) == told


def test_a_job_for_another_machine_is_right_here_and_what_is_not_here_is_noted(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(machine, "gpus_of_torch", lambda: pytest.fail("check imports no torch"))
    monkeypatch.setattr("paretune.workflows.check.gpus_of_driver", lambda: 0)
    Path("job.yaml").write_text(JOB.replace("cpu", "cuda") + "training: {workers: 4, device: cuda}\n")
    assert main(["check", "job.yaml"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    right, *notes = line.split("; ")
    assert right.endswith("a job, right")
    assert notes[1].startswith("not on this machine: targets.card.device: ")
    assert notes[2] == "training.device is cuda, but this machine has 0 GPUs for 4 workers"


def test_where_it_would_run_here_all_of_it_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(machine, "gpus_of_torch", lambda: 0)
    words = ["--set", "training.device=cuda", "--set", "resources.custom={a: 1}"]
    assert main(["sweep", "job.yaml", *words]) == 2
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == ["training.device", "resources"]
    assert main(["train", "job.yaml", *words]) == 2  # a training asks for no trial's resources
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == ["training.device"]
    assert not Path("runs").exists()


def test_gpus_are_counted_only_for_who_asks_for_some() -> None:
    assert sweep_problems(read_plan(Path("job.yaml")).job, lambda: pytest.fail("asked")) == []
    assert training_problems(Training(workers=2, device="cpu"), lambda: pytest.fail("asked")) == []


def driver(count: int, *, there: bool = True) -> SimpleNamespace:
    class NVMLError(Exception):
        pass

    def init() -> None:
        if not there:
            raise NVMLError("no driver")

    return SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=init, nvmlShutdown=lambda: None, nvmlDeviceGetCount=lambda: count
    )


@pytest.mark.parametrize(
    ("visible", "count"),
    [(None, 4), ("", 0), ("-1", 0), ("0,2", 2), ("GPU-8a5", 1), ("1,-1,2", 1), ("0,1,2,3,4,5", 4)],
)
def test_the_driver_counts_what_cuda_may_see(visible: str | None, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setitem(sys.modules, "pynvml", driver(4))
    assert gpus_of_driver() == count
    monkeypatch.setitem(sys.modules, "pynvml", driver(4, there=False))
    assert gpus_of_driver() == 0
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus_of_driver() == 0


def test_a_checkpoint_that_is_not_there_is_found_by_check(capsys: Any) -> None:
    words = ["sweep", "job.yaml", "--set"]
    assert main([*words, "detector={yolo: {variant: nano, weights: gone.pth}}"]) == 2
    assert capsys.readouterr().err.endswith("detector: weights gone.pth: no such file\n")
    Path("job.yaml").write_text(JOB.replace("nano", "nano, weights: gone.pth"))
    assert main(["check", "job.yaml"]) == 2
    assert capsys.readouterr().err == "job.yaml:2: detector: weights gone.pth: no such file\n"
    Path("gone.pth").touch()
    assert main(["check", "job.yaml"]) == 0
