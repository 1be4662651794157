"""Pareto front and hypervolume: the one place where they are computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from paretune.errors import did_you_mean
from paretune.records import Record

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
    "latency_ms_p50": "median of preprocess + network + postprocess",
    "latency_ms_p90": "90th percentile of the same",
    "latency_ms_p95": "95th percentile, of at least 130 inferences",
    "network_ms_p50": "median of the network alone",
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
COSTS = tuple(list(NAMEABLE)[list(NAMEABLE).index("latency_ms_p50") :])
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


@dataclass(frozen=True)
class Objective:
    """A metric and which way is better."""

    metric: str
    direction: Literal["maximize", "minimize"]

    def gain(self, metrics: Mapping[str, float | None]) -> float:
        """Return the value so that more is better; NaN when unknown or not finite."""
        value = metrics.get(self.metric)
        if value is None or not math.isfinite(value):
            return math.nan
        return value if self.direction == "maximize" else -value


def pareto_front(points: Sequence[Mapping[str, float | None]], objectives: Sequence[Objective]) -> list[int]:
    """Return the indices of the points that no other point dominates, in their order.

    A point dominates another when it is nowhere worse and somewhere better. Of equal points the first
    stays; a point with an unknown objective never enters.
    """
    gains = [tuple(objective.gain(point) for objective in objectives) for point in points]
    known = [i for i, gain in enumerate(gains) if not any(map(math.isnan, gain))]

    def beaten(i: int) -> bool:
        return any(_dominates(gains[j], gains[i]) or (gains[j] == gains[i] and j < i) for j in known if j != i)

    return [i for i in known if not beaten(i)]


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and one != other


def hypervolume_2d(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Return the area that points dominate above a reference point; in both coordinates more is better.

    Zitzler and Thiele, Multiobjective optimization using evolutionary algorithms, PPSN 1998. Points that
    are not above the reference in both coordinates add nothing.
    """
    above = sorted(((x, y) for x, y in points if x > reference[0] and y > reference[1]), reverse=True)
    area, height = 0.0, reference[1]
    for x, y in above:
        if y > height:
            area += (x - reference[0]) * (y - height)
            height = y
    return area


def hypervolume(
    points: Sequence[Mapping[str, float | None]],
    objectives: Sequence[Objective],
    baseline: Mapping[str, float | None],
) -> float | None:
    """Return the hypervolume of points: quality against log(baseline's cost / cost).

    The reference point is (0, the eager baseline's cost): a candidate dearer than the baseline, or of no
    quality, adds nothing; nor does one with an unknown value. None where ``no_hypervolume`` gives a reason.
    """
    if no_hypervolume(objectives, baseline) is not None:
        return None
    up, down = sorted(objectives, key=lambda objective: objective.direction)
    base = -down.gain(baseline)
    values = [(up.gain(point), -down.gain(point)) for point in points]
    # NaN compares false: unknown values, and costs no measurement can give, are left out
    return hypervolume_2d([(quality, math.log(base / cost)) for quality, cost in values if cost > 0], (0.0, 0.0))


def no_hypervolume(objectives: Sequence[Objective], baseline: Mapping[str, float | None]) -> str | None:
    """Return why fronts of these objectives have no hypervolume; None if they have one."""
    if sorted(objective.direction for objective in objectives) != ["maximize", "minimize"]:
        return "it needs two objectives, one to maximize and one to minimize"
    cost = next(objective for objective in objectives if objective.direction == "minimize")
    if not -cost.gain(baseline) > 0:
        return f"the eager baseline's {cost.metric} is not known"
    return None


def front_object(
    sweep: str,
    target: str,
    records: Sequence[Record],
    objectives: Sequence[Objective],
    feasible: Callable[[Record], bool],
) -> dict[str, Any]:
    """Return what ``paretune front --json`` prints.

    Args:
        sweep: its name.
        target: the target's name.
        records: of all trials; trial 0 is the eager baseline.
        objectives: what the front is made of.
        feasible: whether a record keeps every constraint.
    """
    complete = [record for record in records if record.state == "complete"]
    eager = next((record for record in complete if record.number == 0), None)
    allowed = [record for record in complete if feasible(record)]
    chosen = [allowed[i] for i in pareto_front([r.metrics for r in allowed], objectives)]
    cheapest = next((o for o in objectives if o.direction == "minimize"), objectives[0])
    chosen.sort(key=lambda record: (-cheapest.gain(record.metrics), record.number))
    base: dict[str, float | None] = dict(eager.metrics) if eager else {}
    return {
        "sweep": sweep,
        "target": target,
        "baseline": point_of(eager) if eager else None,
        "front": [point_of(record) for record in chosen],
        "objectives": {objective.metric: objective.direction for objective in objectives},
        "hypervolume": hypervolume([r.metrics for r in allowed], objectives, base),
        "hypervolume_unknown": no_hypervolume(objectives, base),
        "reference": {o.metric: 0 if o.direction == "maximize" else base.get(o.metric) for o in objectives},
    }


def point_of(record: Record) -> dict[str, Any]:
    """Return one point of a front as it is printed."""
    known = {name: record.metrics.get(name) for name in METRICS}
    return {
        "trial": record.number,
        "recipe": dict(record.recipe),
        "metrics": {**known, **record.metrics},
        "artefact": record.artefact,
    }
