"""Faster R-CNN's networks, built from torchvision's: parameters have the names and shapes of its checkpoints."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork

from paretune.core.types import Annotations, Floats, InputSize
from paretune.data.preprocess import shown
from paretune.detectors.base import OWN, Losses
from paretune.detectors.faster_rcnn.decode import POOL, RATIOS, SAMPLES
from paretune.detectors.faster_rcnn.roi_align import is_faster, pooled
from paretune.detectors.losses import FOCAL_GAMMA, box_loss, is_torchs, label_loss, on_ignored, torch_loss, trained_on

Propose = Callable[[Sequence[Floats], InputSize, Floats], Floats]
"""Maps of the first network, size of the input, width and height (B, 2) of its pictures → regions (B, R, 4)."""
_BUILDERS: dict[str, Callable[..., Any]] = {
    "mobilenet_v3_large_320_fpn": detection.fasterrcnn_mobilenet_v3_large_320_fpn,
    "mobilenet_v3_large_fpn": detection.fasterrcnn_mobilenet_v3_large_fpn,
    "resnet50_fpn": detection.fasterrcnn_resnet50_fpn,
    "resnet50_fpn_v2": detection.fasterrcnn_resnet50_fpn_v2,
}


class FasterRcnnNetwork(nn.Module):
    """Both networks with what lies between them; forward takes targets too, for training."""

    def __init__(self, parts: Any, propose: Propose, *, frozen: bool) -> None:
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = parts.backbone, parts.rpn, parts.roi_heads
        self.regions = nn.Identity()  # shows the regions that are trained on, for a teacher to judge them too
        self._propose, self._frozen = propose, frozen

    def train(self, mode: bool = True) -> FasterRcnnNetwork:
        """Set the mode; norms of trained weights keep their statistics, since batches of detectors are small."""
        super().train(mode)
        if self._frozen:
            for module in self.backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def core(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return maps that regions are pooled from, objectness and offsets of every level for images (B, 3, H, W)."""
        features = self.backbone(images)
        objectness, offsets = self.rpn.head(list(features.values()))
        pooled = [features[name] for name in self.roi_heads.box_roi_pool.featmap_names if name in features]
        return (*pooled, *objectness, *offsets)

    def box(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits (R, C + 1) and offsets (R, 4·(C + 1)) for pooled regions (R, C, 7, 7)."""
        return self.roi_heads.box_predictor(self.roi_heads.box_head(features))  # type: ignore[no-any-return]

    def forward(
        self, images: Tensor, targets: Sequence[Annotations] | None = None, losses: Losses = OWN
    ) -> tuple[Tensor, ...] | dict[str, Tensor]:
        """Return regions (B, R, 4), logits (B, R, C + 1), offsets (B, R, 4·(C + 1)) and sizes (B, 2); or the losses.

        Sizes are widths and heights of the pictures in the input; losses are returned where there are targets.
        """
        return self._predict(images) if targets is None else self._losses(images, targets, losses)

    def _predict(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.core(images)
        size = InputSize(images.shape[3], images.shape[2])
        pictures, *levels_and_more = (m.detach().float().cpu().numpy() for m in (images, *maps))
        seen = shown(pictures)
        regions = torch.from_numpy(self._propose(levels_and_more, size, seen)).to(images.device)
        levels = OrderedDict((str(number), maps[number].float()) for number in range(self.levels_pooled))
        shapes = [tuple(images.shape[2:])] * len(images)
        features = self.roi_heads.box_roi_pool(levels, list(regions), shapes)
        logits, offsets = self.box(features.to(maps[0].dtype))
        batch = len(images)
        views = (part.view(batch, -1, part.shape[1]) for part in (logits, offsets))
        return (regions, *views, torch.from_numpy(seen).to(images.device))

    def judge(self, images: Tensor, regions: Sequence[Tensor] | None) -> None:
        """Run the first network, and the second on given regions (R, 4) of each image, for hooks on their outputs."""
        features = self.backbone(images)
        self.rpn.head(list(features.values()))
        if regions is not None:
            self.box(self._pooled(features, regions, images))

    @property
    def levels_pooled(self) -> int:
        """Number of the maps that regions are pooled from: all but the coarsest."""
        return int(self.rpn.anchor_generator.levels) - 1

    def _losses(self, images: Tensor, truth: Sequence[Annotations], losses: Losses) -> dict[str, Tensor]:
        targets = [
            {
                "boxes": torch.from_numpy(entry.boxes).to(images.device).reshape(-1, 4),
                "labels": torch.from_numpy(entry.labels).to(images.device) + 1,
                "truth": whole,
            }
            for entry, whole in zip(trained_on(truth), truth, strict=True)
        ]
        sizes = [(images.shape[2], images.shape[3])] * len(images)
        features = self.backbone(images)
        regions, first = self.rpn(ImageList(images, sizes), features, targets)
        heads = self.roi_heads
        with torch.no_grad():
            regions, _, labels, offsets_wanted = heads.select_training_samples(regions, targets)
            regions = self.regions(regions)
        if not any(map(len, regions)):  # every image is ignored as a whole: a loss of 0, of all parameters
            whole = torch.tensor([[0.0, 0.0, images.shape[3], images.shape[2]]], device=images.device)
            logits, offsets = self.box(self._pooled(features, [whole] * len(images), images))
            none = {"class": 0 * logits.sum(), "box": 0 * offsets.sum()}
            return {"objectness": first["loss_objectness"], "region": first["loss_rpn_box_reg"], **none}
        logits, offsets = self.box(self._pooled(features, regions, images))
        offsets = offsets.float()  # as the targets are
        classes, boxes = fastrcnn_loss(logits, offsets, labels, offsets_wanted)
        if losses.classes == "focal":
            wrong = F.cross_entropy(logits, torch.cat(labels), reduction="none")
            classes = ((1 - (-wrong).exp()).pow(FOCAL_GAMMA) * wrong).mean()
        elif is_torchs(losses.classes):
            classes = label_loss(losses.classes, logits, torch.cat(labels)).mean()
        if losses.box not in (None, "smooth_l1"):
            boxes = self._box_loss(losses, offsets, labels, offsets_wanted, regions)
        return {
            "objectness": first["loss_objectness"],
            "region": first["loss_rpn_box_reg"],
            "class": classes,
            "box": boxes,
        }

    def _pooled(self, features: Mapping[str, Tensor], regions: Sequence[Tensor], images: Tensor) -> Tensor:
        """Return the parts of the regions of all images, (sum of R, C, 7, 7)."""
        height, width = images.shape[2:]
        maps = [features[name] for name in self.roi_heads.box_roi_pool.featmap_names if name in features]
        if is_faster(maps):
            return pooled(maps, regions, InputSize(width, height))
        parts: Tensor = self.roi_heads.box_roi_pool(features, list(regions), [(height, width)] * len(images))
        return parts

    def _box_loss(
        self,
        losses: Losses,
        offsets: Tensor,
        labels: Sequence[Tensor],
        wanted: Sequence[Tensor],
        regions: Sequence[Tensor],
    ) -> Tensor:
        """Return another loss of the boxes: between their corners, or one of torch.nn between their offsets."""
        assert losses.box is not None  # noqa: S101 - asked before
        label, target, region = torch.cat(list(labels)), torch.cat(list(wanted)), torch.cat(list(regions))
        objects = torch.where(label > 0)[0]
        own = offsets.view(len(label), -1, 4)[objects, label[objects]]
        if is_torchs(losses.box):
            between: Tensor = torch_loss(losses.box)(own, target[objects])
            return between.sum() / label.numel()
        coder = self.roi_heads.box_coder
        boxes, right = (coder.decode_single(part, region[objects]) for part in (own, target[objects]))
        return box_loss(losses.box, boxes, right).sum() / label.numel()


class IgnoringProposals(RegionProposalNetwork):  # type: ignore[misc]
    """The first network of torchvision, which teaches no anchor on an entry to ignore to be background."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Any]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return labels (1 object, 0 background, -1 neither) and boxes of the anchors of each image."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        return _without_ignored(labels, anchors, targets), boxes

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the losses of objectness and boxes; 0 where no anchor is left, of which torchvision takes the mean."""
        if all((entry < 0).all() for entry in labels):
            return 0 * objectness.sum(), 0 * pred_bbox_deltas.sum()
        return super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)  # type: ignore[no-any-return]


class IgnoringHeads(RoIHeads):  # type: ignore[misc]
    """The second network of torchvision, which teaches no region on an entry to ignore to be background."""

    def select_training_samples(self, proposals: list[Tensor], targets: list[dict[str, Any]]) -> Any:
        """Return the regions to train on with what they should become: torchvision's, without those to ignore."""
        self._targets = targets
        return super().select_training_samples(proposals, targets)

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the matched box and the label (0 background, -1 neither) of the regions of each image."""
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        return matched, _without_ignored(labels, proposals, self._targets)


def _without_ignored(
    labels: Sequence[Tensor], boxes: Sequence[Tensor], targets: Sequence[Mapping[str, Any]]
) -> list[Tensor]:
    """Return the labels of the boxes of each image, with -1 in place of 0 for those on entries to ignore."""
    images = zip(labels, boxes, targets, strict=True)
    return [own.masked_fill((own == 0) & on_ignored(places, image["truth"]), -1) for own, places, image in images]


class Anchors(AnchorGenerator):  # type: ignore[misc]
    """The anchors of torchvision, with their number of levels."""

    def __init__(self, sizes: Sequence[Sequence[float]]) -> None:
        super().__init__(tuple(map(tuple, sizes)), (RATIOS,) * len(sizes))
        self.levels = len(sizes)

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:  # noqa: ARG002 - float32 always
        """Keep them in float32 under mixed precision: bfloat16 knows only even pixels beyond 256."""
        super().set_cell_anchors(torch.float32, device)


class Coder(BoxCoder):  # type: ignore[misc]
    """The coder of boxes of torchvision; boxes, and what is trained on them, stay in float32 under mixed precision."""

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Decode; torchvision rounds the boxes to the type of the offsets, and the ground truth to theirs."""
        return super().decode_single(rel_codes.float(), boxes)  # type: ignore[no-any-return]


class RegionNetwork(nn.Module):
    """The first network by itself, for export."""

    def __init__(self, network: FasterRcnnNetwork) -> None:
        super().__init__()
        self.network = network
        self.training = network.training  # tools that trace a part refuse one that is not in eval mode

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return maps, objectness and offsets for images."""
        return self.network.core(images)


class BoxNetwork(nn.Module):
    """The second network by itself, for export."""

    def __init__(self, network: FasterRcnnNetwork) -> None:
        super().__init__()
        self.heads = nn.ModuleList([network.roi_heads.box_head, network.roi_heads.box_predictor])
        self.training = self.heads.training = network.training

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and offsets for pooled regions."""
        head, predictor = self.heads
        return predictor(head(features))  # type: ignore[no-any-return]


class PruneView(nn.Module):
    """What torch-pruning traces: pooling in place of RoIAlign couples the same channels; ends at the predictors."""

    def __init__(self, network: FasterRcnnNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the outputs of every predictor for images."""
        network = self.network
        features = network.backbone(images)
        objectness, offsets = network.rpn.head(list(features.values()))
        regions = sum(F.adaptive_avg_pool2d(plane, POOL) for plane in features.values())
        return [*objectness, *offsets, *network.roi_heads.box_predictor(network.roi_heads.box_head(regions))]


def build(
    variant: str,
    num_classes: int,
    sizes: Sequence[Sequence[float]],
    propose: Propose,
    *,
    samples: int,
    frozen: bool = False,
    head_width: int | None = None,
    norm_eps: float = 1e-5,
) -> FasterRcnnNetwork:
    """Build one of torchvision's networks with fresh weights and batch norms.

    Args:
        variant: torchvision's name without ``fasterrcnn_``.
        num_classes: without the background.
        sizes: sides of the anchors of each level, in pixels.
        propose: what lies between the two networks.
        samples: regions of an image that the second network is trained on.
        frozen: keep the backbone's statistics of norms as they are.
        head_width: outputs of the two layers of the MobileNets' second network; None is torchvision's 1024.
        norm_eps: added to the variance in the backbone's norms.
    """
    parts = _BUILDERS[variant](
        weights=None, weights_backbone=None, num_classes=num_classes + 1, box_batch_size_per_image=samples
    )
    for module in parts.backbone.body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = norm_eps
    parts.rpn.anchor_generator = Anchors(sizes)
    parts.rpn.__class__, parts.roi_heads.__class__ = IgnoringProposals, IgnoringHeads
    for part in (parts.rpn, parts.roi_heads):
        part.box_coder = Coder(part.box_coder.weights)
    assert parts.roi_heads.box_roi_pool.sampling_ratio == SAMPLES  # noqa: S101 - the host's RoIAlign is made for it
    if head_width is not None:
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

        channels = parts.backbone.out_channels * POOL**2
        parts.roi_heads.box_head = TwoMLPHead(channels, head_width)
        parts.roi_heads.box_predictor = FastRCNNPredictor(head_width, num_classes + 1)
    return FasterRcnnNetwork(parts, propose, frozen=frozen)
