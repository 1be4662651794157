"""Evaluation of a network during training, with the detections and the metrics of the deployed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from paretune.core.types import Detections, Floats, InputSize, Split, Thresholds
from paretune.data.preprocess import Placement
from paretune.detectors.base import Detector
from paretune.evaluation import Accuracy
from paretune.evaluation.accuracy import accuracy_of
from paretune.training.loader import READERS

USUAL = Thresholds()


def validate(  # noqa: PLR0913 - passed by name
    network: nn.Module,
    detector: Detector,
    split: Split,
    size: InputSize,
    *,
    device: str = "cpu",
    batch: int = 8,
    rank: int = 0,
    world: int = 1,
    thresholds: Thresholds = USUAL,
) -> Accuracy | None:
    """Return the accuracy of a network on a split, in float32 and eval mode; its mode is restored.

    Several workers divide the images; the weights and statistics are those of the first worker.

    Args:
        network: on ``device``.
        detector: preprocessing and decoding.
        split: images and annotations.
        size: of the network's input.
        device: torch device.
        batch: number of images in a batch.
        rank: number of this worker.
        world: number of workers.
        thresholds: of the postprocessing.

    Returns:
        The accuracy; None on every worker except the first.
    """
    training = network.training
    network.eval()
    try:
        if world > 1:
            _broadcast_statistics(network)
        own = range(rank, len(split), world)
        detections = dict(
            zip(own, _detect(network, detector, split, size, device, batch, own, thresholds), strict=True)
        )
    finally:
        network.train(training)
    if world > 1:
        parts: list[dict[int, Detections]] = [{}] * world
        dist.all_gather_object(parts, detections)
        detections = {index: entry for part in parts for index, entry in part.items()}
    if rank:
        return None
    indices = range(len(split))
    annotations = [split.annotations(i) for i in indices]
    return accuracy_of([detections[i] for i in indices], annotations, split.classes, limit=thresholds.limit)


def detect(
    network: nn.Module,
    detector: Detector,
    split: Split,
    size: InputSize,
    indices: Sequence[int],
    device: str = "cpu",
    thresholds: Thresholds = USUAL,
) -> list[Detections]:
    """Return the detections of a network in eval mode in some images of a split, in pixels of each image."""
    return list(_detect(network, detector, split, size, device, 8, indices, thresholds))


def _detect(
    network: nn.Module,
    detector: Detector,
    split: Split,
    size: InputSize,
    device: str,
    batch: int,
    indices: Sequence[int],
    thresholds: Thresholds,
) -> Iterator[Detections]:
    preprocess = detector.preprocess

    def read(index: int) -> tuple[Floats, Placement]:
        return preprocess(split.image(index), size)

    groups = [indices[begin : begin + batch] for begin in range(0, len(indices), batch)]
    with ThreadPoolExecutor(READERS) as pool:
        ahead = pool.map(read, groups[0]) if groups else iter(())
        for number in range(len(groups)):
            fitted = list(ahead)
            if number + 1 < len(groups):
                ahead = pool.map(read, groups[number + 1])
            with torch.no_grad():
                images = torch.from_numpy(np.stack([planes for planes, _ in fitted]))
                raw = network(images.contiguous(memory_format=torch.channels_last).to(device))
            maps = [tensor.float().cpu().numpy() for tensor in raw]
            for detections, (_, placement) in zip(detector.decode(maps, size, thresholds), fitted, strict=True):
                yield Detections(placement.to_image(detections.boxes), detections.scores, detections.labels)


@torch.no_grad()
def _broadcast_statistics(network: nn.Module) -> None:
    """Copy the first worker's statistics of norms to all, since each worker has seen other images."""
    for buffer in network.buffers():
        dist.broadcast(buffer, 0)
