"""Workers inside trials: a trial that is stopped gives its workers' room to the next one, which trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests_support import ROOT

pytestmark = [pytest.mark.full, pytest.mark.alone, pytest.mark.timeout(600)]

CODE = """
import json, sys, time
from pathlib import Path
from paretune.distributed.ray_session import NEXT_TO_NOTHING, session
from paretune.distributed.tune_trials import run_trials


def trial(config):
    from ray import tune
    from paretune.data import DATASETS
    from paretune.detectors.yolox.detector import Yolo
    from paretune.core.spec import parse_plugin
    from paretune.core.types import InputSize
    from paretune.distributed.train_workers import train_with_ray
    from paretune.training.training_job import TrainingJob
    from paretune.training.settings import Training

    folder = Path(config["folder"])
    settings = Training(epochs=config["epochs"], batch_size=4, workers=2, threads=1, device="cpu")
    shapes = parse_plugin({"shapes": {"train": 16, "val": 8, "size": "64x64"}}, DATASETS)
    size = InputSize(64, 64)
    order = TrainingJob(Yolo(width=0.0625, depthwise=False), shapes, folder / "cache", size, settings, folder)
    done = []

    def progress(line):
        done.append(line)
        tune.report({"epochs_done": len(done), "finished": False})

    train_with_ray(order, progress)
    return {"epochs_done": len(done), "finished": True}


with session(Path(sys.argv[1]), nested=True):
    import ray
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler
    from ray.tune.search import Searcher

    class Two(Searcher):
        # a training that would take hours, then a short one
        left = [100_000, 2]
        ended = []

        def suggest(self, trial_id):
            if not self.left:
                return Searcher.FINISHED
            epochs = self.left.pop(0)
            return {"epochs": epochs, "folder": f"{sys.argv[1]}/{epochs}"}

        def on_trial_complete(self, trial_id, result=None, error=False):
            self.ended.append([result["epochs_done"], result["finished"]] if result else None)

    class StopAtTwo(FIFOScheduler):
        def on_trial_result(self, controller, trial, result):
            long = trial.config["epochs"] > 2
            return TrialScheduler.STOP if long and result["epochs_done"] >= 2 else TrialScheduler.CONTINUE

    searcher = Two()
    run_trials(trial, searcher, count=2, concurrent=1, resources=NEXT_TO_NOTHING, folder=Path(sys.argv[1]),
               nested=True, scheduler=StopAtTwo())
    has, end = ray.cluster_resources()["CPU"], time.monotonic() + 60
    while ray.available_resources().get("CPU") != has and time.monotonic() < end:
        time.sleep(0.5)
    print("SEEN", json.dumps({"ended": searcher.ended, "has": has, "free": ray.available_resources().get("CPU")}))
"""


def test_a_stopped_trial_gives_its_workers_room_to_the_next(tmp_path: Path) -> None:
    """Also where somebody has started another Ray before, and its address still stands in Ray's own folder."""
    (tmp_path / "other" / "ray").mkdir(parents=True)
    (tmp_path / "other" / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    places = {**os.environ, "RAY_TMPDIR": str(tmp_path / "other")}
    done = subprocess.run(command, cwd=ROOT, env=places, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    seen = json.loads(done.stdout.partition("SEEN ")[2])
    assert seen["ended"] == [[2, False], [2, True]]
    assert seen["free"] == seen["has"]
    assert (tmp_path / "2" / "weights.safetensors").is_file()
    assert not (tmp_path / "100000" / "weights.safetensors").exists()
