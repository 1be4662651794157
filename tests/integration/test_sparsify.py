"""Sparsity: the smallest weights and no others, zeros that outlive training, and what a file of zeros weighs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from paretune.compression.export import Export
from paretune.compression.finetune import Finetune
from paretune.compression.sparsify import Sparsify
from paretune.training.checkpoint import TrainingState
from paretune.training.loop import Options, train
from paretune.training.optimizer import SparsityMask
from tests_support_compression import SETTINGS, SIZE, context, model, same_state, state

PREDICTORS = {"box", "score"}


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {n: m.weight.detach() for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}


def zeros(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight == 0 for name, weight in weights(network).items()}


@pytest.mark.parametrize("sparsity", [0.3, 0.8])
def test_local_takes_the_smallest_of_every_layer(sparsity: float, tmp_path: Path) -> None:
    before = model()
    after = Sparsify(sparsity=sparsity, scope="local").apply(before, context(tmp_path))
    for name, weight in weights(after.network).items():
        dense = weights(before.network)[name].numpy()
        if name in PREDICTORS:
            assert np.array_equal(weight, dense)
            continue
        border = np.sort(np.abs(dense).ravel())[round(sparsity * dense.size)]
        assert np.array_equal(weight, np.where(np.abs(dense) < border, 0, dense))
    assert after.notes == (f"sparsify: {sparsity:.0%} zeros gain size when coded (coded_mib), no latency",)
    assert (after.params, after.flops) == (before.params, before.flops)


def test_global_takes_the_smallest_of_all(tmp_path: Path) -> None:
    before = model()
    after = Sparsify(sparsity=0.5, scope="global", keep_outputs=False).apply(before, context(tmp_path))
    dense = np.concatenate([weight.abs().flatten().numpy() for weight in weights(before.network).values()])
    border = np.sort(dense)[round(0.5 * len(dense))]
    for name, weight in weights(after.network).items():
        assert torch.equal(weight == 0, weights(before.network)[name].abs() < border)


def test_two_of_four_keeps_the_larger_two_of_neighbouring_inputs(tmp_path: Path) -> None:
    before = model()
    after = Sparsify(pattern="2:4", keep_outputs=False).apply(before, context(tmp_path))
    for name, weight in weights(after.network).items():
        dense = weights(before.network)[name].numpy()
        if dense.shape[1] % 4:  # three colours; depthwise
            assert np.array_equal(weight, dense)
            continue
        for output, top, row, column in np.ndindex(len(dense), dense.shape[1] // 4, *dense.shape[2:]):
            place = (output, slice(4 * top, 4 * top + 4), row, column)
            four, left = dense[place], weight.numpy()[place]
            larger = np.argsort(np.abs(four))[2:]
            assert np.array_equal(np.flatnonzero(left), np.sort(larger))
            assert np.array_equal(left[larger], four[larger])
    assert "50% zeros" in after.notes[0]
    assert "no latency but by TensorRT in fp16 or INT8, on GPUs with sparse tensor cores" in after.notes[0]


def test_a_layer_that_loses_everything_is_told(tmp_path: Path) -> None:
    given = model()
    with torch.no_grad():
        given.network.same[0].weight.mul_(1e-6)
    after = Sparsify(sparsity=0.9, scope="global").apply(given, context(tmp_path))
    assert after.notes[0] == "sparsify: all weights of same.0 are zero"


@pytest.mark.parametrize(
    "step", [Sparsify(sparsity=0.6), Sparsify(sparsity=0.6, scope="global"), Sparsify(pattern="2:4")]
)
def test_twice_is_once_and_says_so(step: Sparsify, tmp_path: Path) -> None:
    once = step.apply(model(), context(tmp_path))
    twice = step.apply(once, context(tmp_path))
    assert same_state(state(once.network), state(twice.network))
    assert "sparsify changed nothing" in twice.notes[-1]


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD", "Rprop"])
@pytest.mark.parametrize("step", [Sparsify(sparsity=0.7), Sparsify(pattern="2:4")])
def test_zeros_outlive_finetuning(step: Sparsify, optimizer: str, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"optimizer": optimizer, "lr": 1e-2, "ema": 0.9})
    around = context(tmp_path, training=settings)
    sparse = step.apply(model(), around)
    tuned = Finetune(epochs=2).apply(sparse, around)
    for name, wanted in zeros(sparse.network).items():
        assert torch.equal(zeros(tuned.network)[name], wanted)
    assert not torch.equal(weights(tuned.network)["stem.0"], weights(sparse.network)["stem.0"])
    assert tuned.history == ("sparsify", "finetune")


def test_zeros_nobody_made_are_trained(tmp_path: Path) -> None:
    given = model()
    with torch.no_grad():
        given.network.same[0].weight[:, :8] = 0
    tuned = Finetune(epochs=1).apply(given, context(tmp_path))
    assert weights(tuned.network)["same.0"][:, :8].all()


def test_zeros_outlive_a_resumed_training(tmp_path: Path) -> None:
    used, sparse = context(tmp_path), Sparsify(sparsity=0.7).apply(model(), context(tmp_path))
    settings = SETTINGS.model_copy(update={"epochs": 2})
    states: list = []

    def trained(**options):
        network = Sparsify(sparsity=0.7).apply(model(), used).network.train()
        on_epoch = lambda epoch: states.append(  # noqa: E731
            TrainingState(**{**vars(epoch.state), "network": {n: t.clone() for n, t in epoch.state.network.items()}})
        )
        split = used.data.splits["train"]
        more = Options(keep_zeros=True, **options)
        return train(network, used.detector, split, SIZE, settings, on_epoch=on_epoch, options=more).network

    trained()
    resumed = trained(resume=states[0])
    assert zeros(resumed).keys() == zeros(sparse.network).keys()
    assert all(torch.equal(zeros(resumed)[name], wanted) for name, wanted in zeros(sparse.network).items())


def test_gradients_of_zeros_count_for_nothing() -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0, 2], [0, 0, 3]]))
        layer.bias.zero_()
    kept = SparsityMask(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    kept.in_gradients()
    assert layer.weight.grad.tolist() == [[1, 0, 1], [0, 0, 1]]
    assert layer.bias.grad.tolist() == [1, 1]  # of one dimension: a bias may be zero by chance
    with torch.no_grad():
        layer.weight.add_(1)
    kept.in_weights()
    assert layer.weight.tolist() == [[2, 0, 3], [0, 0, 4]]


@pytest.mark.slow
def test_zeros_are_in_the_exported_file(tmp_path: Path) -> None:
    """Norms that are folded into the weights leave zeros as they are."""
    import onnx
    from onnx import numpy_helper

    around = context(tmp_path)
    sparse = Sparsify(sparsity=0.7).apply(model(), around)
    graph = onnx.load(Export().apply(sparse, around).file).graph
    held = [numpy_helper.to_array(tensor) for tensor in graph.initializer]
    wanted = sum(int(found.sum()) for found in zeros(sparse.network).values())
    assert sum(int((tensor == 0).sum()) for tensor in held if tensor.ndim == 4) == wanted


@pytest.mark.parametrize(
    "fields", [{"sparsity": 1.0}, {"sparsity": -0.1}, {"pattern": "1:4"}, {"pattern": "2:4", "sparsity": 0.7}]
)
def test_wrong_fields_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Sparsify.model_validate(fields)
