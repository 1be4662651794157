"""What torchvision's detectors see and find, beside what ours do with the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import batched_nms

from paretune.core.spec import parse_plugin
from paretune.core.types import Data, Image, InputSize, Thresholds
from paretune.data.preprocess import Preprocess, shown
from paretune.detectors import DETECTORS
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.nms import suppress
from paretune.detectors.ssd.detector import Ssd
from paretune.detectors.torchvision_sizes import padded, size_notes
from paretune.training.initial_weights import unsupported_baseline_reason
from tests_support_compression import Pictures
from tests_support_torchvision import KEPT, found_by, of_size, off, predictor, saved, seeded, tensors

GOLDEN = Path(__file__).parent.parent / "golden" / "detectors_before_transform.json"
MOBILE, RESNET = "mobilenet_v3_large_320_fpn", "resnet50_fpn"
sides = st.integers(40, 700)


def photograph(width: int, height: int, seed: int = 0) -> Image:
    """Patches of colour with fine grain: what averaging, rounding and a shift of half a pixel all change."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 40 + 2, width // 40 + 2, 3)).repeat(40, 0).repeat(40, 1)
    grain = random.integers(-40, 41, (height, width, 3))
    return (coarse[:height, :width] + grain).clip(0, 255).astype(np.uint8)


def theirs(how: Preprocess, fixed: InputSize | None = None) -> GeneralizedRCNNTransform:
    sizes = (how.shortest or 1, how.longest or 1)
    fixed_size = None if fixed is None else (fixed.width, fixed.height)
    return GeneralizedRCNNTransform(*sizes, list(how.mean), list(how.std), fixed_size=fixed_size).eval()


@settings(max_examples=60)
@given(width=sides, height=sides, limits=st.sampled_from([(320, 640), (800, 1333), (96, 130), (333, 700)]))
def test_faster_rcnn_sees_what_torchvision_shows(width: int, height: int, limits: tuple[int, int]) -> None:
    how = FasterRcnn(transform="torchvision", min_size=limits[0], max_size=limits[1]).preprocess
    image = photograph(width, height, seed=width)
    wanted, _ = theirs(how)(tensors([image]))
    size = padded(how, width, height)
    planes, placement = how(image, size)
    assert planes.shape == tuple(wanted.tensors.shape[1:])
    assert placement.inner == wanted.image_sizes[0][::-1]
    assert tuple(shown(planes[None])[0]) == placement.inner
    np.testing.assert_allclose(planes, wanted.tensors[0].numpy(), atol=3e-6)
    inner = placement.inner
    assert not planes[:, inner[1] :].any()
    assert not planes[:, :, inner[0] :].any()


@settings(max_examples=40)
@given(width=sides, height=sides, size=st.sampled_from([InputSize(320, 320), InputSize(300, 300), InputSize(416, 288)]))
@pytest.mark.parametrize("variant", ["ssd300_vgg16", "ssdlite320_mobilenet_v3_large"])
def test_ssd_sees_what_torchvision_shows(variant: str, width: int, height: int, size: InputSize) -> None:
    how = Ssd.model_validate({"variant": variant, "transform": "torchvision"}).preprocess
    image = photograph(width, height, seed=width)
    wanted, _ = theirs(how, fixed=size)(tensors([image]))
    planes, _ = how(image, size)
    unit = 1 / min(how.std)  # SSD300's values are up to 255
    seen = wanted.tensors[0, :, : size.height, : size.width].numpy()
    np.testing.assert_allclose(planes, seen, atol=1e-6 * unit)


def test_a_larger_input_shows_the_picture_as_large_and_a_smaller_one_what_there_is_room_for() -> None:
    how = FasterRcnn(transform="torchvision", variant=MOBILE).preprocess
    image = photograph(640, 480)
    exact, _ = how(image, InputSize(448, 320))
    wide, placement = how(image, InputSize(512, 512))
    assert placement.inner == (426, 320)
    np.testing.assert_array_equal(wide[:, :320, :448], exact)
    assert not wide[:, 320:].any()
    assert how.place(640, 480, InputSize(224, 160)).inner == (213, 160)
    assert how.larger(2).place(640, 480, InputSize(896, 640)).inner == (853, 640)


