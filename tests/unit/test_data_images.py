"""Reading image files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from paretune.core.errors import UserError
from paretune.data import image_headers as headers
from paretune.data.checks.image_files import inspect_image
from paretune.data.image_io import image_size, read_image


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


def test_too_many_pixels_are_refused_before_decoding(tmp_path, picture, monkeypatch):
    Pillow.fromarray(picture).save(tmp_path / "a.png")
    monkeypatch.setattr(headers, "MOST_PIXELS", 4799)
    for read in (read_image, image_size):
        with pytest.raises(UserError, match="80 x 60 pixels"):
            read(tmp_path / "a.png")
    monkeypatch.setattr(headers, "MOST_PIXELS", 4800)
    assert read_image(tmp_path / "a.png").shape == (60, 80, 3)


# --- kinds of pictures: Pillow is the judge, the array where Pillow has no answer -----------------------


def pillows(path):
    with Pillow.open(path) as found:
        return np.asarray(found.convert("RGB")).astype(int)


def alpha_of(picture):
    return np.dstack([picture, np.random.default_rng(2).integers(0, 256, picture.shape[:2], np.uint8)])


def without_adobe(jpeg):
    """Take the mark out by which Adobe's inverted colours are known: they are inverted without it too."""
    at = jpeg.index(b"\xff\xee")
    return jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]


WRITTEN = {
    "grey JPEG": ("a.jpg", lambda p: Pillow.fromarray(p).convert("L"), {"quality": 95}),
    "progressive JPEG": ("a.jpg", Pillow.fromarray, {"progressive": True}),
    "CMYK JPEG of Adobe": ("a.jpg", lambda p: Pillow.fromarray(p).convert("CMYK"), {"quality": 95}),
    "JPEG called jfif": ("a.jfif", Pillow.fromarray, {"format": "JPEG"}),
    "JPEG called jpe": ("a.jpe", Pillow.fromarray, {"format": "JPEG"}),
    "CMYK TIFF": ("a.tif", lambda p: Pillow.fromarray(p).convert("CMYK"), {}),
    "palette PNG": ("a.png", lambda p: Pillow.fromarray(p).quantize(16), {}),
    "palette PNG, transparent": ("a.png", lambda p: Pillow.fromarray(p).quantize(16), {"transparency": 3}),
    "palette TIFF": ("a.tif", lambda p: Pillow.fromarray(p).quantize(16), {}),
    "palette BMP": ("a.bmp", lambda p: Pillow.fromarray(p).quantize(16), {}),
    "PNG of black and white": ("a.png", lambda p: Pillow.fromarray(p).convert("1"), {}),
    "TIFF of black and white": ("a.tif", lambda p: Pillow.fromarray(p).convert("1"), {"compression": "group4"}),
    "grey PNG, transparent": ("a.png", lambda p: Pillow.fromarray(p).convert("LA"), {}),
    "PNG with alpha": ("a.png", lambda p: Pillow.fromarray(alpha_of(p)), {}),
    "WebP with alpha": ("a.webp", lambda p: Pillow.fromarray(alpha_of(p)), {"lossless": True, "exact": True}),
    "TIFF with alpha": ("a.tif", lambda p: Pillow.fromarray(alpha_of(p)), {}),
    "lossy WebP": ("a.webp", Pillow.fromarray, {"quality": 80}),
    "TIFF of JPEG": ("a.tif", Pillow.fromarray, {"compression": "jpeg"}),
    "TIFF of LZW": ("a.tif", Pillow.fromarray, {"compression": "tiff_lzw"}),
    "AVIF": ("a.avif", Pillow.fromarray, {"quality": 90}),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_every_kind_is_read_as_pillow_reads_it(tmp_path, picture, kind):
    name, make, how = WRITTEN[kind]
    make(picture).save(tmp_path / name, **how)
    found = read_image(tmp_path / name)
    assert (found.shape, found.dtype) == ((60, 80, 3), np.uint8)
    assert np.abs(found - pillows(tmp_path / name)).max() <= 2
    assert image_size(tmp_path / name) == (80, 60)
    assert not [told for told in inspect_image(tmp_path / name).findings if told.kind == "wrong-suffix"]


def test_cmyk_without_adobes_mark_is_inverted_too(tmp_path, picture):
    Pillow.fromarray(picture).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    expected = read_image(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(without_adobe((tmp_path / "a.jpg").read_bytes()))
    assert np.abs(read_image(tmp_path / "b.jpg").astype(int) - pillows(tmp_path / "b.jpg")).max() <= 2
    assert np.abs(read_image(tmp_path / "b.jpg").astype(int) - expected).max() <= 2


@pytest.mark.parametrize("channels", ["grey", "RGB", "RGBA"])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_of_sixteen_bits_the_high_byte_is_taken(tmp_path, picture, ending, channels):
    low = np.random.default_rng(3).integers(0, 256, picture.shape).astype(np.uint16)
    deep = (picture.astype(np.uint16) << 8) | low
    stored = {
        "grey": deep[..., 0],
        "RGB": deep[..., ::-1],
        "RGBA": np.dstack([deep[..., ::-1], np.full(deep.shape[:2], 65535, np.uint16)]),
    }[channels]
    cv2.imwrite(str(tmp_path / f"a{ending}"), stored)
    expected = np.stack([picture[..., 0]] * 3, axis=2) if channels == "grey" else picture
    np.testing.assert_array_equal(read_image(tmp_path / f"a{ending}"), expected)
    (finding,) = inspect_image(tmp_path / f"a{ending}").findings
    assert finding.kind == "deep"


def test_twelve_bits_in_sixteen_are_told_to_come_out_black(tmp_path, picture):
    cv2.imwrite(str(tmp_path / "a.png"), picture.astype(np.uint16) << 4)
    (finding,) = inspect_image(tmp_path / "a.png").findings
    assert "nearly all of it is black" in finding.message


@pytest.mark.parametrize("depth", [np.float32, np.float64])
@pytest.mark.parametrize("grey", [True, False])
def test_floats_are_shares_of_white(tmp_path, picture, grey, depth):
    shares = (picture / 255).astype(depth)
    cv2.imwrite(str(tmp_path / "a.tif"), shares[..., 0] if grey else shares[..., ::-1])
    expected = np.stack([picture[..., 0]] * 3, axis=2) if grey else picture
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), expected)
    assert image_size(tmp_path / "a.tif") == (80, 60)


