"""Faster R-CNN against torchvision's own code, on the same weights and the same raw tensors."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from paretune.core.types import Annotations, InputSize, Thresholds
from paretune.detectors.base import Losses
from paretune.detectors.faster_rcnn import network as frcnn_network
from paretune.detectors.faster_rcnn import roi_align as frcnn_pool
from paretune.detectors.faster_rcnn.decode import anchors, pooled
from paretune.detectors.faster_rcnn.detector import FasterRcnn

SIZE = InputSize(160, 128)
SHAPE = (SIZE.height, SIZE.width)
SMALL = FasterRcnn(proposals=20, samples=32, head_width=64, min_proposal_score=0.0)
LABELS = 3


def sure(detector, seed=0):
    """A network whose scores lie apart, as a trained one's do, with boxes that are moved."""
    torch.manual_seed(seed)
    network = detector.build(LABELS).train()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0  # fresh statistics would let every signal vanish
        network.backbone(pictures())
        network.eval()
        first, second = network.rpn.head, network.roi_heads.box_predictor
        for layer, spread in (
            (first.cls_logits, 3),
            (first.bbox_pred, 0.3),
            (second.cls_score, 3),
            (second.bbox_pred, 2),
        ):
            seen = []
            layer.bias.zero_()
            hook = layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.flatten()))
            network(pictures())
            hook.remove()
            layer.weight.mul_(spread / torch.cat(seen).std())
    return network


def pictures(count=2, seed=1):
    """Coarse patches of colour: every region looks different, so that no two scores are equal."""
    patches = torch.randn(count, 3, 6, 7, generator=torch.Generator().manual_seed(seed)) * 4
    return torch.nn.functional.interpolate(patches, SHAPE, mode="bilinear")


def truth(counts=(3, 2)):
    random = np.random.default_rng(0)
    found = []
    for count in counts:
        corner = random.uniform(0, 60, (count, 2))
        boxes = np.concatenate([corner, corner + random.uniform(15, 60, (count, 2))], 1).astype(np.float32)
        found.append(Annotations(boxes, random.integers(0, LABELS, count), np.zeros(count, bool)))
    return found


def torchvisions_regions(network, images, count):
    """The regions as torchvision's own region network gives them."""
    rpn = network.rpn
    rpn._pre_nms_top_n["testing"] = rpn._post_nms_top_n["testing"] = count
    with torch.no_grad():
        features = network.backbone(images)
        regions, _ = rpn(ImageList(images, [SHAPE] * len(images)), features)
    return features, regions


@pytest.mark.parametrize("levels", [3, 5])
def test_anchors_are_torchvisions(levels):
    sizes = ((32, 64, 128),) * 3 if levels == 3 else ((32,), (64,), (128,), (256,), (512,))
    shapes = ((4, 5), (4, 5), (2, 3)) if levels == 3 else ((32, 40), (16, 20), (8, 10), (4, 5), (2, 3))
    ours = anchors(shapes, sizes, SIZE)
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * levels)
    images = ImageList(torch.zeros(1, 3, *SHAPE), [SHAPE])
    theirs = generator(images, [torch.zeros(1, 1, *shape) for shape in shapes])[0]
    np.testing.assert_array_equal(np.concatenate(ours), theirs.numpy())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strides", [(32, 32), (4, 8, 16, 32)])
