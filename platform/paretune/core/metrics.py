"""The metrics of a trial, a row each: objectives, constraints, tables, pages and logs follow this table.

A new metric is a row here, with a ``value`` that computes it from a trial's other metrics and facts, or without one and
with a producer that puts it into a trial's metrics. A package of one's own adds a row through the entry point group
``paretune.metric``: ``name = "module:ROW"``, where ``ROW`` is a `Metric` of that name with a ``value``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from paretune.core.errors import UserError, did_you_mean
from paretune.core.registry import Registry

Direction = Literal["maximize", "minimize"]
UNKNOWN = "-"
"""Text of a value that is not known."""


@dataclass(frozen=True)
class Metric:
    """One row of the table."""

    name: str
    unit: str
    """Unit of the values; empty for shares and counts."""
    direction: Direction
    """Which values are better: ``maximize`` for larger ones."""
    about: str
    """Description of what is measured."""
    available: Literal["always", "energy", "gpu"] = "always"
    """Where trials have it: anywhere, on machines with a counter of energy, or on targets that are GPUs."""
    head: str = ""
    """Head of its column in tables; empty takes the name."""
    digits: int = 2
    """Digits after the point in tables."""
    scale: tuple[float, str] = (1.0, "")
    """Divisor of the values in tables, and the word for it, such as (1e6, "M")."""
    printed: bool = False
    """True if every point of a printed front has its key, with null for an unknown value."""
    compared: bool = False
    """True if its difference to the eager baseline's has an interval."""
    constraint_only: bool = False
    """True if it may be constrained, but is no objective."""
    group: str = "other"
    """Group of metrics that it is logged in, such as ``latency``."""
    value: Callable[[Mapping[str, float], Mapping[str, Any]], float | None] | None = None
    """Function of a trial's metrics and facts that computes it, needed in other packages; None: a trial measures it.

    Latencies are those at the end of the trial: the sweep's scale may move them a little later.
    """

    @property
    def column(self) -> str:
        """Return the head of its column."""
        return self.head or self.name

    def number(self, value: float | None) -> str:
        """Return a value, divided by the scale, as it is printed; a dash if it is unknown."""
        return UNKNOWN if value is None else f"{value / self.scale[0]:.{self.digits}f}"

    def text(self, value: float | None) -> str:
        """Return a value with the word of its scale."""
        word = "" if value is None else self.scale[1]
        return f"{self.number(value)} {word}".rstrip()

    def phrase(self, value: float | None) -> str:
        """Return a value with its unit or its name, for a line of text."""
        return f"{self.text(value)} {self.unit}" if self.column == self.unit else f"{self.column} {self.text(value)}"


def change_names(metric: str) -> tuple[str, str, str]:
    """Return the names of a difference: low end of its 95 % interval, the difference, high end."""
    return f"{metric}_delta_low", f"{metric}_delta", f"{metric}_delta_high"


def change_in(metrics: Mapping[str, float | None], metric: str) -> tuple[float, float, float] | None:
    """Return a metric's difference to the baseline's between the ends of its interval; None if it is not known."""
    low, middle, high = (metrics.get(name) for name in change_names(metric))
    return None if low is None or middle is None or high is None else (low, middle, high)


def _share(name: str, about: str, *, printed: bool = False, compared: bool = False) -> Metric:
    """Return the row of an accuracy from 0 to 1."""
    return Metric(name, "", "maximize", about, digits=3, printed=printed, compared=compared, group="accuracy")


