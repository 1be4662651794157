"""Data as tools and people write them: every folder through check, convert, one epoch of training and evaluate.

The pictures are the oracle: on grey noise lie red rectangles (the first class) and blue ones (the second), so that
what a dataset says can be compared with what its pictures show. Three kinds of results are counted. *Wrong*: a box
that does not lie on a rectangle of its class. *Silent*: a rectangle without a box, where nothing was said to be left
out. *Traceback*: what it says. A folder may be refused where its row says so, by one message and exit code 2.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
from figures import BENCH, Figures, parser_of
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage
from variants import VARIANTS

FOLDER = BENCH / "cases"
FORMS = ("coco", "voc", "yolo")
FILLED, OWN = 0.75, 0.4
"""Share of a box that is coloured at least, and in the colour of its class: rectangles may lie over each other."""
LEAST_AREA = 60
"""Coloured pixels of a picture that lie in no box, from which on one is missing: fewer are rounded edges."""
REFUSED = {"yolo-in-pixels": "pixel"}
"""Folder that must be refused → a word of the message."""
SKIPPED = {"yolo-broken-lines"}
"""Folders that need `policy: skip`."""
NEAR = 90
"""Difference of a channel up to which a pixel has a colour: JPEG blurs the edges of small ones."""
RED, BLUE = (232, 40, 40), (40, 60, 230)


@dataclass
class Result:
    """What came of one folder."""

    wrong: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    refused: bool = False


def coloured(picture: Path) -> list[NDArray[np.bool_]]:
    """Return where a picture, turned as EXIF says, is red and where it is blue: two (H, W) masks."""
    with Image.open(picture) as opened:
        pixels = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"), np.int64)
    return [np.abs(pixels - colour).max(axis=2) < NEAR for colour in (RED, BLUE)]


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program as a user would."""
    command = [sys.executable, "-m", "paretune", *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, errors="replace", check=False)


def compared(written: Path, names: tuple[str, ...], told: str, result: Result, *, odd: bool) -> int:
    """Compare a COCO folder that was written with its own pictures; returns the number of boxes.

    Args:
        written: the folder.
        names: of the first and the second class.
        told: what the program said.
        result: receives what is wrong or silent.
        odd: boxes may reach beyond the rectangles (polygons, crowds): only their middle must lie on one.
    """
    boxes = 0
    for file in sorted((written / "annotations").glob("*.json")):
        content = json.loads(file.read_text())
        split = file.stem.removeprefix("instances_")
        classes = {row["id"]: row["name"] for row in content["categories"]}
        for entry in content["images"]:
            red_and_blue = coloured(written / split / entry["file_name"])
            covered = [np.zeros_like(mask) for mask in red_and_blue]
            for row in (row for row in content["annotations"] if row["image_id"] == entry["id"]):
                boxes += 1
                x, y, width, height = row["bbox"]
                inside = np.s_[round(y) : round(y + height), round(x) : round(x + width)]
                shares = [float(mask[inside].mean()) if mask[inside].size else 0.0 for mask in red_and_blue]
                name = classes[row["category_id"]]
                own = names.index(name) if name in names else int(np.argmax(shares))
                covered[own][inside] = True
                known = name in names or not names
                if not odd and not (known and sum(shares) >= FILLED and shares[own] >= OWN):
                    result.wrong.append(f"{entry['file_name']}: {name} at {row['bbox']}: red and blue {shares}")
            alone = [mask & ~seen for mask, seen in zip(red_and_blue, covered, strict=True)]
            open_ = sum(int(ndimage.binary_opening(mask, np.ones((3, 3))).sum()) for mask in alone)  # without noise
            if open_ >= LEAST_AREA and not odd and "left out" not in told:
                result.silent.append(f"{entry['file_name']}: {open_} coloured pixels lie in no box")
    return boxes


@dataclass(frozen=True)
class Case:
    """One folder and what is right for it."""

    name: str
    folder: Path
    classes: tuple[str, ...] = ("cat", "dog")
    refused: str | None = None
    """A word of the message by which it must be refused."""
    skip: bool = False
    """Needs `policy: skip`."""
    odd: bool = False
    """Its boxes are not those of rectangles."""


def cases() -> Iterator[Case]:
    """Return the folders that were given, then the variants, which are made anew."""
    given = os.environ.get("PARETUNE_CASES")
    if given:
        for folder in sorted(path for path in Path(given).iterdir() if path.is_dir()):
            if folder.name.startswith("results-"):
                continue
            inner = [path for path in folder.iterdir() if path.is_dir()]
            yield Case(
                folder.name,
                inner[0] if folder.name == "yolo-paths-with-spaces" else folder,
                classes=_classes(folder),
                refused=REFUSED.get(folder.name),
                skip=folder.name in SKIPPED,
                odd=folder.name == "yolo-polygons",
            )
    made = FOLDER / "variants"
    shutil.rmtree(made, ignore_errors=True)
    for name, variant in VARIANTS.items():
        folder = made / name
        folder.mkdir(parents=True)
        variant.write(folder)
        yield Case(name, folder, refused=variant.refused, skip=variant.skip, odd=variant.odd)


def _classes(folder: Path) -> tuple[str, ...]:
    """Return what a folder calls the red and the blue ones; nothing where each of its files has its own language."""
    named = {"unicode-classes": ("猫", "Hündchen"), "voc-xml-encodings": (), "crowded-400": ("cell", "-")}
    return named.get(folder.name, ("cat", "dog"))