def test_pooling_is_torchvisions(strides, seed):
    random = np.random.default_rng(seed)
    maps = [random.normal(size=(6, SIZE.height // s, SIZE.width // s)).astype(np.float32) for s in strides]
    corner = random.uniform(-5, 130, (60, 2))
    regions = np.concatenate([corner, corner + np.exp(random.uniform(0, 5, (60, 2)))], axis=1)
    regions = np.clip(regions, 0, [SIZE.width, SIZE.height] * 2).astype(np.float32)
    regions[:3] = 0  # rows without a region
    names = [str(index) for index in range(len(maps))]
    pool = MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2)
    planes = OrderedDict((name, torch.from_numpy(m)[None]) for name, m in zip(names, maps, strict=True))
    theirs = pool(planes, [torch.from_numpy(regions)], [SHAPE])
    np.testing.assert_allclose(
        pooled(maps, regions, SIZE), theirs.numpy(), atol=1e-4
    )  # float32, added in another order


@pytest.mark.parametrize("strides", [(16, 32), (4, 8, 16, 32)])
@pytest.mark.parametrize("counts", [(40, 0, 7), (1,)])
def test_pooling_for_training_is_torchvisions_forwards_and_backwards(strides, counts):
    torch.manual_seed(len(strides))
    size, batch = InputSize(512, 384), len(counts)
    ways = []
    for _ in range(2):
        torch.manual_seed(1)
        ways.append([torch.randn(batch, 8, 384 // s, 512 // s, requires_grad=True) for s in strides])
    limits = torch.tensor([512.0, 384, 512, 384])
    centres, sides = torch.rand(sum(counts), 2) * limits[:2], torch.rand(sum(counts), 2) * 400
    boxes = torch.cat((centres - sides / 2, centres + sides / 2), 1).clamp(min=0).minimum(limits)
    regions = list(boxes.split(list(counts)))
    ours = frcnn_pool.pooled(ways[0], regions, size)
    names = [str(level) for level in range(len(strides))]
    pool = MultiScaleRoIAlign(names, 7, 2)
    theirs = pool(dict(zip(names, ways[1], strict=True)), regions, [(384, 512)] * batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    weights = torch.randn(theirs.shape)
    for found in (ours, theirs):
        (found * weights).sum().backward()
    for one, other in zip(*ways, strict=True):
        assert (one.grad is None) == (other.grad is None) or not other.grad.any()
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-3)


def test_regions_are_torchvisions():
    network, images = sure(SMALL), pictures()
    _, theirs = torchvisions_regions(network, images, SMALL.proposals)
    with torch.no_grad():
        seen = np.array([[SIZE.width, SIZE.height]] * 2, np.float32)
        ours = SMALL._regions([m.numpy() for m in network.core(images)], SIZE, seen)
    assert ours.shape == (2, SMALL.proposals, 4)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine[: len(other)], other.numpy(), atol=1e-3)
        assert not mine[len(other) :].any()


def test_detections_are_torchvisions():
    """Regions, pooling, second network, postprocessing: the whole of it, at the same thresholds."""
    network, images = sure(SMALL), pictures()
    features, regions = torchvisions_regions(network, images, SMALL.proposals)
    network.roi_heads.score_thresh, network.roi_heads.nms_thresh = 0.05, 0.5
    with torch.no_grad():
        theirs, _ = network.roi_heads(features, regions, [SHAPE] * 2)
        raw = [maps.numpy() for maps in network(images)]
    ours = SMALL.decode(raw, SIZE, Thresholds(score=0.05, iou=0.5, candidates=10_000, detections=100))
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine.scores) == len(other["scores"]) > 5
        np.testing.assert_allclose(mine.scores, other["scores"].numpy(), atol=1e-4)
        left = list(zip(mine.boxes, mine.scores, mine.labels + 1, strict=True))  # equal scores come in any order
        for box, score, label in zip(*(other[key].numpy() for key in ("boxes", "scores", "labels")), strict=True):
            same = [
                place
                for place, (b, s, kind) in enumerate(left)
                if kind == label and abs(s - score) < 1e-4 and np.abs(b - box).max() < 1e-2
            ]
            assert same, (box, score, label)
            left.pop(same[0])


def test_parts_run_one_by_one_are_the_network():
    """As a runtime runs it: pooling on the host."""
    network, images = sure(SMALL), pictures()
    parts = SMALL.part_modules(network)
    assert tuple(parts) == SMALL.part_names

    def run(part):
        with torch.no_grad():
            return lambda batch: tuple(t.detach().numpy() for t in part(torch.from_numpy(batch)))

    raw = SMALL.run({name: run(part) for name, part in parts.items()}, images.numpy(), SIZE)
    with torch.no_grad():
        whole = network(images)
    for mine, other in zip(raw, whole, strict=True):
        np.testing.assert_allclose(mine, other.numpy(), atol=1e-3)


def test_losses_are_torchvisions():
    network, images = SMALL.build(LABELS).train(), pictures()
    targets = [
        {"boxes": torch.from_numpy(t.boxes), "labels": torch.from_numpy(t.labels) + 1, "truth": t} for t in truth()
    ]
    torch.manual_seed(5)  # which regions are trained on is drawn
    ours = SMALL.training_loss(network, images, truth())
    torch.manual_seed(5)
    features = network.backbone(images)
    regions, first = network.rpn(ImageList(images, [SHAPE] * 2), features, targets)
    _, second = network.roi_heads(features, regions, [SHAPE] * 2, targets)
    theirs = (
        first["loss_objectness"],
        first["loss_rpn_box_reg"],
        second["loss_classifier"],
        second["loss_box_reg"],
    )
    for mine, other in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_bfloat16_moves_no_anchor_and_hardly_the_first_networks_loss():
    network, images = sure(SMALL).train(), pictures()
    maps = [torch.zeros(2, 8, 128 // stride, 160 // stride) for stride in (32, 32, 64)]
    exact, rounded = (
        network.rpn.anchor_generator(ImageList(images, [SHAPE] * 2), [plane.to(kind) for plane in maps])
        for kind in (torch.float32, torch.bfloat16)
    )
    assert all(torch.equal(one, other) for one, other in zip(exact, rounded, strict=True))
    found = []
    for enabled in (False, True):
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(SMALL.training_loss(network, images, truth()))
    sum(found[1].values()).backward()
    for name in ("objectness", "region"):  # which regions the second network gets is decided by small differences
        torch.testing.assert_close(found[1][name].float(), found[0][name], rtol=0.1, atol=0.05, msg=name)
    assert all(torch.isfinite(term) for term in found[1].values())


@pytest.mark.parametrize("kernel", [False, True])
def test_bfloat16_moves_no_truth_and_rounds_no_region(kernel, monkeypatch):
    """bfloat16 knows only every half pixel from 64 on, and every other one from 256 on."""
    if kernel:
        monkeypatch.setattr(frcnn_pool, "MOST_CELLS", 0)  # torchvision's, as on a GPU
    network, images = sure(SMALL).train(), pictures()
    boxes = np.array([[20.3, 10.7, 100.3, 90.7], [70.1, 65.2, 140.9, 120.6]], np.float32)
    marked = [Annotations(boxes[i : i + 1], np.zeros(1, np.int64), np.zeros(1, bool)) for i in range(2)]
    regions, trained = [], []
    network.regions.register_forward_hook(lambda _, given, __: regions.extend(given[0]))
    own = frcnn_network.fastrcnn_loss

    def loss(logits, offsets, labels, wanted):
        trained.extend([offsets, *wanted])
        return own(logits, offsets, labels, wanted)

    monkeypatch.setattr(frcnn_network, "fastrcnn_loss", loss)
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        SMALL.training_loss(network, images, marked, Losses(box="giou"))
    assert {tensor.dtype for tensor in regions + trained} == {torch.float32}
    for found, box in zip(regions, boxes, strict=True):
        assert (found.numpy() == box).all(axis=1).any()
        assert (found != found.bfloat16()).any(dim=1).float().mean() > 0.5
    for coder in (network.rpn.box_coder, network.roi_heads.box_coder):
        stays = coder.decode_single(torch.zeros(2, 4, dtype=torch.bfloat16), torch.from_numpy(boxes))
        np.testing.assert_allclose(stays.numpy(), boxes, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "losses", [Losses(box=kind) for kind in ("iou", "giou", "diou", "ciou")] + [Losses(classes="focal")], ids=str
)
def test_other_losses_train(losses):
    torch.manual_seed(0)
    network, images = SMALL.build(LABELS).train(), pictures()
    own = SMALL.training_loss(network, images, truth())
    terms = SMALL.training_loss(network, images, truth(), losses)
    changed = "class" if losses.classes else "box"
    assert terms[changed] != own[changed]
    sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "variant", ["mobilenet_v3_large_320_fpn", pytest.param("resnet50_fpn_v2", marks=pytest.mark.full)]
)
def test_names_and_shapes_are_those_of_torchvisions_checkpoints(variant):
    theirs = getattr(detection, f"fasterrcnn_{variant}")(weights=None, weights_backbone=None, num_classes=91)
    ours = FasterRcnn(variant=variant).build(90)
    shapes = [{name: tuple(t.shape) for name, t in net.state_dict().items()} for net in (theirs, ours)]
    assert shapes[0] == shapes[1]


def test_norms_of_trained_weights_keep_their_statistics():
    frozen = FasterRcnn(weights="COCO_V1").build(2).train()
    assert not any(m.training for m in frozen.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert all(m.training for m in SMALL.build(2).train().backbone.modules())
