"""Broken image files by the hundred: each is read, or refused with one clear line; nothing else."""

from __future__ import annotations

import io
import os
import random
import resource
import struct
import zlib

import numpy as np
import pytest

from paretune.core.errors import UserError
from paretune.data.checks.image_files import inspect_image
from paretune.data.image_io import image_size, read_image
from tests_support_damage import CASES, HEIGHT, WIDTH, flip, photograph, put_bytes, remove, repeat


def encoded(kind, size=(WIDTH, HEIGHT)):
    buffer = io.BytesIO()
    photograph(7, size).save(buffer, kind)
    return buffer.getvalue()


def png_of(width, height, data=bytes(100)):
    """A PNG file whose header tells any size."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def jpeg_of(width, height):
    """A JPEG file whose header tells another size."""
    content = encoded("JPEG")
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp", "AVIF": ".avif"}


def seen(file):
    """Read an image; returns the refusal, or None; checks that all readers agree."""
    said = None
    try:
        pixels = read_image(file)
    except UserError as error:
        said = str(error)
        assert len(said.splitlines()) == 1
        assert said.startswith(f"{file}: ")
    else:
        assert pixels.dtype == np.uint8
        assert pixels.shape == (*image_size(file)[::-1], 3)
    found = inspect_image(file)
    assert [f.kind for f in found.findings if f.hinders] == ([] if said is None else ["unreadable-image"])
    assert (found.size is None) == (said is not None)
    return said


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", SUFFIX)
def test_truncated_images_are_refused_wherever_they_end(tmp_path, kind):
    good = encoded(kind)
    file = tmp_path / f"a{SUFFIX[kind]}"
    chance = random.Random(kind)
    for length in {0, 1, 2, len(good) - 1, *(chance.randrange(len(good)) for _ in range(CASES))}:
        file.write_bytes(good[:length])
        assert seen(file) is not None, f"{length} of {len(good)} bytes"


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("damage", [flip, remove, repeat, put_bytes])
@pytest.mark.parametrize("kind", SUFFIX)
def test_damaged_images(tmp_path, kind, damage):
    good = encoded(kind)
    file = tmp_path / f"a{SUFFIX[kind]}"
    refused = 0
    for seed in range(CASES):
        file.write_bytes(damage(random.Random(f"{kind} {seed}"), good))  # a flipped pixel is no damage to see
        seen(file)
        # the headers of image files are short: damage there, too
        file.write_bytes(damage(random.Random(f"{kind} {seed}"), good[:64]) + good[64:])
        refused += seen(file) is not None
    assert refused > 0


HUGE = {
    "PNG of 10^10 pixels": png_of(100_000, 100_000),
    "PNG of 2^62 pixels": png_of(2**31 - 1, 2**31 - 1),
    "PNG of 2^64 pixels": png_of(-1, -1),
    "PNG of 81 million pixels": png_of(9000, 9000),
    "PNG of 100 million pixels": png_of(10_000, 10_000),
    "PNG of 79 million pixels without them": png_of(7900, 10_000),
    "PNG that is very wide": png_of(2_000_000, 2),
    "PNG without width": png_of(0, 10),
    "PNG of a bomb": png_of(9000, 9000, bytes(3 * 81_000_000 // 10)),
    "JPEG of 2^32 pixels": jpeg_of(65_535, 65_535),
    "JPEG without height": jpeg_of(64, 0),
    "BMP of 2^60 pixels": encoded("BMP")[:18] + struct.pack("<ii", 2**30, 2**30) + encoded("BMP")[26:],
    "BMP upside down, huge": encoded("BMP")[:18] + struct.pack("<ii", 2**30, -(2**31)) + encoded("BMP")[26:],
}


@pytest.mark.timeout(20)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("huge", HUGE)
def test_huge_headers_are_refused_without_their_memory(tmp_path, huge):
    file = tmp_path / "a.png"
    file.write_bytes(HUGE[huge])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert seen(file) is not None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # KiB


OTHER = {
    "text": b"hello",
    "HTML": b"<!doctype html><html><body>404</body></html>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "GIF": encoded("GIF"),
    "ICO": encoded("ICO", (32, 32)),
    "PDF": b"%PDF-1.4\n1 0 obj\n",
    "zip": b"PK\x03\x04" + bytes(100),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "zeros": bytes(5000),
    "ones": b"\xff" * 5000,
    "JPEG marks": b"\xff\xd8\xff" * 1000,
    "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
}


@pytest.mark.parametrize("other", OTHER)
def test_what_is_no_image(tmp_path, other):
    file = tmp_path / "a.jpg"
    file.write_bytes(OTHER[other])
    assert "not an image of a known kind" in seen(file)


@pytest.mark.timeout(10)
def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    for name in ("pipe.jpg", "folder.jpg", "loop.jpg", "none.jpg"):
        with pytest.raises(UserError, match=f"{name}: cannot be read"):
            read_image(tmp_path / name)
        assert inspect_image(tmp_path / name).size is None
