"""From image to input and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.core.types import InputSize
from paretune.data.preprocess import Placement, Preprocess

sides = st.integers(16, 300)
resizes = st.sampled_from(["letterbox", "stretch"])


def boxes_in(width, height, random, count=5):
    ends = random.random((2, count, 2)) * [width, height]
    return np.concatenate([ends.min(0), ends.max(0)], axis=1).astype(np.float32)


@settings(deadline=None)
@given(resize=resizes, width=sides, height=sides, to=st.tuples(sides, sides), seed=st.integers(0, 99))
def test_boxes_come_back(resize, width, height, to, seed):
    image = np.zeros((height, width, 3), np.uint8)
    fitted, placement = Preprocess(resize).fit(image, InputSize(*to))
    boxes = boxes_in(width, height, np.random.default_rng(seed))
    there = placement.to_input(boxes)
    assert fitted.shape == (to[1], to[0], 3)
    assert there.dtype == np.float32
    assert (there >= 0).all()
    assert (there <= np.array([to[0], to[1], to[0], to[1]]) + 1e-3).all()
    np.testing.assert_allclose(placement.to_image(there), boxes, atol=1e-3 * max(width, height))


def test_boxes_outside_are_cut_off_at_the_edges():
    placement = Placement(0.5, 0.5, 100, 60)
    outside = np.array([[-5, -5, 200, 200], [40, 20, 60, 40]], np.float32)
    np.testing.assert_array_equal(placement.to_image(outside), [[0, 0, 100, 60], [80, 40, 100, 60]])


@settings(deadline=None)
@given(width=sides, height=sides, to=st.tuples(sides, sides))
def test_letterbox_keeps_proportions_and_fills_one_side_only(width, height, to):
    image = np.full((height, width, 3), 200, np.uint8)
    fitted, placement = Preprocess("letterbox", fill=7).fit(image, InputSize(*to))
    inner_width, inner_height = round(width * placement.scale_x), round(height * placement.scale_y)
    assert inner_width == to[0] or inner_height == to[1]
    assert abs(placement.scale_x - placement.scale_y) <= 1 / min(width, height)  # rounded to whole pixels
    assert (fitted[:inner_height, :inner_width] == 200).all()
    assert (fitted[inner_height:] == 7).all()
    assert (fitted[:, inner_width:] == 7).all()


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("to", [InputSize(64, 48), InputSize(200, 150), InputSize(96, 160)])
def test_a_painted_rectangle_lies_where_its_box_says(resize, to):
    image = np.zeros((120, 160, 3), np.uint8)
    image[30:90, 40:120] = 255
    fitted, placement = Preprocess(resize, fill=0).fit(image, to)
    box = placement.to_input(np.array([[40, 30, 120, 90]], np.float32))[0]
    weights = fitted[..., 0].astype(np.float64) / 255
    # edges from the sums of brightness along both axes: exact wherever the resizing blurs them evenly
    assert weights.max(0).sum() == pytest.approx(box[2] - box[0], abs=1.0)
    assert weights.max(1).sum() == pytest.approx(box[3] - box[1], abs=1.0)
    centre = (weights.sum(0) @ (np.arange(to.width) + 0.5)) / weights.sum()
    assert centre == pytest.approx((box[0] + box[2]) / 2, abs=0.5)


def test_shrinking_averages_so_that_thin_lines_stay():
    image = np.zeros((256, 256, 3), np.uint8)
    image[:, ::8] = 255
    fitted, _ = Preprocess("stretch").fit(image, InputSize(32, 32))
    np.testing.assert_allclose(fitted, 255 / 8, atol=1)


def test_an_image_of_the_right_size_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    fitted, placement = Preprocess("letterbox").fit(image, InputSize(64, 48))
    np.testing.assert_array_equal(fitted, image)
    assert (placement.scale_x, placement.scale_y) == (1, 1)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_tensor_against_the_formula(order):
    image = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    planes = Preprocess("stretch", order=order, scale=1 / 255, mean=mean, std=std).tensor(image)
    assert planes.shape == (3, 5, 7)
    assert planes.dtype == np.float32
    assert planes.flags.c_contiguous
    for channel in range(3):
        source = image[..., channel if order == "rgb" else 2 - channel] / 255
        np.testing.assert_allclose(planes[channel], (source - mean[channel]) / std[channel], rtol=1e-5, atol=1e-5)
