"""Pictures are turned as EXIF says, everywhere alike: Pillow's exif_transpose is the judge."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageOps

from paretune.data import DATASETS
from paretune.data.checks.image_files import inspect_image
from paretune.data.checks.report import check_survey
from paretune.data.conversion import write_dataset
from paretune.data.image_io import image_size, read_image
from tests_support import ROOT
from tests_support_data import survey_of_folder
from tests_support_layouts import exif_behind, photograph, put

WIDE = (64, 48)
KINDS = {
    "JPEG": (".jpg", {"quality": 95, "subsampling": 0}, 4),
    "PNG": (".png", {}, 0),
    "TIFF": (".tif", {}, 0),
    "WEBP": (".webp", {"lossless": True}, 0),
    "AVIF": (".avif", {"quality": 95, "subsampling": "4:4:4"}, 12),
}
"""Kind → ending, how it is written, grey levels by which decoders may differ."""
ORIENTATIONS = range(1, 9)


def marked(size=WIDE):
    """A picture no two turns of which look alike."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[: size[1] // 2, : size[0] // 2] = (250, 0, 0)
    pixels[: size[1] // 2, size[0] // 2 :] = (0, 250, 0)
    pixels[size[1] // 2 :, : size[0] // 2] = (0, 0, 250)
    return Pillow.fromarray(pixels)


def exif_of(orientation):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    return exif


def save(path, orientation, kind="JPEG", picture=None):
    ending, how, _ = KINDS[kind]
    file = path.with_suffix(ending)
    (picture or marked()).save(file, kind, exif=exif_of(orientation), **how)
    return file


def seen(file):
    """Pillow's answer."""
    with Pillow.open(file) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB")).astype(int)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_turned_as_pillow_turns_it(tmp_path, kind, orientation):
    file = save(tmp_path / "a", orientation, kind)
    found, expected = read_image(file), seen(file)
    assert found.shape == expected.shape == ((64, 48, 3) if orientation >= 5 else (48, 64, 3))
    assert np.abs(found.astype(int) - expected).max() <= KINDS[kind][2]
    assert image_size(file) == found.shape[1::-1]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_the_unturned_picture_leaves_it_unturned(tmp_path, kind, orientation):
    file = save(tmp_path / "a", orientation, kind)
    expected = np.asarray(marked()).astype(int) if orientation >= 5 else seen(file)
    assert np.abs(read_image(file, WIDE).astype(int) - expected).max() <= KINDS[kind][2]
    assert image_size(file, WIDE) == WIDE
    for told in (WIDE[::-1], (640, 480), None):
        np.testing.assert_array_equal(read_image(file, told), read_image(file))


def test_a_square_picture_is_turned_whatever_size_is_told(tmp_path):
    file = save(tmp_path / "a", 6, picture=marked((48, 48)))
    assert np.abs(read_image(file, (48, 48)).astype(int) - seen(file)).max() <= 4


@pytest.mark.parametrize("depth", [np.uint16, np.float32])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_deep_tiff_files_are_turned_too(tmp_path, orientation, depth):
    ramp = np.arange(48 * 64).reshape(48, 64)
    stored = (ramp * 21).astype(np.uint16) if depth is np.uint16 else (ramp / ramp.max()).astype(np.float32)
    Pillow.fromarray(stored).save(tmp_path / "a.tif", exif=exif_of(orientation))
    grey = stored >> 8 if depth is np.uint16 else np.round(stored * 255)
    expected = np.asarray(ImageOps.exif_transpose(with_exif(Pillow.fromarray(grey.astype(np.uint8)), orientation)))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.stack([expected] * 3, axis=2))


def with_exif(picture, orientation):
    file = io.BytesIO()
    picture.save(file, "PNG", exif=exif_of(orientation))
    return Pillow.open(file)


def test_exif_behind_the_pixels_of_a_png_counts(tmp_path):
    marked().save(tmp_path / "plain.png")
    file = tmp_path / "a.png"
    file.write_bytes(exif_behind((tmp_path / "plain.png").read_bytes(), exif_of(6).tobytes()[6:]))
    np.testing.assert_array_equal(read_image(file), seen(file))
    assert image_size(file) == (48, 64)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(tmp_path, orientation):
    assert image_size(save(tmp_path / "a", orientation)) == WIDE


def test_without_pillow_opencv_turns_alike(tmp_path):
    """As in a deployment of three packages."""
    files = [save(tmp_path / f"{kind}{n}", n, kind) for kind in KINDS for n in ORIENTATIONS if kind != "AVIF"]
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "from pathlib import Path; import numpy as np; from paretune.data.image_io import read_image\n"
        "for file in map(Path, sys.argv[1:]): np.save(file.with_suffix('.npy'), read_image(file))"
    )
    subprocess.run([sys.executable, "-c", code, *files], check=True, cwd=ROOT / "platform")
    for file in files:
        np.testing.assert_array_equal(np.load(file.with_suffix(".npy")), read_image(file), err_msg=file.name)


