"""INT8 with the guard, without it, and bfloat16, against the same weights in float32 on the same runtime and images."""

from __future__ import annotations

from statistics import mean
from typing import Any

from compressed import FOLDER, maps, optimized
from figures import Figures
from training import SEEDS, Case, trained

LIMIT = 0.3
"""Points of map, on `val` and `test` together: the mean over checkpoints; a single one may lose twice as much."""
WAYS: dict[str, tuple[list[dict[str, Any]], Any]] = {
    "onnxruntime": ([], "onnxruntime"),
    "onnxruntime INT8": ([{"quantize": {}}], "onnxruntime"),
    "onnxruntime INT8 guarded": ([{"quantize": {"max_drop": LIMIT / 100}}], "onnxruntime"),
    "openvino": ([], "openvino"),
    "openvino INT8": ([{"quantize": {"tool": "nncf"}}], "openvino"),
    "openvino INT8 guarded": ([{"quantize": {"tool": "nncf", "max_drop": LIMIT / 100}}], "openvino"),
    "openvino bfloat16": ([], {"openvino": {"precision": "bf16"}}),
}
"""Title, whose first word is the runtime → steps and runtime."""


def fill(case: Case, root: Any, figures: Figures) -> None:
    """Quantize one family's network of every seed."""
    drops: dict[str, list[float]] = {}
    for seed in SEEDS:
        source = trained(case, seed, root).folder
        found: dict[str, float] = {}
        for way, (steps, runtime) in WAYS.items():
            folder = FOLDER / case.job / f"{way.replace(' ', '-')}-{seed}"
            if reason := optimized(source, steps, runtime, folder, source):
                print(f"{case.name}, {way}, seed {seed}: {reason}", flush=True)
                continue
            found[way] = maps(folder, source)["both"]
            if len(way.split()) > 1:
                drops.setdefault(way, []).append(found[way.split()[0]] - found[way])
                print(f"{case.name}, {way}, seed {seed}: {drops[way][-1]:+.2f} points lost", flush=True)
    for way in WAYS:
        if len(way.split()) == 1:
            continue
        lost = drops.get(way, [])
        promised = bool(lost) and not way.endswith("INT8")  # plain INT8 stands beside it
        title = f"{case.name}, {way}: points lost, "
        figures.add(f"{title}mean of {len(lost)}", mean(lost) if lost else None, **_most(LIMIT, promised))
        figures.add(f"{title}most", max(lost, default=None), **_most(2 * LIMIT, promised))
    figures.more[f"{case.job} precision"] = drops


def _most(limit: float, promised: bool) -> dict[str, float]:
    return {"at_most": limit} if promised else {}
