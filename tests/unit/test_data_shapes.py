"""Generated pictures: what is annotated is what is seen, and a cache that survives crashes and crowds."""

from __future__ import annotations

import multiprocessing
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.core.types import InputSize
from paretune.data.synthetic import shapes as shapes_module
from paretune.data.synthetic.scene import CLASSES, HIDDEN, OUTLINES, SceneObject, _annotations, coverage, paint
from paretune.data.synthetic.shapes import Shapes
from paretune.data.synthetic.textures import background, camera, lit, noise

SIZE = InputSize(96, 64)
SMALL = {"train": 5, "val": 3, "size": "96x64"}


def painted(seed, difficulty=0.5, size=SIZE):
    return paint(np.random.default_rng(seed), size, difficulty)


# --- one picture ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6), difficulty=st.floats(0, 1), sides=st.tuples(st.integers(32, 200), st.integers(32, 200))
)
def test_any_picture_is_well_formed(seed, difficulty, sides):
    image, truth = painted(seed, difficulty, InputSize(*sides))
    assert image.shape == (sides[1], sides[0], 3)
    assert image.dtype == np.uint8
    assert (truth.boxes[:, 2:] > truth.boxes[:, :2]).all()
    assert (truth.boxes >= 0).all()
    assert (truth.boxes <= [*sides, *sides]).all()
    assert ((truth.labels >= 0) & (truth.labels < len(CLASSES))).all()


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("turn", [0.0, 0.4, 1.1])
def test_boxes_are_tight_around_what_is_drawn(name, turn):
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    thing = SceneObject((OUTLINES[name] @ rotation * 16.3 + [40.6, 33.2]).astype(np.float32), label=0)
    cover = coverage(thing, 0, 0, 96, 64) / 255
    columns, rows = np.flatnonzero(cover.max(0) > 0.02), np.flatnonzero(cover.max(1) > 0.02)
    drawn = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(thing.extent, drawn, atol=1.0)


@pytest.mark.parametrize("name", CLASSES)
def test_areas_are_those_that_are_drawn(name):
    thing = SceneObject((OUTLINES[name] * 15 + [48, 32]).astype(np.float32), label=0)
    assert thing.area == pytest.approx(np.pi * 15**2, rel=1e-4)
    assert coverage(thing, 0, 0, 96, 64).sum() / 255 == pytest.approx(thing.area, rel=0.05)


def test_a_hole_shows_what_lies_below():
    outline = OUTLINES["circle"] * 20 + [48, 32]
    cover = coverage(SceneObject(outline.astype(np.float32), (outline - [48, 32]) * 0.5 + [48, 32]), 0, 0, 96, 64)
    assert cover[32, 48] == 0
    assert cover[32, 48 + 15] == 255


def test_hidden_objects_are_to_be_ignored_and_seen_ones_are_not():
    full = SceneObject(np.array([[0, 0], [10, 0], [10, 10], [0, 10]], np.float32), label=2)
    for seen, expected in ((100, [False]), (int(100 * HIDDEN), [False]), (int(100 * HIDDEN) - 1, [True]), (0, [])):
        owner = np.zeros((64, 96), np.uint8)
        owner.ravel()[:seen] = 1
        truth = _annotations([full], owner)
        assert truth.ignore.tolist() == expected
        assert truth.labels.tolist() == [2] * len(expected)


def test_every_class_and_every_difficulty_occur():
    pictures = [painted(seed)[1] for seed in range(80)]
    labels = np.concatenate([truth.labels for truth in pictures])
    assert np.bincount(labels, minlength=len(CLASSES)).min() > 20
    assert 0 < sum(truth.ignore.sum() for truth in pictures) < 0.15 * labels.size
    heights = np.concatenate([truth.boxes[:, 3] - truth.boxes[:, 1] for truth in pictures]) / SIZE.height
    assert np.quantile(heights, 0.9) / np.quantile(heights, 0.1) > 2.2


def test_difficulty_brings_noise():
    def grain(difficulty):
        images = [painted(seed, difficulty)[0].astype(float) for seed in range(20)]
        return np.median([np.abs(np.diff(image, axis=1)).mean() for image in images])

    assert grain(0.0) < grain(0.5) < grain(1.0)


