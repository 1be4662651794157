"""A small network and its file, deployed and quantized, for the tests of runtimes."""

from __future__ import annotations

import numpy as np
import torch

from paretune.core.model import Model
from paretune.core.types import InputSize
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.eager import Eager
from paretune.runtimes.onnxruntime import OnnxRuntime
from tests_support_profiling import FakeDetector

SIZE = InputSize(16, 12)


def fake_network():
    torch.manual_seed(0)
    return FakeDetector().build(2).eval()


def artefact_of(folder, *, network=None, file=None, size=SIZE, runtime=None):
    runtime = runtime or (Eager() if file is None else OnnxRuntime())
    model = Model(network if file is None else None, file, size)
    return write_artefact(folder, model, detector=FakeDetector(), runtime=runtime, recipe_tree={}, classes=("a", "b"))


class Reader:
    """One random image to take ranges from."""

    def __init__(self):
        self.left = [np.random.default_rng(0).random((1, 3, 12, 16), np.float32)]

    def get_next(self):
        return {"images": self.left.pop()} if self.left else None


def quantized(file, out, form="QDQ", *, signed=False):
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    if signed:
        options = {"ActivationSymmetric": True, "QuantizeBias": False}
        quantize_static(str(file), str(out), Reader(), activation_type=QuantType.QInt8, extra_options=options)
    elif form == "dynamic":
        quantize_dynamic(str(file), str(out), weight_type=QuantType.QUInt8)
    else:
        quantize_static(str(file), str(out), Reader(), quant_format=QuantFormat[form])
    return out
