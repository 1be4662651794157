"""``paretune evaluate``: pycocotools on the same files as the oracle, confusions by hand, and what is refused."""

from __future__ import annotations

import copy
import json
import random as chance

import cv2
import numpy as np
import pytest

from paretune.cli.main import main
from paretune.core.errors import UserError
from paretune.core.target import Target
from paretune.core.types import Data, Detections
from paretune.data.conversion import write_dataset
from paretune.data.formats.coco import Coco
from paretune.data.synthetic.scene import CLASSES
from paretune.data.synthetic.shapes import Shapes
from paretune.evaluation import accuracy_of, evaluate
from paretune.evaluation.accuracy import METRICS
from paretune.evaluation.baseline_difference import CHANGES
from paretune.evaluation.coco_results_files import read_results
from paretune.evaluation.confusion_matrix import confusion
from paretune.evaluation.report import report_of
from paretune.reports.evaluation_text import report_text
from paretune.runtimes.predictor import load_predictor
from tests_support_coco import by_pycocotools
from tests_support_evaluation import none_found, perfect, random_case, truth_of
from tests_support_yolo import yolo_artefact

NAMES = ("ant", "bee", "cat")


def written(folder, seed=0, images=12):
    """Both files as another program would write them: ids with gaps, results in any order, areas of outlines."""
    detections, annotations = random_case(seed, images=images, classes=3, score_steps=2**20)
    random = np.random.default_rng(seed)
    truth, found = [], []
    for index, (boxes, entry) in enumerate(zip(detections, annotations, strict=True)):
        image = 10 + 7 * index
        for box, label, crowd in zip(entry.boxes.astype(float), entry.labels, entry.ignore, strict=True):
            x1, y1, x2, y2 = box.tolist()
            row = {"id": len(truth) + 1, "image_id": image, "category_id": int(label) * 5 + 3, "iscrowd": int(crowd)}
            bbox = [x1 + 0.1, y1 + 0.1, x2 - x1, y2 - y1]
            truth.append({**row, "bbox": bbox, "area": bbox[2] * bbox[3] * float(random.uniform(0.4, 1))})
        for box, score, label in zip(boxes.boxes.astype(float), boxes.scores, boxes.labels, strict=True):
            x1, y1, x2, y2 = box.tolist()
            row = {"image_id": image, "category_id": int(label) * 5 + 3, "score": float(score)}
            found.append({**row, "bbox": [x1 + 0.1, y1 + 0.1, x2 - x1, y2 - y1]})
    chance.Random(seed).shuffle(found)
    content = {
        "images": [{"id": 10 + 7 * i, "file_name": f"{i}.jpg"} for i in range(images)],
        "categories": [{"id": 5 * i + 3, "name": name} for i, name in enumerate(NAMES)],
        "annotations": truth,
    }
    (folder / "gt.json").write_text(json.dumps(content))
    (folder / "found.json").write_text(json.dumps(found))
    return content, found


def numbers_of(content, found):
    """pycocotools' evaluation of both, with the twelve numbers as ``stats``; -1 is unknown."""
    rows = [{**row, "id": i + 1, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]} for i, row in enumerate(found)]
    oracle = by_pycocotools(copy.deepcopy(content), copy.deepcopy({**content, "annotations": rows}))
    oracle.summarize()
    return oracle


