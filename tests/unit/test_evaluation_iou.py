"""``evaluate --iou``: pycocotools with ``iouThrs`` set to it is the oracle."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from paretune.cli.main import main
from paretune.config.recipe import Recipe
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import InputSize
from paretune.data.synthetic.shapes import Shapes
from paretune.detectors.yolox.detector import Yolo
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.predictor import load_predictor
from tests_support_coco import ground_truth
from tests_support_evaluation import perfect, random_case, truth_of

NAMES = ("ant", "bee", "cat")


def oracle_of(truth: dict[str, Any], rows: list[dict[str, Any]], iou: float) -> Any:
    """pycocotools, and nothing of ours."""
    with contextlib.redirect_stdout(io.StringIO()):
        one = COCO()
        one.dataset = truth
        one.createIndex()
        evaluation = COCOeval(one, one.loadRes(rows), "bbox")
        evaluation.params.iouThrs = np.array([iou])
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def written(folder: Path, detections: Any, annotations: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The files of a ground truth and of results."""
    truth = ground_truth(annotations, len(NAMES))
    for category, name in zip(truth["categories"], NAMES, strict=True):
        category["name"] = name
    rows = [
        {"image_id": image, "category_id": int(label) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(score)}
        for image, found in enumerate(detections, start=1)
        for (x1, y1, x2, y2), score, label in zip(found.boxes.tolist(), found.scores, found.labels, strict=True)
    ]
    (folder / "gt.json").write_text(json.dumps(truth))
    (folder / "found.json").write_text(json.dumps(rows))
    return truth, rows


def counted(evaluation: Any, confidence: float) -> tuple[float, float]:
    """Precision and recall of all classes together, by pycocotools' own matches."""
    hits = kept = objects = 0
    for entry in evaluation.evalImgs:
        if entry is None or entry["aRng"] != [0, 1e10]:
            continue
        counts = ~entry["dtIgnore"][0].astype(bool) & (np.asarray(entry["dtScores"]) >= confidence)
        hits += int((entry["dtMatches"][0] > 0)[counts].sum())
        kept += int(counts.sum())
        objects += int((np.asarray(entry["gtIgnore"]) == 0).sum())
    return hits / kept, hits / objects


def compare(told: dict[str, Any], evaluation: Any, iou: float) -> None:
    precision, recall = evaluation.eval["precision"][0, :, :, 0, 2], evaluation.eval["recall"][0, :, 0, 2]
    assert told["iou"] == iou
    assert told["map"] == pytest.approx(precision[precision > -1].mean(), abs=1e-9)
    assert told["ar100"] == pytest.approx(recall[recall > -1].mean(), abs=1e-9)
    for index, average in enumerate(told["per_class"].values()):
        expected = precision[:, index]
        assert (-1 if average is None else average) == pytest.approx(expected.mean(), abs=1e-9)


FILES = ["evaluate", "--annotations", "gt.json", "--detections", "found.json"]


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.95])
@pytest.mark.parametrize("seed", range(2))
def test_results_at_one_iou_are_pycocotools_own(
    seed: int, iou: float, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    truth, rows = written(tmp_path, *random_case(seed, images=12, classes=3))
    oracle = oracle_of(truth, rows, iou)
    assert main([*FILES, "--iou", str(iou), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["at_iou"]
    compare(told, oracle, iou)
    assert (told["precision"], told["recall"]) == pytest.approx(counted(oracle, told["confidence"]))
    every = [counted(oracle, row["score"]) for row in rows]
    assert told["f1"] == pytest.approx(max(2 * p * r / (p + r) if p else 0.0 for p, r in every))
    assert main([*FILES, "--iou", str(iou), "--json", "--confidence", "0.4", "--limit", "5"]) == 0
    told = json.loads(capsys.readouterr().out)["at_iou"]
    first = {**truth, "images": truth["images"][:5]}
    first["annotations"] = [row for row in truth["annotations"] if row["image_id"] <= 5]
    oracle = oracle_of(first, [row for row in rows if row["image_id"] <= 5], iou)
    compare(told, oracle, iou)
    assert (told["confidence"], told["precision"], told["recall"]) == pytest.approx((0.4, *counted(oracle, 0.4)))


def test_a_person_reads_the_same_and_nothing_where_it_was_not_asked_for(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    truth, rows = written(tmp_path, *random_case(4, images=12, classes=3))
    oracle = oracle_of(truth, rows, 0.6)
    assert main([*FILES, "--iou", "0.6"]) == 0
    said = capsys.readouterr().out
    precision = oracle.eval["precision"][0, :, :, 0, 2]
    (line,) = [line for line in said.splitlines() if line.startswith("at IoU 0.6: ")]
    assert f"map {precision.mean():.3f}," in line
    head, *body = [line.split() for line in said.splitlines() if line.startswith(("class ", *NAMES))]
    assert head[-2:] == ["ap", "0.6"]
    assert [row[-1] for row in body] == [f"{value:.3f}" for value in precision.mean(0)]
    assert main(FILES) == 0
    assert "at IoU" not in capsys.readouterr().out
    assert main([*FILES, "--json"]) == 0
    assert "at_iou" not in json.loads(capsys.readouterr().out)


def test_equal_boxes_are_hits_at_every_iou(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    truth = [truth_of([[0.1, 0.7, 33.3, 41.9]], [0])]
    oracle = oracle_of(*written(tmp_path, [perfect(truth[0])], truth), 1.0)
    assert main([*FILES, "--iou", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["at_iou"]
    compare(told, oracle, 1.0)
    assert told["f1"] == 1


@pytest.mark.slow
def test_an_artefact_at_one_iou(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    data = Shapes(train=4, val=6, size="64x64").open(Path("runs/datasets"))
    detector = Yolo(variant="nano", depthwise=False, width=0.125)
    recipe = Recipe.model_validate({"input_size": "64", "runtime": "eager"})
    torch.manual_seed(0)
    network = detector.build(len(data.classes)).eval()
    for predictor in detector.protected(network):
        torch.nn.init.normal_(predictor.bias)  # it is sure of something, right or wrong
    write_artefact(
        tmp_path / "artefact",
        Model(network, None, InputSize(64, 64), params=1, flops=1),
        detector=detector,
        runtime=recipe.runtime,
        recipe_tree=recipe.tree(),
        classes=data.classes,
    )
    (tmp_path / "job.yaml").write_text(
        "dataset: {shapes: {train: 4, val: 6, size: 64x64}}\ndetector: yolo\ninput_size: 64\nspace: none.yaml\n"
    )
    assert main(["evaluate", "artefact", "--data", "job.yaml", "--iou", "0.1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["at_iou"]
    predictor, val = load_predictor(tmp_path / "artefact", Target()), data.splits["val"]
    detections = [predictor(val.image(index)) for index in range(len(val))]
    truth = ground_truth([val.annotations(index) for index in range(len(val))], len(data.classes))
    rows = [
        {"image_id": image, "category_id": int(label) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(score)}
        for image, found in enumerate(detections, start=1)
        for (x1, y1, x2, y2), score, label in zip(found.boxes.tolist(), found.scores, found.labels, strict=True)
    ]
    assert len(rows) > 20
    compare(told, oracle_of(truth, rows, 0.1), 0.1)
    assert told["ar100"] > 0
