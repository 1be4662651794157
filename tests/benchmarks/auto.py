"""`training: auto` against recipes that were tuned by hand: map50 on `test`, on parts of the photographs.

One and the same job trains on each part of each dataset (25, 50, 100, 200 pictures, all), in the same minutes by the
rules and by each recipe that was tuned on one of the datasets: a rule that holds is nowhere far behind the better one.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import BENCH, Figures, paretune, parser_of, photographs

FOLDER = BENCH / "auto"
BEHIND = 0.05
"""Points of map50 that the rules may be behind the best recipe of a part."""
TUNED = {
    "blood cells": "{epochs: 40, batch_size: 4, lr: 8e-3, warmup_epochs: 2, weight_decay: 0.05, ema: 0.97, threads: 1}",
    "cards": "{epochs: 150, batch_size: 8, lr: 4e-3, warmup_epochs: 3, weight_decay: 0.03, ema: 0.99, threads: 1, "
    "augment: {mosaic: 0.8, scale: 0.3, translate: 0.1, colour: 0.5, close_epochs: 15}}",
}
"""Recipes that were tuned by hand, each on the dataset that it is named after."""
SIZES = {"blood cells": "256x192", "cards": "192x256"}
"""Input sizes for them, in the pictures' proportions."""
REACHED = {"blood cells": 0.82, "cards": 0.85}
"""map50 that the rules must reach on all pictures in ten minutes."""


@dataclass(frozen=True)
class Part:
    """Some pictures of a dataset to train on; val and test stay whole."""

    dataset: str
    pictures: int | None

    @property
    def name(self) -> str:
        """Return a name for folders."""
        return f"{self.dataset.replace(' ', '-')}-{self.pictures or 'all'}"


def data_of(part: Part) -> Path:
    """Return a VOC folder of links that holds the part, made once."""
    root = FOLDER / "data" / part.name
    if root.is_dir():
        return root
    whole = FOLDER / "data" / part.dataset.replace(" ", "-")
    if not whole.is_dir():
        place = {"blood cells": "bccd/BCCD", "cards": "playing_cards/images"}[part.dataset]
        paretune("data", "convert", str(photographs() / place), str(whole), "--to", "voc", "--images", "link")
    root.mkdir(parents=True)
    for name in ("Annotations", "JPEGImages"):
        (root / name).symlink_to(whole / name)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split in ("train", "val", "test"):
        ids = (whole / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
        step = len(ids) / part.pictures if split == "train" and part.pictures else 1
        chosen = [ids[int(number * step)] for number in range(int(len(ids) / step))]
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in chosen))
    return root


def reached(part: Part, recipe: str, minutes: float, seed: int) -> dict[str, Any]:
    """Train once by the rules, or by a recipe tuned by hand; returns what `training.json` says."""
    name = f"{part.name}-{recipe.replace(' ', '-')}-{minutes:g}min-{seed}"
    place = FOLDER / "runs" / "trainings" / name
    sets = [f"dataset.voc.root={data_of(part)}", f"output={FOLDER / 'runs'}", "tracking.trainings=false"]
    if recipe == "rules":
        sets += [f"training.minutes={minutes:g}"]
    else:
        sets += [f"training={TUNED[recipe]}", f"input_size={SIZES[part.dataset]}"]
    sets += [f"training.seed={seed}"]
    if not (place / "training.json").is_file():
        done = paretune("train", "jobs/voc.yaml", "--name", name, "--test", *(w for s in sets for w in ("--set", s)))
        print(done.stdout, flush=True)
    facts: dict[str, Any] = json.loads((place / "training.json").read_text())
    return facts


def main() -> int:
    """Train on every part and print what came of it."""
    parser = parser_of(__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="of each training by the rules")
    parser.add_argument("--pictures", type=int, nargs="*", default=[25, 50, 100, 200, 0], help="0: all")
    parser.add_argument("--datasets", nargs="*", default=list(TUNED), choices=list(TUNED), help="which photographs")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rules", action="store_true", help="train by the rules alone")
    given, figures = parser.parse_args(), Figures("auto")
    for part in (Part(dataset, pictures or None) for dataset in given.datasets for pictures in given.pictures):
        found: dict[str, list[float]] = {}
        for recipe in ("rules", *(() if given.rules else TUNED)):
            runs = [reached(part, recipe, given.minutes, seed) for seed in range(given.seeds)]
            found[recipe] = sorted(run["metrics"]["test"]["map50"] for run in runs)
            minutes = max(sum(epoch["seconds"] for epoch in run["epochs"]) for run in runs) / 60
            limit = {"at_most": 1.2 * given.minutes} if recipe == "rules" else {}
            figures.add(f"{part.name}, {recipe}: minutes of training, the longest", minutes, "min", **limit)
        middle = {recipe: values[len(values) // 2] for recipe, values in found.items()}
        wanted = {} if given.rules else {"at_least": max(middle.values()) - BEHIND}
        if part.pictures is None and given.minutes >= 10:
            wanted = {"at_least": max([REACHED[part.dataset], *wanted.values()])}
        figures.add(f"{part.name}: map50 on test by the rules", middle["rules"], **wanted)
        figures.more[part.name] = found
        print(part.name, found, flush=True)
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
