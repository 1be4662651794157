"""The exported graph of YOLOX where a side is no multiple of 32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from paretune.detectors.yolox.detector import Yolo

SMALL = Yolo(width=0.0625, depthwise=False)


@pytest.mark.slow
def test_exported_graph_gives_the_same_maps_where_a_side_is_no_multiple_of_32(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network = SMALL.build(3).eval()
    images = torch.rand(1, 3, 144, 208) * 255
    torch.onnx.export(
        network, (images,), tmp_path / "core.onnx", dynamo=True, external_data=False, input_names=["images"]
    )
    session = onnxruntime.InferenceSession(tmp_path / "core.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network(images)
    for got, want in zip(session.run(None, {"images": images.numpy()}), expected, strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-4)