def told(capsys, *words):
    assert main(["evaluate", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("seed", range(2))
def test_files_of_another_program_give_pycocotools_numbers(tmp_path, capsys, seed):
    content, found = written(tmp_path, seed)
    oracle = numbers_of(content, found)
    capsys.readouterr()
    out = told(capsys, "--annotations", tmp_path / "gt.json", "--detections", tmp_path / "found.json")
    twelve = [out["metrics"][name] for name in METRICS[:12]]
    assert [-1 if v is None else v for v in twelve] == pytest.approx(list(oracle.stats), abs=1e-9)
    precision = oracle.eval["precision"][:, :, :, 0, 2]
    for index, name in enumerate(NAMES):
        assert out["per_class"][name]["map"] == pytest.approx(precision[:, :, index].mean(), abs=1e-9)


def test_results_against_others_of_the_same_images_differ_as_pycocotools_numbers_do(tmp_path, capsys):
    content, found = written(tmp_path, images=40)
    fewer = [row for index, row in enumerate(found) if index % 3 == 0]
    (tmp_path / "fewer.json").write_text(json.dumps(fewer))
    oracle = [numbers_of(content, rows).stats[:2] for rows in (fewer, found)]
    capsys.readouterr()
    files = ("--annotations", tmp_path / "gt.json", "--detections", tmp_path / "fewer.json")
    out = told(capsys, *files, "--against", tmp_path / "found.json")
    assert out["against"] == str(tmp_path / "found.json")
    for name, one, other in zip(("map", "map50"), *oracle, strict=True):
        low, middle, high = (out["change"][f"{name}_delta{end}"] for end in ("_low", "", "_high"))
        assert middle == pytest.approx(one - other, abs=1e-9)
        assert low < middle < high < 0
    assert main(["evaluate", *map(str, files), "--against", str(tmp_path / "found.json")]) == 0
    assert "(95%): the first is less accurate" in " ".join(capsys.readouterr().out.split())
    assert main(["evaluate", *map(str, files), "--against", str(tmp_path / "fewer.json")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "map +0.000 [+0.000, +0.000], map50 +0.000 [+0.000, +0.000] (95%): no sure difference" in said
    assert "change" not in told(capsys, *files)


def test_scores_that_are_the_confidence_count_everywhere(tmp_path, capsys):
    """Rounded scores, the last just what gives the best F1: headline, class and confusions keep it alike."""
    boxes = [[20 * i, 0, 10, 10] for i in range(4)]
    objects = [{"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)]
    rows = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": score}
        for box, score in zip(boxes, (0.9, 0.8, 0.6, 0.3), strict=True)
    ]
    content = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "ant"}], "annotations": objects}
    (tmp_path / "gt.json").write_text(json.dumps(content))
    (tmp_path / "found.json").write_text(json.dumps(rows))
    out = told(capsys, "--annotations", tmp_path / "gt.json", "--detections", tmp_path / "found.json")
    assert out["metrics"]["confidence"] == 0.3
    assert out["metrics"]["recall"] == out["per_class"]["ant"]["recall"] == 1
    assert out["confusion"]["counts"] == [[4, 0], [0, 0]]


def test_classes_are_called_by_their_names_whatever_is_in_them():
    truth = truth_of([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 1])
    text = report_text(report_of([perfect(truth)], [truth], ["[/b]", "ant[bold]:car:"]))
    rows = [line.split()[0] for line in text.splitlines() if line.startswith(("[/b]", "ant"))]
    assert rows == ["[/b]", "ant[bold]:car:"]


def test_a_map_of_few_objects_of_a_class_is_told_to_be_too_high():
    """Five objects of each of forty classes among many wrong detections: the interval holds the map of 3,000 images."""
    classes = [str(number) for number in range(40)]
    detections, annotations = random_case(0, images=3000, classes=40, crowds=False, score_steps=2**20)
    whole = accuracy_of(detections, annotations, classes).map
    few = report_of(detections[:50], annotations[:50], classes)
    assert few.interval[0] < whole < few.interval[1] < few.accuracy.map
    assert "the figure itself is too high" in report_text(few)
    many = report_of(*random_case(0, images=300, classes=1, score_steps=2**20), ["ant"])
    assert many.interval[0] < many.accuracy.map < many.interval[1]
    assert "the figure itself" not in report_text(many)


def test_the_promised_keys(tmp_path, capsys):
    written(tmp_path)
    out = told(capsys, "--annotations", tmp_path / "gt.json", "--detections", tmp_path / "found.json")
    assert list(out["metrics"]) == list(METRICS)
    assert {"metrics", "per_class", "best", "map_interval", "confusion", "reasons"} <= set(out)
    for name, value in out["metrics"].items():
        assert (value is None) == (name in out["reasons"])
    assert out["map_interval"]["low"] < out["metrics"]["map"] < out["map_interval"]["high"]
    assert out["best"]["f1"] == out["metrics"]["f1"]
    assert set(out["per_class"]) == set(NAMES)


def test_a_given_confidence_is_used_and_the_best_is_told_beside_it(tmp_path, capsys):
    written(tmp_path)
    files = ("--annotations", tmp_path / "gt.json", "--detections", tmp_path / "found.json")
    free, tied = told(capsys, *files), told(capsys, *files, "--confidence", 0.75)
    assert tied["metrics"]["confidence"] == 0.75
    assert tied["best"] == free["best"]
    assert tied["metrics"]["map"] == free["metrics"]["map"]
    assert tied["metrics"]["f1"] <= free["metrics"]["f1"]
    assert tied["per_class"]["ant"]["confidence"] == 0.75
    assert tied["per_class"]["ant"]["best"] == free["per_class"]["ant"]["best"]


@pytest.mark.parametrize("seed", range(2))
def test_classes_alone_are_evaluations_of_that_class_alone(seed):
    detections, annotations = random_case(seed, images=8, classes=3)
    report = report_of(detections, annotations, NAMES, confidence=0.4)
    for label, name in enumerate(NAMES):
        mine = [
            Detections(d.boxes[d.labels == label], d.scores[d.labels == label], d.labels[d.labels == label] * 0)
            for d in detections
        ]
        theirs = [
            truth_of(a.boxes[a.labels == label], a.labels[a.labels == label] * 0, a.ignore[a.labels == label])
            for a in annotations
        ]
        alone = accuracy_of(mine, theirs, [name], confidence=0.4)
        entry = report.classes[name]
        assert entry.ap == pytest.approx(alone.map)
        assert (entry.chosen.precision, entry.chosen.recall) == (alone.precision, alone.recall)
        assert entry.best.f1 == pytest.approx(accuracy_of(mine, theirs, [name]).f1)


def test_confusions_by_hand():
    truth = truth_of([[0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60], [80, 80, 99, 99]], [0, 1, 1, 0], [0, 0, 0, 1])
    boxes = [[0, 0, 10, 10], [20, 20, 30, 30], [70, 0, 75, 5], [80, 80, 99, 99], [50, 50, 60, 60]]
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.2], np.float32)
    found = Detections(np.array(boxes, np.float32), scores, np.array([0, 0, 1, 0, 1]))
    seen = confusion([found], [truth], 2, 0.5)
    # one found right, one bee taken for an ant, one missed (its detection is too unsure), one invented, a crowd apart
    assert seen.matrix.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert (seen.wrong.tolist(), seen.missed.tolist()) == ([2], [2])


