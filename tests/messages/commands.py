"""Messages of the command line: words, names, folders, results of other programs, artefacts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np

from messages.configuration import JOB, SPACE
from messages.provoke import case, cases, refused, write
from paretune.results.folder_claims import claimed
from paretune.results.sweep_changes import change_search
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_record import read_records, record_file, write_record
from tests_support_advising import artefact_in_a_training
from tests_support_records import comparison, fake_records, finished_sweep
from tests_support_target import in_a_sweep


def in_a_job(*words: Any) -> str:
    write(job_yaml=JOB, space_yaml=SPACE)
    return refused(*words)


cases(
    "arguments",
    in_a_job,
    {
        "check, no file": ("check", "none.yaml"),
        "sweep, no job": ("sweep", "none.yaml"),
        "front, a path": ("front", "../x"),
        "front, no sweep": ("front", "nothing-of-that-name"),
        "plugins, a misspelt kind": ("plugins", "stp"),
        "sweep, the name of another thing": ("sweep", "job.yaml", "--name", "datasets"),
        "sweep, the name of the log": ("sweep", "job.yaml", "--name", "mlflow.db"),
        "sweep, a misspelt field to set": ("sweep", "job.yaml", "--set", "serch.trials=3"),
        "train, no job": ("train", "none.yaml"),
        "resume, no sweep": ("resume", "nothing-of-that-name"),
        "list, no folder": ("list", "--runs", "nowhere"),
        "compare, half of the words": ("compare", "demo", "3"),
        "ui, no log": ("ui", "--runs", "nowhere"),
        "data check, no folder": ("data", "check", "lost"),
        "data download, a misspelt name": ("data", "download", "cocoo", "x"),
        "data download, no such part": ("data", "download", "coco", "x", "--part", "val"),
        "data download, no address": ("data", "download", "voc", "x", "--part", "2007", "--from", "ftp://a/b"),
        "data convert, no folder": ("data", "convert", "nowhere", "new", "--to", "voc"),
        "data convert, a policy that the reader does not have": (
            *("data", "convert", "job.yaml", "new", "--to", "coco", "--policy", "skip"),
        ),
        "evaluate, nothing": ("evaluate",),
        "evaluate, half of the files": ("evaluate", "--annotations", "a.json"),
        "evaluate, an artefact and files": ("evaluate", "a", "--annotations", "a.json", "--detections", "b.json"),
        "evaluate, images for files": (
            *("evaluate", "--annotations", "a.json", "--detections", "b.json", "--data", "x"),
        ),
        "evaluate, no file": ("evaluate", "--annotations", "a.json", "--detections", "b.json"),
        "evaluate, no artefact": ("evaluate", "nowhere"),
        "evaluate, a confidence above 1": ("evaluate", "a", "--confidence", "1.3"),
        "evaluate, no images": ("evaluate", "a", "--limit", "0"),
        "evaluate, no threads": ("evaluate", "a", "--threads", "0"),
        "evaluate, no detections": (*("evaluate", "--annotations", "a", "--detections", "b", "--max-detections", "0"),),
        "evaluate, an overlap of 0": ("evaluate", "--annotations", "a", "--detections", "b", "--iou", "0"),
        "evaluate, an overlap above 1": ("evaluate", "--annotations", "a", "--detections", "b", "--iou", "1.01"),
        "evaluate, an overlap that is not a number": (
            *("evaluate", "--annotations", "a", "--detections", "b", "--iou", "nan"),
        ),
        "profile, no artefact": ("profile", "nowhere", "--data", "job.yaml"),
        "advise, no artefact": ("advise", "nowhere"),
        "optimize, no artefact": ("optimize", "nowhere", "--step", "prune", "--out", "new"),
        "advise, a folder that is there": ("advise", "nowhere", "--out", "."),
    },
)


def claimed_already() -> str:
    with claimed(Path("new")):
        return refused("advise", "none", "--out", "new")


case("folders: another process is about to write it", claimed_already)


# --- a finished sweep ----------------------------------------------------------------------------------


def made() -> Sweep:
    fields = {"shapes": {"train": 8, "val": 4, "size": "64x48"}}, {"yolo": {"variant": "nano"}}
    job = dict(zip(("dataset", "detector"), fields, strict=True)) | {"input_size": 160, "space": "space.yaml"}
    return finished_sweep(Path(), {**job, "search": {"trials": 14, "seed": 3}})


def of_a_sweep(*words: Any) -> str:
    made().comparison.write_text(json.dumps(comparison()))
    return refused(words[0], "demo", *words[1:], "--runs", ".")


cases(
    "sweep",
    of_a_sweep,
    {
        "fewer trials": ("resume", "--trials", "13"),
        "far too many trials": ("resume", "--trials", "100001"),
        "none at once": ("resume", "--concurrent", "0"),
        "far too many at once": ("resume", "--trials", "20", "--concurrent", "2000"),
        "no such target": ("front", "--target", "phone"),
        "show, no such trial": ("show", "99"),
        "compare, one trial twice": ("compare", "3", "3"),
        "confirm, no such trial": ("confirm", "--trial", "99"),
        "confirm, a failed trial": ("confirm", "--trial", "10"),
        "confirm, no seeds": ("confirm", "--seeds", "0"),
        "confirm, a drop above 1": ("confirm", "--max-drop", "1.5"),
        "confirm, another metric": ("confirm", "--metric", "f1"),
    },
)


def unfinished() -> str:
    (made().folder / "finished").unlink()
    return refused("confirm", "demo", "--runs", ".")


def running() -> None:
    with made().lock():
        change_search(Sweep(Path(), "demo"), trials=20)


def record(text: str | None, folder: str = "0002") -> None:
    write_record(Path(), fake_records()[2])
    file = record_file(Path(), 2)
    if text is not None:
        file.write_text(text)
    if folder != "0002":
        file.parent.rename(file.parent.with_name(folder))
    read_records(Path())


def first_recipes(*files: str) -> str:
    Path("advice").mkdir()
    for file in files:
        Path("advice", file).write_text("input_size: 63\nruntime: eager\n")
    return in_a_job("sweep", "job.yaml", "--first", "advice")


def targets(*given: dict[str, Any], text: str | None = None) -> str:
    places = [in_a_sweep(Path(f"sweep{number}"), **target) for number, target in enumerate(given)]
    if text is not None:
        Path("sweep0/sweep.json").write_text(text)
    return refused("profile", *places, "--data", "job.yaml")


case("sweep: confirm, no finished front", unfinished)
case("sweep: another process runs it", running)
cases(
    "records",
    record,
    {
        "damaged": ('{"number"',),
        "a field that is missing": ("{}",),
        "of another trial": (None, "0003"),
        "in a folder that is no trial's": (None, "0002.old"),
    },
)
cases("first recipes", first_recipes, {"none in the folder": (), "one that cannot be built": ("a.yaml",)})
cases(
    "target of artefacts",
    targets,
    {"two": ({"device": "cpu", "threads": 2}, {"device": "cuda"})},
)
case("target of artefacts: one that cannot be read", targets, {"device": "cpu"}, text="[]")


# --- results of other programs -------------------------------------------------------------------------


def results(change: Callable[[dict[str, Any], list[dict[str, Any]]], Any]) -> str:
    box = {"bbox": [1, 2, 30, 40], "category_id": 3}
    truth = {
        "images": [{"id": 10, "file_name": "a/one.jpg"}, {"id": 17, "file_name": "b/one.jpg"}],
        "categories": [{"id": 3, "name": "ant"}, {"id": 8, "name": "bee"}],
        "annotations": [{**box, "id": 1, "image_id": 10, "area": 1200, "iscrowd": 0}],
    }
    rows = [{**box, "image_id": 10 + 7 * (number % 2), "score": 0.9} for number in range(4)]
    change(truth, rows)
    Path("gt.json").write_text(json.dumps(truth))
    Path("found.json").write_text(json.dumps(rows))
    return refused("evaluate", "--annotations", "gt.json", "--detections", "found.json")


cases(
    "results",
    results,
    {
        "no list": (lambda c, f: c.pop("images"),),
        "no images": (lambda c, f: c["images"].clear(),),
        "no categories": (lambda c, f: c["categories"].clear(),),
        "an id twice": (lambda c, f: c["images"].append(c["images"][0]),),
        "an id that is a text": (lambda c, f: c["images"][0].update(id="x"),),
        "an unknown image": (lambda c, f: f[3].update(image_id=999),),
        "a file name that is not there": (lambda c, f: f[3].update(image_id="photo_099"),),
        "a file name of two images": (lambda c, f: f[3].update(image_id="one.jpg"),),
        "a truth as id": (lambda c, f: f[3].update(image_id=True),),
        "a fraction as id": (lambda c, f: f[3].update(image_id=1.5),),
        "unknown categories": (lambda c, f: [row.update(category_id=2) for row in f],),
        "a missing category": (lambda c, f: f[3].pop("category_id"),),
        "no category": (lambda c, f: f[3].update(category_id=None),),
        "three numbers": (lambda c, f: f[3].update(bbox=[1, 2, 3]),),
        "NaN": (lambda c, f: f[3].update(bbox=[1, 2, float("nan"), 4]),),
        "a negative width": (lambda c, f: f[3].update(bbox=[1, 2, -3, 4]),),
        "no score": (lambda c, f: f[3].pop("score"),),
        "a score that is a text": (lambda c, f: f[3].update(score="0.9"),),
        "a row that is a number": (lambda c, f: f.insert(0, 7),),
        "an annotation of no image": (lambda c, f: c["annotations"][0].update(image_id=0),),
        "an annotation without a box": (lambda c, f: c["annotations"][0].pop("bbox"),),
    },
)


# --- an artefact ---------------------------------------------------------------------------------------


@cache
def trained() -> TemporaryDirectory[str]:
    """Return a folder with a training and its artefact, made once."""
    folder = TemporaryDirectory()
    artefact_in_a_training(Path(folder.name) / "mine")
    return folder


def of_an_artefact(*words: Any) -> str:
    shutil.copytree(Path(trained().name) / "mine", "mine")
    shutil.copytree("mine/artefact", "damaged")
    weights = Path("damaged/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-9])
    shutil.copytree("mine/artefact", "alone")
    cv2.imwrite("a.png", np.zeros((60, 80, 3), np.uint8))
    with patch("os.sched_getaffinity", lambda _: {0, 1}):
        return refused(*words)


A, DATA = "mine/artefact", ("--data", "mine/job.yaml")
cases(
    "artefact",
    of_an_artefact,
    {
        "profile, no images": ("profile", "alone"),
        "profile, twice": ("profile", A, A),
        "profile, a misspelt split": ("profile", A, *DATA, "--split", "vol"),
        "profile, no repetitions": ("profile", A, "--repetitions", "0"),
        "profile, no patience": ("profile", A, "--patience", "-1"),
        "profile, no threads": ("profile", A, "--threads", "0"),
        "profile, no streams": ("profile", A, "--streams", "1", "0"),
        "profile, an empty batch": ("profile", A, "--batch", "0"),
        "profile, more streams than cores": ("profile", A, "--streams", "999"),
        "profile, a folder that is there": ("profile", A, "--out", "damaged"),
        "advise, trying fewer than none": ("advise", A, "--try", "-1"),
        "advise, a folder that is there": ("advise", A, "--out", "mine"),
        "advise, a folder in a file": ("advise", A, "--out", "mine/job.yaml/new"),
        "advise, no threads": ("advise", A, "--threads", "0"),
        "predict, not an artefact": ("predict", "mine", "a.png"),
        "predict, a damaged file": ("predict", "damaged", "a.png"),
        "predict, a confidence above 1": ("predict", A, "a.png", "--confidence", "1.5"),
        "predict, no threads": ("predict", A, "a.png", "--threads", "0"),
        "predict, pictures over images": ("predict", A, "a.png", "--out", "."),
        "predict, a folder in a file": ("predict", A, "a.png", "--out", "a.png"),
        "predict, no boxes": ("predict", A, "a.png", "--max-detections", "0"),
        "evaluate, a misspelt split": ("evaluate", A, "--split", "tset"),
        "optimize, a misspelt step": ("optimize", A, "--step", "prun", "--out", "new"),
        "annotate, a confidence above 1": (
            *("data", "annotate", ".", "new", "--to", "coco", "--with", A, "--score", "50"),
        ),
        "annotate, no images": ("data", "annotate", "mine", "new", "--to", "coco", "--with", A),
        "annotate, corners of a detector": (
            *("data", "annotate", ".", "new", "--to", "coco", "--with", A, "--origin", "1"),
        ),
    },
)


def port(number: int) -> None:
    from paretune.tracking.ui_server import open_ui

    Path("mlflow.db").touch()
    open_ui(Path(), number)


case("ui: a port that is none", port, 70000)
