"""Nodes that really run, traced back to the network's modules: by parameters, by names, by elimination."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from paretune.networks.int8_layers import Int8Conv2d, Int8Linear
from paretune.runtimes.aot_program import kernel_modules
from paretune.runtimes.operator_timing import ModuleNames, nodes_of, owner_of, scope_of
from paretune.runtimes.operator_timing_torch import TorchProfile


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
    return ModuleNames(known, sources, roots or {}).of({name: (kind, [name]) for name, kind in nodes.items()})


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


WRITTEN = """
    cpp_fused_0((const float*)(arg.data_ptr()), (float*)(buf0.data_ptr()));
    // Topologically Sorted Source Nodes: [relu], Original ATen: [aten.relu]
    RAIIAtenRecordFunctionHandle record_aoti_torch_cpu_mkldnn__convolution_pointwise_("CONV", nullptr, inputs_);
    // Topologically Sorted Source Nodes: [add], Original ATen: [aten.add]
    cpp_fused_add_1((const float*)(buf1.data_ptr()));
    RAIIAtenRecordFunctionHandle record_aoti_torch_cpu_mkldnn__convolution_pointwise_("CONV", nullptr, inputs_);
    // Topologically Sorted Source Nodes: [max_pool2d], Original ATen: [aten.max_pool2d_with_indices]
    RAIIAtenRecordFunctionHandle record_pool_("aoti_torch_cpu_max_pool2d_with_indices", nullptr, inputs_);
    // Topologically Sorted Source Nodes: [upsample_bilinear2d], Original ATen: [aten.upsample_bilinear2d]
    RAIIAtenRecordFunctionHandle record_up_("aoti_torch_cpu_upsample_bilinear2d_vec", nullptr, inputs_);
    // Topologically Sorted Source Nodes: [add_1, relu_1], Original ATen: [aten.add, aten.relu]
    RAIIAtenRecordFunctionHandle record_aoti_torch_cpu_mkldnn__convolution_pointwise_("CONV", nullptr, inputs_);
    // Topologically Sorted Source Nodes: [linear], Original ATen: [aten.addmm]
    RAIIAtenRecordFunctionHandle record_l_("aoti_torch_cpu_mkldnn__linear_pointwise", nullptr, inputs_);
""".replace("CONV", "aoti_torch_cpu_mkldnn__convolution_pointwise")
"""What the compiler writes of ``Residual``, shortened; the second convolution's comment went to a kernel of its own."""


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.twice = (nn.Conv2d(3 if first else 4, 4, 3, padding=1) for first in (1, 0, 0))
        self.pool, self.up, self.head = nn.MaxPool2d(2), nn.UpsamplingBilinear2d(scale_factor=2), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        first = torch.relu(self.stem(images))
        maps = self.up(self.pool(self.body(first) + 1))
        return self.head(torch.relu(self.twice(self.twice(maps)) + first))


def test_kernels_of_a_compiled_program_are_told_by_what_the_compiler_says_of_them() -> None:
    traced = torch.export.export(Residual().eval(), (torch.zeros(1, 3, 8, 8),), strict=False)
    convolution = "aoti_torch_cpu_mkldnn__convolution_pointwise"
    assert kernel_modules(traced.graph, WRITTEN) == {
        convolution: "stem",
        # the second is told of by nobody; the third may be `twice` or, through the sum, `stem`, which is another
        f"{convolution} 3": "twice",
        "aoti_torch_cpu_max_pool2d_with_indices": "pool",
        "aoti_torch_cpu_upsample_bilinear2d_vec": "up",
        "aoti_torch_cpu_mkldnn__linear_pointwise": "head",
    }


def test_an_int8_layer_of_a_compiled_program_is_not_the_one_before_it() -> None:
    """Its kernel is told of together with the activation before, and the rounding of its input."""
    written = """
    // Topologically Sorted Source Nodes: [mul, add_, clamp_, to_1, int8_convolution], Original ATen: [aten.mul]
    RAIIAtenRecordFunctionHandle record_paretune_("paretune.int8_convolution.default", nullptr);
    // Topologically Sorted Source Nodes: [relu_, mul_1, to_4, int8_convolution_1], Original ATen: [aten.relu]
    RAIIAtenRecordFunctionHandle record_paretune_("paretune.int8_convolution.default", nullptr);
    """
    fields = {"channels": [4, 4], "groups": 1, "kernel_size": [1, 1], "stride": [1, 1], "padding": [0, 0]}
    fields |= {"dilation": [1, 1], "input_scale": 0.1, "input_zero_point": 0}
    first, second = (Int8Conv2d.empty(fields, device=None) for _ in range(2))
    network = nn.Sequential(first, nn.ReLU(inplace=True), second)
    traced = torch.export.export(network, (torch.zeros(1, 4, 8, 8),), strict=False)
    told = {"paretune.int8_convolution.default": "0", "paretune.int8_convolution.default 2": "2"}
    assert kernel_modules(traced.graph, written) == told


def test_an_operator_of_our_own_is_no_module() -> None:
    """The layers in INT8 call ``paretune::int8_convolution``."""
    profile = TorchProfile("cpu", ("core",), of_kernels={})
    layer = Int8Linear.empty({"channels": [4, 4], "input_scale": 0.1, "input_zero_point": 0}, device=None)
    torch.ops.paretune.int8_product(
        torch.zeros(1, 4, dtype=torch.uint8), layer.weight, layer.weight_scale, layer.bias, 0.1, 0
    )
    told = list(profile.operators({}))
    assert {one.module for one in told} == {None}
    assert "paretune::int8_product" in {one.name for one in told}


def test_kernels_of_which_the_compiler_says_nothing_are_not_guessed() -> None:
    traced = torch.export.export(Residual().eval(), (torch.zeros(1, 3, 8, 8),), strict=False)
    silent = "\n".join(line for line in WRITTEN.splitlines() if "Source Nodes" not in line)
    assert kernel_modules(traced.graph, silent) == {}
