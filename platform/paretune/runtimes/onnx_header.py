"""Contents of an ONNX file, read without the package onnx, so that a process which only predicts needs no import."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NO_DYNAMIC = "TensorRT wants ranges that are known beforehand: take scheme int8"
NO_FP32 = (
    "onnxruntime's provider tensorrt cannot be told to leave TF32, so fp32 would be rounded to 10 bits: "
    "take precision: fp16, or runtime tensorrt, which leaves it"
)
"""Only NVIDIA_TF32_OVERRIDE=0 would turn it off, which is read once in a process, before a trial trains on the GPU."""
_INTEGER = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger")
_INT8, _FLOAT16 = 3, 10
"""Values of TensorProto.DataType."""


@dataclass(frozen=True)
class OnnxContents:
    """Operator types of a file, and types of its constants."""

    operators: frozenset[str]
    types: frozenset[int]
    signed: bool
    """True if all QuantizeLinear and DequantizeLinear use signed 8-bit integers with zero points of 0."""

    @property
    def precision(self) -> str:
        """Precision of the file: ``int8``, ``fp16`` or ``fp32``."""
        if self.operators.intersection(_INTEGER):
            return "int8"
        return "fp16" if _FLOAT16 in self.types else "fp32"

    @property
    def for_tensorrt(self) -> bool:
        """Return whether TensorRT reads its INT8, if it has any, which must be signed with fixed ranges."""
        others = self.operators.intersection(_INTEGER) - {"QuantizeLinear"}
        return self.precision != "int8" or (self.signed and not others)


def contents_of(file: Path) -> OnnxContents:
    """Return the contents of a valid ONNX file."""
    model = _message(memoryview(file.read_bytes()))
    (graph,) = map(_message, model[7])
    operators, zeros = set(), set()
    for node in map(_message, graph[1]):
        kind = bytes(node[4][0]).decode()
        operators.add(kind)
        if kind in ("QuantizeLinear", "DequantizeLinear") and len(node[1]) > 2:
            zeros.add(bytes(node[1][2]))
    constants = {bytes(tensor[8][0]): tensor for tensor in map(_message, graph[5])}
    types = {name: tensor[2][0] for name, tensor in constants.items()}
    signed = all(types.get(name) == _INT8 and not _any(constants[name]) for name in zeros)
    return OnnxContents(frozenset(operators), frozenset(types.values()), signed)


def _any(tensor: Mapping[int, Sequence[Any]]) -> bool:
    """Return whether a TensorProto of integers has one that is not 0, in raw_data or in int32_data, packed or not."""
    return any(part if isinstance(part, int) else any(part) for part in (*tensor[9], *tensor[5]))


def check_tensorrt_integers(file: Path) -> None:
    """Check that TensorRT reads the INT8 of a file.

    Raises:
        RuntimeError: the file was quantized for another runtime.
    """
    if not contents_of(file).for_tensorrt:
        raise RuntimeError(
            f"TensorRT does not read the INT8 of {file.name}, which is for CPUs: it is not signed with zero points "
            "of 0, or its ranges are taken while it runs; quantize for this runtime"
        )


def _message(data: memoryview) -> dict[int, list[Any]]:
    """Return the fields of a protobuf message: number → integers, or bytes of other types."""
    fields: dict[int, list[Any]] = defaultdict(list)
    at = 0
    while at < len(data):
        key, at = _integer(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _integer(data, at)
            fields[key >> 3].append(value)
            continue
        size, at = _integer(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        fields[key >> 3].append(data[at : at + size])
        at += size
    return fields


def _integer(data: memoryview, at: int) -> tuple[int, int]:
    """Return an integer stored in seven bits a byte, lowest first, and the position after it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
