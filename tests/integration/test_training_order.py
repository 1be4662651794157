"""Orders in this process: resumed from a second place, saved as often as asked for, taken over only when they fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from paretune.core.errors import UserError
from paretune.core.types import InputSize
from paretune.data.synthetic.shapes import Shapes
from paretune.detectors.yolox.detector import Yolo
from paretune.training.checkpoint import load_state
from paretune.training.history import TrainingStep, epochs_of, read_history
from paretune.training.initial_weights import import_baseline
from paretune.training.settings import Training
from paretune.training.training_job import TrainingJob
from paretune.training.worker import train_here

TINY = Yolo(width=0.0625, depthwise=False)
SHAPES = Shapes(train=8, val=4, size="64x64")
QUICK = Training(epochs=4, batch_size=4, lr=4e-3, threads=1, device="cpu")


def test_every_step_is_told_with_the_epochs_that_are_done(tmp_path: Path) -> None:
    steps: list[TrainingStep] = []
    train_here(order_of(tmp_path / "net"), on_step=steps.append)
    assert [(one.epoch, one.step, one.steps) for one in steps] == [(e, s, 2) for e in (1, 2, 3, 4) for s in (1, 2)]
    assert [one.done for one in steps] == [number / 2 for number in range(1, 9)]
    of_epochs = [sum(entry["losses"].values()) for entry in read_history(tmp_path / "net")["epochs"]]
    assert [one.loss for one in steps if one.step == one.steps] == pytest.approx(of_epochs)


class KilledError(Exception):
    """Stands for the end of the process."""


def order_of(folder: Path, **changes) -> TrainingJob:
    settings = QUICK.model_copy(update=changes)
    return TrainingJob(TINY, SHAPES, folder.parent / "cache", InputSize(64, 64), settings, folder)


def kill_after(number: int):
    def progress(line: str) -> None:
        if line.startswith(f"epoch {number}/"):
            raise KilledError

    return progress


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_another_machine_goes_on_from_the_second_place(kind: str, tmp_path: Path) -> None:
    import fsspec

    storage = str(tmp_path / "bucket") if kind == "folder" else "memory://bucket"
    files, root = fsspec.core.url_to_fs(storage)
    train_here(order_of(tmp_path / "whole"))
    order = order_of(tmp_path / "one" / "net", storage=storage)
    with pytest.raises(KilledError):
        train_here(order, kill_after(3))
    assert len(files.find(root)) == 2
    elsewhere = order_of(tmp_path / "two" / "net", storage=storage, threads=2)
    lines: list[str] = []
    train_here(elsewhere, lines.append)
    assert [line.split(":")[0] for line in lines] == ["epoch 4/4"]
    assert [entry["number"] for entry in read_history(elsewhere.folder)["epochs"]] == [1, 2, 3, 4]
    whole, moved = weights(tmp_path / "whole"), weights(elsewhere.folder)
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, moved[name], msg=name)  # another number of threads: nearly equal
    assert files.find(root) == []


@pytest.mark.parametrize("storage", ["nosuch://bucket/x", "{file}/folder"])
def test_a_place_that_cannot_be_used_is_one_clear_line(storage: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    order = order_of(tmp_path / "net", storage=storage.format(file=tmp_path / "file"))
    with pytest.raises(UserError, match=r"^training\.storage: .* cannot be used \("):
        train_here(order)
    assert not (tmp_path / "net" / "structure.json").exists()


@pytest.mark.slow
def test_states_are_saved_as_often_as_asked_for(tmp_path: Path) -> None:
    train_here(order_of(tmp_path / "whole"))
    order = order_of(tmp_path / "net", checkpoint_every=2)
    with pytest.raises(KilledError):
        train_here(order, kill_after(3))
    assert load_state(order.work).epoch == 2
    assert [entry["number"] for entry in epochs_of(order.work)] == [1, 2, 3]
    lines: list[str] = []
    train_here(order, lines.append)
    assert [line.split(":")[0] for line in lines] == ["epoch 3/4", "epoch 4/4"]
    assert [entry["number"] for entry in read_history(order.folder)["epochs"]] == [1, 2, 3, 4]
    whole, again = weights(tmp_path / "whole"), weights(order.folder)
    assert all(torch.equal(whole[name], again[name]) for name in whole.keys() | again.keys())
    train_here(order, lines.append)
    assert lines[-1] == "trained already"


def test_goes_on_from_a_network(tmp_path: Path) -> None:
    first = train_here(order_of(tmp_path / "first"))
    second = train_here(
        replace(order_of(tmp_path / "second", epochs=1, lr=1e-9, ema=0.0, weight_decay=0.0), start=first)
    )
    before, after = weights(first), weights(second)
    parameters = [name for name in before if name.endswith(("weight", "bias"))]
    for name in parameters:
        torch.testing.assert_close(before[name], after[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_network_is_taken_over_only_when_it_fits(tmp_path: Path) -> None:
    source = train_here(order_of(tmp_path / "net", epochs=1))
    classes = tuple(read_history(source)["classes"])
    import_baseline(source, TINY, classes, tmp_path / "taken")
    assert weights(source).keys() == weights(tmp_path / "taken").keys()
    with pytest.raises(UserError, match="and the job's is"):
        import_baseline(source, Yolo(width=0.125, depthwise=False), classes, tmp_path / "x")
    with pytest.raises(UserError, match="trained for"):
        import_baseline(source, TINY, ("a", "b"), tmp_path / "x")
    with pytest.raises(UserError, match="no trained network"):
        import_baseline(tmp_path / "cache", TINY, classes, tmp_path / "x")
    shutil.copytree(source, tmp_path / "plain")  # of a sweep, or another's: no history
    (tmp_path / "plain" / "training.json").unlink()
    with pytest.raises(UserError, match="not trained for 2 classes"):
        import_baseline(tmp_path / "plain", TINY, ("a", "b"), tmp_path / "x")
    assert not (tmp_path / "x").exists()
    (source / "training.json").write_text(json.dumps([1])[:-1])
    with pytest.raises(UserError, match="not readable"):
        import_baseline(source, TINY, classes, tmp_path / "x")
