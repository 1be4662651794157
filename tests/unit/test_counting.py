"""Nodes that really run, traced back to the network's modules: by parameters, by names, by elimination."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from paretune.runtimes.counting import Modules, nodes_of, owner_of, scope_of


@pytest.mark.parametrize(
    ("parameter", "module"),
    [
        ("backbone.stem.conv.weight", "backbone.stem.conv"),
        ("backbone.stem.conv.weight_quantized", "backbone.stem.conv"),
        ("backbone.stem.conv.bias_quantized_scale", "backbone.stem.conv"),
        ("q_output_backbone.stem.conv.weight_1", "backbone.stem.conv"),
        ("backbone.stem.conv.weight.restored.0.int8", "backbone.stem.conv"),
        ("backbone.stem.conv.weight.restored.None.scale", "backbone.stem.conv"),
        ("backbone.stem.conv.weight.float", "backbone.stem.conv"),
        ("backbone.scale_weight", "backbone"),
        ("val_12", ""),
        ("scale", ""),
    ],
)
def test_a_parameter_tells_its_module_whatever_quantizers_made_of_its_name(parameter: str, module: str) -> None:
    assert owner_of(parameter) == module


def test_the_module_before_a_name_is_told_from_other_names() -> None:
    assert scope_of("backbone.act::silu_3") == "backbone.act"
    assert scope_of("::cat") == ""
    assert scope_of("/backbone/act/Mul") == ""


def graph_of(*nodes: tuple[str, str, list[str], str], weights: tuple[str, ...]) -> object:
    """(kind, name, inputs, output) in order."""
    made = [helper.make_node(kind, inputs, [output], name=name) for kind, name, inputs, output in nodes]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, None)] for name in ("images", nodes[-1][3])]
    return helper.make_graph(made, "g", *ends, [numpy_helper.from_array(np.ones(1), name) for name in weights])


RESIDUAL = graph_of(
    ("Conv", "n1", ["images", "a.weight"], "conv_1"),
    ("Relu", "", ["conv_1"], "relu_1"),
    ("Conv", "n2", ["relu_1", "b.weight"], "conv_2"),
    ("DequantizeLinear", "dq", ["c.weight_quantized", "s"], "c_float"),
    ("Conv", "n3", ["conv_2", "c_float"], "conv_3"),
    ("Add", "n4", ["relu_1", "conv_3"], "sum"),
    ("Relu", "last::relu_2", ["sum"], "relu_2"),
    weights=("a.weight", "b.weight", "c.weight_quantized", "s"),
)
"""A residual block whose last convolution may be fused with the sum and the activation."""


def found(nodes: Mapping[str, str], roots: Mapping[str, str] | None = None) -> dict[str, str]:
    known, sources = nodes_of(RESIDUAL)
    return Modules(known, sources, roots or {}).of({name: (kind, [name]) for name, kind in nodes.items()})


def test_nodes_are_found_by_name_output_and_what_runtimes_add() -> None:
    told = found({"n1": "Conv", "conv_2_nchwc": "Conv", "fused n3_token_7": "QLinearConv", "relu_2/Fusion/": "Relu"})
    assert told == {"n1": "a", "conv_2_nchwc": "b", "fused n3_token_7": "c", "relu_2/Fusion/": "last"}


def test_a_fused_convolution_is_the_one_that_no_other_node_is() -> None:
    assert found({"relu_1": "Conv", "conv_2": "Conv", "relu_2": "Conv"}) == {
        "relu_1": "a",
        "conv_2": "b",
        "relu_2": "c",
    }


def test_what_could_be_one_or_another_is_not_guessed() -> None:
    assert found({"relu_2": "Conv"}) == {}
    assert found({"sum": "Add", "ReorderOutput_token_3": "ReorderOutput"}) == {}


def test_modules_of_a_part_are_told_by_the_networks_names() -> None:
    roots = {"a": "network.first", "b": ""}
    assert found({"n1": "Conv", "n2": "Conv", "n3": "Conv"}, roots) == {"n1": "network.first", "n2": "", "n3": "c"}