@pytest.mark.parametrize("seed", range(2))
def test_confusions_account_for_every_object_and_detection(seed):
    detections, annotations = random_case(seed, images=8, classes=3, crowds=False)
    seen = confusion(detections, annotations, 3, 0.3)
    objects = np.bincount(np.concatenate([a.labels for a in annotations]), minlength=3)
    kept = np.bincount(np.concatenate([d.labels[d.scores >= 0.3] for d in detections]), minlength=3)
    assert seen.matrix[:3].sum(axis=1).tolist() == objects.tolist()
    assert seen.matrix[:, :3].sum(axis=0).tolist() == kept.tolist()
    assert seen.matrix[3, 3] == 0


def test_nothing_found_and_nothing_there_are_told(capsys, tmp_path):
    content, _ = written(tmp_path)
    (tmp_path / "none.json").write_text("[]")
    out = told(capsys, "--annotations", tmp_path / "gt.json", "--detections", tmp_path / "none.json")
    assert out["metrics"]["map"] == 0
    assert out["metrics"]["precision"] is None
    (tmp_path / "empty.json").write_text(json.dumps({**content, "annotations": []}))
    out = told(capsys, "--annotations", tmp_path / "empty.json", "--detections", tmp_path / "found.json")
    assert set(out["metrics"].values()) == {None}
    assert out["map_interval"] is None
    assert report_of([none_found()], [truth_of([], [])], NAMES).tree()["map50_voc10"] is None


@pytest.mark.slow
def test_the_table_says_the_same_as_the_numbers(tmp_path, capsys):
    written(tmp_path)
    files = ("--annotations", tmp_path / "gt.json", "--detections", tmp_path / "found.json")
    out = told(capsys, *files)
    assert main(["evaluate", *map(str, files), "--out", str(tmp_path / "pictures")]) == 0
    text = capsys.readouterr().out
    for name in ("map", "map50", "f1"):
        assert f"{out['metrics'][name]:.3f}" in text
    assert {file.name for file in (tmp_path / "pictures").iterdir()} == {
        "precision_recall.png",
        "f1.png",
        "confusion.png",
    }


