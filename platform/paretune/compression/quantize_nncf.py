"""Static INT8 by NNCF (https://github.com/openvinotoolkit/nncf), made for OpenVINO: an extra of its own."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from paretune.compression.quantize_calibration import Feed
from paretune.compression.quiet import quiet


def static(
    prepared: Path, file: Path, feed: Feed, *, percentile: bool, per_channel: bool, floats: Collection[str]
) -> None:
    """Write a file with pairs of QuantizeLinear and DequantizeLinear, as NNCF places them.

    Arguments are those of ONNX Runtime's ``static``.
    """
