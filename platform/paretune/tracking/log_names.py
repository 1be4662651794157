"""Names of metrics in MLflow, which makes a section of all names with the same word before the slash."""

from __future__ import annotations

from functools import cache

from paretune.core.metrics import METRICS, metric_of

UNITS = ("ms", "mib")
"""Units inside a metric's name, which come last in its name in the log: ``latency_ms_p50`` is ``latency/p50_ms``."""
OTHERS = {
    "confidence": "accuracy/confidence",
    "preprocess_ms_p50": "latency/preprocess_p50_ms",
    "postprocess_ms_p50": "latency/postprocess_p50_ms",
    "load_ms": "latency/load_ms",
    "first_inference_ms": "latency/first_inference_ms",
    "latency_samples": "latency/samples",
    "clean_fraction": "latency/clean_fraction",
    "parity_error": "parity/error",
    "parity_boxes": "parity/boxes",
    "hypervolume": "front/hypervolume",
    "front_size": "front/size",
}
"""Names in the log of what has no row in the table of metrics."""
PREFIXES = {"seconds_": ("time/", "_s"), "trials_": ("trials/", ""), "speedup_vs_": ("speedup/vs_", "")}
"""Beginning of a name → beginning and end of its name in the log."""
TEST = "test_"
"""Beginning of the names of metrics on the split ``test``."""


@cache
def log_name(metric: str) -> str:
    """Return the name of a metric in the log, such as ``latency/p50_ms`` for ``latency_ms_p50``."""
    if metric.startswith(TEST):
        name = log_name(metric.removeprefix(TEST)).removeprefix("accuracy/")
        return f"test/{name.replace('/', '_')}"
    if metric in OTHERS:
        return OTHERS[metric]
    for prefix, (begin, end) in PREFIXES.items():
        if metric.startswith(prefix):
            return f"{begin}{metric.removeprefix(prefix)}{end}"
    group = _group(metric)
    words = metric.split("_")
    unit = next((word for word in words[1:] if word in UNITS), None)
    if unit is not None:
        words.remove(unit)
        words.append(unit)
    if len(words) > 1 and words[0] == group:
        del words[0]
    return f"{group}/{'_'.join(words)}"


def _group(metric: str) -> str:
    """Return the group of a metric: that of the longest name in the table with which its own begins."""
    words = metric.split("_")
    for count in range(len(words), 0, -1):
        name = "_".join(words[:count])
        if name in METRICS:
            return METRICS[name].group
    try:
        return metric_of(metric).group
    except ValueError:
        return "other"
