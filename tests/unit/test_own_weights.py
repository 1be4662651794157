"""A user's own checkpoint of torchvision's detectors: found in its file, loaded class by class, or refused."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torchvision
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import detection

from paretune.config.job import Job
from paretune.core.errors import UserError
from paretune.detectors.checkpoints import as_class_names, read_checkpoint
from paretune.detectors.faster_rcnn.detector import WEIGHTS as FASTER_RCNN_WEIGHTS
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.ssd.detector import WEIGHTS as SSD_WEIGHTS
from paretune.detectors.ssd.detector import Ssd
from paretune.detectors.weight_recognition import seems_to_be
from paretune.detectors.yolox.detector import Yolo
from paretune.storage.atomic_files import sha256

MOBILE = "mobilenet_v3_large_320_fpn"
NAMES = ("ace", "king", "queen")
TINY = Yolo(width=0.0625, depthwise=False)


def built(variant: str, outputs: int = 4, seed: int = 0, **more: Any) -> nn.Module:
    torch.manual_seed(seed)
    made: nn.Module = getattr(detection, variant)(weights=None, weights_backbone=None, num_classes=outputs, **more)
    return made


@pytest.fixture(scope="module")
def mobile() -> dict[str, Tensor]:
    """Faster R-CNN for three classes."""
    return built(f"fasterrcnn_{MOBILE}").state_dict()


@pytest.fixture(scope="module")
def lite() -> dict[str, Tensor]:
    """SSDLite for three classes."""
    return built("ssdlite320_mobilenet_v3_large").state_dict()


@pytest.fixture(scope="module")
def tiny() -> dict[str, Tensor]:
    """A small YOLO for three classes."""
    torch.manual_seed(0)
    return TINY.build(3).state_dict()


def begun(weights: str) -> Any:
    """Begin the small YOLO with these weights."""
    return TINY.model_copy(update={"weights": weights}).begin(NAMES)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def in_file(content: Any, file: Path) -> str:
    torch.save(content, file)
    return str(file)


def test_weights_are_found_wherever_training_programs_put_them(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    parallel = {f"module.{name}": tensor for name, tensor in tiny.items()}
    other = {name: torch.zeros_like(tensor) for name, tensor in tiny.items()}
    arguments = argparse.Namespace(lr=0.02, data_path="coco")
    files = {
        "alone": tiny,
        "ordered": OrderedDict(tiny),
        "torchvision's scripts": {"model": tiny, "optimizer": {"state": {}}, "epoch": 25, "args": arguments},
        "state_dict": {"state_dict": tiny, "best": 0.5},
        "model_state_dict": {"model_state_dict": parallel, "loss": 0.1},
        "lightning": {"state_dict": {f"model.{name}": t for name, t in tiny.items()}, "hyper_parameters": {}},
        "compiled": {"model": {f"_orig_mod.module.{name}": t for name, t in tiny.items()}},
        "average": {"model": other, "model_ema": {"n_averaged": torch.tensor(9), **parallel}},
        "average inside": {"ema": {"module": tiny, "decay": 0.99}, "model": other},
    }
    for name, content in files.items():
        source = in_file(content, tmp_path / f"{name}.pth")
        found = begun(source)
        assert equal(found.network.state_dict(), tiny), name
        assert found.fresh == ()
        assert f"sha256 {sha256(Path(source))}" in found.notes[0]
        assert ("averaged weights" in " ".join(found.notes)) == name.startswith("average"), name
        assert "tells no class names; its 3 are taken to be, in this order, ace, king, queen" in found.notes[-1]
    save_file(tiny, tmp_path / "plain.safetensors")
    assert equal(begun(str(tmp_path / "plain.safetensors")).network.state_dict(), tiny)


def test_classes_are_taken_by_their_names(mobile: dict[str, Tensor], lite: dict[str, Tensor], tmp_path: Path) -> None:
    """Rows of the predictors against those of the file, each found by hand."""
    told = ("__background__", "Queen", "jack", "ace")
    source = in_file({"model": mobile, "classes": list(told)}, tmp_path / "rcnn.pth")
    begun = FasterRcnn(weights=source).begin(NAMES)
    assert begun.fresh == ("king",)
    assert begun.notes[-1].endswith("of 3 classes 2 are in it by their names; king starts afresh")
    state, head = begun.network.state_dict(), "roi_heads.box_predictor."
    for here, there in ((0, 0), (1, 3), (3, 1)):  # background, ace, queen
        for name, rows in (
            ("cls_score.weight", 1),
            ("cls_score.bias", 1),
            ("bbox_pred.weight", 4),
            ("bbox_pred.bias", 4),
        ):
            own, wanted = state[head + name], mobile[head + name]
            assert torch.equal(own[rows * here : rows * (here + 1)], wanted[rows * there : rows * (there + 1)])
    assert not torch.equal(state[head + "cls_score.weight"][2], mobile[head + "cls_score.weight"][2])
    source = in_file({"model": lite, "names": {1: "queen", 2: "jack", 3: "ace"}}, tmp_path / "lite.pth")
    state = Ssd(weights=source).begin(NAMES).network.state_dict()
    for level in range(6):
        name = f"head.classification_head.module_list.{level}.1.weight"
        own, wanted = (part[name].view(6, 4, -1) for part in (state, lite))
        assert torch.equal(own[:, [0, 1, 3]], wanted[:, [0, 3, 1]])
        assert not torch.equal(own[:, 2], wanted[:, 2])
    rest = [name for name in lite if "classification_head" not in name]
    assert all(torch.equal(state[name], lite[name]) for name in rest)


def test_another_number_of_classes_starts_afresh_and_is_told(mobile: dict[str, Tensor], tmp_path: Path) -> None:
    source = in_file(mobile, tmp_path / "mine.pth")
    begun = FasterRcnn(weights=source).begin(("one", "two"))
    assert begun.notes[-1].endswith("has 3 classes, the data 2: what predicts classes starts afresh")
    assert begun.fresh == ("one", "two")
    state = begun.network.state_dict()
    assert all(torch.equal(state[name], mobile[name]) for name in mobile if "box_predictor" not in name)
    assert state["roi_heads.box_predictor.bbox_pred.weight"].shape[0] == 12


def test_names_of_coco_come_with_torchvisions_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = built(f"fasterrcnn_{MOBILE}", 91).state_dict()
    monkeypatch.setattr("paretune.detectors.pretrained_weights.torchvision_weights", lambda *_: saved)
    begun = FasterRcnn(weights="COCO_V1").begin(("zebra", "unicorn", "person"))
    assert begun.fresh == ("unicorn",)
    score = "roi_heads.box_predictor.cls_score.weight"
    own = begun.network.state_dict()[score]
    assert torch.equal(own[[0, 1, 3]], saved[score][[0, 24, 1]])  # COCO's numbers of zebra and person
    assert FasterRcnn(weights="COCO_V1").begin([str(n) for n in range(90)]).fresh == tuple(map(str, range(90)))
    assert equal(FasterRcnn(weights="COCO_V1").begin(90).network.state_dict(), saved)


def test_names_from_before_torchvision_0_13_are_read(mobile: dict[str, Tensor], tmp_path: Path) -> None:
    """torchvision's published files still have them; torchvision's own loading is the oracle."""
    old = OrderedDict()
    for name, tensor in mobile.items():
        parts = name.split(".")
        if name.startswith(("backbone.fpn.inner_blocks", "backbone.fpn.layer_blocks")):
            parts.pop(4)
        if name.startswith("rpn.head.conv."):
            parts = ["rpn", "head", "conv", parts[-1]]
        if parts[-1] != "num_batches_tracked":  # frozen norms count none
            old[".".join(parts)] = tensor
    assert "rpn.head.conv.weight" in old
    assert "backbone.fpn.inner_blocks.0.weight" in old
    theirs = built(f"fasterrcnn_{MOBILE}", seed=1)
    theirs.load_state_dict(old.copy())
    ours = FasterRcnn(weights=in_file(old, tmp_path / "old.pth")).begin(3).network.state_dict()
    wanted = theirs.state_dict()
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted if not name.endswith("num_batches_tracked"))


def test_both_forms_of_ssdlite_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision makes the last stage narrower unless the backbone was a classifier's, as it is by default."""
    own = torchvision.models.mobilenet_v3_large
    monkeypatch.setattr(detection.ssdlite, "mobilenet_v3_large", lambda *, weights, **more: own(weights=None, **more))
    kind = torchvision.models.MobileNet_V3_Large_Weights.IMAGENET1K_V1
    theirs = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=kind, num_classes=4)
    wide, narrow = theirs.state_dict(), built("ssdlite320_mobilenet_v3_large").state_dict()
    assert [name for name in wide if wide[name].shape != narrow[name].shape]
    for number, state in enumerate((wide, narrow)):
        begun = Ssd(weights=in_file(state, tmp_path / f"{number}.pth")).begin(NAMES)
        assert equal(begun.network.state_dict(), state)


