"""YOLOX's network against facts taken from the official code, run once (tests/golden/yolox_official.json)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.core.types import InputSize
from paretune.detectors.yolox.detector import Yolo

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "yolox_official.json").read_text())["variants"]
SMALL = Yolo(width=0.0625, depthwise=False)


def filled(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Fill a state with numbers that depend on its names and shapes only."""
    rng, out = np.random.default_rng(0), {}
    for key in sorted(state):
        shape = tuple(state[key].shape)
        if key.endswith("num_batches_tracked"):
            out[key] = state[key]
            continue
        if len(shape) > 1:
            value = rng.normal(size=shape) / np.sqrt(max(1, int(np.prod(shape[1:]))))
        elif key.endswith(("weight", "var")):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(size=shape) * 0.1
        out[key] = torch.from_numpy(np.asarray(value, np.float32))
    return out


@pytest.mark.parametrize("variant", ["nano", "tiny", "s", "m", "l", "x"])
def test_names_and_shapes_are_those_of_the_official_checkpoints(variant: str) -> None:
    with torch.device("meta"):
        network, golden = Yolo(variant=variant).build(80), GOLDEN[variant]
    lines = [f"{key} {list(tensor.shape)}" for key, tensor in sorted(network.state_dict().items())]
    assert [line for line in golden["some"] if line not in lines] == []
    assert len(lines) == golden["entries"]
    assert sum(parameter.numel() for parameter in network.parameters()) == golden["params"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == golden["sha256"]


@pytest.mark.parametrize("variant", ["nano", "tiny"])
def test_computes_what_the_official_network_computes(variant: str) -> None:
    network, golden = Yolo(variant=variant).build(80).eval(), GOLDEN[variant]["outputs"]
    network.load_state_dict(filled(network.state_dict()))
    images = np.random.default_rng(1).uniform(0, 255, (1, 3, 64, 96)).astype(np.float32)
    with torch.no_grad():
        raw = network(torch.from_numpy(images))
    levels = [
        torch.cat([raw[i][0].flatten(1), raw[i + 1][0].sigmoid().flatten(1), raw[i + 2][0].sigmoid().flatten(1)])
        for i in (0, 3, 6)
    ]
    out = torch.cat(levels, 1).T[:, :6]
    assert len(out) == golden["cells"]
    for name, value in {"mean": out.mean(0), "std": out.std(0), "first": out[0], "last": out[-1]}.items():
        np.testing.assert_allclose(value, golden[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_batch_norm_and_prior_are_those_of_yolox() -> None:
    network = Yolo().build(3)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}
    for name in ("cls_preds", "obj_preds"):
        for convolution in network.get_submodule(f"head.{name}").children():
            torch.testing.assert_close(convolution.bias.sigmoid(), torch.full_like(convolution.bias, 0.01))


@settings(max_examples=15, deadline=None)
@given(width=st.integers(32, 140), height=st.integers(32, 140))
def test_takes_exactly_the_sizes_it_says_it_takes(width: int, height: int) -> None:
    network = SMALL.build(2).eval()
    images = torch.zeros(1, 3, height, width)
    if SMALL.size_unsupported_reason(InputSize(width, height)):
        with pytest.raises(RuntimeError), torch.no_grad():
            network(images)
        return
    with torch.no_grad():
        raw = network(images)
    for level, stride in enumerate((8, 16, 32)):
        cells = (-(-height // stride), -(-width // stride))
        assert [tuple(maps.shape[1:]) for maps in raw[level * 3 : level * 3 + 3]] == [
            (4, *cells),
            (1, *cells),
            (2, *cells),
        ]


def test_overrides_win_over_the_variant() -> None:
    assert not any(name.endswith("dconv") for name, _ in Yolo(depthwise=False).build(2).named_modules())
    wide = Yolo(variant="nano", width=0.5, depth=0.67, depthwise=False).build(2)
    assert wide.get_submodule("backbone.backbone.stem.conv.conv").out_channels == 32
    assert len(wide.get_submodule("backbone.backbone.dark3.1.m")) == 6
