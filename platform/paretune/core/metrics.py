"""The metrics of a trial: their names, which of them may be named in a job, and which are costs."""

from __future__ import annotations

from collections.abc import Mapping

from paretune.core.errors import did_you_mean

CHANGED = ("map", "map50")
"""Metrics whose difference to the eager baseline's has an interval."""


def change_names(metric: str) -> tuple[str, str, str]:
    """Return the names of a difference: low end of its 95 % interval, the difference, high end."""
    return f"{metric}_delta_low", f"{metric}_delta", f"{metric}_delta_high"


def change_in(metrics: Mapping[str, float | None], metric: str) -> tuple[float, float, float] | None:
    """Return how a metric differs from the baseline's, between the ends of the interval; None where it is not known."""
    low, middle, high = (metrics.get(name) for name in change_names(metric))
    return None if low is None or middle is None or high is None else (low, middle, high)


METRICS = (
    "map",
    *change_names("map"),
    "map50",
    *change_names("map50"),
    "precision",
    "recall",
    "f1",
    "latency_ms",
    "network_ms",
    "latency_ms_p50",
    "latency_ms_p90",
    "network_ms_p50",
    "memory_mib_peak",
    "energy_mj_image",
    "size_mib",
    "coded_mib",
    "params",
    "flops",
)
"""Metrics every point of a printed front has, null where unknown."""


NAMEABLE = {
    "map": "COCO mean average precision, IoU 0.50:0.95",
    "map50": "mean average precision at IoU 0.50",
    "map75": "mean average precision at IoU 0.75",
    "map_delta_low": "map less the eager baseline's, the low end of its 95 % interval: -0.01 loses a point at most",
    "map50_delta_low": "the same of map50",
    "map_small": "map of objects below 32 x 32 pixels",
    "map_medium": "map of objects from there to 96 x 96 pixels",
    "map_large": "map of larger objects",
    "ar1": "mean recall, IoU 0.50:0.95, of one detection of a class in an image",
    "ar10": "the same of ten detections",
    "ar100": "the same of a hundred detections",
    "ar_small": "ar100 of objects below 32 x 32 pixels",
    "ar_medium": "ar100 of objects from there to 96 x 96 pixels",
    "ar_large": "ar100 of larger objects",
    "precision": "at the confidence of the best F1, IoU 0.50",
    "recall": "at the confidence of the best F1, IoU 0.50",
    "f1": "the best one over all confidences, IoU 0.50",
    "latency_ms": "preprocess + network + postprocess, measured in a duet with the sweep's reference",
    "network_ms": "the network alone, measured in the same way",
    "latency_ms_p50": "wall-clock median of preprocess + network + postprocess in the trial's own minutes",
    "latency_ms_p50_clean": "the same of inferences during which no core was taken away",
    "latency_ms_p50_cpu": "the same of CPU time",
    "latency_ms_p90": "90th percentile of the wall-clock times",
    "latency_ms_p95": "95th percentile, of at least 130 inferences",
    "latency_ms_p99": "99th percentile, of at least 662 inferences",
    "network_ms_p50": "wall-clock median of the network alone",
    "memory_mib_peak": "peak resident memory of a process that only predicts",
    "device_mib_peak": "memory of the GPU that it has",
    "energy_mj_image": "millijoules an image, of all that the device took meanwhile",
    "energy_mj_image_net": "the same without what the idle device takes",
    "size_mib": "model files on disk",
    "coded_mib": "the same compressed by bzip2: what clustered and sparse weights gain",
    "params": "number of parameters",
    "flops": "operations of one inference, 2 x multiply-adds",
}
"""Metrics an objective or a constraint may name."""
COSTS = tuple(list(NAMEABLE)[list(NAMEABLE).index("latency_ms") :])
"""Those that are better when smaller."""
ENERGY = ("energy_mj_image", "energy_mj_image_net")
"""Those that only some machines tell."""


def known_metric(metric: str) -> str:
    """Return the metric.

    Raises:
        ValueError: there is none of that name.
    """
    if metric not in NAMEABLE:
        raise ValueError(f"unknown metric {metric!r}{did_you_mean(metric, NAMEABLE)}; known: {', '.join(NAMEABLE)}")
    return metric
