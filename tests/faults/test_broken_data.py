"""Broken annotations by the hundred: one clear line, or skipped and counted; nothing else.

Every case is made from a seed. What `paretune data check` says hinders training is what a training refuses.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource

import numpy as np
import pytest

from paretune.core.errors import UserError
from paretune.data.checks.report import check_survey, checked_dataset
from paretune.data.formats.voc import Voc
from paretune.data.left_out import refuse_gaps
from paretune.reports.dataset_check_text import report_text
from tests_support_damage import CASES, HEIGHT, TEXT, WIDTH, photograph, put_number
from tests_support_data import survey_of_folder

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
        refuse_gaps(data, dataset)
    except UserError as error:
        said = str(error)
        lines = said.splitlines()
        assert len(lines) <= 22, said
        assert all(line.isprintable() for line in lines)
        assert str(file.parent) in said or data is not None
    if data is None:
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
    return said or None


@pytest.mark.slow
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
        with checked_dataset(dataset) as report:
            pass
        assert report.hinders == (said is not None), (content, said, report.findings)
        if said is not None:  # skipped, nothing of it is taught as background, and all of it is counted
            skipping = dataset.model_copy(update={"policy": "skip"})
            with contextlib.suppress(UserError):
                assert skipping.open(tmp_path / "cache").left_out or "gap" in report.counts
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
    "encoding that is none": b'<?xml version="1.0" encoding="base64"?><annotation/>',
    "deep": b"<annotation>" + b"<a>" * 200_000,
    "deep and closed": b"<annotation>" + b"<a>" * 150_000 + b"</a>" * 150_000 + b"<object/></annotation>",
    "many attributes": b"<annotation " + b" ".join(b'a%d="1"' % n for n in range(100_000)) + b"><object/></annotation>",
    "many objects": b"<annotation>" + b"<object/>" * 100_000 + b"</annotation>",
    "too large": b" " * 10_000_001,
    "zeros": bytes(1000),
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "a long class": b"<annotation><object><name>" + b"x\n" * 1_000_000 + b"</name></object></annotation>",
}


@pytest.mark.slow
@pytest.mark.timeout(20)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("nasty", NASTY)
def test_nasty_xml(tmp_path, nasty):
    dataset, (file, _) = voc(tmp_path / "data")
    file.write_bytes(NASTY[nasty])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = outcome(dataset, file, tmp_path)
    assert said is not None
    assert max(map(len, said.splitlines())) < 500  # at most 22 of them, as ``outcome`` saw
    with checked_dataset(dataset) as report:
        assert report.hinders
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.timeout(10)
def test_an_annotation_that_is_a_pipe(tmp_path):
    dataset, (file, _) = voc(tmp_path / "data")
    file.unlink()
    os.mkfifo(file)
    assert "not a regular file" in outcome(dataset, file, tmp_path)
