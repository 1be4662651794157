"""What a deployment does besides an inference, timed in the process that is measured."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from paretune.core.types import Image


def times(
    predictor: Any, images: Sequence[Image], *, score: float, inferences: int, cap: float, device: str
) -> dict[str, Any]:
    """Run inferences as a deployment does: images come as JPEG files, and only sure boxes are wanted.

    Args:
        predictor: as ``runtimes.predictor.Predictor``.
        images: RGB uint8 (H, W, 3), taken in turn.
        score: smallest one that counts.
        inferences: how many.
        cap: seconds after which it ends even without so many.
        device: between which and the host input and raw maps are carried, by torch's name.

    Returns:
        ``decode``, ``postprocess`` and ``transfer``: (wall ns, CPU ns) of each inference; ``no_transfer``: why the last
        is not known, or "".
    """
    thresholds = dataclasses.replace(predictor.artefact.thresholds, score=score)
    sure = dataclasses.replace(predictor, artefact=dataclasses.replace(predictor.artefact, thresholds=thresholds))
    files = [_as_jpeg(image) for image in images[:inferences]]
    found: dict[str, Any] = {"decode": [], "postprocess": [], "transfer": []}
    found["no_transfer"] = _no_transfer(predictor, device)
    start = time.monotonic()
    for number in range(inferences):
        if time.monotonic() - start >= cap:
            break
        image = _timed(found["decode"], _decoded, files[number % len(files)])
        batch, placement = predictor.preprocess(image)
        raw = predictor.core(batch)
        _timed(found["postprocess"], sure.postprocess, raw, placement)
        if not found["no_transfer"]:
            _timed(found["transfer"], _carry, batch, _made_there(raw, device), device)
    return found


def _timed(into: list[tuple[int, int]], run: Callable[..., Any], *given: Any) -> Any:
    """Run and note how long it took, in wall and in CPU time (ns)."""
    start, cpu = time.perf_counter_ns(), time.process_time_ns()
    found = run(*given)
    into.append((time.perf_counter_ns() - start, time.process_time_ns() - cpu))
    return found


def _no_transfer(predictor: Any, device: str) -> str:
    """Say why it cannot be told what carrying takes; nothing where it can."""
    if device == "cpu":
        return "a CPU has what the host has"
    if len(predictor.detector.part_names) > 1:
        return "what is carried between several networks is not timed apart"
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        return "torch, which carries it here, finds no GPU"
    return ""


def _made_there(raw: Sequence[Any], device: str) -> list[Any]:
    """Return maps of this size on a device, where a network makes them."""
    import torch

    made = [torch.from_numpy(part).to(device) for part in raw]
    if device == "cuda":
        torch.cuda.synchronize()
    return made


def _carry(batch: Any, made: Sequence[Any], device: str) -> None:
    """Carry an input to a device and maps back, from and to memory that is not pinned: runtimes take and give numpy."""
    import torch

    torch.from_numpy(batch).to(device)
    for part in made:
        part.cpu()  # waits for what was asked for before


def _as_jpeg(image: Any) -> bytes:
    """Return the content of a JPEG file, as cameras write them: quality 90, colours at half the resolution."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90, subsampling="4:2:0")
    return file.getvalue()


def _decoded(content: bytes) -> Any:
    """Return the RGB image of a JPEG file's content, as `predict` does."""
    from paretune.data.image_io import decoded

    return decoded(Path("image.jpg"), content)
