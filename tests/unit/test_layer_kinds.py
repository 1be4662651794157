"""Every kind of layer in the table is pruned, counted and saved, in a network of nobody's here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from paretune.compression.prune.criteria import make_criterion
from paretune.compression.prune.dependency_groups import trace_dependency_groups
from paretune.compression.prune.group_lasso import energies
from paretune.compression.prune.step import Prune
from paretune.networks.layer_kinds import (
    LAYER_KINDS,
    WEIGHTED_LAYERS,
    kind_of,
    layer_flops,
    summed_by_input,
    summed_by_output,
)
from paretune.networks.network_files import STRUCTURE, copy_network, count, layers, load_network, save_network
from paretune.verification.layer_divergence import layer_outputs
from tests_support_compression import SIZE, UpsamplingDetector, context, model, outputs

LAYERS = {
    "conv2d": (nn.Conv2d(8, 12, 3, 2, 1, groups=2), (2, 8, 9, 7)),
    "conv_transpose2d": (nn.ConvTranspose2d(8, 12, 3, 2, 1, groups=2), (2, 8, 9, 7)),
    "linear": (nn.Linear(8, 12), (2, 5, 8)),
    "batchnorm2d": (nn.BatchNorm2d(8), (2, 8, 9, 7)),
    "groupnorm": (nn.GroupNorm(4, 8), (2, 8, 9, 7)),
}
WEIGHTED = [name for name, (layer, _) in LAYERS.items() if isinstance(layer, WEIGHTED_LAYERS)]


def test_the_table_gives_the_shapes_of_all_tensors() -> None:
    assert list(LAYERS) == [kind.name for kind in LAYER_KINDS]
    for name, (layer, _) in LAYERS.items():
        kind = kind_of(layer)
        assert kind is not None
        assert kind.name == name
        shapes = {key: tuple(tensor.shape) for key, tensor in layer.state_dict().items() if tensor.ndim}
        assert kind.shapes(layer) == shapes
        assert all(isinstance(getattr(layer, attribute), int) for attribute in kind.counts)


@pytest.mark.parametrize("name", WEIGHTED)
def test_operations_are_those_that_torch_counts(name: str) -> None:
    layer, shape = LAYERS[name]
    inputs = torch.randn(shape)
    with FlopCounterMode(display=False) as counter:
        output = layer(inputs)
    assert layer_flops(layer, inputs, output) == counter.get_total_flops()


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_are_summed_by_the_channels_that_they_read_and_make(name: str) -> None:
    layer, _ = LAYERS[name]
    values = torch.rand_like(layer.weight)
    flat = values.reshape(*values.shape[:2], -1).sum(2)
    whole = torch.zeros(12, 8)  # outputs by inputs, kernels added up
    for group in range(1 if name == "linear" else 2):
        height, width = (12, 8) if name == "linear" else (6, 4)
        rows, columns = slice(group * height, (group + 1) * height), slice(group * width, (group + 1) * width)
        whole[rows, columns] = flat[columns].T if name == "conv_transpose2d" else flat[rows]
    torch.testing.assert_close(summed_by_input(layer, values), whole.sum(0))
    torch.testing.assert_close(summed_by_output(layer, values), whole.sum(1))


@pytest.mark.parametrize("importance", ["l1", "hessian"])
def test_a_pruned_network_comes_back_from_its_folder(importance: str, tmp_path: Path) -> None:
    detector = UpsamplingDetector()
    dense = model(detector)
    step = Prune.model_validate({"ratio": 0.5, "of": "flops", "importance": importance, "round_to": 1, "images": 8})
    pruned = step.apply(dense, context(tmp_path, detector))
    assert pruned.params < dense.params
    assert 1 - pruned.flops / dense.flops == pytest.approx(0.5, abs=0.1)
    norm, up, deep = (pruned.network.get_submodule(name) for name in ("down.1", "up.0", "deep.0"))
    assert (norm.num_groups, norm.num_channels) == (8, up.in_channels)
    assert deep.groups == deep.in_channels == deep.out_channels == up.out_channels
    save_network(pruned.network, tmp_path / "saved")
    loaded = load_network(detector, 2, tmp_path / "saved")
    assert layers(loaded) == layers(pruned.network) != layers(dense.network)
    assert all(torch.equal(a, b) for a, b in zip(outputs(loaded), outputs(pruned.network), strict=True))
    assert count(loaded, SIZE) == (pruned.params, pruned.flops)
    names = [name for name, _ in layer_outputs(loaded, torch.zeros(1, 3, SIZE.height, SIZE.width).numpy())]
    assert names == ["stem.0", "down.0", "up.0", "deep.0", "box", "score"]


class Chain(UpsamplingDetector):
    """A convolution, a transposed one and the predictor."""

    def protected(self, network: nn.Module) -> list[nn.Module]:
        return [network.get_submodule("2")]


def test_channels_that_nobody_reads_leave_a_transposed_convolution_without_a_trace() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv2d(6, 2, 1)).eval()
    images = torch.randn(1, 3, SIZE.height, SIZE.width)
    with torch.no_grad():
        network[1].weight[2:5], network[2].weight[:, 1] = 0, 0
        expected = network(images)
    with trace_dependency_groups(network, Chain(), SIZE) as coupling:
        coupling.remove({"0": [2, 3, 4], "1": [1]})
    assert network[1].weight.shape == (5, 5, 2, 2)
    with torch.no_grad():
        torch.testing.assert_close(network(images), expected)


def test_the_sensitivity_of_what_a_transposed_convolution_reads_is_taken_from_its_weights(tmp_path: Path) -> None:
    detector = UpsamplingDetector()
    dense = model(detector)
    criterion = make_criterion("taylor", dense.network, SIZE, context(tmp_path, detector), 8)
    with trace_dependency_groups(copy_network(dense.network), detector, SIZE) as coupling:
        (block,) = [block for block in coupling.blocks if block.name == "down.0"]
    assert [member.name for member in block.members if member.reads] == ["up.0"]
    assert {block.name: block.groups for block in coupling.blocks} == {"deep.0": 4, "down.0": 8}
    assert all((energies(block) > 0).all() for block in coupling.blocks)
    scores = criterion(block)
    assert scores is not None
    assert scores.shape == (48,)
    assert (scores > 0).float().mean() > 0.8  # a ReLU may have closed a channel


def test_a_file_of_an_older_paretune_lists_no_layers_of_the_newer_kinds(tmp_path: Path) -> None:
    detector = UpsamplingDetector()
    network = model(detector).network
    save_network(network, tmp_path)
    body = json.loads((tmp_path / STRUCTURE).read_text())
    for name in ("stem.1", "down.1", "up.0", "deep.0", "deep.1"):
        del body["layers"][name]
    (tmp_path / STRUCTURE).write_text(json.dumps(body))
    loaded = load_network(detector, 2, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(outputs(loaded), outputs(network), strict=True))
