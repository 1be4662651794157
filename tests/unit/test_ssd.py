"""SSD against torchvision's own code: default boxes, loss and postprocessing on the same raw maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from paretune.core.errors import UserError
from paretune.core.types import Annotations, InputSize, Thresholds
from paretune.detectors.base import Losses
from paretune.detectors.pretrained_weights import torchvision_weights
from paretune.detectors.ssd.detector import Ssd
from paretune.detectors.ssd.loss import flattened

LITE, VGG = Ssd(), Ssd(variant="ssd300_vgg16")
LITE_SIZE, VGG_SIZE = InputSize(160, 128), InputSize(300, 300)
BOTH = [pytest.param(LITE, LITE_SIZE, id="lite"), pytest.param(VGG, VGG_SIZE, id="vgg")]
CLASSES = 3


def generator(detector):
    if detector is LITE:
        return DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    return DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
    )


def shapes(detector, size):
    if detector is VGG:
        return [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)]
    return [(8, 10), (4, 5), (2, 3), (1, 2), (1, 1), (1, 1)]


def raw_maps(detector, size, seed=0, scale=1.0):
    """Maps as a trained network might give them: background likely, some confident boxes."""
    random = torch.Generator().manual_seed(seed)
    boxes = [6] * 6 if detector is LITE else [4, 6, 6, 6, 4, 4]
    raw = []
    for (height, width), k in zip(shapes(detector, size), boxes, strict=True):
        raw.append(torch.randn(2, k * (CLASSES + 1), height, width, generator=random) * 3 * scale)
        raw.append(torch.randn(2, k * 4, height, width, generator=random))
    return raw, boxes


def torchvisions_anchors(detector, size):
    maps = [torch.zeros(1, 1, *shape) for shape in shapes(detector, size)]
    images = ImageList(torch.zeros(1, 3, size.height, size.width), [(size.height, size.width)])
    return generator(detector)(images, maps)[0]


def torchvisions_heads(raw, boxes):
    return {
        "cls_logits": torch.cat([flattened(m, k) for m, k in zip(raw[::2], boxes, strict=True)], 1),
        "bbox_regression": torch.cat([flattened(m, k) for m, k in zip(raw[1::2], boxes, strict=True)], 1),
    }


def bare(**fields):
    """Torchvision's SSD without its networks: only its arithmetic is asked for."""
    model = SSD.__new__(SSD)
    torch.nn.Module.__init__(model)
    model.box_coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    model.neg_to_pos_ratio = 3
    for name, value in fields.items():
        setattr(model, name, value)
    return model


def truth(seed=0, counts=(4, 2)):
    random = np.random.default_rng(seed)
    found = []
    for count in counts:
        corner = random.uniform(0, 60, (count, 2))
        boxes = np.concatenate([corner, corner + random.uniform(10, 60, (count, 2))], 1).astype(np.float32)
        found.append(Annotations(boxes, random.integers(0, CLASSES, count), np.zeros(count, bool)))
    return found


@pytest.mark.parametrize(("detector", "size"), BOTH)
def test_default_boxes_are_torchvisions(detector, size):
    ours = detector.anchors(shapes(detector, size), size)
    torch.testing.assert_close(torch.tensor(ours), torchvisions_anchors(detector, size), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("detector", "size"), BOTH)
def test_layouts_of_the_maps_are_torchvisions(detector, size):
    """Its heads lay a level out as cells x boxes; so do rows()."""
    raw, boxes = raw_maps(detector, size)
    for maps, k in zip(raw[::2], boxes, strict=True):
        n, _, height, width = maps.shape
        theirs = maps.view(n, -1, CLASSES + 1, height, width).permute(0, 3, 4, 1, 2).reshape(n, -1, CLASSES + 1)
        assert torch.equal(flattened(maps, k), theirs)


