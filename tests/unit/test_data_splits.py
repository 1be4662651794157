"""Splits without images are told how to get some; what broken entries can be skipped of; where pictures are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from paretune.cli.main import main
from paretune.data.splits import share_out

JOB = """\
dataset: {shapes: {train: 8, val: 4, size: 64x48}}
detector: {yolo: {variant: nano}}
input_size: 160
space: space.yaml
output: elsewhere/runs
"""
VOC = """\
<annotation><filename>{stem}.png</filename><size><width>64</width><height>48</height><depth>3</depth></size>
<object><name>disc</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object>
</annotation>
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full((48, 64, 3), 128, np.uint8))


def write(form: str, root: Path, **splits: list[str]) -> None:
    """A small dataset with these images, each with one object."""
    for split, stems in splits.items():
        if form == "coco":
            images = [{"id": n, "file_name": f"{stem}.png", "width": 64, "height": 48} for n, stem in enumerate(stems)]
            truth = [{"id": n + 1, "image_id": n, "category_id": 1, "bbox": [2, 3, 20, 30]} for n in range(len(stems))]
            body = {"images": images, "annotations": truth, "categories": [{"id": 1, "name": "disc"}]}
            (root / "annotations").mkdir(parents=True, exist_ok=True)
            (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(body))
            (root / split).mkdir()
        elif form == "yolo":
            (root / "images" / split).mkdir(parents=True)
            (root / "labels" / split).mkdir(parents=True)
            (root / "data.yaml").write_text("names: [disc]\ntrain: images/train\nval: images/val\n")
        elif form == "voc":
            lists = root / "ImageSets" / "Main"
            lists.mkdir(parents=True, exist_ok=True)
            (lists / f"{split}.txt").write_text("\n".join(stems))
        folders = {"coco": split, "yolo": f"images/{split}", "voc": "JPEGImages", "voc_flat": split}
        (root / folders[form]).mkdir(parents=True, exist_ok=True)
        for stem in stems:
            file = root / folders[form] / f"{stem}.png"
            picture(file)
            if form == "yolo":
                (root / "labels" / split / f"{stem}.txt").write_text("0 0.2 0.3 0.2 0.3\n")
            elif form in ("voc", "voc_flat"):
                notes = root / "Annotations" if form == "voc" else file.parent
                notes.mkdir(exist_ok=True)
                (notes / f"{stem}.xml").write_text(VOC.format(stem=stem))


def test_few_images_are_shared_out_so_that_train_has_every_class_and_val_an_image() -> None:
    names = [f"image{number}" for number in range(200)]
    plain = share_out(names, 0.3, 0.2)
    assert share_out(names, 0.3, 0.2, {name: {"cat"} for name in names}) == plain
    for number in range(50):
        few = names[number : number + 5]
        lists = share_out(few, 0.2, 0.2, {name: {"cat", name} if name == few[0] else {"cat"} for name in few})
        assert len(lists["val"]) >= 1
        alone = any(lists[split] == [few[0]] for split in lists)  # nothing else would be left there
        assert few[0] in lists["train"] or alone or not lists["train"]
        assert sorted(name for ids in lists.values() for name in ids) == sorted(few)
    rare = {name: {"cat", "eel"} if name in plain["val"] else {"cat"} for name in names}
    moved = share_out(names, 0.3, 0.2, rare)
    assert len(set(moved["train"]) - set(plain["train"])) == 1
    assert set(moved["train"]) & set(plain["val"])
    assert share_out(["a"], 0.2, 0.0) in ({"train": ["a"], "val": []}, {"train": [], "val": ["a"]})


@pytest.mark.parametrize("verb", [["convert", "in", "out", "--to", "coco"], ["split", "in", "out", "--val", "0.5"]])
def test_the_policy_is_refused_where_a_reader_has_none(verb: list[str], capsys: Any) -> None:
    Path("job.yaml").write_text(JOB)
    verb = [verb[0], "job.yaml", *verb[2:3], "--to", "coco"]
    assert main(["data", *verb, "--policy", "skip"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--policy skip: job.yaml is read as shapes")
    assert not Path("out").exists()
    assert main(["data", *verb]) == 0


@pytest.mark.parametrize("form", ["coco", "voc", "voc_flat", "yolo"])
def test_broken_entries_are_skipped_by_every_reader(form: str, capsys: Any) -> None:
    write(form, Path("in"), train=["a", "b"], val=["c"])
    (file,) = Path("in").rglob("a.png")
    file.write_bytes(b"no image")
    words = ["data", "convert", "in", "out", "--to", "coco" if form == "voc" else "voc"]
    assert main(words) == 2
    assert main([*words, "--policy", "skip"]) == 0
    assert f"left out: 1 images (the image cannot be read, the first {file})" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["convert", "split"])
def test_pictures_are_made_where_the_sweeps_of_the_job_find_them(verb: str) -> None:
    Path("job.yaml").write_text(JOB)
    assert main(["data", verb, "job.yaml", "out", "--to", "coco"]) == 0
    assert len(list(Path("elsewhere/runs/datasets").glob("shapes-*"))) >= 1
    assert not Path("runs").exists()


def test_images_named_by_a_job_are_made_there_too() -> None:
    from argparse import Namespace

    from paretune.cli.resolve import named_images

    Path("job.yaml").write_text(JOB)
    assert named_images(Namespace(data=Path("job.yaml"), format=None))[1] == Path("elsewhere/runs/datasets")
    write("coco", Path("in"), train=["a"], val=["b"])
    assert named_images(Namespace(data=Path("in"), format=None))[1] == Path("runs/datasets")
    assert named_images(Namespace(data=None, format=None)) is None
