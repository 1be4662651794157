"""Factorized networks are pruned, tuned, saved and exported like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from paretune.compression.export import Export
from paretune.compression.factorize.step import Factorize
from paretune.compression.finetune import Finetune
from paretune.compression.prune.step import Prune
from paretune.core.types import InputSize
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.ssd.detector import Ssd
from paretune.detectors.yolox.detector import Yolo
from paretune.networks.layer_chain import Chain
from paretune.networks.network_files import load_network, save_network
from tests_support_compression import CLASSES, context, model, outputs, same_state, state

DENSE = Yolo(width=0.125, depthwise=False)


def near(wanted: torch.Tensor, got: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return bool((wanted - got).abs().max() <= tolerance * wanted.abs().max())


def chains(network: nn.Module) -> dict[str, Chain]:
    return {name: module for name, module in network.named_modules() if isinstance(module, Chain)}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["svd", "tucker"])
def test_is_pruned_tuned_saved_and_exported(method: str, tmp_path: Path) -> None:
    """The export compares its file with eager by itself."""
    around = context(tmp_path, DENSE)
    found = Factorize(method=method, rank=0.25).apply(model(DENSE), around)
    pruned = Prune(ratio=0.5).apply(found, around)
    assert pruned.params < found.params
    assert len(chains(pruned.network)) == len(chains(found.network)) > 5
    tuned = Finetune(epochs=1).apply(pruned, around)
    save_network(tuned.network, tmp_path / "saved")
    loaded = load_network(DENSE, len(CLASSES), tmp_path / "saved")
    assert same_state(state(tuned.network), state(loaded))
    assert all(near(a, b) for a, b in zip(outputs(tuned.network), outputs(loaded), strict=True))
    assert Export().apply(tuned, around).file.is_file()


FAMILIES = [
    pytest.param(Ssd(width=0.5), InputSize(96, 96), id="ssdlite"),
    pytest.param(FasterRcnn(proposals=10, head_width=64), InputSize(64, 64), id="faster_rcnn"),
    pytest.param(Ssd(variant="ssd300_vgg16"), InputSize(300, 300), id="ssd300", marks=pytest.mark.full),
]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("detector", "size"), FAMILIES)
def test_every_family_is_factorized_saved_and_exported(detector, size, tmp_path: Path) -> None:
    around = context(tmp_path, detector)
    before = model(detector, size)
    after = Factorize(rank=0.25, gain=0.2).apply(before, around)
    assert after.params < before.params
    assert after.flops < before.flops
    names = {id(module) for module in detector.protected(after.network)}
    assert not any(id(module) in names for module in chains(after.network).values())
    save_network(after.network, tmp_path / "saved")
    assert same_state(state(load_network(detector, len(CLASSES), tmp_path / "saved")), state(after.network))
    assert all(file.is_file() for file in Export().apply(after, around).files)