@pytest.mark.parametrize(
    "change",
    [lambda p: p.astype(np.float32), lambda p: np.where(p > 250, np.nan, p / 255), lambda p: p.astype(np.int32)],
    ids=["floats up to 255", "not a number", "32 bits"],
)
def test_what_has_no_rule_hinders(tmp_path, picture, change):
    cv2.imwrite(str(tmp_path / "a.tif"), change(picture[..., 0] | 255 * np.eye(60, 80, dtype=np.uint8)))
    (finding,) = inspect_image(tmp_path / "a.tif").findings
    assert (finding.kind, finding.hinders) == ("unreadable-image", True)


def test_transparent_pixels_keep_their_colours_and_are_told(tmp_path, picture):
    Pillow.fromarray(alpha_of(picture)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture)
    assert [finding.kind for finding in inspect_image(tmp_path / "a.png").findings] == ["transparent"]
    Pillow.fromarray(picture).convert("RGBA").save(tmp_path / "b.png")
    assert inspect_image(tmp_path / "b.png").findings == ()


@pytest.mark.parametrize(
    ("name", "how"),
    [("a.tif", {"save_all": True}), ("a.webp", {"save_all": True, "lossless": True}), ("a.png", {"save_all": True})],
)
def test_of_several_pictures_in_a_file_the_first_is_read_and_that_is_told(tmp_path, picture, name, how):
    first, second = Pillow.fromarray(picture), Pillow.fromarray(255 - picture)
    first.save(tmp_path / name, append_images=[second], **how)
    np.testing.assert_array_equal(read_image(tmp_path / name), picture)
    assert [finding.kind for finding in inspect_image(tmp_path / name).findings] == ["frames"]


def test_a_kind_that_nothing_reads_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    (tmp_path / "a.avif").write_bytes(b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(100))
    monkeypatch.setattr(headers, "_readable", lambda: ["JPEG", "PNG"])
    with pytest.raises(UserError, match=r"a.heic: HEIC: nothing is installed that reads it; `pip install pi-heif`"):
        read_image(tmp_path / "a.heic")
    with pytest.raises(UserError, match=r"a.avif: AVIF: this Pillow does not read it; `pip install -U pillow`"):
        image_size(tmp_path / "a.avif")


def test_a_heic_picture_of_a_phone_is_turned(tmp_path):
    """64 x 48 pixels stored, red above on the left, to be turned by a quarter; written by libheif."""
    pytest.importorskip("pi_heif", reason="pi-heif is not installed")
    file = Path(__file__).parents[1] / "data/turned.heic"
    found = read_image(file).astype(int)
    assert found.shape == (64, 48, 3)
    assert image_size(file) == (48, 64)
    assert np.abs(found[8:24, 30:40] - (250, 0, 0)).max() < 12  # above on the right, after a quarter clockwise