def test_random_damage_never_ends_in_a_traceback(tmp_path):
    written(tmp_path, images=3)
    whole = (tmp_path / "gt.json").read_bytes()
    random = chance.Random(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(random.randint(1, 4)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        (tmp_path / "gt.json").write_bytes(damaged[: random.choice([len(damaged), random.randrange(len(damaged))])])
        try:
            read_results(tmp_path / "gt.json", tmp_path / "found.json")
        except UserError as error:
            assert str(error).count("\n") == 0  # noqa: PT017 - many are still whole


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """An untrained YOLO in the folder of a training, with the job it was trained by."""
    folder = tmp_path_factory.mktemp("runs") / "trainings" / "one"
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(
        "dataset: {shapes: {train: 4, val: 6, test: 4, size: 64x64}}\ndetector: {yolo: {width: 0.0625}}\n"
        "input_size: 64\nspace: space.yaml\n"
    )
    (folder / "space.yaml").write_text("input_size: 64\nsteps: []\nruntime: eager\n")
    return yolo_artefact(folder / "artefact", CLASSES, sure=False)


@pytest.mark.slow
def test_an_artefact_brings_its_own_images(deployed, capsys, tmp_path):
    data = Shapes(train=4, val=6, test=4, size="64x64").open(tmp_path)
    expected = evaluate(load_predictor(deployed, Target()), data.splits["test"])
    out = told(capsys, deployed, "--split", "test", "--out", tmp_path / "seen")
    assert out["metrics"] == expected.metrics()
    assert out["images"] == 4
    assert out["split"] == "test"
    assert out["inference_ms_p50"] > 0
    drawn = cv2.imread(str(tmp_path / "seen" / "worst.png"))
    assert (drawn < 250).any(axis=2).mean() > 0.2  # photographs, not white paper
    assert told(capsys, deployed, "--limit", "2")["images"] == 2
    same = told(capsys, deployed, "--against", deployed)
    assert (same["against"], same["change"]) == (str(deployed), dict.fromkeys(CHANGES, 0))
    assert main(["evaluate", str(deployed), "--against", str(tmp_path)]) == 2
    assert "not an artefact" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_folder_of_one_split_is_evaluated_on(split, deployed, capsys, tmp_path):
    made = Shapes(train=4, val=6, test=4, size="64x64").open(tmp_path).splits[split]
    write_dataset(Data(CLASSES, {f"{split}2017": made}, "x"), tmp_path / "out", "coco")
    out = told(capsys, deployed, "--data", tmp_path / "out", "--split", split)
    assert out["metrics"] == evaluate(load_predictor(deployed, Target()), made).metrics()
    assert (out["images"], out["split"]) == (len(made), split)
    other = {"val": "test", "test": "val"}[split]
    assert main(["evaluate", str(deployed), "--data", str(tmp_path / "out"), "--split", other]) == 2
    with pytest.raises(UserError, match="three different splits"):  # nothing to train on
        Coco(root=str(tmp_path / "out")).open(tmp_path)


def test_an_unknown_split_and_foreign_classes_are_refused(deployed, capsys, tmp_path):
    assert main(["evaluate", str(deployed), "--split", "tset"]) == 2
    assert "did you mean 'test'" in capsys.readouterr().err
    content, _ = written(tmp_path)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    for i in range(12):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.jpg"), np.zeros((300, 300, 3), np.uint8))
    for split in ("train", "val"):
        half = content["images"][:6] if split == "train" else content["images"][6:]
        ids = {entry["id"] for entry in half}
        rows = [row for row in content["annotations"] if row["image_id"] in ids]
        part = {**content, "images": half, "annotations": rows}
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(part))
    (tmp_path / "gt.json").unlink()
    (tmp_path / "found.json").unlink()
    assert main(["evaluate", str(deployed), "--data", str(tmp_path)]) == 2
    assert "which the dataset has not" in capsys.readouterr().err
