"""Trainings that begin with a checkpoint of the user, or take it as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from paretune.core.errors import UserError
from paretune.core.types import InputSize
from paretune.data.synthetic.shapes import Shapes
from paretune.detectors.yolox.detector import Yolo
from paretune.storage.atomic_files import sha256
from paretune.training.history import read_history
from paretune.training.settings import Training
from paretune.training.training_job import TrainingJob
from paretune.training.worker import train_here

TINY = Yolo(width=0.0625, depthwise=False)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def in_file(content: Any, file: Path) -> str:
    torch.save(content, file)
    return str(file)


SHAPES = Shapes(train=8, val=4, size="64x64")


def order_of(folder: Path, weights: str, epochs: int) -> TrainingJob:
    detector = Yolo(width=0.0625, depthwise=False, weights=weights)
    settings = Training(epochs=epochs, batch_size=4, threads=1, device="cpu")
    return TrainingJob(detector, SHAPES, folder.parent / "cache", InputSize(64, 64), settings, folder)


@pytest.mark.slow
def test_no_epochs_take_the_weights_as_they_are_and_say_what_they_are(tmp_path: Path) -> None:
    classes = SHAPES.open(tmp_path / "cache").classes
    torch.manual_seed(1)
    state = TINY.build(len(classes)).state_dict()
    source = in_file({"model": state, "names": list(classes)}, tmp_path / "mine.pth")
    said: list[str] = []
    train_here(order_of(tmp_path / "net", source, 0), said.append)
    assert said == [
        f"weights {source}: sha256 {sha256(Path(source))}",
        f"weights {source}: of {len(classes)} classes {len(classes)} are in it by their names",
    ]
    assert read_history(tmp_path / "net")["notes"] == said
    assert read_history(tmp_path / "net")["epochs"] == []
    kept = load_file(tmp_path / "net" / "weights.safetensors")
    assert equal(kept, state)
    train_here(order_of(tmp_path / "trained", source, 1), said.append)
    assert said[2:4] == said[:2]
    assert said[4].startswith("epoch 1/1")
    assert not equal(load_file(tmp_path / "trained" / "weights.safetensors"), state)
    fresh = in_file({"model": state, "names": ["a", *classes[1:]]}, tmp_path / "fresh.pth")
    with pytest.raises(UserError, match=f"0 takes the weights as they are, and there are none for {classes[0]}"):
        train_here(order_of(tmp_path / "none", fresh, 0))
    assert not (tmp_path / "none" / "structure.json").exists()
