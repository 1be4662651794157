"""Every family from scratch on real photographs, CPU only: map50 on `test`, median of three seeds.

As many trainings at once as there are cores, one thread each: the minutes are those of a busy machine.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from figures import BENCH, Figures, arguments, paretune, photographs

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Case:
    """One job of ``jobs/`` and what it must reach."""

    name: str
    job: str
    dataset: tuple[str, str]
    """Field of the job that names the folder, and the folder below the photographs."""
    map50: float
    minutes: float | None
    more: tuple[str, ...] = ()


_STRONG = "{mosaic: 0.8, scale: 0.3, translate: 0.1, colour: 0.5, close_epochs: 15}"
BY_HAND = {
    "voc": ("256x192", "epochs: 40, batch_size: 4, lr: 8e-3, warmup_epochs: 2, weight_decay: 0.05, ema: 0.97"),
    "ssd": ("224", "epochs: 40, lr: 3e-3, warmup_epochs: 2, ema: 0.98"),
    "faster_rcnn": ("256x192", "epochs: 70, batch_size: 4, lr: 1e-3, warmup_epochs: 2, ema: 0.98"),
    "yolo_tiny": ("256x192", "epochs: 40, batch_size: 4, lr: 4e-3, warmup_epochs: 2, weight_decay: 0.05, ema: 0.97"),
    "voc_flat": ("224", f"epochs: 150, lr: 4e-3, warmup_epochs: 3, weight_decay: 0.03, ema: 0.99, augment: {_STRONG}"),
}
"""Job → input size and training that were tuned by hand on these photographs, in place of `training: auto`."""
_CELLS = ("dataset.voc.root", "bccd/BCCD")
_CARDS = ("dataset.voc_flat.root", "playing_cards/images")
CASES = (
    Case("YOLO, blood cells", "voc", _CELLS, 0.82, 8),
    Case("SSDLite, blood cells", "ssd", _CELLS, 0.65, 12, ("detector.ssd.smallest=0.07",)),
    Case("Faster R-CNN, blood cells", "faster_rcnn", _CELLS, 0.5, 25, ("detector.faster_rcnn.anchor=16",)),
    Case("YOLO tiny, blood cells", "yolo_tiny", _CELLS, 0.82, None),
    Case("YOLO, playing cards", "voc_flat", _CARDS, 0.85, None),
)


def by_hand(case: Case) -> tuple[str, ...]:
    """Return what a case sets in place of what `training: auto` would choose."""
    size, training = BY_HAND[case.job]
    return (f"input_size={size}", f"training={{{training}}}", *case.more)


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    folder: Path
    facts: dict[str, Any]


def trained(case: Case, seed: int, root: Path) -> Trained:
    """Train once, or take what an earlier run of the benchmark has trained; an unfinished training goes on."""
    field, folder = case.dataset
    output = BENCH / "training"
    name = f"{case.job}-{seed}"
    place = output / "trainings" / name
    sets = (
        f"{field}={root / folder}",
        *by_hand(case),
        f"training.seed={seed}",
        f"output={output}",
        "training.device=cpu",
        "training.threads=1",
        "tracking.trainings=false",
    )
    words = ["train", f"jobs/{case.job}.yaml", "--name", name, "--test"]
    words += [word for text in sets for word in ("--set", text)]
    if not (place / "artefact").is_dir():
        print(paretune(*words, *(["--resume"] if place.is_dir() else [])).stdout, flush=True)
    return Trained(place, json.loads((place / "training.json").read_text()))


def main() -> int:
    """Train every case with every seed and print what came of it."""
    given = arguments(__doc__)
    root, figures = photographs(), Figures("training")
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        orders = [(case, seed) for seed in SEEDS for case in CASES]
        done = dict(zip(orders, pool.map(lambda order: trained(*order, root), orders), strict=True))
    for case in CASES:
        runs = [done[case, seed].facts for seed in SEEDS]
        found = [run["metrics"]["test"]["map50"] for run in runs]
        minutes = [sum(epoch["seconds"] for epoch in run["epochs"]) / 60 for run in runs]
        figures.add(f"{case.name}: map50 on test, median of seeds {SEEDS}", median(found), at_least=case.map50)
        figures.add(f"{case.name}: lowest and highest", max(found) - min(found), "apart")
        wanted = {} if case.minutes is None else {"at_most": case.minutes}
        figures.add(f"{case.name}: minutes of training, the longest", max(minutes), "min", **wanted)
        figures.more[case.name] = {"map50": found, "minutes": minutes}
        print(f"{case.name}: map50 {', '.join(f'{value:.3f}' for value in found)}", flush=True)
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
