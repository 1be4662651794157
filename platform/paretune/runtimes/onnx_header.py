"""What an ONNX file holds, read without the package onnx: a process that only predicts does not import it."""

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
"""Only NVIDIA_TF32_OVERRIDE=0 would, which is read once and for the whole process: of a trial, that has trained on the
GPU by then, or opened another session."""
_INTEGER = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger")
_INT8, _FLOAT16 = 3, 10
"""TensorProto.DataType."""


@dataclass(frozen=True)
class OnnxContents:
    """Kinds of a file's nodes, and of the constants that they read."""

    operators: frozenset[str]
    types: frozenset[int]
    signed: bool
    """Whether all pairs of QuantizeLinear and DequantizeLinear are of signed 8 bits and have a zero point of 0."""

    @property
    def precision(self) -> str:
        """What it is made to compute in: ``int8``, ``fp16`` or ``fp32``."""
        if self.operators.intersection(_INTEGER):
            return "int8"
        return "fp16" if _FLOAT16 in self.types else "fp32"

    @property
    def for_tensorrt(self) -> bool:
        """Whether TensorRT reads its integers, if it has any: signed ones, whose ranges are known beforehand."""
        others = self.operators.intersection(_INTEGER) - {"QuantizeLinear"}
        return self.precision != "int8" or (self.signed and not others)


def contents_of(file: Path) -> OnnxContents:
    """Read a file that a runtime has loaded, or that onnx has written."""
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
    """Tell whether a TensorProto of integers holds one that is not 0: in raw_data, or in int32_data, packed or not."""
    return any(part if isinstance(part, int) else any(part) for part in (*tensor[9], *tensor[5]))


def check_tensorrt_integers(file: Path) -> None:
    """Refuse INT8 that TensorRT does not read.

    Raises:
        RuntimeError: the file was quantized for another runtime.
    """
    if not contents_of(file).for_tensorrt:
        raise RuntimeError(
            f"TensorRT does not read the INT8 of {file.name}, which is for CPUs: it is not signed with zero points "
            "of 0, or its ranges are taken while it runs; quantize for this runtime"
        )


def _message(data: memoryview) -> dict[int, list[Any]]:
    """Return the fields of a protobuf message: number → integers, or the bytes of all else."""
    found: dict[int, list[Any]] = defaultdict(list)
    at = 0
    while at < len(data):
        key, at = _integer(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _integer(data, at)
            found[key >> 3].append(value)
            continue
        size, at = _integer(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        found[key >> 3].append(data[at : at + size])
        at += size
    return found


def _integer(data: memoryview, at: int) -> tuple[int, int]:
    """Read an integer of seven bits a byte, the lowest first; return it and where the next field begins."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
