"""Compression steps as functions on torch modules: the same as the steps themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import paretune
from paretune.compression.prune.step import Prune
from paretune.compression.quantize.step import Quantize
from paretune.core.types import Data
from paretune.detectors.base import Detector
from paretune.testing.samples import (
    CLASSES,
    MixedDetector,
    same_state,
    sample_context,
    sample_model,
    sample_split,
    state_copy,
)

FAMILIES: list[Any] = [
    pytest.param({"yolo": {"variant": "nano", "depthwise": False, "width": 0.125}}, 96, id="yolo"),
    pytest.param({"ssd": {}}, 320, id="ssd", marks=pytest.mark.slow),
    pytest.param({"faster_rcnn": {}}, 320, id="faster_rcnn", marks=pytest.mark.slow),
]


@pytest.fixture
def data() -> Data:
    return Data(CLASSES, {"train": sample_split(8), "val": sample_split(2, "val", seed=1)}, "0")


@pytest.mark.parametrize(("family", "size"), FAMILIES)
def test_a_module_of_every_family_is_pruned_and_left_as_it_was(family: dict[str, Any], size: int) -> None:
    from paretune.core.spec import parse_plugin
    from paretune.detectors import DETECTORS

    detector: Detector = parse_plugin(family, DETECTORS)
    network = detector.build(2)
    before = state_copy(network)
    slim = paretune.steps.prune(network, torch.zeros(1, 3, size, size), detector=family, ratio=0.3)
    assert same_state(before, state_copy(network))
    assert slim.network is not None
    assert slim.history == ("prune",)
    assert slim.params is not None
    assert slim.params < sum(parameter.numel() for parameter in network.parameters())


def test_it_is_the_step_itself(tmp_path: Path) -> None:
    model = sample_model()
    assert model.network is not None
    expected = Prune(ratio=0.4, round_to=4).apply(model, sample_context(tmp_path, seed=3))
    found = paretune.steps.prune(model.network, "64x48", detector=MixedDetector(), ratio=0.4, round_to=4, seed=3)
    assert found.network is not None
    assert expected.network is not None
    assert same_state(state_copy(found.network), state_copy(expected.network))
    assert (found.params, found.flops, found.notes) == (expected.params, expected.flops, expected.notes)


def test_steps_follow_one_another_to_files(tmp_path: Path, data: Data) -> None:
    lines: list[str] = []
    model, detector = sample_model(), MixedDetector()
    slim = paretune.steps.prune(model, detector=detector, ratio=0.4, round_to=4)
    training = {"batch_size": 4, "threads": 1}
    tuned = paretune.steps.finetune(
        slim, detector=detector, data=data, training=training, epochs=1, workdir=tmp_path, tell=lines.append
    )
    given = {"detector": detector, "data": data, "workdir": tmp_path, "runtime": "onnxruntime", "images": 4}
    small = paretune.steps.quantize(tuned, **given)
    assert small.history == ("prune", "finetune", "export", "quantize")
    assert small.file is not None
    assert small.file.parent == tmp_path
    assert lines
    exported = paretune.steps.export(tuned, detector=detector, data=data, workdir=tmp_path / "apart")
    again = Quantize(images=4).apply(exported, _context(tmp_path / "again", data))
    assert again.file is not None
    assert again.file.read_bytes() == small.file.read_bytes()


def _context(folder: Path, data: Data) -> Any:
    from dataclasses import replace

    from paretune.runtimes.onnxruntime import OnnxRuntime

    return replace(sample_context(folder), data=data, runtime=OnnxRuntime())


def test_what_a_step_lacks_is_told(tmp_path: Path) -> None:
    model, detector, steps = sample_model(), MixedDetector(), paretune.steps
    for wrong, reason in (
        (lambda: steps.prune(model, detector=detector, ratio=4.0), "ratio"),
        (lambda: steps.prune(model, detector=detector, ratoi=0.4), "ratoi"),
        (lambda: steps.prune(model, detector="yolov99"), "yolov99"),
        (lambda: steps.prune(model.network, detector=detector), "example"),
        (lambda: steps.prune(model.network, torch.zeros(3, 8, 8), detector=detector), r"\(1, 3, H, W\)"),
        (lambda: steps.finetune(model, detector=detector), "data="),
        (lambda: steps.export(model, detector=detector, data={"shapes": {"train": 8, "val": 4}}), "workdir="),
        (lambda: steps.apply("shrink", model, detector=detector), "unknown step 'shrink'"),
        (lambda: steps.load(tmp_path), "no trained network"),
    ):
        with pytest.raises(paretune.UserError, match=reason):
            wrong()


def test_a_breakdown_has_the_layers_of_a_module_and_their_time() -> None:
    model = sample_model()
    assert model.network is not None
    before = state_copy(model.network)
    found = paretune.GPUProfiler().breakdown(model.network, torch.zeros(1, 3, 48, 64), device="cpu")
    assert not isinstance(found.operators, str)
    modules = {operator.module for operator in found.operators.operators}
    assert {"stem.0", "same.0", "box", "score"} <= modules
    assert 0 < found.operators.coverage < 1.5
    assert found.tree()["operators"]["network_ms"] > 0
    assert "stem.0" in str(found)
    assert same_state(before, state_copy(model.network))
    assert not model.network._forward_hooks


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_breakdown_says_so() -> None:
    with pytest.raises(paretune.UserError, match=r"no GPU to profile on.*device='cpu'"):
        paretune.GPUProfiler().breakdown(sample_model().network, torch.zeros(1, 3, 48, 64))
