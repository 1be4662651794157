"""What the parts of the benchmark of compression share: artefacts made of trained networks, and their accuracy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from figures import BENCH, paretune

from paretune.core.target import Target
from paretune.core.types import Annotations, Data, Detections

FOLDER = BENCH / "compression"
LOADER = "library:load"
HALF: dict[str, Any] = {"prune": {"ratio": 0.52, "budget": "flops", "scope": "stage", "round_to": 8}}
"""Just over half of the FLOPs go: widths that are multiples of 8 do not hit the half itself."""
TUNING: dict[str, dict[str, Any]] = {
    "voc": {"epochs": 30},
    "yolo_tiny": {"epochs": 30},
    "ssd": {"epochs": 60, "lr_factor": 1.0},
    "faster_rcnn": {"epochs": 60, "lr_factor": 1.0},
}
"""How a pruned network of a family is tuned, and its dense one trained on beside it: as long as its space allows."""


def optimized(
    start: Path,
    steps: Sequence[dict[str, Any]],
    runtime: Any,
    folder: Path,
    source: Path,
    size: str | None = None,
    device: str = "cpu",
) -> str | None:
    """Make an artefact, unless it is there already; one made by another recipe goes, and what was told of it.

    Args:
        start: the network to begin with.
        steps: as in a recipe.
        runtime: as in a recipe.
        folder: of the artefact.
        source: the training, whose images it is made with.
        size: of the input, None for the training's.
        device: that it is made for.

    Returns:
        Why there is none, in one line, or None.
    """
    recipe = folder.with_name(f"{folder.name}.yaml")
    sized = {} if size is None else {"input_size": size}
    wanted = yaml.safe_dump({**sized, "steps": list(steps), "runtime": runtime})
    if folder.is_dir():
        if recipe.read_text() == wanted:
            return None
        shutil.rmtree(folder)
        folder.with_name(f"{folder.name}.map.json").unlink(missing_ok=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(wanted)
    words = ("--recipe", str(recipe), "--out", str(folder), "--data", str(source / "job.yaml"), "--device", device)
    done = paretune("optimize", str(start), *words, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def images_of(source: Path) -> Data:
    """Open the dataset of a training."""
    from paretune.config.job import Job
    from paretune.core.yaml_document import read_yaml, validate

    return validate(Job, read_yaml(source / "job.yaml")).dataset.open(FOLDER / "datasets")


def maps(folder: Path, source: Path) -> dict[str, float]:
    """Return the map of an artefact on `val`, on `test` and on both together, in points; known ones are kept."""
    told = folder.with_name(f"{folder.name}.map.json")
    if not told.is_file():
        told.write_text(json.dumps(_maps(folder, source)))
    found: dict[str, float] = json.loads(told.read_text())
    return found


def _maps(folder: Path, source: Path) -> dict[str, float]:
    data = images_of(source)
    pairs = detected(folder, data, ("val", "test"))
    pairs["both"] = pairs["val"] + pairs["test"]
    return {name: points(some, data.classes) for name, some in pairs.items()}


def detected(
    folder: Path, data: Data, names: Sequence[str], target: Target | None = None
) -> dict[str, list[tuple[Detections, Annotations]]]:
    """Return what an artefact finds on every image of these splits, and what there is; by default on the CPU."""
    from paretune.runtimes.predictor import load_predictor

    predictor, splits = load_predictor(folder, target or Target()), {name: data.splits[name] for name in names}
    return {
        name: [(predictor(split.image(index)), split.annotations(index)) for index in range(len(split))]
        for name, split in splits.items()
    }


def points(pairs: Sequence[tuple[Detections, Annotations]], classes: tuple[str, ...]) -> float:
    from paretune.evaluation import accuracy_of

    found = accuracy_of([found for found, _ in pairs], [truth for _, truth in pairs], classes).map
    assert found is not None
    return 100 * found


def lost_on_test(before: Path, after: Path, source: Path) -> tuple[float, float, float]:
    """Return the points of map that the second artefact has fewer on `test`, with their 95 % interval."""
    from paretune.evaluation.map_bootstrap import differences_of, draw

    data = images_of(source)
    one, other = (detected(folder, data, ("test",))["test"] for folder in (before, after))
    truth = [annotations for _, annotations in one]
    before_it, after_it = ([found for found, _ in pairs] for pairs in (one, other))
    found = differences_of(*(draw(found, truth, len(data.classes)) for found in (before_it, after_it)))["map"]
    assert found is not None
    low, middle, high = (100 * value for value in found)
    return low, middle, high


def ratios(folders: Sequence[Path], source: Path) -> list[tuple[float, float]]:
    """Return how many times as fast the last artefact is as each other one: from image to boxes, and the network.

    One in a folder ``library.NAME`` is run as its own library does.
    """
    return speedups(folders, source)[-1][:-1]


def speedups(folders: Sequence[Path], source: Path) -> list[list[tuple[float, float]]]:
    """Return the same of every artefact against every one: of each, against each, measured in one run."""
    from paretune.profiling.latency.compare import compare
    from paretune.profiling.latency.shared_images import measuring_images

    images = measuring_images(images_of(source).splits["val"])
    found, every = compare(folders, images, Target(), rounds=3, loader=LOADER), range(len(folders))

    def times(index: int, base: int) -> tuple[float, float]:
        return 1 / found.ratio(index, base).ratio, 1 / found.ratio(index, base, network=True).ratio

    return [[times(index, base) for base in every] for index in every]