# --- the same in every verb ---------------------------------------------------------------------------


def red_box(pixels):
    """The box around what is red, whichever way the picture was turned."""
    rows, columns = np.nonzero((pixels[..., 0] > 200) & (pixels[..., 1] < 50))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def coco_of(root, told, box):
    """Write a COCO folder: train holds a picture to be turned with its red corner, val another picture."""
    (root / "train").mkdir(parents=True)
    (root / "val").mkdir()
    save(root / "train/x", 6)
    photograph("y").save(root / "val/y.png")
    for split, name, size in (("train", "x.jpg", told), ("val", "y.png", WIDE)):
        x1, y1, x2, y2 = box
        objects = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}]
        images = [{"id": 1, "file_name": name, "width": size[0], "height": size[1]}]
        content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "red"}]}
        put(root / f"annotations/instances_{split}.json", json.dumps(content))
    return root


CASES = {
    "annotated turned": (WIDE[::-1], "turned", "1 pictures are turned"),
    "annotated unturned": (WIDE, "unturned", "1 pictures are left unturned"),
}


@pytest.fixture(params=CASES)
def photographed(request, tmp_path):
    told, kind, note = CASES[request.param]
    turned = kind == "turned"
    with_box = red_box(read_image(save(tmp_path / "mark", 6), None if turned else WIDE))
    return coco_of(tmp_path / "coco", told, [int(edge) for edge in with_box]), told, kind, note


def test_check_tells_and_counts_it(photographed):
    root, _, kind, _ = photographed
    report = check_survey(survey_of_folder(root))
    assert {finding.kind for finding in report.findings} == {kind}
    assert report.counts == {kind: 1}
    assert not report.hinders


def test_training_sees_the_boxes_on_the_objects(photographed, tmp_path):
    root, told, _, note = photographed
    data = DATASETS.load("coco").model_validate({"root": str(root)}).open(tmp_path)
    split = data.splits["train"]
    assert split.size(0) == told == split.image(0).shape[1::-1]
    assert split.annotations(0).boxes[0].tolist() == red_box(split.image(0))
    assert any(line.startswith(note) for line in data.notes), data.notes


@pytest.mark.parametrize("images", ["copy", "link"])
@pytest.mark.parametrize("form", ["coco", "voc", "yolo", "darknet", "labelme", "via", "labelstudio"])
def test_what_is_converted_is_right_for_who_turns_pictures(photographed, tmp_path, form, images):
    """YOLO's and VIA's files tell no size: whoever reads them can only turn the picture as EXIF says."""
    root, told, kind, _ = photographed
    data = DATASETS.load("coco").model_validate({"root": str(root)}).open(tmp_path)
    said = write_dataset(data, tmp_path / "out", form, images)
    assert any("EXIF" in line for line in said)
    (first,) = [file for file in (tmp_path / "out").rglob("x.*") if file.suffix in (".jpg", ".png")]
    x1, y1, x2, y2 = data.splits["train"].annotations(0).boxes[0].astype(int)
    assert (seen(first).shape[1], seen(first).shape[0]) == told
    corner = seen(first)[y1 + 4 : y2 - 4, x1 + 4 : x2 - 4]
    assert (corner[..., 0] > 200).all()
    assert (corner[..., 1] < 50).all()
    assert kind == "turned" or first.suffix == ".png"


def test_a_copy_turned_by_hand_is_found_in_another_split(tmp_path):
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / "images/val").mkdir()
    (tmp_path / "labels").mkdir()
    file = save(tmp_path / "images/train/a", 6)
    Pillow.fromarray(seen(file).astype(np.uint8)).save(tmp_path / "images/val/b.png")
    report = check_survey(survey_of_folder(tmp_path))
    assert report.counts["near-leak"] == 1


def test_look_tells_the_size_that_is_read(tmp_path):
    file = save(tmp_path / "a", 8)
    assert (inspect_image(file).size, inspect_image(file, WIDE).size) == ((48, 64), WIDE)
