"""More than 100 objects in an image: a field keeps more boxes, in training, sweeps and predict."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from paretune.cli.main import main
from paretune.config.plan import read_plan
from paretune.config.recipe import Recipe
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import Data, Detections, InputSize, Thresholds
from paretune.data.statistics import crowding_note
from paretune.detectors.nms import no_detections
from paretune.detectors.yolox.detector import Yolo
from paretune.evaluation.results_explanations import most_kept
from paretune.networks.network_files import save_network
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.predictor import load_predictor
from paretune.training.validation import validate
from paretune.workflows.build_artefact import build
from paretune.workflows.recipe_source import read_source
from paretune.workflows.step_chain import InitialArtefactNetwork
from tests_support_compression import context
from tests_support_data import cases

GRID = 20
"""Objects along each side of a picture,"""
CELL = 16
"""and pixels from one to the next."""
JOB = """\
dataset: {yolo: {root: %s}}
detector: {yolo: {variant: nano, depthwise: false, width: 0.0625}}
input_size: 320
training: {epochs: 1, batch_size: 2, threads: 1, validate_every: 1}
space: space.yaml
tracking: {trainings: false}
"""


def crowded(root: Path) -> Path:
    """Four hundred squares in each of four pictures, as YOLO's files."""
    lines = "\n".join(
        f"0 {(x + 0.5) / GRID:.6f} {(y + 0.5) / GRID:.6f} {10 / CELL / GRID:.6f} {10 / CELL / GRID:.6f}"
        for y in range(GRID)
        for x in range(GRID)
    )
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(2):
            picture = np.full((GRID * CELL, GRID * CELL, 3), 40 + 20 * number, np.uint8)
            for y in range(GRID):
                for x in range(GRID):
                    left, top = x * CELL + 3, y * CELL + 3
                    picture[top : top + 10, left : left + 10] = 200
            cv2.imwrite(str(root / "images" / split / f"{split}{number}.png"), picture)
            (root / "labels" / split / f"{split}{number}.txt").write_text(lines)
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [square]\n")
    return root