@pytest.mark.parametrize(("detector", "size"), BOTH)
@pytest.mark.parametrize("counts", [(4, 2), (0, 3), (0, 0)])
def test_loss_is_torchvisions(detector, size, counts):
    raw, boxes = raw_maps(detector, size)
    annotations = truth(counts=counts)
    ours = detector.loss(raw, annotations, size)
    anchors = torchvisions_anchors(detector, size)
    matcher = SSDMatcher(0.5)
    matched, targets = [], []
    for entry in annotations:
        wanted = torch.tensor(entry.boxes)
        targets.append({"boxes": wanted, "labels": torch.tensor(entry.labels) + 1})
        none = torch.full((len(anchors),), -1, dtype=torch.int64)
        matched.append(matcher(torchvision.ops.box_iou(wanted, anchors)) if len(wanted) else none)
    theirs = bare().compute_loss(targets, torchvisions_heads(raw, boxes), [anchors, anchors], matched)
    torch.testing.assert_close(ours["box"], theirs["bbox_regression"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours["class"], theirs["classification"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("detector", "size"), BOTH)
def test_decoding_is_torchvisions(detector, size):
    raw, boxes = raw_maps(detector, size, scale=0.4)  # larger logits give equal scores, in any order
    anchors = torchvisions_anchors(detector, size)
    everything = len(anchors) * CLASSES  # its limit holds for each class, ours for an image: out of the way here
    model = bare(score_thresh=0.3, nms_thresh=0.45, topk_candidates=everything, detections_per_img=50)
    shape = [(size.height, size.width)]
    theirs = model.postprocess_detections(torchvisions_heads(raw, boxes), [anchors] * 2, shape * 2)
    thresholds = Thresholds(score=0.3, iou=0.45, candidates=everything, detections=50)
    ours = detector.decode([maps.numpy() for maps in raw], size, thresholds)
    for found, expected in zip(ours, theirs, strict=True):
        assert len(found.scores) == len(expected["scores"]) > 5
        np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-5)
        assert (found.labels == expected["labels"].numpy() - 1).all()
        clipped = np.clip(found.boxes, 0, [size.width, size.height] * 2)
        np.testing.assert_allclose(clipped, expected["boxes"], atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("detector", "theirs"),
    [
        (LITE, lambda: torchvision.models.detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=CLASSES + 1)),
        (VGG, lambda: torchvision.models.detection.ssd300_vgg16(
            weights=None, weights_backbone=None, num_classes=CLASSES + 1)),
    ],
    ids=["lite", "vgg"],
)  # fmt: skip
def test_torchvisions_checkpoints_fit_and_give_its_maps(detector, theirs):
    reference = theirs().eval()
    state = reference.state_dict()
    network = detector.build(CLASSES).eval()
    assert network.state_dict().keys() == state.keys()
    network.load_state_dict(state)
    side = 320 if detector is LITE else 300
    images = torch.rand(1, 3, side, side)
    with torch.no_grad():
        head = reference.head(list(reference.backbone(images).values()))
        raw = network(images)
    boxes = [6] * 6 if detector is LITE else [4, 6, 6, 6, 4, 4]
    ours = torchvisions_heads(raw, boxes)
    torch.testing.assert_close(ours["cls_logits"], head["cls_logits"])
    torch.testing.assert_close(ours["bbox_regression"], head["bbox_regression"])


@pytest.mark.parametrize("losses", [Losses("giou"), Losses("ciou", "focal"), Losses("smooth_l1", "cross_entropy")])
def test_other_losses_are_finite_and_have_slopes(losses):
    raw, _ = raw_maps(LITE, LITE_SIZE, scale=0.1)
    for maps in raw:
        maps.requires_grad_()
    terms = LITE.loss(raw, truth(), LITE_SIZE, losses)
    sum(terms.values()).backward()
    assert all(torch.isfinite(maps.grad).all() for maps in raw)
    own = LITE.loss(raw, truth(), LITE_SIZE)
    same = losses == Losses("smooth_l1", "cross_entropy")
    assert all(torch.equal(own[name], terms[name]) for name in own) is same


def test_sizes_that_leave_nothing_are_refused():
    assert VGG.size_unsupported_reason(InputSize(268, 268)) is None
    assert "at least 268" in VGG.size_unsupported_reason(InputSize(267, 267))
    assert LITE.size_unsupported_reason(InputSize(32, 32)) is None


@pytest.mark.slow
def test_the_smallest_size_of_ssd300_is_the_smallest():
    network = VGG.build(1).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 268, 268))[-1].shape[2:] == (1, 1)
        with pytest.raises(RuntimeError):
            network(torch.rand(1, 3, 267, 267))


def test_a_machine_without_network_gets_one_clear_line(monkeypatch, tmp_path):
    from urllib.error import URLError

    def offline(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setenv("PARETUNE_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(
        UserError, match=r"weights COCO_V1 of ssdlite320.*no route to host.*download.pytorch.org"
    ) as told:
        Ssd(weights="COCO_V1").begin(CLASSES)
    assert "\n" not in str(told.value)


def test_weights_that_lie_there_already_are_held_to_their_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.hub compares only what it fetches itself."""
    table = torchvision.models.get_model_weights("ssdlite320_mobilenet_v3_large")
    file = tmp_path / Path(table["COCO_V1"].url).name
    torch.save({"a": torch.ones(1)}, file)
    monkeypatch.setenv("PARETUNE_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=rf"{file} is damaged or another file \(sha256 [0-9a-f]+\); delete it"):
        torchvision_weights("ssdlite320_mobilenet_v3_large", "COCO_V1")


@pytest.mark.parametrize("classes", [90, CLASSES])
def test_weights_of_coco_are_loaded_but_for_other_classes(classes, monkeypatch):
    torch.manual_seed(1)
    saved = Ssd().build(90).state_dict()
    monkeypatch.setattr("paretune.detectors.pretrained_weights.torchvision_weights", lambda *_: saved)
    state = Ssd(weights="COCO_V1").begin(classes).network.state_dict()
    same = {name for name in state if state[name].shape == saved[name].shape and torch.equal(state[name], saved[name])}
    fresh = {name for name in state if name not in same}
    if classes == 90:
        assert fresh == set()
    else:
        assert len(fresh) == 12  # weights and biases of the six last convolutions for classes
        assert all(name.startswith("head.classification_head.") for name in fresh)
    monkeypatch.setattr(
        "paretune.detectors.pretrained_weights.torchvision_weights", lambda *_: dict(list(saved.items())[1:])
    )
    with pytest.raises(UserError, match=r"not of ssd .*not whole"):
        Ssd(weights="COCO_V1").begin(classes)