def test_what_the_picture_fills_is_told_by_the_noughts_around_it() -> None:
    batch = np.ones((3, 3, 8, 10), np.float32)
    batch[1, :, 5:], batch[1, :, :, 7:] = 0, 0
    batch[2] = 0
    np.testing.assert_array_equal(shown(batch), [[10, 8], [7, 5], [10, 8]])


def test_for_training_the_same_picture_is_rounded_to_8_bits() -> None:
    how, size = FasterRcnn(transform="torchvision", variant=MOBILE).preprocess, InputSize(448, 320)
    image = photograph(640, 480)
    fitted, placement = how.fit(image, size)
    exact, same = how(image, size)
    assert placement == same
    assert fitted.dtype == np.uint8
    np.testing.assert_allclose(how.tensor(fitted), exact, atol=0.51 / 255 / 0.224)


@pytest.mark.parametrize(
    ("transform", "fields"),
    [("own", {}), ("torchvision", {"weights": "COCO_V1"}), ("torchvision", {"weights": "mine.pth"})],
)
@pytest.mark.parametrize("family", [FasterRcnn, Ssd])
def test_the_transform_is_that_of_the_weights(
    family: type[FasterRcnn | Ssd], transform: str, fields: dict[str, str]
) -> None:
    assert family.model_validate(fields).transform == transform
    assert family.model_validate({**fields, "transform": "own"}).transform == "own"


def test_auto_has_pictures_fill_the_input_that_it_chooses() -> None:
    size = InputSize(512, 384)
    mine = FasterRcnn(weights="mine.pth")
    fields = {field: value for field, (value, _) in mine.suited(0.1, 0.5, size).items()}
    assert fields == {"min_size": 384, "max_size": 512}
    suited = FasterRcnn.model_validate({"weights": "mine.pth", **fields}).preprocess
    assert suited.place(640, 480, size).inner == (512, 384)
    assert suited.place(480, 640, InputSize(512, 512)).inner == (384, 512)
    assert FasterRcnn(weights="mine.pth", min_size=400).suited(0.1, 0.5, size) == {}
    assert FasterRcnn(weights="mine.pth", transform="own").suited(0.1, 0.5, size) == {}


def test_weights_of_a_backbone_leave_the_transform() -> None:
    assert Ssd(weights="IMAGENET1K_V2").transform == "own"
    with pytest.raises(ValueError, match=r"min_size and max_size are for .transform: torchvision. only"):
        FasterRcnn(min_size=400)
    with pytest.raises(ValueError, match="above max_size 640"):
        FasterRcnn(transform="torchvision", min_size=700)


def test_what_an_older_paretune_wrote_means_the_same(tmp_path: Path) -> None:
    """Detectors as artefacts, trainings and jobs told them before there was a transform, and what they then did."""
    golden = json.loads(GOLDEN.read_text())
    assert len(golden) == 5
    for entry in golden:
        detector = parse_plugin(entry["detector"], DETECTORS)
        assert json.loads(json.dumps(detector.preprocess.tree())) == entry["preprocessing"]
        assert Preprocess.parse(entry["preprocessing"]) == detector.preprocess
        assert getattr(detector, "norm_eps", 1e-5) == 1e-5
        (tmp_path / "structure.json").write_text("{}")
        (tmp_path / "training.json").write_text(json.dumps({"detector": entry["detector"]}))
        assert unsupported_baseline_reason(tmp_path, detector) is None


