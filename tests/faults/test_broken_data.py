"""Broken annotations and images by the hundred: one clear line, or skipped and counted; nothing else.

Every case is made from a seed. The strict reader (training) and the lenient one (`paretune data check`)
are written apart, and must agree on what hinders training.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow

from paretune.data.checking.images import look
from paretune.data.checking.report import check_dataset, check_survey
from paretune.data.checking.source import survey_of_folder
from paretune.data.checking.text import report_text
from paretune.data.images import image_size, read_image
from paretune.data.voc import Voc
from paretune.errors import UserError

CASES = 60
"""Of each kind of damage."""
WIDTH, HEIGHT = 64, 48
_EVIL = """
nan -nan inf -inf 1e308 -1e308 1e-320 1e39 0x10 1_000 -5 99999999999999999999 null 12,5 \u0663 \uff11\uff12 1e9 1.1e9
true 0 -0.0 +7 7. .5 1e 1e400 None [] {} '' -1e-9 2147483648 NaN Infinity
"""
EVIL = _EVIL.split()


def photograph(seed, size=(WIDTH, HEIGHT)):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Pillow.fromarray(coarse).resize(size, Pillow.Resampling.BICUBIC)


# --- damage to text ----------------------------------------------------------------------------------


def truncate(chance, content):
    return content[: chance.randrange(len(content))]


def flip(chance, content):
    changed = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def remove(chance, content):
    start = chance.randrange(len(content))
    return content[:start] + content[start + chance.randint(1, 60) :]


def repeat(chance, content):
    start = chance.randrange(len(content))
    return content[:start] + content[start : start + chance.randint(1, 200)] * chance.randint(2, 50) + content[start:]


def put_number(chance, content):
    """Put an evil value in place of some numbers."""
    places = list(re.finditer(rb"-?\d+(\.\d+)?", content))
    for match in sorted(chance.sample(places, min(len(places), chance.randint(1, 3))), key=lambda m: -m.start()):
        content = content[: match.start()] + chance.choice(EVIL).encode() + content[match.end() :]
    return content


def put_bytes(chance, content):
    start = chance.randrange(len(content) + 1)
    thing = chance.choice(
        [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[2J", "\u2028".encode(), b"\r\n\r\n", b"&b;", b"<"]
    )
    return content[:start] + thing + content[start:]


def swap_words(chance, content):
    words = re.split(rb"(\W+)", content)
    one, other = chance.randrange(len(words)), chance.randrange(len(words))
    words[one], words[other] = words[other], words[one]
    return b"".join(words)


TEXT = [truncate, flip, remove, repeat, put_number, put_bytes, swap_words]


# --- Pascal VOC --------------------------------------------------------------------------------------


def voc(root):
    """A folder of four images; returns the dataset and the files to be broken."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    for number, stem in enumerate("abcd"):
        photograph(number).save(root / f"JPEGImages/{stem}.png")
        objects = "".join(
            f"<object><name>{kind}</name><difficult>{number % 2}</difficult><bndbox><xmin>{3 + number}</xmin>"
            f"<ymin>5.5</ymin><xmax>40</xmax><ymax>{30 + number}</ymax></bndbox></object>"
            for kind in ("cat", "dog")
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        (root / f"Annotations/{stem}.xml").write_text(
            f'<?xml version="1.0" encoding="UTF-8"?><annotation>{size}{objects}</annotation>'
        )
    (root / "ImageSets/Main/train.txt").write_text("a 1\nb -1\n")
    (root / "ImageSets/Main/val.txt").write_text("c\nd\n")
    return Voc(root=str(root)), [root / "Annotations/a.xml", root / "ImageSets/Main/train.txt"]


FORMATS = {"voc": voc}


def outcome(dataset, file, tmp_path):
    """Open a dataset with one broken file; returns the refusal, or None; checks all that must hold."""
    data, said = None, ""
    try:
        data = dataset.open(tmp_path / "cache")
    except UserError as error:
        said = str(error)
    if data is None:
        assert len(said.splitlines()) == 1, said
        assert str(file.parent) in said
        assert said.isprintable()
        return said
    boxes = 0
    for split in data.splits.values():
        for index in range(len(split)):
            truth = split.annotations(index)
            boxes += len(truth.labels)
            assert np.isfinite(truth.boxes).all()
            assert (truth.boxes >= 0).all()
            assert (truth.boxes <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
            assert (truth.boxes[:, 2:] > truth.boxes[:, :2]).all()
            assert ((truth.labels >= 0) & (truth.labels < len(data.classes))).all()
    assert boxes > 0
    return None


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", TEXT)
@pytest.mark.parametrize("name", FORMATS)
def test_broken_annotations(tmp_path, name, damage, which):
    dataset, files = FORMATS[name](tmp_path / "data")
    file = files[which]
    good = file.read_bytes()
    refused = 0
    for seed in range(CASES):
        content = damage(random.Random(f"{name} {damage.__name__} {which} {seed}"), good)
        file.write_bytes(content)
        said = outcome(dataset, file, tmp_path)
        report = check_dataset(dataset)
        assert report.hinders == (said is not None), (content, said, report.findings)
        refused += said is not None
    assert refused > 0 or (damage, which) == (put_number, 1)  # flags in a list may be anything
    file.write_bytes(good)
    assert outcome(dataset, file, tmp_path) is None


BOMB = b"<!DOCTYPE a [" + b"".join(
    b'<!ENTITY e%d "%s">' % (n, b"x" * 9 if n == 0 else b"&e%d;" % (n - 1) * 10) for n in range(10)
)  # fmt: skip
NASTY = {
    "entities": BOMB + b"]><annotation>&e9;</annotation>",
    "entities in UTF-16": ('<?xml version="1.0" encoding="utf-16"?>' + BOMB.decode() + "]><annotation/>").encode(
        "utf-16"
    ),
    "external entity": b'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>',
    "unknown encoding": b'<?xml version="1.0" encoding="klingon"?><annotation/>',
    "encoding of several bytes": b'<?xml version="1.0" encoding="shift_jis"?><annotation/>',
    "encoding that is none": b'<?xml version="1.0" encoding="base64"?><annotation/>',
    "deep": b"<annotation>" + b"<a>" * 500_000,
    "deep and closed": b"<annotation>" + b"<a>" * 300_000 + b"</a>" * 300_000 + b"<object/></annotation>",
    "many attributes": b"<annotation " + b" ".join(b'a%d="1"' % n for n in range(100_000)) + b"><object/></annotation>",
    "many objects": b"<annotation>" + b"<object/>" * 100_000 + b"</annotation>",
    "too large": b" " * 10_000_001,
    "zeros": bytes(1000),
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "a long class": b"<annotation><object><name>" + b"x\n" * 1_000_000 + b"</name></object></annotation>",
}


@pytest.mark.timeout(20)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("nasty", NASTY)
def test_nasty_xml(tmp_path, nasty):
    dataset, (file, _) = voc(tmp_path / "data")
    file.write_bytes(NASTY[nasty])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = outcome(dataset, file, tmp_path)
    assert said is not None
    assert len(said) < 1000
    assert check_dataset(dataset).hinders
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # KiB


# --- COCO and YOLO: no row of theirs may be lost in the check ---------------------------------------


def coco(root):
    """A COCO folder of two splits; returns the file to be broken."""
    (root / "annotations").mkdir(parents=True)
    for split, ids in (("train", [1, 2]), ("val", [3])):
        (root / split).mkdir()
        for number in ids:
            photograph(number).save(root / split / f"{number}.png")
        content = {
            "images": [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in ids],
            "annotations": [
                {"id": 10 * n + k, "image_id": n, "category_id": k, "bbox": [k, 2.5, 30, 20], "iscrowd": 0}
                for n in ids
                for k in (1, 2, 3)
            ],
            "categories": [{"id": k, "name": name} for k, name in enumerate(("cat", "dog", "eel"), start=1)],
        }
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return root / "annotations/instances_train.json"


def rows_of_coco(content):
    try:
        rows = json.loads(content)["annotations"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return [f"annotations[{index}]" for index in range(len(rows))] if isinstance(rows, list) else None


def yolo(root):
    """A YOLO folder of two splits; returns the file to be broken."""
    for split, stems in (("train", "ab"), ("val", "c")):
        for part in ("images", "labels"):
            (root / part / split).mkdir(parents=True)
        for stem in stems:
            photograph(ord(stem)).save(root / f"images/{split}/{stem}.png")
            (root / f"labels/{split}/{stem}.txt").write_text("0 0.5 0.5 0.25 0.25\n1 0.3 0.4 0.5 0.5\n2 .5 .5 .1 1\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog, eel]\n")
    return root / "labels/train/a.txt"


def rows_of_yolo(content):
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return None
    return [f"line {number}" for number, line in enumerate(lines, start=1) if line.strip()]


FOLDERS = {"coco": (coco, rows_of_coco), "yolo": (yolo, rows_of_yolo)}


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("damage", TEXT)
@pytest.mark.parametrize("name", FOLDERS)
def test_the_check_accounts_for_every_row(tmp_path, name, damage):
    make, rows_of = FOLDERS[name]
    file = make(tmp_path / "data")
    good = file.read_bytes()
    hindered = 0
    for seed in range(CASES):
        content = damage(random.Random(f"{name} {damage.__name__} {seed}"), good)
        file.write_bytes(content)
        report = check_survey(survey_of_folder(tmp_path / "data", name))
        rows = rows_of(content)
        told = {finding.where for finding in report.findings if finding.file == str(file)}
        read = {box.where for image in report.survey.images if image.annotation == file for box in image.boxes}
        if rows is None:
            assert report.hinders, content
        else:
            assert set(rows) <= told | read, content
        assert report_text(report).replace("\n", "").isprintable()
        json.dumps(report.tree(), allow_nan=False)
        hindered += report.hinders
    assert hindered > 0


@pytest.mark.timeout(30)
@pytest.mark.parametrize("damage", TEXT)
def test_a_broken_description_of_a_yolo_folder(tmp_path, damage):
    yolo(tmp_path / "data")
    file = tmp_path / "data/data.yaml"
    good = file.read_bytes()
    for seed in range(CASES):
        file.write_bytes(damage(random.Random(f"{damage.__name__} {seed}"), good))
        try:
            report = check_survey(survey_of_folder(tmp_path / "data", "yolo"))
        except UserError as error:
            refused = str(error)
        else:
            refused = f"{file}:"
            report_text(report)
        assert all(line.startswith(f"{file}:") for line in refused.splitlines())


# --- images ------------------------------------------------------------------------------------------


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


SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}


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
    found = look(file)
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
        assert look(tmp_path / name).size is None
    dataset, (file, _) = voc(tmp_path / "data")
    file.unlink()
    os.mkfifo(file)
    assert "not a regular file" in outcome(dataset, file, tmp_path)
