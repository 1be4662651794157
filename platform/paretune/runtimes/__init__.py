"""Runtimes: libraries that run a model on a target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paretune.core.registry import Registry

if TYPE_CHECKING:
    from paretune.runtimes.base import Runtime

RUNTIMES: Registry[Runtime] = Registry(
    "runtime",
    {
        "compiled": "paretune.runtimes.compiled:Compiled",
        "eager": "paretune.runtimes.eager:Eager",
        "onnxruntime": "paretune.runtimes.onnxruntime:OnnxRuntime",
        "openvino": "paretune.runtimes.openvino:OpenVino",
        "tensorrt": "paretune.runtimes.tensorrt:TensorRt",
    },
)