def tried(case: Case) -> Result:
    """Take one folder through all steps."""
    result = Result()
    place = FOLDER / "work" / case.name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)

    def step(*words: str, may: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        done = run(*words)
        said = done.stdout + done.stderr
        if "Traceback" in said or done.returncode not in {0, 1, 2}:
            result.tracebacks.append(f"{' '.join(words[:2])}: {said.strip().splitlines()[-1] if said else '?'}")
        elif done.returncode not in may and case.refused is None:
            result.wrong.append(f"{' '.join(words[:2])} ended with {done.returncode}: {said.strip()[-300:]}")
        return done

    step("data", "check", str(case.folder), "--json", may=(0, 1) if case.skip or case.refused else (0,))
    policy = ("--policy", "skip") if case.skip else ()
    for form in FORMS:
        done = step("data", "convert", str(case.folder), str(place / form), "--to", form, *policy)
        said = done.stdout + done.stderr
        if case.refused is not None:
            result.refused = done.returncode == 2 and case.refused in said
            if not result.refused:
                result.wrong.append(f"not refused by {case.refused!r}: {said.strip()[-200:]}")
            return result
        if done.returncode:
            continue
        if form == "coco":
            compared(place / form, case.classes, said, result, odd=case.odd)
        else:  # the round trip: what was written is read as the same boxes
            back = step("data", "convert", str(place / form), str(place / f"{form}-back"), "--to", "coco")
            if not back.returncode:
                compared(place / f"{form}-back", case.classes, said + back.stdout, result, odd=case.odd)
    _trained(case, place, step)
    return result


def _trained(case: Case, place: Path, step: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Train for an epoch on what was converted, and evaluate it."""
    job = place / "job.yaml"
    (place / "space.yaml").write_text("runtime: onnxruntime\n")
    job.write_text(
        f"dataset: {{coco: {{root: {json.dumps(str(place / 'coco'))}, allow_missing: {json.dumps(case.skip)}}}}}\n"
        "detector: {yolo: {variant: nano, depthwise: false, width: 0.0625}}\ninput_size: 96\n"
        "training: {epochs: 1, batch_size: 4, threads: 1}\nspace: space.yaml\n"
        f"output: {json.dumps(str(place / 'runs'))}\ntracking: {{trainings: false}}\n"
    )
    if not step("train", str(job)).returncode:
        step("evaluate", str(place / "runs" / "trainings" / "job" / "artefact"))


RESULTS = {
    "results-150-objects": "binds",
    "results-category-shift": "shifted",
    "results-ids-are-names": "file name",
    "results-string-ids": "",
}
"""Folder of results files → a word that must be said beside the figure."""


def map_of(folder: Path) -> float:
    """Return COCO's map by pycocotools, once image ids are the numbers of the images in their order."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = (json.loads((folder / f"{name}.json").read_text()) for name in ("gt", "det"))
    numbers = {row["id"]: number for number, row in enumerate(truth["images"], start=1)}
    numbers |= {Path(row["file_name"]).stem: numbers[row["id"]] for row in truth["images"]}
    for number, row in enumerate([*truth["annotations"], *found]):
        row["image_id"], row["id"] = numbers[row["image_id"]], number + 1
    for row in truth["images"]:
        row["id"] = numbers[row["id"]]
    with redirect_stdout(StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def evaluated(folder: Path, word: str) -> Result:
    """Evaluate results files, and compare the figure with pycocotools' own."""
    result, files = Result(), [str(folder / "gt.json"), str(folder / "det.json")]
    done = run("evaluate", "--annotations", files[0], "--detections", files[1], "--json")
    if "Traceback" in done.stderr:
        result.tracebacks.append(done.stderr.strip().splitlines()[-1])
    elif done.returncode:
        result.wrong.append(f"ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    else:
        found = json.loads(done.stdout)["metrics"]["map"]
        if abs(found - map_of(folder)) > 1e-9:
            result.wrong.append(f"map {found}, pycocotools has {map_of(folder)}")
        if word not in done.stdout + done.stderr:
            result.silent.append(f"nothing tells of {word!r}")
    return result


def main() -> int:
    """Try every folder and print what came of it."""
    parser = parser_of(__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="names of folders")
    given, figures = parser.parse_args(), Figures("cases")
    chosen = [case for case in cases() if not given.only or case.name in given.only]
    counts = {"wrong": 0, "silent": 0, "tracebacks": 0}
    orders: list[tuple[str, Callable[[], Result]]] = [(case.name, partial(tried, case)) for case in chosen]
    given_cases = Path(os.environ.get("PARETUNE_CASES", "-"))
    orders += [
        (name, partial(evaluated, given_cases / name, word))
        for name, word in RESULTS.items()
        if (given_cases / name).is_dir() and (not given.only or name in given.only)
    ]
    for name, order in orders:
        result = order()
        found = {kind: getattr(result, kind) for kind in counts}
        for kind, lines in found.items():
            counts[kind] += bool(lines)
        verdict = ", ".join(f"{kind}: {lines[0]}" for kind, lines in found.items() if lines)
        print(f"{name}: {verdict or ('refused, as is right' if result.refused else 'right')}", flush=True)
        figures.more[name] = found
    figures.add("folders", len(orders))
    for kind, count in counts.items():
        figures.add(f"folders with a result that is {kind}" if kind != "tracebacks" else kind, count, at_most=0)
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
