"""`training: auto`: what is chosen, from which numbers; what is given stays, and what was chosen is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import yaml

from paretune.config import auto_training
from paretune.config.job import Job
from paretune.config.plan import read_plan
from paretune.core.errors import UserError, UserErrors
from paretune.core.types import Annotations, Image, InputSize
from paretune.data.statistics import SplitStatistics, split_statistics
from paretune.detectors.base import Detector
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.ssd.detector import Ssd
from paretune.detectors.yolox.detector import Yolo
from paretune.training.auto_rules import AutoRules, detector_fields
from paretune.training.settings import Training
from paretune.workflows.train import open_place, run_training
from tests_support import ROOT

FEW = SplitStatistics(
    images=120, boxes=300, classes=4, width=640, height=480, objects=2, smallest=0.12, small=0.15, largest=0.8
)
JOB: dict[str, Any] = {
    "dataset": {"shapes": {"train": 24, "val": 8, "size": "96x64"}},
    "detector": {"yolo": {"variant": "nano", "depthwise": False, "width": 0.125}},
    "input_size": "auto",
    "training": "auto",
    "space": "space.yaml",
}


def rules(
    given: dict[str, Any] | None = None, train: SplitStatistics = FEW, detector: Detector | None = None
) -> AutoRules:
    return AutoRules(detector or Yolo(), Training.model_validate({"auto": True, **(given or {})}), train, 40)


def chosen(picture: float, **given: Any) -> dict[str, Any]:
    return {choice.field.removeprefix("training."): choice.value for choice in rules(given).choices(picture)}


@pytest.mark.parametrize("minutes", [1, 5, 10, 60])
@pytest.mark.parametrize("picture", [0.002, 0.01, 0.05])
def test_the_training_fits_the_minutes(minutes: float, picture: float) -> None:
    found = chosen(picture, minutes=minutes)
    training = found["epochs"] * FEW.images * picture
    validating = -(-found["epochs"] // found["validate_every"]) * 40 * picture * 0.4
    assert training + validating <= 60 * minutes or found["epochs"] == 10
    assert training + validating >= 0.9 * 60 * minutes or found["epochs"] in (10, 300)


def test_what_is_given_stays_and_the_rest_follows_it() -> None:
    found = chosen(0.01, epochs=20, lr=0.001)
    assert not {"epochs", "lr"} & found.keys()
    assert found["augment"].mosaic == 0  # so short a training loses by it
    assert chosen(0.01)["augment"].mosaic > 0
    assert chosen(0.01, validate_every=2)["patience"] % 2 == 0


def test_pretrained_weights_begin_frozen_and_with_smaller_steps() -> None:
    fresh = {c.field: c.value for c in rules().choices(0.01)}
    with_weights = rules(detector=Yolo(weights="COCO"))
    begun = {c.field: c.value for c in with_weights.choices(0.01)}
    assert begun["training.lr"] < fresh["training.lr"]
    assert 0 < begun["training.freeze_epochs"] < begun["training.epochs"]
    assert "training.freeze_epochs" not in fresh
    assert detector_fields(Ssd(weights="COCO_V1"), FEW, InputSize(320, 320)) == []  # they were trained with their boxes


def test_no_picture_is_mirrored_where_classes_are_sides() -> None:
    train = SplitStatistics(**{**vars(FEW), "sided": ("turn left", "turn right")})
    flip = next(c for c in rules(train=train).choices(0.01) if c.field == "training.flip")
    assert flip.value == 0
    assert "turn left" in flip.because
    assert chosen(0.01)["flip"] == 0.5


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (300, 300), (4000, 500)])
@pytest.mark.parametrize("detector", [Yolo(), Ssd(), Ssd(variant="ssd300_vgg16"), FasterRcnn()])
def test_the_size_is_one_that_the_detector_takes_in_the_pictures_proportions(
    width: float, height: float, detector: Detector
) -> None:
    train = SplitStatistics(**{**vars(FEW), "width": width, "height": height})
    size, _ = rules(train=train, detector=detector).size(lambda probe: 1e-7 * probe.width * probe.height)
    assert detector.size_unsupported_reason(size) is None
    assert (size.width > size.height) == (width > height) or width == height or min(size.width, size.height) >= 256


def test_more_time_or_smaller_objects_make_the_input_larger() -> None:
    def area(train: SplitStatistics, minutes: float) -> int:
        size, _ = rules({"minutes": minutes}, train).size(lambda probe: 4e-7 * probe.width * probe.height)
        return size.width * size.height

    tiny = SplitStatistics(**{**vars(FEW), "small": 0.045})
    assert area(FEW, 2) < area(FEW, 20)
    assert area(FEW, 2) < area(tiny, 2)


def test_default_boxes_follow_the_objects() -> None:
    small = {c.field: c.value for c in detector_fields(Ssd(), FEW, InputSize(224, 224))}
    assert small["detector.ssd.smallest"] == FEW.smallest
    assert detector_fields(Ssd(smallest=0.3), FEW, InputSize(224, 224))[0].field == "detector.ssd.largest"
    (anchor,) = detector_fields(FasterRcnn(), FEW, InputSize(256, 192))
    assert anchor.value == 32  # 0.12 of 222 pixels


class Boxes:
    """Four images of 100 x 200 with one box each, whose side is 10, 20, 30 and 40 pixels."""

    classes, ids = ("left hand", "hand"), ("a", "b", "c", "d")

    def __len__(self) -> int:
        return 4

    def size(self, index: int) -> tuple[int, int]:
        return 100, 200

    def annotations(self, index: int) -> Annotations:
        side = 10.0 * (index + 1)
        boxes = np.array([[0, 0, side, side], [0, 0, 90, 90], [5, 5, 5, 9]], np.float32)
        return Annotations(boxes, np.zeros(3, np.int64), np.array([False, True, False]))

    def image(self, index: int) -> Image:
        raise AssertionError("no picture is looked at")

    def file(self, index: int) -> Path | None:
        return None


def test_the_statistics_are_those_of_the_boxes_that_count() -> None:
    found = split_statistics(Boxes())
    sides = np.array([10, 20, 30, 40]) / np.sqrt(100 * 200)
    assert (found.images, found.boxes, found.classes, found.objects) == (4, 4, 2, 1)
    assert (found.width, found.height, found.aspect) == (100, 200, 0.5)
    assert found.small == pytest.approx(np.percentile(sides, 10))
    assert found.sided == ("left hand",)


def test_a_word_or_minutes_ask_for_it() -> None:
    assert Training.model_validate("auto").auto
    assert Training.model_validate({"minutes": 5}).auto
    assert Training.model_validate({"auto": {}, "lr": 0.1}).lr == 0.1  # `auto` with a field set beside it
    with pytest.raises(ValueError, match="minutes"):
        Training.model_validate({"minutes": 5, "auto": False})
    with pytest.raises(ValueError, match="none is left"):
        Training.model_validate({"epochs": 5, "freeze_epochs": 5})


def test_a_size_to_be_chosen_needs_a_training_that_chooses(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("runtime: onnxruntime\n")
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump({**JOB, "training": {"epochs": 3}}))
    with pytest.raises(UserErrors, match="input_size"):
        read_plan(job)


def test_sizes_of_a_space_are_shares_of_the_jobs_size(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        "input_size: {choices: ['50%', 75 %, '100%', '97%', 64]}\nruntime: onnxruntime\nfirst: [{input_size: '50%'}]\n"
    )
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump({**JOB, "training": {"epochs": 3}, "input_size": "256x192"}))
    sizes = {str(sample.value["input_size"]) for sample in read_plan(job).space.corners()}
    assert sizes == {"128x96", "192x144", "256x192", "64"}
    job.write_text(yaml.safe_dump({**JOB, "training": {"epochs": 3}, "input_size": 64}))
    assert {str(sample.value["input_size"]) for sample in read_plan(job).space.corners()} == {"32", "48", "64"}


@pytest.mark.slow
def test_what_was_chosen_is_kept_and_a_resumed_training_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text("runtime: onnxruntime\n")
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump({**JOB, "training": {"auto": True, "minutes": 0.02, "ema": 0.5, "epochs": 2}}))
    place, first = open_place(read_plan(job), "one", resume=False)
    told = capsys.readouterr().out
    written = (place.folder / "job.yaml").read_text()
    assert f"training.lr {first.training.lr}: " in told
    assert f"# training.lr {first.training.lr}: " in written  # the reasons stay with the training
    kept = Job.model_validate(yaml.safe_load(written))
    assert (kept.training, kept.input_size) == (first.training, first.input_size)
    assert not kept.training.auto
    assert (kept.training.ema, kept.training.epochs) == (0.5, 2)

    def measured(*_: Any) -> Any:
        raise AssertionError("the choice is made once")

    monkeypatch.setattr(auto_training, "settled", measured)
    _, again = open_place(read_plan(job), "one", resume=True)
    assert again.training == first.training
    assert again.size == first.size
    facts = run_training(place, first)
    assert facts["metrics"]["val"]["images"] == 8


@pytest.mark.parametrize("name", ["pretrained_yolo", "pretrained_ssd", "pretrained_faster_rcnn"])
def test_weights_that_cannot_be_fetched_are_told_first_with_where_to_put_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> Any:
        raise URLError("no network")

    monkeypatch.setenv("PARETUNE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    shapes = {"shapes": {"train": 8, "val": 4, "size": "96x64"}}
    plan = read_plan(ROOT / "jobs" / f"{name}.yaml", {"dataset": shapes, "output": str(tmp_path / "runs")})
    with pytest.raises(UserError, match="cannot be fetched") as caught:
        open_place(plan, "one", resume=False)
    assert str(tmp_path / "weights") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs" / "trainings" / "one").exists()
