"""Reading image files."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from paretune.data import images
from paretune.data.images import image_size, read_image
from paretune.errors import UserError


@pytest.fixture
def picture():
    random = np.random.default_rng(0)
    return cv2.resize(random.integers(0, 256, (6, 8, 3), np.uint8), (80, 60), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_lossless_images_come_back_as_rgb(tmp_path, picture, suffix):
    Pillow.fromarray(picture).save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), picture)
    assert image_size(tmp_path / f"a{suffix}") == (80, 60)


def test_jpeg_agrees_with_pillow(tmp_path, picture):
    path = tmp_path / "a.jpg"
    Pillow.fromarray(picture).save(path, quality=95)
    with Pillow.open(path) as expected:
        difference = np.abs(read_image(path).astype(int) - np.asarray(expected).astype(int))
    assert difference.max() <= 2


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_modes_become_rgb(tmp_path, picture, mode):
    Pillow.fromarray(picture).convert(mode).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png")
    assert found.shape == (60, 80, 3)
    assert found.dtype == np.uint8


def test_sixteen_bits_become_eight(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 4, 3), 0x80FF, np.uint16))
    assert read_image(tmp_path / "a.png").max() == 0x80


def test_the_cameras_rotation_is_not_carried_out(tmp_path, picture):
    exif = Pillow.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Pillow.fromarray(picture).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (60, 80, 3)
    assert image_size(tmp_path / "a.jpg") == (80, 60)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_files_are_refused(tmp_path, kept, suffix):
    path = tmp_path / f"a{suffix}"
    Pillow.fromarray(np.random.default_rng(1).integers(0, 256, (90, 90, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(UserError, match=rf"a{suffix}: (not an image|cannot be decoded)"):
        read_image(path)


def test_too_many_pixels_are_refused_before_decoding(tmp_path, picture, monkeypatch):
    Pillow.fromarray(picture).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MOST_PIXELS", 4799)
    for read in (read_image, image_size):
        with pytest.raises(UserError, match="80 x 60 pixels"):
            read(tmp_path / "a.png")
    monkeypatch.setattr(images, "MOST_PIXELS", 4800)
    assert read_image(tmp_path / "a.png").shape == (60, 80, 3)


@pytest.mark.parametrize("read", [read_image, image_size])
def test_missing_files_and_folders(tmp_path, read):
    with pytest.raises(UserError, match="No such file"):
        read(tmp_path / "a.png")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)
