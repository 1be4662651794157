"""Clusters in an exported file, whose norms are folded into its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from paretune.compression.cluster import Cluster
from paretune.compression.quantize.step import Quantize
from paretune.runtimes.onnx_session import open_session
from tests_support_compression import context, exported

PREDICTORS = {"box", "score"}


def in_file(file: Path) -> dict[str, np.ndarray]:
    """The weights of an exported file's convolutions, by their outputs."""
    graph = onnx.load(file).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return {node.output[0]: held[node.input[1]] for node in graph.node if node.op_type == "Conv"}


@pytest.mark.slow
def test_an_exported_file_has_few_weights_too(tmp_path: Path) -> None:
    """Norms are folded into the file's weights, so that clusters made before would be one set for each channel."""
    before = exported(tmp_path)
    kept = before.file.read_bytes()
    after = Cluster(bits=3).apply(before, context(tmp_path))
    assert before.file.read_bytes() == kept
    assert after.file.parent == tmp_path
    made = in_file(after.file)
    assert sum(len(np.unique(weight)) <= 8 for weight in made.values()) == 4
    assert {name for name, weight in made.items() if len(np.unique(weight)) > 8} == PREDICTORS
    assert "4 layers of 3 bits" in after.notes[-1]
    image = np.random.default_rng(0).random((1, 3, 48, 64), np.float32)
    runs = [open_session(found.file, 1).run(None, {"images": image}) for found in (before, after)]
    for wanted, got in zip(*runs, strict=True):
        assert 0 < np.abs(wanted - got).max() < 0.5 * np.abs(wanted).max()


@pytest.mark.slow
def test_a_quantized_file_has_nothing_to_cluster_but_what_was_kept(tmp_path: Path) -> None:
    around = context(tmp_path)
    quantized = Quantize(images=2, float_outputs=False).apply(exported(tmp_path), around)
    after = Cluster(bits=8, keep_outputs=False).apply(quantized, around)
    assert "cluster changed nothing" in after.notes[-1]
