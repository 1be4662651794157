"""``paretune train`` from the command line: what it writes, what it logs, how it goes on, what it refuses."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from paretune.cli.main import main
from paretune.detectors.yolox.detector import Yolo
from paretune.training.checkpoint import load_state
from tests_support import ROOT, with_locks_of_its_own
from tests_support_documented import printed
from tests_support_documented import words as hinted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

JOB = """\
dataset: {shapes: {train: 128, val: 16, test: 8, size: 96x64}}
detector: {yolo: {variant: nano, depthwise: false, width: 0.125}}
input_size: 96x64
training: {epochs: 4, batch_size: 8, lr: 4e-3, validate_every: 2, threads: 1, device: cpu}
space: space.yaml
search: {allow_unlearned: true, trials: 2, sampler: random}
measuring:
  {repetitions: 2, max_extra_repetitions: 0, seconds: 0.3, contention_wait_seconds: 0, rounds: 2, energy_seconds: 0}
"""
SPACE = """\
input_size: 96x64
steps: []
runtime: {choices: [onnxruntime, eager]}
"""


class Place:
    """A folder with a job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tiny.yaml").write_text(JOB)
        (folder / "space.yaml").write_text(SPACE)
        self.path = with_locks_of_its_own(folder, str(ROOT / "platform"))

    def start(self, *words: str, module: str = "paretune", begin: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        environment = {**os.environ, "HOME": str(self.folder), "MPLCONFIGDIR": str(self.folder / "mpl")}
        environment["PYTHONPATH"] = self.path
        command = [*begin, sys.executable, "-m", module, *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=environment, **pipes)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=400)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def training(self, name: str = "tiny") -> Path:
        return self.folder / "runs" / "trainings" / name

    def wait_for_epochs(self, process: subprocess.Popen[str], count: int, name: str) -> None:
        path, end = self.training(name) / "unfinished" / "epochs.jsonl", time.monotonic() + 200
        while not path.exists() or len(path.read_text().splitlines()) < count:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, "no epoch came"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("trained"))
    done = place.run("train", "tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    (place.folder / "out.txt").write_text(done.stdout)
    return place


def test_writes_network_history_pictures_and_the_job_as_it_was_used(trained: Place) -> None:
    folder = trained.training()
    files = {path.name for path in folder.iterdir()} - {".lock"}
    pictures = {"curves.png", "samples.png"}
    written = {"job.yaml", "space.yaml", "structure.json", "training.json", "weights.safetensors", "artefact"}
    assert files == written | pictures
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    facts = json.loads((folder / "training.json").read_text())
    assert [entry["number"] for entry in facts["epochs"]] == [1, 2, 3, 4]
    assert [entry["map"] is None for entry in facts["epochs"]] == [True, False, True, False]
    assert facts["metrics"]["val"]["map"] == pytest.approx(facts["epochs"][-1]["map"])
    assert set(facts["metrics"]) == {"val"}
    assert yaml.safe_load((folder / "job.yaml").read_text())["training"]["epochs"] == 4
    assert trained.run("check", str(folder / "job.yaml")).returncode == 0
    lines = (trained.folder / "out.txt").read_text().splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == 4
    assert all(word in epochs[1] for word in ("loss", "box", "objectness", "class", "lr", "images/s", "map", "left"))


def test_the_log_has_the_curves_the_accuracy_and_the_pictures(trained: Place) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{trained.folder / 'runs' / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "paretune"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("tiny", "FINISHED")
    assert run.data.params["training.epochs"] == "4"
    facts = json.loads((trained.training() / "training.json").read_text())
    losses = [metric.value for metric in client.get_metric_history(run.info.run_id, "train_loss")]
    assert losses == [sum(entry["losses"].values()) for entry in facts["epochs"]]
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val_map")] == [2, 4]
    assert {"lr", "images_per_second", "train_box_loss", "val.map", "val.map50"} <= run.data.metrics.keys()
    assert {"curves.png", "samples.png"} <= {file.path for file in client.list_artifacts(run.info.run_id)}


def test_one_worker_needs_no_ray(trained: Place) -> None:
    code = (
        "import sys; from paretune.cli.main import main; "
        "assert main(['train', 'tiny.yaml', '--name', 'noray', '--set', 'training.epochs=1', "
        "'--set', 'tracking.trainings=false']) == 0; "
        "print([name for name in ('ray', 'mlflow', 'optuna') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": trained.path}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=trained.folder, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_resumed_it_ends_with_the_same_weights(trained: Place, sign: signal.Signals) -> None:
    name = f"stopped{sign.value}"
    words = ("train", "tiny.yaml", "--name", name)
    process = trained.start(*words)
    trained.wait_for_epochs(process, 2, name)
    process.send_signal(sign)
    _, err = process.communicate(timeout=300)
    if sign == signal.SIGINT:
        assert process.returncode == 130, err
        (hint,) = printed(err)
        assert hinted(hint) == ["train", "tiny.yaml", "--name", name, "--resume"]
        assert "Traceback" not in err
    assert not (trained.training(name) / "weights.safetensors").exists()
    again = trained.run(*words)
    assert again.returncode == 2
    assert "--resume goes on with it" in again.stderr
    path = trained.training(name) / "job.yaml"
    begun = yaml.safe_load(path.read_text())
    del begun["training"]["ema"], begun["measuring"]["max_extra_repetitions"]  # as if these fields had come since
    begun["tracking"]["gone"], begun["search"]["first"] = 1, [{"runtime": "gone"}]  # and others had gone
    path.write_text(yaml.safe_dump(begun))
    done = trained.run(*words, "--resume", "--set", "training.device=auto", "--set", "measuring.rounds=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 1/4" not in done.stdout
    whole, resumed = (load_file(trained.training(n) / "weights.safetensors") for n in ("tiny", name))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole.keys() | resumed.keys())
    facts = json.loads((trained.training(name) / "training.json").read_text())
    assert [entry["number"] for entry in facts["epochs"]] == [1, 2, 3, 4]


def test_in_the_background_with_ctrl_c_ignored_it_still_ends_when_told_to(trained: Place) -> None:
    as_shells_do = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")
    process = trained.start("train", "tiny.yaml", "--name", "background", begin=as_shells_do)
    trained.wait_for_epochs(process, 1, "background")
    process.terminate()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "--resume" in err


def test_mistakes_end_with_2_and_one_line(
    trained: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mistakes = {
        ("--resume", "--name", "never"): "there is no training",
        ("--name", "../x"): "training name '../x'",
        ("--resume", "--set", "training.lr=1e-3"): "begun with another training.lr; --name begins",
        ("--resume", "--set", "dataset.shapes.seed=5"): "begun with another dataset.shapes.seed",
        ("--name", "a", "--set", "baseline=nowhere"): "nowhere holds no trained network",
        ("--name", "b", "--set", "baseline=runs/trainings/tiny"): "nothing is to be trained",
        ("--name", "d", "--test", "--set", "dataset.shapes.test=0"): "no test split, only train, val",
        ("--name", "c", "--set", "training.patience=2", "--set", "training.validate_every=0"): "validate_every",
    }
    monkeypatch.chdir(trained.folder)
    for words, message in mistakes.items():
        assert main(["train", "tiny.yaml", *words]) == 2, words
        said = capsys.readouterr().err
        assert message in said, words
        assert len(said.strip().splitlines()) == 1, said
    done = trained.run("train", "tiny.yaml", *words)  # the last one once more: so ends the process
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr == said
    assert not {"a", "b", "c", "d"} & {path.name for path in (trained.folder / "runs" / "trainings").iterdir()}


def test_a_diverging_training_names_its_step_and_keeps_its_last_state(
    trained: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loss, calls = Yolo.loss, []

    def spoilt(*arguments: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        return {name: term * (math.nan if len(calls) == 34 else 1) for name, term in loss(*arguments).items()}

    monkeypatch.setattr(Yolo, "loss", spoilt)
    monkeypatch.chdir(trained.folder)
    words = ["--name", "wild", "--set", "tracking.trainings=false"]
    assert main(["train", "tiny.yaml", *words]) == 2
    told = capsys.readouterr().err
    assert "the training diverged: epoch 3, step 2, lr" in told
    assert "the last good state is kept in runs/trainings/wild/unfinished" in told
    assert load_state(trained.training("wild") / "unfinished").epoch == 2
    monkeypatch.setattr(Yolo, "loss", loss)
    assert main(["train", "tiny.yaml", *words, "--resume"]) == 0
    whole, resumed = (load_file(trained.training(n) / "weights.safetensors") for n in ("tiny", "wild"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole.keys() | resumed.keys())


@pytest.mark.full
def test_a_sweep_starts_from_it_and_refuses_what_does_not_fit(trained: Place) -> None:
    network = trained.training() / "weights.safetensors"
    done = trained.run("sweep", "tiny.yaml", "--name", "from", "--set", "baseline=runs/trainings/tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (trained.folder / "runs" / "from" / "baseline" / "weights.safetensors").read_bytes() == network.read_bytes()
    assert "epoch" not in done.stdout
    words = ("sweep", "tiny.yaml", "--name", "other")
    done = trained.run(*words, "--set", "baseline=runs/trainings/tiny", "--set", "detector.yolo.width=0.25")
    assert done.returncode == 2
    assert "and the job's is" in done.stderr
    assert not (trained.folder / "runs" / "other").exists()
    letters = trained.folder / "letters"
    shutil.copytree(trained.training(), letters)
    facts = json.loads((letters / "training.json").read_text())
    (letters / "training.json").write_text(json.dumps({**facts, "classes": ["a", "b"]}))
    done = trained.run(*words, "--set", "baseline=letters")
    assert done.returncode == 2, done.stdout
    assert "trained for a, b; the dataset has circle, " in done.stderr


def test_the_test_split_is_looked_at_only_when_asked_for(trained: Place) -> None:
    assert "test" not in json.loads((trained.training() / "training.json").read_text())["metrics"]
    before = (trained.training() / "weights.safetensors").stat().st_mtime_ns
    done = trained.run("train", "tiny.yaml", "--resume", "--test")  # trained already: evaluated once more
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((trained.training() / "training.json").read_text())["metrics"]
    assert set(metrics) == {"val", "test"}
    assert metrics["test"]["images"] == 8
    assert (trained.training() / "weights.safetensors").stat().st_mtime_ns == before
