"""Timing of a deployment's further stages in the measured process."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from paretune.core.types import Image


def times(
    predictor: Any, images: Sequence[Image], *, score: float, inferences: int, cap: float, device: str
) -> dict[str, Any]:
    """Run inferences as a deployment does, from JPEG files to confident boxes.

    Args:
        predictor: a ``runtimes.predictor.Predictor``.
        images: RGB uint8 (H, W, 3), taken in turn.
        score: smallest score of a box.
        inferences: number of inferences.
        cap: seconds after which fewer inferences are enough.
        device: torch's name of the device to which the input is copied.

    Returns:
        ``decode``, ``postprocess`` and ``transfer``: (wall ns, CPU ns) of each inference; ``no_transfer``: why the
        transfer is not known, or an empty string.
    """
    thresholds = dataclasses.replace(predictor.artefact.thresholds, score=score)
    sure = dataclasses.replace(predictor, artefact=dataclasses.replace(predictor.artefact, thresholds=thresholds))
    files = [_as_jpeg(image) for image in images[:inferences]]
    times: dict[str, Any] = {"decode": [], "postprocess": [], "transfer": []}
    times["no_transfer"] = _no_transfer(predictor, device)
    start = time.monotonic()
    for number in range(inferences):
        if time.monotonic() - start >= cap:
            break
        image = _timed(times["decode"], _decoded, files[number % len(files)])
        batch, placement = predictor.preprocess(image)
        raw = predictor.core(batch)
        _timed(times["postprocess"], sure.postprocess, raw, placement)
        if not times["no_transfer"]:
            _timed(times["transfer"], _carry, batch, _made_there(raw, device), device)
    return times


def _timed(into: list[tuple[int, int]], run: Callable[..., Any], *given: Any) -> Any:
    """Run a function, append its wall and CPU time in ns to a list, and return its result."""
    start, cpu = time.perf_counter_ns(), time.process_time_ns()
    result = run(*given)
    into.append((time.perf_counter_ns() - start, time.process_time_ns() - cpu))
    return result


def _no_transfer(predictor: Any, device: str) -> str:
    """Return why the time of transfers cannot be measured; an empty string if it can."""
    if device == "cpu":
        return "a CPU has what the host has"
    if len(predictor.detector.part_names) > 1:
        return "what is carried between several networks is not timed apart"
    import torch

    with suppress(RuntimeError):  # this torch has no module for such devices
        if torch.get_device_module(device).is_available():
            return ""
    return f"torch, which carries it here, finds no {'GPU' if device.startswith('cuda') else device}"


def _made_there(raw: Sequence[Any], device: str) -> list[Any]:
    """Return copies of raw maps on a device."""
    import torch

    made = [torch.from_numpy(part).to(device) for part in raw]
    torch.get_device_module(device).synchronize()
    return made


def _carry(batch: Any, made: Sequence[Any], device: str) -> None:
    """Copy an input to a device and maps back, with memory that is not pinned, as runtimes exchange numpy arrays."""
    import torch

    torch.from_numpy(batch).to(device)
    for part in made:
        part.cpu()  # waits for the copies before


def _as_jpeg(image: Any) -> bytes:
    """Return the content of a JPEG file like a camera's: quality 90, colours at half the resolution."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90, subsampling="4:2:0")
    return file.getvalue()


def _decoded(content: bytes) -> Any:
    """Return the RGB image in the content of a JPEG file, decoded as by `predict`."""
    from paretune.data.image_io import decoded

    return decoded(Path("image.jpg"), content)
