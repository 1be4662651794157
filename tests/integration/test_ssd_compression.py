"""SSD under compression: pruned exactly, saved, exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paretune.compression.export import Export
from paretune.compression.prune.step import Prune
from paretune.compression.quantize.step import Quantize
from paretune.core.types import InputSize
from paretune.detectors.ssd.detector import Ssd
from paretune.networks.network_files import load_network, save_network
from tests_support_compression import CLASSES, context, model, with_channels_at_zero, with_different_biases

LITE, VGG = Ssd(width=0.5), Ssd(variant="ssd300_vgg16")
CASES = [
    pytest.param(LITE, InputSize(128, 96), id="lite", marks=pytest.mark.slow),
    pytest.param(VGG, InputSize(300, 300), id="vgg", marks=[pytest.mark.full, pytest.mark.timeout(600)]),
]


def maps_of(network, size):
    torch.manual_seed(0)
    with torch.no_grad():
        return network.eval()(torch.rand(1, 3, size.height, size.width))


@pytest.mark.parametrize(("detector", "size"), CASES)
def test_a_pruned_network_is_the_dense_one_with_channels_at_zero(detector, size, tmp_path: Path):
    """Which channels are gone is told by biases and shifts that are all different; the scales of VGG go with them."""
    dense = model(detector, size)
    with_different_biases(dense.network)
    pruned = Prune(ratio=0.4, round_to=4).apply(dense, context(tmp_path, detector))
    reference, removed = with_channels_at_zero(dense.network, pruned.network)
    assert removed > 0
    assert pruned.params < 0.8 * dense.params
    for wanted, got in zip(maps_of(reference, size), maps_of(pruned.network, size), strict=True):
        assert (wanted - got).abs().max() <= 1e-5 * wanted.abs().max()
    save_network(pruned.network, tmp_path / "saved")
    loaded = load_network(detector, len(CLASSES), tmp_path / "saved")
    saved, read = pruned.network.state_dict(), loaded.state_dict()
    assert saved.keys() == read.keys()
    assert all(torch.equal(saved[name], read[name]) for name in saved)
    for wanted, got in zip(maps_of(pruned.network, size), maps_of(loaded, size), strict=True):
        torch.testing.assert_close(wanted, got, rtol=1e-4, atol=1e-5)  # kernels differ with the layout in memory


@pytest.mark.parametrize(("detector", "size"), CASES)
def test_is_exported_and_quantized(detector, size, tmp_path: Path):
    """The export compares its file with eager on training pictures by itself."""
    around = context(tmp_path, detector)
    exported = Export().apply(model(detector, size), around)
    quantized = Quantize(images=4).apply(exported, around)
    assert quantized.file.stat().st_size < exported.file.stat().st_size
