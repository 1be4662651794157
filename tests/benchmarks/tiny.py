"""YOLO tiny: what the first points of a search begin with, as deep a cut as three trainings bear on `val`.

No search chose it: that takes hours here, and that of the small YOLO is in `sweeps`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressed import TUNING
from figures import Figures
from repeated import confirmed
from sweeps import DROP, add_accuracy, add_speed, peers_of
from training import CASES, Case, trained

TINY = next(case for case in CASES if case.job == "yolo_tiny")
DEEPEST = 0.8
"""Share of the FLOPs that is tried first."""
RECIPE: dict[str, Any] = {
    "input_size": None,
    "steps": [
        {"prune": {"ratio": DEEPEST, "budget": "flops", "scope": "stage", "round_to": 8}},
        {"finetune": {**TUNING[TINY.job], "distill": {}}},
    ],
    "runtime": {"openvino": {"precision": "bf16"}},
}
"""Pruned by stage, taught by the dense network, bfloat16 on OpenVINO."""


def fill(case: Case, root: Path, figures: Figures) -> None:
    """Carry it out from the networks of all seeds, and measure one beside what others make of the dense network."""
    source = trained(TINY, 0, root).folder
    repeats = confirmed(TINY, RECIPE, root, DROP)
    add_accuracy(TINY, repeats, figures)
    add_speed(TINY, repeats[0].artefact, source, peers_of(TINY, source), figures)
