"""Changed pictures: their boxes stay on their objects, against torchvision and painted rectangles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import v2

from paretune.core.types import Annotations, InputSize
from paretune.data.preprocess import Preprocess
from paretune.training import augmentation as augmenting
from paretune.training.augmentation import (
    AugmentedImage,
    cropped,
    mirrored,
    mosaic,
    recoloured,
    rescaled,
    seen,
    zoomed_out,
)
from paretune.training.loader import Batches
from paretune.training.settings import Augment, Training

SIZE = InputSize(96, 64)
GREY = 114
EVERYTHING = Augment(mosaic=0.5, mixup=0.5, scale=0.4, translate=0.2, colour=1, iou_crop=0.5, zoom_out=0.5)


def annotations(*boxes) -> Annotations:
    found = np.array(boxes, np.float32).reshape(-1, 4)
    return Annotations(found, np.arange(len(found)), np.zeros(len(found), bool))


def painted(random: np.random.Generator, width: int, height: int) -> AugmentedImage:
    """One bright rectangle on black."""
    image = np.zeros((height, width, 3), np.uint8)
    (x1, x2), (y1, y2) = (np.sort(random.choice(side, 2, replace=False)) for side in (width, height))
    x2, y2 = max(x2, min(x1 + 12, width)), max(y2, min(y1 + 12, height))
    image[y1:y2, x1:x2] = 255
    return AugmentedImage(image, annotations([x1, y1, x2, y2]))


def bounds(image: np.ndarray) -> np.ndarray:
    """Return the box of what is bright."""
    rows, columns = (np.flatnonzero((image[..., 0] > 160).any(axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_a_painted_rectangle_stays_in_its_box_through_every_change(seed):
    random = np.random.default_rng(seed)
    start = painted(random, 90, 60)
    at = random.uniform(20, 60, 2)
    zoom = float(random.choice([0.2, 0.4, 0.8, 1.0, 1.7]))
    centre = start.annotations.boxes[0].reshape(2, 2).mean(0)
    for changed in (
        mirrored(start),
        cropped(start, random),
        zoomed_out(start, GREY, random),
        rescaled(start, zoom, tuple(centre), tuple(at), SIZE, GREY),
        mosaic(
            [start, *(AugmentedImage(np.zeros((64, 96, 3), np.uint8), annotations()) for _ in range(3))],
            SIZE,
            GREY,
            random,
        ),
    ):
        for box in changed.annotations.boxes:
            np.testing.assert_allclose(bounds(changed.image), box, atol=1.0)
        assert changed.image.dtype == np.uint8
        assert changed.annotations.boxes.dtype == np.float32


def test_zooming_is_torchvisions_affine():
    random = np.random.default_rng(3)
    coarse = torch.from_numpy(random.integers(0, 256, (3, 8, 8), dtype=np.uint8))
    image = v2.functional.resize(coarse, [63, 95])  # smooth: the two interpolate alike, not equally
    picture = AugmentedImage(image.permute(1, 2, 0).numpy().copy(), annotations([20, 15, 60, 40]))
    ours = rescaled(picture, 1.3, (95 / 2, 63 / 2), (95 / 2 + 7, 63 / 2 - 4), InputSize(95, 63), 0)
    how = {"angle": 0.0, "translate": [7, -4], "scale": 1.3, "shear": [0.0, 0.0]}
    theirs = v2.functional.affine(image, **how, interpolation=v2.InterpolationMode.BILINEAR)
    inner = (slice(8, -8), slice(12, -12))
    off = np.abs(ours.image.astype(int) - theirs.permute(1, 2, 0).numpy())[inner]
    assert off.mean() < 1
    boxes = tv_tensors.BoundingBoxes(picture.annotations.boxes, format="XYXY", canvas_size=(63, 95))
    np.testing.assert_allclose(ours.annotations.boxes, v2.functional.affine(boxes, **how), atol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_crops_and_larger_areas_are_torchvisions(seed, monkeypatch):
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    boxes = np.float32([[5, 5, 40, 30], [30, 20, 85, 55], [60, 5, 80, 25]])
    part = cropped(AugmentedImage(image, annotations(*boxes)), random)
    height, width = part.image.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(image, (height, width, 3))[:, :, 0]
    ((y, x),) = np.argwhere((windows == part.image).all((2, 3, 4)))
    theirs = v2.functional.crop(
        tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(60, 90)), int(y), int(x), height, width
    )
    np.testing.assert_array_equal(part.annotations.boxes, theirs[torch.from_numpy(part.annotations.labels)])
    centres = boxes.reshape(-1, 2, 2).mean(1)
    inside = ((centres > [x, y]) & (centres < [x + width, y + height])).all(1)
    assert (width, height) == (90, 60) or np.flatnonzero(inside).tolist() == part.annotations.labels.tolist()
    overlap = box_iou(torch.from_numpy(boxes), torch.tensor([[x, y, x + width, y + height]]).float())
    assert (width, height) == (90, 60) or overlap.max() >= min(augmenting.CROP_OVERLAPS)

    wide = zoomed_out(AugmentedImage(image, annotations(*boxes)), GREY, random)
    left, top = (wide.annotations.boxes - boxes)[0, :2]
    padding = [int(left), int(top), wide.image.shape[1] - 90 - int(left), wide.image.shape[0] - 60 - int(top)]
    assert min(padding) >= 0
    padded = v2.functional.pad(torch.from_numpy(image).permute(2, 0, 1), padding, fill=GREY)
    assert np.array_equal(wide.image, padded.permute(1, 2, 0))
    np.testing.assert_array_equal(wide.annotations.boxes, boxes + np.tile([left, top], 2))


class Told:
    """A generator that says what it was told to."""

    def __init__(self, chosen, values):
        self.chosen, self.values = np.array(chosen), np.array(values)

    def random(self, _):
        return 1.0 - self.chosen

    def uniform(self, _low, _high, _count):
        return self.values


@pytest.mark.parametrize(
    ("kind", "value", "allowed"),
    [(0, 1.0, 1), (0, -0.7, 1), (1, 0.8, 1), (1, -1.0, 1), (2, 0.6, 3), (2, -0.6, 3), (3, 1.0, 4), (3, -0.5, 4)],
)
def test_colours_are_changed_as_torchvision_does(kind, value, allowed):
    random = np.random.default_rng(0)
    image = random.integers(60, 200, (40, 50, 3), dtype=np.uint8)
    chosen = [0.0] * 4
    chosen[kind] = 1.0
    ours = recoloured(image, 1.0, Told(chosen, [value] * 4))
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    change = [0.125, 0.5, 0.5, 0.05][kind] * value
    if kind == 2:  # torchvision mixes with grey, SSD and YOLOX scale the S of HSV: that is the oracle here
        import cv2

        hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = np.clip(hsv[..., 1] * (1 + change), 0, 1)
        theirs = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255
    elif kind == 3:
        theirs = v2.functional.adjust_hue(pixels, change).permute(1, 2, 0).numpy()
    else:
        adjust = (v2.functional.adjust_brightness, v2.functional.adjust_contrast)[kind]
        theirs = adjust(pixels, 1 + change).permute(1, 2, 0).numpy()
    off = np.abs(ours.astype(float) - theirs)
    assert off.max() <= allowed * 2
    assert off.mean() <= allowed
    assert np.abs(ours.astype(float) - image).mean() > 2 * off.mean()


def test_boxes_of_which_too_little_is_left_are_dropped_and_the_others_cut_off():
    boxes = np.float32(
        [[-30, 10, 10, 20], [-31, 10, 10, 20], [-10, -10, -2, -2], [50, 50, 50.5, 50.5], [90, 5, 96.6, 9]]
    )
    found = seen(annotations(*boxes), boxes, 96, 64)
    assert found.labels.tolist() == [0, 3, 4]  # a quarter; less; outside; small but whole; cut by little
    np.testing.assert_allclose(found.boxes[2], [90, 5, 96, 9])
    with pytest.raises(ValidationError, match="mosaic"):
        Training(epochs=5, augment=Augment(mosaic=0.5, close_epochs=5))


class Split:
    classes = ("a",)

    def __init__(self, count=6):
        random = np.random.default_rng(7)
        self.pictures = [painted(random, 120, 90) for _ in range(count)]
        self.reads = 0

    def __len__(self):
        return len(self.pictures)

    def image(self, index):
        self.reads += 1
        return self.pictures[index].image

    def annotations(self, index):
        return self.pictures[index].annotations


def epochs(batches, numbers=(0, 1)):
    return [(images, truth) for number in numbers for images, truth in batches.epoch(number)]


def same(some, others):
    return all(
        torch.equal(a, b) and all(np.array_equal(x.boxes, y.boxes) for x, y in zip(s, t, strict=True))
        for (a, s), (b, t) in zip(some, others, strict=True)
    )


@pytest.mark.parametrize("preprocess", [Preprocess("letterbox", order="bgr", scale=1.0), Preprocess("stretch")])
def test_the_same_pictures_for_any_number_of_threads_and_after_a_resume(preprocess):
    made = {"batch": 2, "flip": 0.5, "seed": 4, "augment": EVERYTHING}
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002 - to see that it is left alone
    one = epochs(Batches(Split(), preprocess, SIZE, readers=1, **made))
    assert same(one, epochs(Batches(Split(), preprocess, SIZE, readers=5, **made)))
    resumed = Batches(Split(), preprocess, SIZE, **made)
    assert same(one[3:], epochs(resumed, [1]))
    assert not same(one[:3], one[3:])
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    for images, truth in one:
        assert images.shape == (2, 3, 64, 96)
        for entry in truth:
            assert (entry.boxes >= 0).all()
            assert (entry.boxes <= [96, 64, 96, 64]).all()
            assert len(entry.boxes) == len(entry.labels) == len(entry.ignore)


def test_the_last_epochs_are_shown_without_mosaic_and_mixup():
    preprocess = Preprocess("letterbox")
    made = {"batch": 6, "flip": 0.5, "epochs": 4}
    plain = epochs(Batches(Split(), preprocess, SIZE, **made), range(4))
    closing = Augment(mosaic=1, mixup=1, close_epochs=2)
    mixed = epochs(Batches(Split(), preprocess, SIZE, augment=closing, **made), range(4))
    assert [same([a], [b]) for a, b in zip(plain, mixed, strict=True)] == [False, False, True, True]
    assert max(len(entry.labels) for entry in mixed[0][1]) > 1
    assert all(len(entry.labels) == 1 for entry in mixed[2][1])


def test_mosaics_come_from_pictures_that_were_read_once():
    split = Split()
    epochs(Batches(split, Preprocess("letterbox"), SIZE, batch=3, augment=EVERYTHING, readers=1), range(6))
    assert split.reads == len(split)


def test_entries_to_ignore_stay_while_any_part_of_them_is_seen_and_draw_no_crop():
    boxes = np.array([[40, 20, 60, 40], [0, 0, 96, 64]], np.float32)
    truth = Annotations(boxes, np.array([0, 1]), np.array([False, True]))
    picture = AugmentedImage(np.zeros((64, 96, 3), np.uint8), truth)
    left = seen(truth, boxes - np.float32(55), 96, 64)  # a quarter of a side of the object, and less of the crowd
    assert left.boxes.tolist() == [[0, 0, 41, 9]]
    assert left.ignore.tolist() == [True]
    for seed in range(20):
        found = cropped(picture, np.random.default_rng(seed)).annotations
        alone = cropped(AugmentedImage(picture.image, annotations(boxes[0])), np.random.default_rng(seed))
        height, width = alone.image.shape[:2]
        assert found.boxes.tolist() == [*alone.annotations.boxes.tolist(), [0, 0, width, height]]
    only = AugmentedImage(picture.image, Annotations(boxes, np.array([0, 1]), np.ones(2, bool)))
    assert cropped(only, np.random.default_rng(0)) is only
