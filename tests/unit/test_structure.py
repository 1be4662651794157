"""Networks on disk: exact round trips, also of narrowed ones, and refusal of what is damaged or foreign."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import nn

from messages.networks import CONV, NONSENSE
from paretune.core.errors import UserError
from paretune.core.types import InputSize
from paretune.detectors.yolox.detector import Yolo
from paretune.networks.layer_chain import Chain
from paretune.networks.network_files import (
    STRUCTURE,
    WEIGHTS,
    copy_network,
    count,
    layers,
    load_network,
    save_network,
)
from paretune.networks.replacement_layers import replaced

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


CHAINED = "backbone.backbone.dark2.0.conv"


def chained(inner: nn.Module | None = None) -> nn.Module:
    """A network with a chain in place of its convolution of 8 to 16 channels, 3x3, stride 2."""
    network = DENSE.build(3).eval()
    middle = inner or nn.Conv2d(5, 5, (3, 3), (2, 2), (1, 1), bias=False)
    network.set_submodule(CHAINED, Chain(nn.Conv2d(8, 5, 1, bias=False), middle, nn.Conv2d(5, 16, 1)))
    return network


def nested() -> nn.Module:
    """A layer of a chain that is itself told by its kind."""
    return chained(Chain(nn.Conv2d(5, 2, (3, 1), (2, 1), (1, 0)), nn.Conv2d(2, 5, (1, 3), (1, 2), (0, 1), bias=False)))


@pytest.mark.parametrize("make", [chained, nested])
def test_a_chain_comes_back_exactly(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    network = make()
    save_network(network, tmp_path)
    loaded = load_network(DENSE, 3, tmp_path)
    assert type(loaded.get_submodule(CHAINED)) is Chain
    assert replaced(loaded) == replaced(network) != {}
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(outputs(network), outputs(loaded), strict=True))
    assert count(loaded, InputSize(64, 64)) == count(network, InputSize(64, 64))
    loaded.train()(torch.rand(2, 3, 64, 64))[0].sum().backward()
    assert loaded.get_submodule(CHAINED)[2].weight.grad.abs().sum() > 0


def test_what_a_chain_may_hold() -> None:
    made = Chain.empty(Chain(nn.Linear(3, 2), nn.Linear(2, 5, bias=False)).fields())
    assert [(part.in_features, part.out_features, part.bias is None) for part in made] == [(3, 2, False), (2, 5, True)]
    assert all(tensor.device.type == "meta" for tensor in made.parameters())


IMMENSE = {"layers": [{**CONV, "conv2d": [2**24] * 2, "kernel_size": [2**24] * 2}]}


@pytest.mark.parametrize("name", ["an immense number", "beyond 64 bits", "no kind", "layers that are words", "immense"])
def test_a_chain_of_nonsense_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    fields: dict[str, Any] = {**NONSENSE, "immense": IMMENSE}[name]
    save_network(chained(), tmp_path)
    body = json.loads((tmp_path / STRUCTURE).read_text())
    body["replaced"][CHAINED] = {"kind": "chain", **fields}
    (tmp_path / STRUCTURE).write_text(json.dumps(body))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as told:
        load_network(DENSE, 3, tmp_path)
    assert str(told.value).startswith(f"{tmp_path / STRUCTURE}: not a network of detector")
    assert CHAINED in str(told.value)
    assert len(str(told.value).splitlines()) == 1
    assert len(str(told.value)) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


@pytest.mark.parametrize("place", ["", "backbone..conv", "head.stems.7"])
def test_a_layer_in_place_of_none_is_refused(place: str, tmp_path: Path) -> None:
    save_network(chained(), tmp_path)
    body = json.loads((tmp_path / STRUCTURE).read_text())
    body["replaced"] = {place: body["replaced"][CHAINED]}
    (tmp_path / STRUCTURE).write_text(json.dumps(body))
    with pytest.raises(UserError, match="not a network of detector"):
        load_network(DENSE, 3, tmp_path)


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


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_the_weights_may_be_read_by_whoever_may_read_the_structure(umask: int, tmp_path: Path) -> None:
    (tmp_path / f".{WEIGHTS}.part").touch(0o600)  # a killed process left it
    before = os.umask(umask)
    try:
        save_network(nn.Conv2d(1, 1, 1), tmp_path)
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in (WEIGHTS, STRUCTURE)}
    assert modes == dict.fromkeys(modes, 0o666 & ~umask)


def test_loading_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    save_network(DENSE.build(3), tmp_path)
    before = torch.get_rng_state()
    load_network(DENSE, 3, tmp_path)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("value", [0, "16", True, 10**30])
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