class Finds(torch.nn.Module):
    """Raw maps of YOLOX that find every square, the first surest: what a perfect network would say."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = []
        for stride in (8, 16, 32):
            rows, columns = images.shape[2] // stride, images.shape[3] // stride
            box = torch.zeros(len(images), 4, rows, columns)
            box[:, :2], box[:, 2:] = 0.5, float(np.log(10 / stride))
            sure = torch.full((len(images), 1, rows, columns), -20.0)
            if stride == CELL:
                sure = torch.linspace(9, 3, rows * columns).reshape(1, 1, rows, columns).repeat(len(images), 1, 1, 1)
            maps += [box, sure, torch.full((len(images), 1, rows, columns), 12.0)]
        return tuple(maps)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    from paretune.data.formats.yolo import YoloFolder as YoloData

    root = crowded(tmp_path_factory.mktemp("crowded"))
    return YoloData(root=str(root)).open(root / "cache")


@pytest.mark.parametrize(("most", "recall"), [(100, 0.25), (250, 0.625), (400, 1.0), (1000, 1.0)])
def test_as_many_boxes_are_kept_and_counted_as_the_job_says(most: int, recall: float, data: Data) -> None:
    kept = Thresholds().keeping(most)
    size = InputSize(GRID * CELL, GRID * CELL)
    found = validate(Finds(), Yolo(), data.splits["val"], size, thresholds=kept)
    assert found is not None
    assert found.map50 == pytest.approx(recall, abs=0.01)  # the surest of them are all right
    assert found.ar100 == pytest.approx(0.25, abs=0.01)


def test_an_evaluation_tells_where_an_artefact_keeps_too_few(data: Data) -> None:
    val = data.splits["val"]
    truth = [val.annotations(index) for index in range(len(val))]
    every = [Detections(one.boxes, np.linspace(1, 0.5, len(one.boxes), dtype=np.float32), one.labels) for one in truth]
    few = [Detections(one.boxes[:100], one.scores[:100], one.labels[:100]) for one in every]
    (line,) = most_kept(few, 100, truth)
    assert line.startswith("the artefact keeps at most 100 boxes of an image, which binds in 2 of 2 images")
    assert most_kept(every, 401, truth) == most_kept([no_detections(), no_detections()], 100, truth) == []


def test_where_it_binds_is_told_and_where_it_does_not_nothing_is(data: Data) -> None:
    said = crowding_note(data.splits, Thresholds())
    assert said == (
        "thresholds.detections is 100, and 2 of 2 images of train, 2 of 2 images of val hold more objects, up to 400: "
        "--set thresholds.detections=400 keeps more boxes"
    )
    assert crowding_note(data.splits, Thresholds().keeping(400)) is None


def test_the_field_reaches_artefacts_and_what_begins_with_them(data: Data, tmp_path: Path) -> None:
    detector = Yolo(depthwise=False, width=0.0625)
    network = detector.build(1).eval()
    save_network(network, tmp_path / "net")
    recipe = Recipe.model_validate({"input_size": "320", "runtime": "eager"})
    around = replace(context(tmp_path, detector), data=data, thresholds=Thresholds().keeping(400))
    made = build(InitialArtefactNetwork(tmp_path / "net"), recipe, around, tmp_path / "artefact").artefact
    assert (made.thresholds.detections, made.thresholds.candidates) == (400, 1600)
    assert load_predictor(tmp_path / "artefact", Target()).artefact.thresholds == made.thresholds
    assert read_source(tmp_path / "artefact").thresholds == made.thresholds


@pytest.mark.slow
def test_train_tells_it_and_keeps_what_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB % crowded(tmp_path / "data"))
    (tmp_path / "space.yaml").write_text("{input_size: 320, steps: [], runtime: eager}")
    assert main(["train", "job.yaml", "--name", "few"]) == 0
    assert "2 of 2 images of val hold more objects, up to 400" in capsys.readouterr().out
    assert main(["train", "job.yaml", "--name", "many", "--set", "thresholds.detections=400"]) == 0
    assert "hold more objects" not in capsys.readouterr().out
    for name, kept in (("few", 100), ("many", 400)):
        place = tmp_path / "runs" / "trainings" / name
        assert json.loads((place / "artefact" / "artefact.json").read_text())["thresholds"]["detections"] == kept
        assert read_source(place).thresholds.detections == kept


def test_predict_tells_where_the_limit_binds(tmp_path: Path, capsys: Any) -> None:
    detector = Yolo(depthwise=False, width=0.0625)
    network = detector.build(1).eval()
    with torch.no_grad():
        for layer in detector.protected(network):
            layer.weight.zero_()
            layer.bias.fill_(-4.0 if layer.out_channels == 4 else 2.0)  # a small box in each cell, all of them sure
    recipe = Recipe.model_validate({"input_size": "160", "runtime": "eager"})
    told: dict[str, Any] = {"runtime": recipe.runtime, "recipe_tree": recipe.tree(), "classes": ("cell",)}
    model = Model(network, None, InputSize(160, 160), params=1, flops=1)
    write_artefact(tmp_path / "artefact", model, detector=detector, thresholds=Thresholds().keeping(450), **told)
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((160, 160, 3), np.uint8))
    cells = 20 * 20 + 10 * 10 + 5 * 5
    for words, most in (([], 450), (["--max-detections", "7"], 7), (["--max-detections", "2000"], 2000)):
        assert main(["predict", str(tmp_path / "artefact"), str(tmp_path / "one.png"), "--json", *words]) == 0
        out, err = capsys.readouterr()
        (entry,) = json.loads(out)["images"]
        assert len(entry["detections"]) == min(most, cells)
        assert ("the limit of boxes in an image binds in 1 of 1 images" in err) == (most < cells)
        assert entry.get("limit") == (most if most < cells else None)
    assert main(["predict", str(tmp_path / "artefact"), str(tmp_path / "one.png"), "--max-detections", "0"]) == 2
    (tmp_path / "images").mkdir()
    shutil.copy(tmp_path / "one.png", tmp_path / "images")
    words = ["--to", "coco", "--score", "0.5", "--with", str(tmp_path / "few")]
    write_artefact(tmp_path / "few", model, detector=detector, thresholds=Thresholds().keeping(50), **told)
    assert main(["data", "annotate", str(tmp_path / "images"), str(tmp_path / "new"), *words]) == 0
    assert "the limit of 50 boxes in an image binds in 1 of 1 images" in capsys.readouterr().out


def test_a_field_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("{input_size: 320, steps: [], runtime: eager}")
    text = (JOB % "data").replace("yolo: {root: data}", "shapes: {train: 4, val: 4, size: 64x64}")
    frcnn = text.replace("{yolo: {variant: nano, depthwise: false, width: 0.0625}}", "{faster_rcnn: {proposals: %d}}")
    for proposals, fits in ((100, False), (300, False), (400, True)):
        (tmp_path / "job.yaml").write_text(frcnn % proposals + "thresholds: {detections: 400}\n")
        if fits:
            assert read_plan(tmp_path / "job.yaml").job.thresholds.detections == 400
        else:
            with pytest.raises(UserError, match=r"thresholds\.detections"):
                read_plan(tmp_path / "job.yaml")


def test_the_crowded_pictures_of_a_user(capsys: Any, tmp_path: Path) -> None:
    from paretune.data.formats.yolo import YoloFolder as YoloData

    data = YoloData(root=str(cases("crowded-400"))).open(tmp_path)
    said = crowding_note(data.splits, Thresholds())
    assert said is not None
    assert "3 of 3 images of val hold more objects, up to 400" in said
