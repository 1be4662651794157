"""Networks on disk: exact round trips, also of narrowed ones, and refusal of what is damaged or foreign."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch_pruning as tp
from torch import nn

from paretune.core.errors import UserError
from paretune.core.types import InputSize
from paretune.detectors.yolox.detector import Yolo
from paretune.networks.layer_chain import LONGEST, Chain
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
    with pytest.raises(TypeError, match="not BatchNorm2d"):
        Chain(nn.BatchNorm2d(3)).fields()
    made = Chain.empty(Chain(nn.Linear(3, 2), nn.Linear(2, 5, bias=False)).fields())
    assert [(part.in_features, part.out_features, part.bias is None) for part in made] == [(3, 2, False), (2, 5, True)]
    assert all(tensor.device.type == "meta" for tensor in made.parameters())


CONV = Chain(nn.Conv2d(8, 5, 1)).fields()["layers"][0]
NONSENSE = {
    "negative": ({"layers": [{**CONV, "conv2d": [8, -5]}]}, "conv2d is -5, expected a whole number from 1"),
    "immense": ({"layers": [{**CONV, "conv2d": [8, 10**12]}]}, "conv2d is 1000000000000, expected"),
    "beyond 64 bits": ({"layers": [{**CONV, "conv2d": [10**30, 5]}]}, "expected a whole number"),
    "immense in all": ({"layers": [{**CONV, "conv2d": [2**24] * 2, "kernel_size": [2**24] * 2}]}, CHAINED),
    "a fraction": ({"layers": [{**CONV, "kernel_size": [1.5, 1]}]}, "kernel_size is 1.5"),
    "a truth": ({"layers": [{**CONV, "stride": [True, 1]}]}, "stride is True"),
    "no step": ({"layers": [{**CONV, "stride": [0, 1]}]}, "stride is 0"),
    "negative padding": ({"layers": [{**CONV, "padding": [-1, 0]}]}, "padding is -1"),
    "one number of two": ({"layers": [{**CONV, "dilation": [1]}]}, "dilation is .1., expected two numbers"),
    "groups": ({"layers": [{**CONV, "groups": 3}]}, "divisible by groups"),
    "a bias of its own": ({"layers": [{**CONV, "bias": "yes"}]}, "bias is 'yes'"),
    "a missing field": ({"layers": [{name: CONV[name] for name in CONV if name != "padding"}]}, "no 'padding'"),
    "an unknown layer": ({"layers": [{"lstm": [3, 3], "bias": True}]}, "told as lstm, bias"),
    "an unknown kind": ({"kind": "rope", "layers": [CONV]}, "unknown kind 'rope'; known: chain"),
    "an unknown kind inside": ({"layers": [{"kind": "os.system"}]}, "unknown kind 'os.system'"),
    "no kind": ({"kind": None, "layers": [CONV]}, "unknown kind None"),
    "no layers": ({"layers": []}, "a chain of 0 layers"),
    "many layers": ({"layers": [CONV] * (LONGEST + 1)}, "a chain of 17 layers"),
    "a number": ({"layers": 5}, "int"),
    "words": ({"layers": ["conv2d"]}, "told as c, o, n"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_chain_of_nonsense_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    fields, said = NONSENSE[name]
    save_network(chained(), tmp_path)
    body = json.loads((tmp_path / STRUCTURE).read_text())
    body["replaced"][CHAINED] = {"kind": "chain", **fields}
    (tmp_path / STRUCTURE).write_text(json.dumps(body))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=said) as told:
        load_network(DENSE, 3, tmp_path)
    assert str(told.value).startswith(f"{tmp_path / STRUCTURE}: not a network of detector")
    assert len(str(told.value).splitlines()) == 1
    assert len(str(told.value)) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


@pytest.mark.parametrize("place", ["", "backbone..conv", "backbone.nowhere", "head.stems.7", "os.path"])
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


@pytest.mark.parametrize("value", [0, -4, "16", None, 1.5, True, 10**9, 10**30])
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