def test_manifests_tell_the_transform_and_refuse_what_is_odd() -> None:
    own = FasterRcnn(transform="torchvision").preprocess
    told = json.loads(json.dumps(own.tree()))
    assert (told["shortest"], told["longest"], told["fill"]) == (320, 640, "mean")
    assert Preprocess.parse(told) == own
    for change, says in (
        ({"shortest": 0}, "shortest is 0"),
        ({"shortest": None}, "longest is told, and shortest is not"),
        ({"fill": "grey"}, "fill is 'grey'"),
        ({"shrinking": "by area"}, "shrinking is 'by area'"),
        ({"std": [1, 1]}, "std is"),
        ({"mean": [0, 0, True]}, "mean is"),
        ({"crop": 2}, "crop is told and unknown"),
    ):
        with pytest.raises(ValueError, match=says):
            Preprocess.parse({**told, **change})


def test_an_input_without_room_is_told_with_one_that_has() -> None:
    mobile = FasterRcnn(transform="torchvision", variant=MOBILE)
    blank = [np.zeros((480, 640, 3), np.uint8)] * 3 + [np.zeros((504, 378, 3), np.uint8)]
    data = Data(("a",), {"train": Pictures(tuple(blank)), "test": Pictures(tuple(blank))}, "0")
    exact, cramped = size_notes(mobile, InputSize(448, 320), data)
    assert exact == "input_size 448x320: 3 of 4 pictures fill it just as torchvision's transform has them"
    assert cramped == (
        "input_size 448x320: 1 of 4 pictures are smaller in it than torchvision shows them "
        "(378x504 as 240x320, not 320x426); 448 has room for all"
    )
    assert size_notes(mobile, InputSize(448, 448), data) == [
        "input_size 448: 0 of 4 pictures fill it just as torchvision's transform has them"
    ]
    assert size_notes(Ssd(), InputSize(224, 224), data) == []
    assert size_notes(Ssd(weights="COCO_V1"), InputSize(320, 320), data) == []
    (other,) = size_notes(Ssd(weights="COCO_V1"), InputSize(224, 224), data)
    assert other == "input_size 224: torchvision's own, which such weights are usually trained at, is 320"


LITE = ("ssdlite320_mobilenet_v3_large", {"ssd": {"variant": "ssdlite320_mobilenet_v3_large"}}, "320")
VGG = ("ssd300_vgg16", {"ssd": {"variant": "ssd300_vgg16"}}, "300")
RCNN = (f"fasterrcnn_{MOBILE}", {"faster_rcnn": {"variant": MOBILE, "proposals": 150}}, "448x320")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("model", "fields", "size", "outputs"),
    [
        pytest.param(*LITE, 91, id="ssdlite-91"),
        pytest.param(*RCNN, 4, id="faster_rcnn-4", marks=pytest.mark.slow),
        pytest.param(*LITE, 4, id="ssdlite-4", marks=pytest.mark.slow),
        pytest.param(*RCNN, 91, id="faster_rcnn-91", marks=pytest.mark.slow),
        pytest.param(*VGG, 91, id="ssd300-91", marks=pytest.mark.slow),
        pytest.param(*VGG, 4, id="ssd300-4", marks=pytest.mark.full),
    ],
)
def test_detections_are_torchvisions(
    model: str, fields: dict[str, dict[str, object]], size: str, outputs: int, tmp_path: Path
) -> None:
    images = [photograph(640, 480, seed) for seed in range(4)]
    reference = seeded(model, outputs, images)
    ((family, told),) = fields.items()
    weights = saved(reference, tmp_path / "mine.pth")
    detector = parse_plugin({family: {**told, "weights": weights}}, DETECTORS)
    ours = predictor(detector, [f"class {n}" for n in range(outputs - 1)], size, tmp_path)
    found = off([ours(image) for image in images], found_by(reference, images), images)
    assert found.detections >= 20
    assert found.classes >= 3
    assert (found.missing, found.added) == (0, 0)
    assert found.box <= 0.01
    assert found.score <= 1e-4


