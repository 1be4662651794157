"""Half of the FLOPs pruned away and fine-tuned, with and without a teacher, against the dense network trained on."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from compressed import FOLDER, HALF, TUNING, maps, optimized
from figures import Figures
from training import SEEDS, Case, trained

WAYS = ("dense", "control", "pruned", "taught")
"""The control is the dense network, trained on for as long as the others."""


def steps(way: str, job: str) -> list[dict[str, Any]]:
    """Return what is done to a trained network."""
    if way == "dense":
        return []
    tuning = TUNING[job] | ({"distill": {}} if way == "taught" else {})
    return [*([] if way == "control" else [HALF]), {"finetune": tuning}]


def made(case: Case, seed: int, way: str, root: Path) -> Path:
    """Make one artefact.

    Raises:
        RuntimeError: it cannot be made; says why.
    """
    source, folder = trained(case, seed, root).folder, FOLDER / case.job / f"{way}-{seed}"
    if reason := optimized(source, steps(way, case.job), "eager", folder, source):
        raise RuntimeError(f"{case.name}, {way}, seed {seed}: {reason}")
    maps(folder, source)
    return folder


def fill(case: Case, root: Path, figures: Figures) -> None:
    """Prune one family's network of every seed; what is chosen on `val` is claimed on `test`."""
    orders = [(seed, way) for seed in SEEDS for way in WAYS]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        folders = dict(zip(orders, pool.map(lambda order: made(case, *order, root), orders), strict=True))
    found = {order: maps(folder, trained(case, order[0], root).folder) for order, folder in folders.items()}

    def over_seeds(way: str, split: str) -> float:
        return mean(found[seed, way][split] for seed in SEEDS)

    base = max(("dense", "control"), key=lambda way: over_seeds(way, "test"))
    best = max(("pruned", "taught"), key=lambda way: over_seeds(way, "val"))
    for way in WAYS:
        told = ", ".join(f"{found[seed, way]['test']:.1f}" for seed in SEEDS)
        print(f"{case.name}, {way}: map on test {told}, mean {over_seeds(way, 'test'):.2f}", flush=True)
    flops = [json.loads((folders[0, way] / "artefact.json").read_text())["flops"] for way in ("pruned", "dense")]
    figures.add(f"{case.name}: FLOPs left, {best}", flops[0] / flops[1], at_most=0.5)
    for way in ("pruned", "taught"):
        wanted = {"at_most": 1.0} if way == best else {}
        drop = over_seeds(base, "test") - over_seeds(way, "test")
        figures.add(f"{case.name}: points lost, {way} against {base}, mean of {len(SEEDS)} seeds", drop, **wanted)
    figures.more[f"{case.job} pruned"] = {f"{way}, seed {seed}": told for (seed, way), told in found.items()}
