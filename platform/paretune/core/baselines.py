"""The baselines of a sweep: the trained network, unchanged, on two runtimes."""

from __future__ import annotations

BASELINES = ("eager", "onnxruntime")
"""Runtimes of the baselines, in fp32; the place of a baseline is the number of its trial."""
EAGER = BASELINES.index("eager")
"""Trial of the baseline that accuracy is compared with, and without which a sweep cannot go on."""
ONNXRUNTIME = BASELINES.index("onnxruntime")
"""Trial of the baseline that latency is measured beside."""


def base_name(trial: int) -> str:
    """Return the name of a trial that others are compared with: its runtime, or ``trial_N`` if it is no baseline."""
    return BASELINES[trial] if trial < len(BASELINES) else f"trial_{trial}"
