"""Every step on every runtime, for every family: what runs, how fast, how small and how accurate it is on `val`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressed import FOLDER, HALF, images_of, optimized
from figures import Figures, paretune
from rich.console import Console
from rich.table import Table
from training import Case, trained

from paretune.storage.artefact import read_artefact

RUNTIMES = ("eager", "compiled", "onnxruntime", "openvino")
STEPS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "prune": [HALF],
    "recalibrate": [HALF, {"recalibrate": {}}],
    "finetune": [HALF, {"finetune": {"epochs": 8}}],
    "distill": [HALF, {"finetune": {"epochs": 8, "distill": {}}}],
    "factorize": [{"factorize": {}}, {"finetune": {"epochs": 8}}],
    "cluster": [{"cluster": {"bits": 6}}],
    "unstructured": [{"sparsify": {"sparsity": 0.5}}],
    "2:4": [{"sparsify": {"pattern": "2:4"}}],
    "int8": [{"quantize": {}}],
    "int8 aware": [{"finetune": {"epochs": 8, "qat": True}}, {"quantize": {}}],
    "int8 nncf": [{"quantize": {"tool": "nncf"}}],
    "int8 dynamic": [{"quantize": {"scheme": "int8_dynamic"}}],
    "weights int8": [{"quantize": {"scheme": "weight_only"}}],
    "fp16": [{"quantize": {"scheme": "fp16"}}],
}
"""Title → steps."""
IN_HALF = {name: {name: {"precision": "fp16"}} for name in ("eager", "compiled")}
"""Runtimes that turn floats into halves themselves, without a step."""
TRAINED_ONCE = ("prune", "recalibrate", "finetune", "distill", "factorize", "unstructured", "2:4")
"""Steps that are done on eager, and whose network goes from there to the other runtimes."""
MUST = ("none", "prune", "finetune", "int8")
"""Steps that run on eager, ONNX Runtime and OpenVINO without exception."""
AT_ONCE = 8
"""Artefacts in memory at once, each in a process of its own."""


@dataclass(frozen=True)
class Cell:
    """One step on one runtime, for one network."""

    network: str
    step: str
    runtime: str

    @property
    def folder(self) -> Path:
        """Where it is built."""
        return FOLDER / self.network / f"{self.step} {self.runtime}".replace(" ", "-").replace(":", "of")


def built(cell: Cell, source: Path) -> dict[str, Any]:
    """Build and evaluate a cell, or take what an earlier run has found."""
    told = cell.folder.with_suffix(".json")
    if not told.is_file():
        told.parent.mkdir(parents=True, exist_ok=True)
        told.write_text(json.dumps(_built(cell, source)))
    found: dict[str, Any] = json.loads(told.read_text())
    return found


def _built(cell: Cell, source: Path) -> dict[str, Any]:
    runtime: Any
    start, steps, runtime = source, STEPS[cell.step], cell.runtime
    if cell.step == "fp16" and runtime in IN_HALF:
        steps, runtime = [], IN_HALF[runtime]
    if cell.step in TRAINED_ONCE and cell.runtime != "eager":
        first = Cell(cell.network, cell.step, "eager")
        if reason := built(first, source).get("reason"):
            return {"reason": f"eager: {reason}"}
        start, steps = first.folder, []
    if reason := optimized(start, steps, runtime, cell.folder, source):
        return {"reason": reason}
    data = ("--data", str(source / "job.yaml"))
    report = json.loads(paretune("evaluate", str(cell.folder), *data, "--json").stdout)
    return {"map": report["metrics"]["map"], "bytes": round(read_artefact(cell.folder).size_mib * 2**20)}


def latencies(cells: Sequence[Cell], base: Cell, source: Path) -> dict[Cell, dict[str, float]]:
    """Measure artefacts interleaved, a few at a time, each time against the unchanged network in eager.

    Returns:
        Cell → how many times as fast: ``speedup`` and its 95 % interval, and ``network``, the network alone.
    """
    from paretune.core.target import Target
    from paretune.profiling.latency.compare import compare
    from paretune.profiling.latency.shared_images import measuring_images

    images = measuring_images(images_of(source).splits["val"])
    found = {base: {"speedup": 1.0, "low": 1.0, "high": 1.0, "network": 1.0}}
    for start in range(0, len(cells), AT_ONCE):
        part = [cell for cell in cells[start : start + AT_ONCE] if cell != base]
        compared = compare([base.folder, *(cell.folder for cell in part)], images, Target(), rounds=3)
        for index, cell in enumerate(part, start=1):
            whole, core = compared.ratio(index), compared.ratio(index, network=True)
            told = {"speedup": 1 / whole.ratio, "low": 1 / whole.high, "high": 1 / whole.low}
            found[cell] = {**told, "network": 1 / core.ratio}
        print(f"{base.network}: {min(start + AT_ONCE, len(cells))} of {len(cells)} measured", flush=True)
    return found


def show(network: str, rows: dict[Cell, dict[str, Any]]) -> None:
    """Print one network's matrix."""
    table = Table(title=f"{network}: times as fast as eager, size as a share, points of map, all against it")
    for column in ("step", *RUNTIMES):
        table.add_column(column)
    dense = rows[Cell(network, "none", "eager")]
    for step in dict.fromkeys(cell.step for cell in rows):
        words = []
        for runtime in RUNTIMES:
            row = rows[Cell(network, step, runtime)]
            if "reason" in row:
                words.append("not supported")
            else:
                points = 100 * (row["map"] - dense["map"])
                words.append(f"{row['speedup']:.2f}x · {row['bytes'] / dense['bytes']:.2f} · {points:+.1f}")
        table.add_row(step, *words)
    Console(width=140).print(table)


def fill(case: Case, root: Path, figures: Figures, *, steps: Sequence[str] = tuple(STEPS)) -> None:
    """Fill one network's matrix, or some rows of it beside that of the unchanged network."""
    steps = list(dict.fromkeys(("none", *steps)))
    network = case.job
    source = trained(case, 0, root).folder
    rows = {}
    for cell in (Cell(network, step, runtime) for step in steps for runtime in RUNTIMES):
        rows[cell] = built(cell, source)
        print(f"{network}, {cell.step} on {cell.runtime}: {rows[cell].get('reason', 'runs')}", flush=True)
    running = [cell for cell, row in rows.items() if "reason" not in row]
    for cell, told in latencies(running, Cell(network, "none", "eager"), source).items():
        rows[cell] |= told
    show(network, rows)
    failing = [cell for cell in rows if cell not in running]
    figures.add(f"{network}: share of the cells that is not supported", len(failing) / len(rows), at_most=0.1)
    must = [cell for cell in failing if cell.step in MUST and cell.runtime != "compiled"]
    figures.add(f"{network}: cells that must run and do not", len(must), at_most=0)
    figures.more[network] = {f"{cell.step} on {cell.runtime}": row for cell, row in rows.items()}