def test_noise_is_smooth_and_spans_its_range():
    field = noise(np.random.default_rng(0), 60, 90, (3, 9))
    assert field.shape == (60, 90)
    assert field.dtype == np.float32
    assert 0.2 < field.std() * 4 < 1.5
    assert np.abs(np.diff(field, axis=1)).max() < 0.2


def test_ground_light_and_camera_keep_shape_and_range():
    random = np.random.default_rng(1)
    for _ in range(20):
        ground = background(random, SIZE, 1.0)
        assert ground.shape == (64, 96, 3)
        assert ground.min() >= 0
        assert ground.max() <= 255
        image = camera(random, lit(random, ground, 1.0), 1.0)
        assert image.shape == (64, 96, 3)
        assert image.dtype == np.uint8


# --- the dataset ------------------------------------------------------------------------------------


def test_defaults_are_enough_to_compare_by():
    assert Shapes().val >= 300


def test_a_longer_split_begins_with_the_shorter_one(tmp_path):
    short = Shapes(**SMALL).open(tmp_path).splits["train"]
    longer = Shapes(**{**SMALL, "train": 7}).open(tmp_path).splits["train"]
    for index in range(len(short)):
        np.testing.assert_array_equal(short.image(index), longer.image(index))
        np.testing.assert_array_equal(short.annotations(index).boxes, longer.annotations(index).boxes)


def test_every_picture_is_another(tmp_path):
    data = Shapes(**SMALL, test=2).open(tmp_path)
    images = [split.image(i).tobytes() for split in data.splits.values() for i in range(len(split))]
    assert len(set(images)) == 10


@pytest.mark.parametrize("change", [{"seed": 1}, {"train": 6}, {"difficulty": 0.6}, {"size": "64x96"}, {"test": 1}])
def test_the_fingerprint_changes_with_every_field(tmp_path, change):
    first, second = (Shapes(**fields).open(tmp_path) for fields in (SMALL, {**SMALL, **change}))
    assert first.fingerprint != second.fingerprint
    assert len(list(tmp_path.glob("shapes-*"))) == 2


def test_painted_once(tmp_path, monkeypatch):
    first = Shapes(**SMALL).open(tmp_path)
    monkeypatch.setattr(Shapes, "_paint", None)  # cannot be called
    assert Shapes(**SMALL).open(tmp_path).fingerprint == first.fingerprint


def test_a_crash_while_painting_leaves_nothing_to_be_trusted(tmp_path, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes_module, "_save", crash)
    with pytest.raises(KeyboardInterrupt):
        Shapes(**SMALL).open(tmp_path)
    assert not list(tmp_path.glob("shapes-*"))
    monkeypatch.undo()
    assert len(Shapes(**SMALL).open(tmp_path).splits["train"]) == 5


def test_an_unfinished_folder_is_painted_anew(tmp_path):
    Shapes(**SMALL).open(tmp_path)
    (folder,) = tmp_path.glob("shapes-*")
    (folder / "pictures.json").unlink()
    (folder / "train.npy").write_bytes(b"")
    assert Shapes(**SMALL).open(tmp_path).splits["train"].image(0).shape == (64, 96, 3)


def _open(cache, start, answers):
    start.wait()
    data = Shapes(**SMALL).open(cache)
    answers.put((data.fingerprint, data.splits["val"].image(2).tobytes()))


@pytest.mark.slow
def test_processes_that_open_at_once_get_the_same(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, answers = context.Event(), context.Queue()
    workers = [context.Process(target=_open, args=(tmp_path, start, answers)) for _ in range(3)]
    for worker in workers:
        worker.start()
    start.set()
    found = {answers.get(timeout=150) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(found) == 1
    assert [path.name[:7] for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["shapes-"]
    assert not list(tmp_path.glob(".*.part"))


def test_painting_is_fast():
    start = time.process_time()
    for seed in range(50):
        painted(seed, size=InputSize(192, 144))
    assert 50 / (time.process_time() - start) > 15  # some 200 on an idle core


def test_opencv_threads_change_nothing():
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        one, _ = painted(3, size=InputSize(320, 240))
        cv2.setNumThreads(4)
        other, _ = painted(3, size=InputSize(320, 240))
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(one, other)
