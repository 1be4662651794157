"""``paretune optimize``: what a recipe has cost of the accuracy, in words, in figures and in the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from paretune.cli.main import main
from paretune.core.target import Target
from paretune.core.types import InputSize
from paretune.data.synthetic.shapes import Shapes
from paretune.detectors.yolox.detector import Yolo
from paretune.distributed import train_workers as ddp
from paretune.networks.network_files import save_network
from paretune.storage.artefact import read_artefact
from paretune.training.loop import train
from paretune.training.settings import Training
from paretune.workflows import accuracy_change
from paretune.workflows.evaluate import EvaluationOptions, evaluate_artefact
from paretune.workflows.optimize import ACCURACY
from tests_support import with_locks_of_its_own
from tests_support_evaluation import truth_of

DETECTOR = Yolo(depthwise=False, width=0.125)
SIZE = InputSize(96, 64)
PRUNE = ("--step", "prune={ratio: 0.5}")
EAGER = ("--runtime", "eager")


class Place:
    """A working folder with a training that looks as `paretune train` leaves it."""

    def __init__(self, folder: Path, shapes: Shapes, settings: Training, *, trained: bool = False) -> None:
        import torch

        self.folder, self.source = folder, folder / "runs" / "trainings" / "tiny"
        data = shapes.open(folder / "runs" / "datasets")
        torch.manual_seed(0)
        network = DETECTOR.build(len(data.classes))
        save_network(
            train(network, DETECTOR, data.splits["train"], SIZE, settings).network if trained else network, self.source
        )
        told = {"detector": DETECTOR.named(), "input_size": str(SIZE), "classes": list(data.classes)}
        (self.source / "training.json").write_text(json.dumps(told))
        job = {"dataset": shapes.named(), "detector": DETECTOR.named(), "input_size": str(SIZE), "space": "s.yaml"}
        (self.source / "job.yaml").write_text(yaml.safe_dump({**job, "training": settings.tree()}))
        self.job = self.source / "job.yaml"

    def optimize(self, *words: Any, source: Path | str | None = None) -> int:
        return main(["optimize", *map(str, (source or self.source, *words))])


SETTINGS = Training(epochs=10, batch_size=8, lr=8e-3, ema=0.97, weight_decay=0.05, threads=1, device="cpu")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Nothing is trained."""
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, Shapes(train=8, val=4, test=3, size="96x64"), SETTINGS)


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A network that finds what it has learnt to find."""
    shapes = Shapes(train=160, val=32, test=16, size="96x64")
    return Place(tmp_path_factory.mktemp("finder"), shapes, SETTINGS, trained=True)


def recorded(folder: str) -> dict[str, Any]:
    return json.loads((Path(folder) / ACCURACY).read_text())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_detector_that_was_pruned_to_death_is_called_unusable(
    finder: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ("--data", finder.job)
    assert finder.optimize("--step", "prune={ratio: 0.9}", *data, "--out", "dead") == 0
    said = capsys.readouterr().out
    assert "NOT USABLE: " in said
    assert "to use it" not in said
    told = recorded("dead")
    before, after = (told["splits"]["val"][when]["map"] for when in ("before", "after"))
    assert before > 0.05
    assert after < before / 2
    assert told["unusable"] in said
    assert told["max_drop"] is None
    change = told["splits"]["val"]["change"]
    assert change["map_delta"] == pytest.approx(after - before)
    assert change["map_delta_low"] <= change["map_delta"] <= change["map_delta_high"] < 0
    assert read_artefact(Path("dead")).format == "onnx"
    # the same, as an artefact that goes on to another runtime: nothing more is lost
    assert finder.optimize(*data, *EAGER, "--max-drop", "0", "--out", "again", source="dead") == 0
    assert recorded("again")["against"] == "dead on onnxruntime"
    assert recorded("again")["max_drop"] == {"allowed": 0, "holds": True, "sure": True}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_more_than_the_allowed_drop_ends_with_1_and_leaves_the_artefact(
    finder: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ("--data", finder.job)
    assert finder.optimize("--step", "prune={ratio: 0.9}", *data, "--max-drop", "0.01", "--out", "dead") == 1
    said = capsys.readouterr()
    assert "--max-drop 0.01 is exceeded, for sure" in said.err
    assert recorded("dead")["max_drop"] == {"allowed": 0.01, "holds": False, "sure": True}
    read_artefact(Path("dead"))
    assert finder.optimize(*data, "--max-drop", "0.01", "--out", "alive") == 0  # exported, and nothing else
    said = capsys.readouterr()
    assert "to use it: paretune predict alive IMAGE" in said.out
    assert "--max-drop 0.01 holds, for sure" in said.out
    assert not recorded("alive")["unusable"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_is_recorded_is_what_evaluate_says_of_both(
    finder: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ("--data", finder.job)
    assert finder.optimize(*data, *EAGER, "--out", "dense") == 0
    assert (
        finder.optimize("--step", "prune={ratio: 0.2}", *data, *EAGER, "--out", "half", "--json", source="dense") == 0
    )
    out = capsys.readouterr().out
    told = json.loads(out[out.index("{\n") :])
    assert told["accuracy"] == recorded("half")
    assert told["accuracy"]["against"] == "dense on eager"
    assert (told["artefact"], told["size_mib"]) == ("half", read_artefact(Path("half")).size_mib)
    images = Shapes(train=160, val=32, test=16, size="96x64"), finder.folder / "runs" / "datasets"
    for split in ("val", "test"):
        wanted = EvaluationOptions(split=split, against=Path("dense"))
        report = evaluate_artefact(Path("half"), images, Target(), wanted)
        known = told["accuracy"]["splits"][split]
        assert known["after"]["map"] == pytest.approx(report.accuracy.map, abs=1e-9)
        assert known["change"] == pytest.approx(report.change.figures, abs=1e-9)


def test_the_evaluation_counts_in_no_size_and_lies_in_the_artefact(place: Place, capsys: Any) -> None:
    assert place.optimize(*PRUNE, *EAGER, "--out", "made") == 0
    made = read_artefact(Path("made"))
    files = [Path("made") / name for name in ("structure.json", "weights.safetensors")]
    assert made.size_mib == sum(file.stat().st_size for file in files) / 2**20
    told = recorded("made")
    assert [told["splits"][name]["images"] for name in told["splits"]] == [4, 3]
    assert told["against"] == f"{place.source} in eager"


def test_as_json_nothing_else_stands_on_stdout(place: Place, capsys: Any) -> None:
    assert place.optimize(*PRUNE, *EAGER, "--max-drop", "1", "--json", "--out", "made") == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["accuracy"]["max_drop"]["holds"] is True
    assert [next(iter(step)) for step in told["recipe"]["steps"]] == ["prune"]
    assert "evaluating on val" in said.err


@pytest.mark.parametrize("wrong", ["-0.01", "1.5", "nan", "inf"])
def test_a_drop_that_makes_no_sense_is_refused(place: Place, wrong: str, capsys: Any) -> None:
    assert place.optimize(*PRUNE, f"--max-drop={wrong}", "--out", "made") == 2
    assert "expected 0 to 1, in map: 0.01 is one point" in capsys.readouterr().err
    assert not Path("made").exists()


def test_without_objects_the_accuracy_is_not_known_and_a_drop_is_refused_before_anything_is_done(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    opened = Shapes.open

    def bare(self: Shapes, cache: Path) -> Any:
        data = opened(self, cache)
        nothing = truth_of([], [])
        splits = {name: replace(split, truth=[nothing] * len(split)) for name, split in data.splits.items()}
        return replace(data, splits=splits)

    monkeypatch.setattr(Shapes, "open", bare)
    assert place.optimize(*PRUNE, *EAGER, "--max-drop", "0.1", "--out", "made") == 2
    assert "accuracy cannot be evaluated on val: the images hold no objects" in capsys.readouterr().err
    assert not Path("made").exists()
    assert place.optimize(*PRUNE, *EAGER, "--out", "made") == 0
    assert "accuracy on val was not evaluated: the images hold no objects to find" in capsys.readouterr().out
    assert recorded("made")["splits"] == {"val": None, "test": None}


def test_an_evaluation_that_fails_costs_no_artefact(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr(accuracy_change.Reference, "on", fails)
    assert place.optimize(*PRUNE, *EAGER, "--out", "made") == 0
    assert "accuracy on val was not evaluated: out of memory" in capsys.readouterr().out
    assert place.optimize(*PRUNE, *EAGER, "--max-drop", "0.1", "--out", "held") == 1
    assert "whether it holds is not known" in capsys.readouterr().err
    assert recorded("held")["max_drop"] == {"allowed": 0.1, "holds": None, "sure": None}
    read_artefact(Path("made"))


def test_who_stops_the_evaluation_keeps_the_artefact(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(accuracy_change.Reference, "on", stopped)
    assert place.optimize(*PRUNE, *EAGER, "--out", "made") == 130
    assert "made is made, its accuracy was not evaluated" in capsys.readouterr().out
    read_artefact(Path("made"))
    assert {path.name for path in place.folder.iterdir()} == {"made", "runs"}


@pytest.mark.timeout(180)
def test_an_artefact_that_does_not_run_here_is_replaced_by_its_float_network_and_a_line_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert place.optimize(*EAGER, "--out", "dense") == 0
    from paretune.core.errors import UserError
    from paretune.runtimes import predictor

    def unfit(folder: Path, target: Target) -> None:
        raise UserError(f"{folder}: runs on tensorrt, which needs tensorrt: not installed here")

    monkeypatch.setattr(predictor, "check_loadable", unfit)
    capsys.readouterr()
    assert place.optimize(*PRUNE, *EAGER, "--data", place.job, "--out", "half", source="dense") == 0
    assert "compared with the artefact's float network in eager: dense: runs on tensorrt" in capsys.readouterr().out
    assert recorded("half")["against"] == "dense in eager"


def two_workers(place: Place) -> None:
    job = yaml.safe_load(place.job.read_text())
    job["training"] = {**job["training"], "workers": 2, "epochs": 2, "batch_size": 2}
    place.job.write_text(yaml.safe_dump(job))


@pytest.mark.parametrize(
    ("step", "trains"),
    [
        ("finetune={epochs: 1}", True),
        ("prune={ratio: 0.5, rounds: 2, round_epochs: 1}", True),
        ("prune={ratio: 0.5, rounds: 2, round_epochs: 0}", False),
        ("prune={ratio: 0.5}", False),
    ],
)
def test_steps_train_with_as_many_workers_as_those_of_a_sweep(
    place: Place, step: str, trains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray is there while a step trains, and gone before anything is evaluated; a step that trains not starts none."""
    two_workers(place)
    running: list[Path] = []
    trained: list[int] = []

    @contextmanager
    def session(runs: Path) -> Iterator[None]:
        running.append(runs)
        yield
        running.pop()

    def here(order: Any, *_: Any) -> Path:
        assert [runs.resolve() for runs in running] == [Path("runs").resolve()]
        trained.append(order.settings.workers)
        from paretune.training.worker import run_worker

        run_worker(order, device="cpu", threads=1)
        return order.folder

    def alone(*given: Any) -> Any:
        assert not running
        return usual(*given)

    usual = accuracy_change._on
    monkeypatch.setattr(accuracy_change, "_on", alone)
    monkeypatch.setattr("paretune.distributed.ray_session.session", session)
    monkeypatch.setattr(ddp, "train_with_ray", here)
    assert place.optimize("--step", step, *EAGER, "--out", "made") == 0
    assert trained == ([2] if trains else [])


RECORDING = """
import sys
from paretune.cli.main import main
from paretune.distributed import train_workers as ddp

usual, seen = ddp.train_with_ray, []
ddp.train_with_ray = lambda order, *more: (seen.append(order.settings.workers), usual(order, *more))[1]
code = main(sys.argv[1:])
import ray

print("DONE", code, seen, ray.is_initialized())
"""


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_two_workers_of_ray_really_train(place: Place) -> None:
    two_workers(place)
    environment = {**os.environ, "PYTHONPATH": with_locks_of_its_own(place.folder, os.environ.get("PYTHONPATH", ""))}
    words = ["optimize", place.source, "--step", "finetune={epochs: 2}", *EAGER, "--out", "made"]
    done = subprocess.run(
        [sys.executable, "-c", RECORDING, *map(str, words)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "DONE 0 [2] False", done.stderr
    assert "finetune epoch 2/2" in done.stdout
    before, after = (load_file(folder / "weights.safetensors") for folder in (place.source, Path("made")))
    assert any((before[name] != after[name]).any() for name in before)