_ROWS = (
    _share("map", "COCO mean average precision, IoU 0.50:0.95", printed=True, compared=True),
    _share("map50", "mean average precision at IoU 0.50", printed=True, compared=True),
    _share("map75", "mean average precision at IoU 0.75"),
    _share("map_small", "map of objects below 32 x 32 pixels"),
    _share("map_medium", "map of objects of 32 x 32 to 96 x 96 pixels"),
    _share("map_large", "map of objects above 96 x 96 pixels"),
    _share("ar1", "mean recall, IoU 0.50:0.95, of one detection of a class in an image"),
    _share("ar10", "mean recall, IoU 0.50:0.95, of ten detections of a class in an image"),
    _share("ar100", "mean recall, IoU 0.50:0.95, of a hundred detections of a class in an image"),
    _share("ar_small", "ar100 of objects below 32 x 32 pixels"),
    _share("ar_medium", "ar100 of objects of 32 x 32 to 96 x 96 pixels"),
    _share("ar_large", "ar100 of objects above 96 x 96 pixels"),
    _share("precision", "precision at the confidence of the best F1, IoU 0.50", printed=True),
    _share("recall", "recall at the confidence of the best F1, IoU 0.50", printed=True),
    _share("f1", "best F1 over all confidences, IoU 0.50", printed=True),
    Metric(
        *("latency_ms", "ms", "minimize"),
        "preprocess + network + postprocess, measured in a duet with the sweep's reference",
        head="ms",
        printed=True,
        group="latency",
    ),
    Metric("network_ms", "ms", "minimize", "the network alone, measured in a duet", printed=True, group="latency"),
    Metric(
        *("latency_ms_p50", "ms", "minimize"),
        "wall-clock median of preprocess + network + postprocess in the trial's own minutes",
        printed=True,
        group="latency",
    ),
    Metric(
        "latency_ms_p50_clean",
        "ms",
        "minimize",
        "median of inferences during which no core was taken away",
        group="latency",
    ),
    Metric(
        "latency_ms_p50_cpu",
        "ms",
        "minimize",
        "median of the CPU time of preprocess + network + postprocess",
        group="latency",
    ),
    Metric(
        "latency_ms_p90", "ms", "minimize", "90th percentile of the wall-clock times", printed=True, group="latency"
    ),
    Metric("latency_ms_p95", "ms", "minimize", "95th percentile, of at least 130 inferences", group="latency"),
    Metric("latency_ms_p99", "ms", "minimize", "99th percentile, of at least 662 inferences", group="latency"),
    Metric("network_ms_p50", "ms", "minimize", "wall-clock median of the network alone", printed=True, group="latency"),
    Metric(
        "memory_mib_peak",
        "MiB",
        "minimize",
        "peak resident memory of a process that only predicts",
        printed=True,
        group="memory",
    ),
    Metric("device_mib_peak", "MiB", "minimize", "memory of the GPU that the process has", "gpu", group="memory"),
    Metric(
        *("energy_mj_image", "mJ", "minimize"),
        "energy an image, of all that the device took meanwhile",
        available="energy",
        printed=True,
        group="energy",
    ),
    Metric(
        "energy_mj_image_net",
        "mJ",
        "minimize",
        "energy an image without what the idle device takes",
        "energy",
        group="energy",
    ),
    Metric("size_mib", "MiB", "minimize", "model files on disk", head="MiB", printed=True, group="model"),
    Metric(
        *("coded_mib", "MiB", "minimize"),
        "model files compressed by bzip2: what clustered and sparse weights gain",
        printed=True,
        group="model",
    ),
    Metric("params", "", "minimize", "number of parameters", scale=(1e6, "M"), printed=True, group="model"),
    Metric(
        "flops",
        "",
        "minimize",
        "operations of one inference, 2 x multiply-adds",
        scale=(1e9, "G"),
        printed=True,
        group="model",
    ),
)
CHANGED = tuple(row.name for row in _ROWS if row.compared)
"""Metrics whose difference to the eager baseline's has an interval."""


def _low(metric: str) -> Metric:
    """Return the row of the low end of a metric's difference."""
    about = f"{metric} less the eager baseline's, the low end of its 95 % interval: -0.01 loses a point at most"
    return Metric(change_names(metric)[0], "", "maximize", about, digits=3, constraint_only=True, group="accuracy")


METRICS: Mapping[str, Metric] = {row.name: row for row in (*_ROWS, *map(_low, CHANGED))}
"""Metrics that an objective or a constraint may name, in the order of columns."""
OTHERS: Registry[Any] = Registry("metric", {})
"""Rows of other packages: each names a `Metric` with a ``value``."""
PRINTED = tuple(
    name for row in _ROWS if row.printed for name in (row.name, *(change_names(row.name) if row.compared else ()))
)
"""Metrics that every point of a printed front has, null if unknown."""


OF_TARGET = ("latency_ms", "network_ms", "memory_mib", "device_mib", "energy_mj")
"""First parts of the names of the metrics that are measured on each target; the others are the same on all."""


def is_of_target(name: str) -> bool:
    """Return whether a metric differs between the targets of a sweep; those of other packages may."""
    return name.startswith(OF_TARGET) or name in OTHERS.rows


def metric_of(name: str) -> Metric:
    """Return the row of a metric.

    Raises:
        ValueError: there is none of that name, or another package's row is no such `Metric`.
    """
    if name in METRICS:
        return METRICS[name]
    if name not in OTHERS.rows:
        known = [*METRICS, *OTHERS.names]
        raise ValueError(f"unknown metric {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")
    try:
        row: Any = OTHERS.load(name)
    except UserError as error:
        raise ValueError(str(error)) from error
    if not isinstance(row, Metric) or row.name != name or row.value is None:
        raise ValueError(f"metric {name!r}: {OTHERS.rows[name]} is no Metric of that name with a function as value")
    return row


def in_order(names: Iterable[str]) -> list[Metric]:
    """Return the rows of some metrics, each once, in the order of the table; those of other packages come last."""
    asked = dict.fromkeys(names)
    return [
        *(row for name, row in METRICS.items() if name in asked),
        *(metric_of(n) for n in asked if n not in METRICS),
    ]


def computed(metrics: Mapping[str, float], facts: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """Compute the metrics that have a function from the metrics and facts of a complete trial.

    Returns:
        Metric → value; metric → why it is not known.
    """
    values, reasons = dict[str, float](), dict[str, str]()
    for name in [*(name for name, row in METRICS.items() if row.value is not None), *OTHERS.names]:
        try:
            row = metric_of(name)
            value = None if row.value is None else row.value(metrics, facts)
            if value is None or not math.isfinite(value):
                reasons[name] = f"its function gave {value}"
            else:
                values[name] = float(value)
        except Exception as error:  # noqa: BLE001 - somebody else's function may fail in any way, and the trial stays
            reasons[name] = f"{type(error).__name__}: {error}"
    return values, reasons
