"""Results of other programs, as they go wrong: the figure stands, and a line says what seems to be wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from paretune.cli.main import main
from paretune.evaluation.coco_results_files import read_results
from tests_support_data import cases

Truth = dict[str, Any]
Rows = list[dict[str, Any]]
SIZES = ((640, 480), (500, 375), (480, 640))


def scene(images: int = 12, each: int = 6, classes: int = 5, seed: int = 0, moved: float = 2.0) -> tuple[Truth, Rows]:
    """A ground truth of boxes of many sizes, and results that find each of them, a little beside it."""
    random = np.random.default_rng(seed)
    truth: Truth = {
        "images": [
            {"id": i, "file_name": f"val/photo_{i:03d}.jpg", "width": SIZES[i % 3][0], "height": SIZES[i % 3][1]}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": 3 * k + 1, "name": f"kind {k}"} for k in range(classes)],
        "annotations": [],
    }
    rows: Rows = []
    for image in truth["images"]:
        for _ in range(each):
            sides = random.uniform(30, 140, 2)
            corner = random.uniform(0, np.array([image["width"], image["height"]]) - sides)
            kind = 3 * int(random.integers(classes)) + 1
            box = [*corner, *sides]
            entry = {"image_id": image["id"], "category_id": kind}
            number = len(truth["annotations"]) + 1
            truth["annotations"].append({**entry, "id": number, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
            beside = np.add(box, random.normal(0, moved, 4)).tolist()
            rows.append({**entry, "bbox": beside, "score": float(random.uniform(0.3, 1))})
    return truth, rows


def summarized(truth: Truth, rows: Rows, limits: tuple[int, ...] = (1, 10, 100)) -> Any:
    """pycocotools' own evaluation of the same files."""
    one = COCO()
    one.dataset = copy.deepcopy({"info": {}, **truth})
    one.createIndex()
    evaluation = COCOeval(one, one.loadRes(copy.deepcopy(rows)), "bbox")
    evaluation.params.maxDets = list(limits)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def map_of(truth: Truth, rows: Rows, limits: tuple[int, ...] = (1, 10, 100)) -> float:
    precision = summarized(truth, rows, limits).eval["precision"][:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


def told(folder: Path, capsys: Any, truth: Truth, rows: Rows, *words: object) -> dict[str, Any]:
    """What ``evaluate --json`` says; the notes stand in the text too."""
    (folder / "gt.json").write_text(json.dumps(truth))
    (folder / "found.json").write_text(json.dumps(rows))
    command = ["evaluate", "--annotations", f"{folder}/gt.json", "--detections", f"{folder}/found.json"]
    command += map(str, words)
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert main(command) == 0
    text = " ".join(capsys.readouterr().out.split())
    for note in found["notes"]:
        assert f"note: {' '.join(note.split())}" in text
    return found


def changed(rows: Rows, how: Callable[[dict[str, Any]], dict[str, Any]]) -> Rows:
    return [{**row, **how(row)} for row in rows]


def boxed(how: Callable[..., list[float]]) -> Callable[[Truth, Rows], Rows]:
    def change(truth: Truth, rows: Rows) -> Rows:
        sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
        return changed(rows, lambda row: {"bbox": how(*row["bbox"], *sizes[row["image_id"]])})

    return change


def of_size(side: float) -> Callable[..., list[float]]:
    return lambda x, y, w, h, wide, high: [x * side / wide, y * side / high, w * side / wide, h * side / high]


WRONG: dict[str, tuple[Callable[[Truth, Rows], Rows], str]] = {
    "corners": (boxed(lambda x, y, w, h, *_: [x, y, x + w, y + h]), "read as corners x1, y1, x2, y2"),
    "centres": (boxed(lambda x, y, w, h, *_: [x + w / 2, y + h / 2, w, h]), "read as centre, width, height"),
    "half as large": (boxed(lambda *box: [v / 2 for v in box[:4]]), "times 2 across and 2 down"),
    "of 416 x 416": (boxed(of_size(416)), "where every image is stretched to 416 x 416"),
    "longer side 320": (
        boxed(lambda x, y, w, h, *size: [v * 320 / max(size) for v in (x, y, w, h)]),
        "where every image's longer side is 320",
    ),
    "shares": (boxed(of_size(1)), "read as shares of the image's sides"),
    "ids shifted": (
        lambda truth, rows: changed(rows, lambda row: {"category_id": row["category_id"] - 1}),
        "have another category than it: are ids shifted by -1?",
    ),
    "percent": (
        lambda truth, rows: changed(rows, lambda row: {"score": 100 * row["score"]}),
        "are they percent?",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_seems_to_be_wrong_is_told_beside_pycocotools_figure(kind: str, tmp_path: Path, capsys: Any) -> None:
    truth, rows = scene()
    if kind == "ids shifted":  # to others that are known
        truth["categories"] = [{"id": i, "name": str(i)} for i in range(14)]
    change, line = WRONG[kind]
    wrong = change(truth, rows)
    found = told(tmp_path, capsys, truth, wrong)
    assert found["metrics"]["map"] == pytest.approx(map_of(truth, wrong), abs=1e-9)
    (note,) = found["notes"]
    assert line in note
    if kind != "percent":
        assert found["metrics"]["map"] < 0.2
        assert map_of(truth, rows) > 0.5


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("moved", [1.0, 25.0])
def test_results_that_are_only_good_or_bad_are_not_explained(
    seed: int, moved: float, tmp_path: Path, capsys: Any
) -> None:
    truth, rows = scene(seed=seed, moved=moved)
    for row in rows:
        row["bbox"][2:] = [max(1.0, side) for side in row["bbox"][2:]]
    assert told(tmp_path, capsys, truth, rows)["notes"] == []
    random = np.random.default_rng(seed)
    guessed = changed(rows, lambda row: {"bbox": [*random.uniform(0, 300, 2), *random.uniform(30, 140, 2)]})
    assert told(tmp_path, capsys, truth, guessed)["notes"] == []
    assert told(tmp_path, capsys, truth, [])["notes"] == []


def test_categories_by_their_place_in_the_list_are_told(tmp_path: Path, capsys: Any) -> None:
    """As of COCO's 80 classes, whose ids go to 90."""
    truth, rows = scene(images=30, classes=3)
    order, used = (1, 2, 4, 5, 6, 8, 9, 10), {1: 5, 4: 6, 7: 10}
    truth["categories"] = [{"id": i, "name": str(i)} for i in order]
    truth["annotations"] = changed(truth["annotations"], lambda row: {"category_id": used[row["category_id"]]})
    wrong = changed(rows, lambda row: {"category_id": 1 + order.index(used[row["category_id"]])})
    (note,) = told(tmp_path, capsys, truth, wrong)["notes"]
    assert "are they places in the list of categories, counted from 1?" in note
    wrong[0]["category_id"], wrong[1]["category_id"] = 3, 1  # a gap in the ids, and the first
    assert any("counted from 1?" in note for note in told(tmp_path, capsys, truth, wrong)["notes"])


@pytest.mark.parametrize("absent", [77, 0, "kind 11"])
def test_results_of_categories_that_the_truth_lacks_are_counted_and_left_out_as_by_pycocotools(
    absent: int | str, tmp_path: Path, capsys: Any
) -> None:
    truth, rows = scene(images=30, classes=3)
    more = [{**row, "category_id": absent, "score": 0.99} for row in rows[::2]]
    found = told(tmp_path, capsys, truth, [*more, *rows])
    (note,) = [line for line in found["notes"] if "left out" in line]
    assert f"{len(more)} of {len(more) + len(rows)} rows are left out, as pycocotools does; the first is [0]: " in note
    assert f"category_id {absent!r} is not in the ground truth" in note
    assert found["metrics"]["map"] == pytest.approx(map_of(truth, [*more, *rows]), abs=1e-9)
    assert found["metrics"]["map"] == told(tmp_path, capsys, truth, rows)["metrics"]["map"]
    (tmp_path / "found.json").write_text(json.dumps(more))  # nothing else
    files = ["--annotations", str(tmp_path / "gt.json"), "--detections", str(tmp_path / "found.json")]
    assert main(["evaluate", *files]) == 2
    assert f"[0]: category_id {absent!r} is not in the ground truth, whose categories are" in capsys.readouterr().err


IDS: dict[str, Callable[[Truth, Rows], tuple[Truth, Rows, str]]] = {
    "floats": lambda t, r: (t, changed(r, lambda row: {"image_id": float(row["image_id"])}), ""),
    "floats in the truth": lambda t, r: (
        {**t, "annotations": changed(t["annotations"], lambda row: {"category_id": float(row["category_id"])})},
        r,
        "",
    ),
    "texts": lambda t, r: (
        t,
        changed(r, lambda row: {"image_id": str(row["image_id"]), "category_id": str(row["category_id"])}),
        "have ids of another type",
    ),
    "texts in all": lambda t, r: (
        {
            **t,
            "images": changed(t["images"], lambda row: {"id": f"image-{row['id']}"}),
            "annotations": changed(t["annotations"], lambda row: {"image_id": f"image-{row['image_id']}"}),
        },
        changed(r, lambda row: {"image_id": f"image-{row['image_id']}"}),
        "",
    ),
    "file names": lambda t, r: (
        t,
        changed(r, lambda row: {"image_id": f"photo_{row['image_id']:03d}.jpg"}),
        "have file names in place of ids",
    ),
    "stems": lambda t, r: (
        t,
        changed(r, lambda row: {"image_id": f"photo_{row['image_id']:03d}"}),
        "'photo_001' is image 1",
    ),
    "paths of Windows": lambda t, r: (
        t,
        changed(r, lambda row: {"image_id": f"val\\photo_{row['image_id']:03d}.jpg"}),
        "have file names in place of ids",
    ),
    "names of categories": lambda t, r: (
        t,
        changed(r, lambda row: {"category_id": f"kind {row['category_id'] // 3}"}),
        "is category",
    ),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_are_what_they_mean(kind: str, tmp_path: Path, capsys: Any) -> None:
    truth, rows = scene()
    expected = map_of(truth, rows)
    written, others, line = IDS[kind](truth, rows)
    found = told(tmp_path, capsys, written, others)
    assert found["metrics"]["map"] == pytest.approx(expected, abs=1e-9)
    assert all(line and line in note for note in found["notes"]), found["notes"]
    assert bool(found["notes"]) == bool(line)


def test_a_name_that_two_images_have_is_no_id(tmp_path: Path, capsys: Any) -> None:
    truth, rows = scene(images=2)
    for image, folder in zip(truth["images"], "ab", strict=True):
        image["file_name"] = f"{folder}/one.jpg"
    named = changed(rows, lambda row: {"image_id": f"{' ab'[row['image_id']]}/one.jpg"})
    assert told(tmp_path, capsys, truth, named)["metrics"]["map"] == pytest.approx(map_of(truth, rows))
    named[0]["image_id"] = "one.jpg"
    (tmp_path / "found.json").write_text(json.dumps(named))
    files = ["--annotations", str(tmp_path / "gt.json"), "--detections", str(tmp_path / "found.json")]
    assert main(["evaluate", *files]) == 2
    assert "image_id 'one.jpg' is not in the ground truth" in capsys.readouterr().err


def crowded(objects: int, images: int = 3) -> tuple[Truth, Rows]:
    """Many small objects of one class in each image but the first, all of them found."""
    truth: Truth = {
        "images": [{"id": i + 1} for i in range(images)],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "other"}],
        "annotations": [],
    }
    rows: Rows = []
    for image in range(images):
        for number in range(objects if image else 20):
            box = [10 * (number % 20), 10 * (number // 20), 9, 9]
            entry = {"image_id": image + 1, "category_id": 1, "bbox": box}
            truth["annotations"].append({**entry, "id": len(rows) + 1, "area": 81, "iscrowd": 0})
            rows.append({**entry, "score": 1 - len(rows) / 10_000})
    return truth, rows


@pytest.mark.parametrize("limit", [None, 10, 50, 120, 400])
def test_the_limit_of_detections_is_pycocotools(limit: int | None, tmp_path: Path, capsys: Any) -> None:
    truth, rows = crowded(150)
    rows += changed(rows[:60], lambda row: {"bbox": [row["bbox"][0] + 3, *row["bbox"][1:]], "score": row["score"] / 2})
    limits = tuple(sorted({1, 10, 100, limit or 100}))
    oracle = summarized(truth, rows, limits).eval
    most = limits.index(limit or 100)
    found = told(tmp_path, capsys, truth, rows, *([] if limit is None else ["--max-detections", limit]), "--iou", 0.5)
    precision, recall = oracle["precision"][:, :, 0, 0, most], oracle["recall"][:, 0, 0]
    metrics = found["metrics"]
    assert metrics["map"] == pytest.approx(precision.mean(), abs=1e-9)
    assert metrics["map50"] == found["at_iou"]["map"] == pytest.approx(precision[0].mean(), abs=1e-9)
    for name, number in (("ar1", 1), ("ar10", 10), ("ar100", 100)):
        assert metrics[name] == pytest.approx(recall[:, limits.index(number)].mean(), abs=1e-9)
    assert found["max_detections"]["limit"] == (limit or 100)
    assert found["max_detections"]["recall"] == pytest.approx(recall[:, most].mean(), abs=1e-9)
    low, high = found["map_interval"]["low"], found["map_interval"]["high"]
    assert low <= metrics["map"] <= high or metrics["map"] == pytest.approx(low, abs=0.05)
    binds = [note for note in found["notes"] if "binds" in note]
    assert len(binds) == (1 if (limit or 100) < 150 else 0)
    if binds:
        assert "2 of 3 images" in binds[0] or limit == 10
        assert "--max-detections 200" in binds[0]


def test_detections_beyond_the_limit_are_counted(tmp_path: Path, capsys: Any) -> None:
    truth, rows = crowded(30)
    many = [{**rows[0], "score": 0.1 - i / 10_000} for i in range(130)]
    (note,) = told(tmp_path, capsys, truth, [*rows, *many])["notes"]
    assert note == "50 detections in 1 of 3 images are beyond the best 100 of a class, and do not count"


CASES = {
    "results-category-shift": ("are ids shifted by -1? what is called", 0.0),
    "results-150-objects": ("COCO's limit of 100 detections of a class in an image binds: 2 of 2 images", 0.663),
    "results-ids-are-names": ("file names in place of ids ('scene_0' is image 1)", 1.0),
    "results-string-ids": ("", 1.0),
}


@pytest.mark.parametrize("name", CASES)
def test_results_as_people_make_them(name: str, capsys: Any) -> None:
    (line, figure), folder = CASES[name], cases(name)
    files = ["--annotations", f"{folder / 'gt.json'}", "--detections", f"{folder / 'det.json'}"]
    assert main(["evaluate", *files, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["map"] == pytest.approx(figure, abs=5e-4)
    assert any(line in note for note in found["notes"]) if line else found["notes"] == []
    assert read_results(folder / "gt.json", folder / "det.json").images[0] == "scene_0.jpg"
