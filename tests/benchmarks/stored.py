"""Every artefact of the matrix, saved anew and read by another process: the same detections, and the same map."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from compressed import detected, images_of, points
from figures import ROOT, Figures
from matrix import RUNTIMES, STEPS, Cell, built
from numpy.typing import NDArray
from training import Case, trained

from paretune.core.types import Data, Detections

SAME = 1e-5
"""Largest difference of a score, and of a coordinate as a share of it (below one pixel: of a pixel)."""
SAME_POINTS = 1e-6
ELSEWHERE = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/benchmarks")
from compressed import images_of
from stored import arrays
import numpy as np
source, out, *folders = map(Path, sys.argv[1:])
data = images_of(source)
for number, folder in enumerate(folders):
    np.savez(out / f"{number}.npz", **arrays(folder, data))
"""


def arrays(folder: Path, data: Data) -> dict[str, NDArray[np.float64]]:
    """Return what an artefact finds on each image of `val`: boxes, score and class, a row each."""
    found = [found for found, _ in detected(folder, data, ("val",))["val"]]
    rows = [np.column_stack([one.boxes, one.scores, one.labels]).astype(np.float64) for one in found]
    return {str(index): row for index, row in enumerate(rows)}


def fill(case: Case, root: Path, figures: Figures) -> None:
    """Compare what two processes find with each artefact of one network."""
    source = trained(case, 0, root).folder
    cells = [Cell(case.job, step, runtime) for step in STEPS for runtime in RUNTIMES]
    told = {cell: built(cell, source) for cell in cells}
    cells = [cell for cell in cells if "reason" not in told[cell]]
    with TemporaryDirectory() as place:
        folders = [_saved_again(cell.folder, Path(place) / f"artefact-{n}") for n, cell in enumerate(cells)]
        words = [sys.executable, "-c", ELSEWHERE, str(source), place, *map(str, folders)]
        subprocess.run(words, cwd=ROOT, check=True)
        data, worst, others = images_of(source), 0.0, list[str]()
        for number, cell in enumerate(cells):
            with np.load(Path(place) / f"{number}.npz") as there:
                elsewhere = dict(there)
            apart = _apart(arrays(cell.folder, data), elsewhere)
            map_there = _map(elsewhere, data)
            if abs(map_there - 100 * told[cell]["map"]) > SAME_POINTS:
                others.append(f"{cell.step} on {cell.runtime}")
            print(f"{case.name}, {cell.step} on {cell.runtime}: {apart:.1e} apart, map {map_there:.2f}", flush=True)
            worst = max(worst, apart)
    figures.add(f"{case.name}: artefacts saved and read by another process", len(cells), at_least=1)
    figures.add(f"{case.name}: largest difference of a detection", worst, at_most=SAME)
    figures.add(f"{case.name}: artefacts with another map there", len(others), at_most=0)
    figures.more[f"{case.job} other maps"] = others


def _saved_again(folder: Path, again: Path) -> Path:
    """Write the network of an artefact as a new one; an exported one is a file, and stays where it is."""
    from paretune.core.model import Model
    from paretune.core.spec import parse_plugin
    from paretune.detectors import DETECTORS
    from paretune.networks.network_files import load_network
    from paretune.runtimes import RUNTIMES as TABLE
    from paretune.runtimes.artefact_writer import write_artefact
    from paretune.storage.artefact import read_artefact

    artefact = read_artefact(folder)
    if artefact.format != "torch":
        return folder
    detector: Any = parse_plugin(artefact.detector, DETECTORS)
    network = load_network(detector, len(artefact.classes), folder)
    written = write_artefact(
        again,
        Model(network, None, artefact.input_size),
        detector=detector,
        runtime=parse_plugin(artefact.runtime, TABLE),
        recipe_tree=artefact.recipe,
        classes=artefact.classes,
        thresholds=artefact.thresholds,
    )
    return written.folder


def _apart(here: dict[str, Any], there: dict[str, Any]) -> float:
    """Return the largest difference of the detections of all images; infinite where there are others."""
    if here.keys() != there.keys() or any(here[image].shape != there[image].shape for image in here):
        return float("inf")
    worst = 0.0
    for image, one in here.items():
        other = there[image]
        if not np.array_equal(one[:, 5], other[:, 5]):
            return float("inf")
        off = np.abs(one - other) / np.maximum(1, np.abs(one))
        worst = max(worst, float(off.max(initial=0)))
    return worst


def _map(rows: dict[str, NDArray[np.float64]], data: Data) -> float:
    """Return the map of what an artefact has found on `val`, in points."""
    split = data.splits["val"]
    found = [rows[str(index)] for index in range(len(split))]
    pairs = [(_detections(one), split.annotations(index)) for index, one in enumerate(found)]
    return points(pairs, data.classes)


def _detections(rows: NDArray[np.float64]) -> Detections:
    return Detections(rows[:, :4].astype(np.float32), rows[:, 4].astype(np.float32), rows[:, 5].astype(np.int64))
