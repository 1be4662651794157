"""Networks on disk: exact round trips, also of narrowed ones, and refusal of what is damaged or foreign."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch_pruning as tp
from torch import nn

from paretune.detectors.structure import (
    STRUCTURE,
    WEIGHTS,
    copy_network,
    count,
    layers,
    load_network,
    save_network,
)
from paretune.detectors.yolo import Yolo
from paretune.errors import UserError
from paretune.structures import InputSize

DENSE = Yolo(width=0.125, depthwise=False)
SEPARABLE = Yolo(width=0.125)


def narrowed(detector: Yolo) -> nn.Module:
    network = detector.build(3)
    pruner = tp.pruner.BasePruner(
        detector.prune_view(network),
        (torch.zeros(1, 3, 64, 64),),
        importance=tp.importance.MagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=detector.protected(network),
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    )
    pruner.step()
    return network.eval()


def outputs(network: nn.Module) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(network(torch.linspace(0, 255, 3 * 64 * 96).reshape(1, 3, 64, 96)))


@pytest.mark.parametrize("detector", [DENSE, SEPARABLE], ids=["dense", "separable"])
@pytest.mark.parametrize("prune", [False, True], ids=["whole", "pruned"])
def test_round_trip_is_exact(detector: Yolo, prune: bool, tmp_path: Path) -> None:
    network = narrowed(detector) if prune else detector.build(3).eval()
    save_network(network, tmp_path)
    loaded = load_network(detector, 3, tmp_path)
    assert layers(loaded) == layers(network)
    assert all(torch.equal(a, b) for a, b in zip(outputs(network), outputs(loaded), strict=True))
    assert not loaded.training
    loaded.train()(torch.rand(2, 3, 64, 64))[0].sum().backward()  # and it can be trained on
    assert count(loaded, InputSize(64, 64)) == count(network, InputSize(64, 64))
    if prune:
        assert count(loaded, InputSize(64, 64))[0] < 0.5 * count(detector.build(3), InputSize(64, 64))[0]


def test_loading_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    save_network(DENSE.build(3), tmp_path)
    before = torch.get_rng_state()
    load_network(DENSE, 3, tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_another_detector_or_number_of_classes_is_refused(tmp_path: Path) -> None:
    save_network(DENSE.build(3), tmp_path)
    with pytest.raises(UserError, match="not a network of detector"):
        load_network(SEPARABLE, 3, tmp_path)
    (tmp_path / "deeper").mkdir()
    with pytest.raises(UserError, match="layers differ"):
        load_network(Yolo(width=0.125, depthwise=False, depth=1.0), 3, tmp_path)
    with pytest.raises(UserError, match="no network"):
        load_network(DENSE, 3, tmp_path / "deeper")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    network = DENSE.build(3)
    for name, spoil in {
        WEIGHTS: lambda raw: raw[: len(raw) // 2],
        STRUCTURE: lambda raw: raw[:-20],
    }.items():
        save_network(network, tmp_path)
        path = tmp_path / name
        path.write_bytes(spoil(path.read_bytes()))
        with pytest.raises(UserError, match="not a readable network"):
            load_network(DENSE, 3, tmp_path)


@pytest.mark.parametrize("value", [0, -4, "16", None, 1.5, 10**9])
def test_absurd_channel_counts_are_refused(value: object, tmp_path: Path) -> None:
    save_network(DENSE.build(3), tmp_path)
    body = json.loads((tmp_path / STRUCTURE).read_text())
    body["layers"]["backbone.backbone.stem.conv.conv"]["out_channels"] = value
    (tmp_path / STRUCTURE).write_text(json.dumps(body))
    with pytest.raises(UserError, match="not a network of detector"):
        load_network(DENSE, 3, tmp_path)


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    network = DENSE.build(3)
    with torch.no_grad():
        next(network.parameters())[0] = torch.nan
    with pytest.raises(ValueError, match=r"stem\.conv\.conv\.weight is not finite"):
        save_network(network, tmp_path / "x")
    assert not (tmp_path / "x" / STRUCTURE).exists()


def test_a_copy_shares_nothing() -> None:
    network = DENSE.build(3).eval()
    before = outputs(network)
    copied = copy_network(network)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(network), strict=True))


def test_count_against_arithmetic() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8)).train()
    params, flops = count(network, InputSize(32, 16))
    assert params == 3 * 8 * 9 + 8 + 8 * 9 + 8
    assert flops == 2 * (16 * 8) * (8 * 3 * 9 + 8 * 9)
    assert network.training


def test_count_agrees_with_the_published_size_of_nano() -> None:
    params, flops = count(Yolo().build(80), InputSize(416, 416))
    assert params == pytest.approx(0.91e6, rel=0.01)
    assert flops == pytest.approx(1.08e9, rel=0.05)  # YOLOX's model zoo