@pytest.mark.parametrize(
    ("made", "detector", "says"),
    [
        ("ssd300_vgg16", FasterRcnn, "it seems to be ssd, variant ssd300_vgg16"),
        ("fasterrcnn_resnet50_fpn_v2", FasterRcnn, "it seems to be faster_rcnn, variant resnet50_fpn_v2"),
        ("retinanet_resnet50_fpn", Ssd, "it seems to be torchvision's RetinaNet"),
        ("maskrcnn_resnet50_fpn", FasterRcnn, "it seems to be torchvision's Mask R-CNN"),
    ],
)
def test_another_network_is_refused_with_what_it_seems_to_be(
    made: str, detector: type[FasterRcnn | Ssd], says: str, tmp_path: Path
) -> None:
    with torch.device("meta"):
        names = {name: tensor.shape for name, tensor in getattr(detection, made)(
            weights=None, weights_backbone=None, num_classes=4).state_dict().items()}  # fmt: skip
    state = {name: torch.zeros(()).expand(shape) for name, shape in names.items()}
    with pytest.raises(UserError) as told:
        detector.model_validate({"weights": in_file(state, tmp_path / "other.pth")}).begin(NAMES)
    said = str(told.value)
    assert "\n" not in said
    assert said.startswith(f"weights {tmp_path / 'other.pth'}: not of {detector.name} ")
    assert said.endswith(says)
    assert "such as" in said