@pytest.mark.slow
@pytest.mark.photos
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("model", "fields", "size", "outputs"), [(*LITE, 91), (*RCNN, 4)], ids=["ssdlite-91", "faster_rcnn-4"]
)
def test_detections_of_photographs_are_torchvisions(
    model: str, fields: dict[str, dict[str, object]], size: str, outputs: int, photographs: Path, tmp_path: Path
) -> None:
    """20 photographs of two sizes, through `train` of no epochs in all but its verb."""
    kinds = [of_size(photographs / "bccd", 640, 480, 10), of_size(photographs / "playing_cards", 378, 504, 10)]
    everything = [image for images in kinds for image in images]
    reference = seeded(model, outputs, [*kinds[0][:2], *kinds[1][:2]])
    ((family, told),) = fields.items()
    detector = parse_plugin({family: {**told, "weights": saved(reference, tmp_path / "mine.pth")}}, DETECTORS)
    found, classes = [], [f"class {n}" for n in range(outputs - 1)]
    for number, images in enumerate(kinds):
        height, width = images[0].shape[:2]
        own = size if family == "ssd" else str(padded(detector.preprocess, width, height))
        ours = predictor(detector, classes, own, tmp_path / str(number))
        found += [ours(image) for image in images]
    apart = off(found, found_by(reference, everything), everything)
    assert apart.detections >= 100
    assert apart.classes >= 3
    assert (apart.missing, apart.added) == (0, 0)
    assert apart.box <= 0.01
    assert apart.score <= 1e-4


@pytest.mark.slow
def test_boxes_and_regions_end_where_the_picture_does(tmp_path: Path) -> None:
    """In the rest of a larger input there is nothing."""
    images = [photograph(640, 480, seed) for seed in range(3)]
    reference = seeded(f"fasterrcnn_{MOBILE}", 4, images)
    detector = FasterRcnn(weights=saved(reference, tmp_path / "mine.pth"), proposals=150)
    ours = predictor(detector, "abc", "640x640", tmp_path)
    raw = ours.core(ours.preprocess(images[0])[0])
    regions = raw[0][0]
    assert tuple(raw[3][0]) == (426, 320)
    assert (regions[:, 2] <= 426).all()
    assert (regions[:, 3] <= 320).all()
    (inside,) = detector.decode(raw, InputSize(640, 640), KEPT.ours())
    assert len(inside.scores) > 5
    assert (inside.boxes <= np.array([426, 320, 426, 320])).all()
    assert (inside.boxes[:, 2:] - inside.boxes[:, :2] >= 0.01).all()


@pytest.mark.parametrize("seed", range(4))
def test_what_is_suppressed_is_torchvisions_also_without_an_area(seed: int) -> None:
    """Boxes that were cut off at an edge may have none; torchvision's SSD keeps all of these."""
    random = np.random.default_rng(seed)
    corner = random.uniform(-40, 300, (120, 2))
    boxes = np.concatenate([corner, corner + random.uniform(10, 90, (120, 2))], axis=1)
    boxes = np.clip(boxes, 0, 200).astype(np.float32)
    assert ((boxes[:, 2:] - boxes[:, :2]) == 0).any(axis=1).sum() > 10
    scores = np.sort(random.permutation(120).astype(np.float32) / 120 + 0.004)[::-1].copy()
    labels = random.integers(0, 2, 120)
    wanted = batched_nms(*(torch.from_numpy(part) for part in (boxes, scores, labels)), 0.5).numpy()
    thresholds = Thresholds(iou=0.5, detections=60)
    assert suppress(boxes, scores, labels, thresholds).tolist() == wanted[:60].tolist()
    flat = np.repeat(boxes[:5, :2], 2, axis=0).repeat(2, axis=1)[:, [0, 2, 1, 3]]
    assert suppress(flat, scores[:10], labels[:10], thresholds).tolist() == list(range(10))


@pytest.mark.slow
def test_norms_of_coco_weights_have_torchvisions_epsilon() -> None:
    told = FasterRcnn(variant="resnet50_fpn", weights="COCO_V1")
    assert told.norm_eps == 0
    norms = [m for m in told.build(1).backbone.body.modules() if isinstance(m, torch.nn.BatchNorm2d)]  # type: ignore[union-attr]
    assert {norm.eps for norm in norms} == {0}
    assert FasterRcnn(variant="resnet50_fpn_v2", weights="COCO_V1").norm_eps == 1e-5
