"""Names of constants before ONNX Runtime's quantizer copies them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from paretune.compression.quantize.onnx_quantizers import prepare


def test_a_copy_of_a_constant_cannot_get_the_name_of_a_tensor(tmp_path):
    """Two norms share the bias ``val_1``; the quantizer names its copy ``val_10``, which is a node's output here."""
    constants = {"scale": np.ones(4, np.float32), "val_1": np.zeros(4, np.float32)}
    nodes = [
        helper.make_node("InstanceNormalization", ["images", "scale", "val_1"], ["a"], "first"),
        helper.make_node("InstanceNormalization", ["a", "scale", "val_1"], ["val_10"], "second"),
        helper.make_node("Relu", ["val_10"], ["maps"], "last"),
    ]
    images, maps = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, 8, 8]) for n in ("images", "maps"))
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [images], [maps], weights), opset_imports=[helper.make_opsetid("", 20)]
    )
    model.ir_version = 10
    onnx.save(model, tmp_path / "made.onnx")
    prepare(tmp_path / "made.onnx", tmp_path / "prepared.onnx")
    prepared = onnx.load(tmp_path / "prepared.onnx").graph
    outputs = {name for node in prepared.node for name in node.output}
    names = {tensor.name for tensor in prepared.initializer}
    assert not [name for name in names if any(other[len(name) :].isdigit() for other in outputs if name in other)]
    assert names <= {name for node in prepared.node for name in node.input}