def test_the_same_family_of_other_fields_is_told_apart(mobile: dict[str, Tensor], tmp_path: Path) -> None:
    source = in_file(mobile, tmp_path / "mine.pth")
    with pytest.raises(UserError, match=r"\(1024\S* in the file, 256\S* here\); fields of the detector"):
        FasterRcnn(weights=source, head_width=256).begin(NAMES)
    ragged = {**mobile, "roi_heads.box_predictor.cls_score.bias": torch.zeros(7)}
    with pytest.raises(UserError, match="do not agree on a number of classes"):
        FasterRcnn(weights=in_file(ragged, tmp_path / "ragged.pth")).begin(NAMES)


def test_what_is_no_state_dict_is_refused_in_one_line_and_not_run(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return (Path.touch, (tmp_path / "sprung",))

    first = next(iter(tiny))
    for content, word in (
        ({"model": Trap()}, "without running code"),
        ({**tiny, first: torch.full_like(tiny[first], torch.nan)}, first),
        ({name: t for name, t in tiny.items() if name != first}, first),
    ):
        with pytest.raises(UserError, match=word) as told:
            begun(in_file(content, tmp_path / "odd.pth"))
        assert "\n" not in str(told.value)
    assert not (tmp_path / "sprung").exists()
    (tmp_path / "torn.pth").write_bytes((tmp_path / "odd.pth").read_bytes()[:5000])
    (tmp_path / "torn.safetensors").write_bytes(b"nothing")
    for name in ("torn.pth", "torn.safetensors"):
        with pytest.raises(UserError, match="not a checkpoint"):
            read_checkpoint(str(tmp_path / name), None)


@pytest.mark.parametrize("family", [FasterRcnn, Ssd])
def test_a_missing_file_is_a_problem(family: type[FasterRcnn | Ssd], tmp_path: Path) -> None:
    missing = family(weights=str(tmp_path / "mine.pth"))
    assert missing.problems() == [f"weights {tmp_path / 'mine.pth'}: no such file"]
    assert family(weights="COCO_V1").problems() == []


def test_as_class_names_are_read_in_every_form() -> None:
    assert as_class_names(["__background__", "a", "N/A", "b"]) == ("a", None, "b")
    assert as_class_names({0: "a", 1: "b"}) == ("a", "b")
    assert as_class_names({1: "a", 3: "b"}) == ("a", None, "b")
    assert as_class_names([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]) == ("a", "b")
    assert as_class_names([1, 2]) is None
    assert as_class_names("ab") is None
    assert as_class_names({}) is None


def test_what_nobody_knows_is_said_to_be_unknown() -> None:
    assert seems_to_be({"layer.weight": torch.zeros(1)}) == (None, None)
    assert seems_to_be({"fc.weight": torch.zeros(1)}) == ("a classifier", None)
    assert seems_to_be({"0.conv.weight": torch.zeros(1)}) == ("a YOLO of another program", None)
    nano = {
        "backbone.backbone.stem.conv.conv.weight": torch.zeros(16, 12, 3, 3),
        "head.cls_preds.0.bias": torch.zeros(1),
    }
    assert seems_to_be(nano) == ("yolo, variant nano", "yolo nano")


def test_a_job_of_no_epochs_needs_weights() -> None:
    job = {"dataset": "shapes", "space": "space.yaml", "training": {"epochs": 0}}
    for detector, right in (
        ("ssd", False),
        ({"ssd": {"weights": "IMAGENET1K_V2"}}, False),
        ({"ssd": {"weights": "COCO_V1"}}, True),
        ({"faster_rcnn": {"weights": "mine.pth"}}, True),
    ):
        if right:
            assert Job.model_validate({**job, "detector": detector}).training.epochs == 0
            continue
        with pytest.raises(ValidationError, match=r"training.epochs\n"):
            Job.model_validate({**job, "detector": detector})


def test_the_names_of_weights_are_torchvisions():
    from torchvision.models import get_model_weights

    backbones = {"ssd300_vgg16": "vgg16", "ssdlite320_mobilenet_v3_large": "mobilenet_v3_large"}
    for variant, known in SSD_WEIGHTS.items():
        whole = {entry.name for entry in get_model_weights(variant)}
        backbone = {entry.name for entry in get_model_weights(backbones[variant])}
        fitting = {name for name in backbone if variant != "ssd300_vgg16" or name.endswith("FEATURES")}
        assert set(known) == whole | fitting
    assert set(SSD_WEIGHTS) == set(get_args(Ssd.model_fields["variant"].annotation))
    for variant in get_args(FasterRcnn.model_fields["variant"].annotation):
        assert {entry.name for entry in get_model_weights(f"fasterrcnn_{variant}")} == set(FASTER_RCNN_WEIGHTS)
