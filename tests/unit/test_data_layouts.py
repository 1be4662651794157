"""Folders as labelling tools write them are told, read, trained on and converted."""

from __future__ import annotations

import json
import math
from itertools import cycle
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image as Pillow

from paretune.core.errors import UserError
from paretune.data import DATASETS, WRITTEN_FORMATS
from paretune.data.box_checks import in_pixels
from paretune.data.checks.report import check_survey
from paretune.data.conversion import write_dataset
from paretune.data.formats.detect import format_of_folder
from paretune.data.raw_annotations import Survey
from paretune.data.scanned_dataset import ScannedDataset
from tests_support_data import cases, survey_of_folder
from tests_support_layouts import (
    CLASSES,
    LAYOUTS,
    SIZE,
    TRUTH,
    labelme_fields,
    labelstudio_task,
    photograph,
    picture,
    put,
    supervisely_mask,
    via_images,
)


def content_of(survey):
    """Split → image → its objects, as the truth of the layouts has them."""
    found = {}
    for image in survey.images:
        for split in image.splits or ("",):
            objects = [(box.name, *in_pixels(image, box, SIZE)) for box in image.boxes]
            found.setdefault(split, {})[image.file.stem] = objects
    return found


def same(found, expected):
    assert {split: sorted(images) for split, images in found.items()} == {
        split: sorted(images) for split, images in expected.items()
    }
    for split, images in expected.items():
        for name, objects in images.items():
            assert [entry[0] for entry in found[split][name]] == [entry[0] for entry in objects]
            boxes = [entry[1:] for entry in found[split][name]]
            assert np.allclose(np.reshape(boxes, (-1, 4)), np.reshape([o[1:] for o in objects], (-1, 4)), atol=1e-3)


QUIET = {
    "no-boxes",
    "no-annotation",
    "missing-split",
    "other-file",
    "inverted-box",
    "other-name",
    "background",
    "root-class",
}
"""Kinds of findings that these layouts bring with them."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_told_and_read_as_its_tool_wrote_it(tmp_path, layout):
    form, write = LAYOUTS[layout]
    expected = write(tmp_path / "data")
    assert format_of_folder(tmp_path / "data") == form
    report = check_survey(survey_of_folder(tmp_path / "data"))
    assert not report.hinders, report.findings
    assert set(report.counts) <= QUIET, report.findings
    same(content_of(report.survey), expected)
    assert list(report.classes) == CLASSES


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_can_be_trained_on(tmp_path, layout):
    form, write = LAYOUTS[layout]
    expected = write(tmp_path / "data")
    dataset = DATASETS.load(form).model_validate({"root": str(tmp_path / "data"), "val_share": 0.5})
    assert dataset.problems() == []
    data = dataset.open(tmp_path)
    assert data.classes == tuple(CLASSES)
    boxes = sum(len(split.annotations(index).boxes) for split in data.splits.values() for index in range(len(split)))
    assert boxes == sum(len(objects) for images in expected.values() for objects in images.values())
    for split in data.splits.values():
        for index, name in enumerate(split.ids):
            assert split.image(index).shape == (SIZE[1], SIZE[0], 3), name


def opened(form, root, **fields):
    row = {"darknet": "yolo"}.get(form, form)
    return DATASETS.load(row).model_validate({"root": str(root), "val_share": 0.5, **fields}).open(root)


def all_objects(data):
    """Split → id → class, box and whether it is ignored, of each object."""
    found = {}
    for name, split in data.splits.items():
        for index, image in enumerate(split.ids):
            truth = split.annotations(index)
            rows = zip(truth.labels.tolist(), truth.boxes.round(2).tolist(), truth.ignore.tolist(), strict=True)
            found[name, image] = [(data.classes[label], box, ignore) for label, box, ignore in rows]
    return found


@pytest.mark.parametrize(("layout", "form"), [*zip(LAYOUTS, cycle(WRITTEN_FORMATS), strict=False)])
def test_a_layout_becomes_another_format_and_comes_back(tmp_path, layout, form):
    source, write = LAYOUTS[layout]
    write(tmp_path / "data")
    data = opened(source, tmp_path / "data")
    write_dataset(data, tmp_path / "out", form)
    back = (
        opened(form, tmp_path / "out", classes=list(data.classes)) if form == "voc" else opened(form, tmp_path / "out")
    )
    assert format_of_folder(tmp_path / "out") == {"darknet": "yolo"}.get(form, form)
    assert back.classes == data.classes
    assert all_objects(back) == all_objects(data)
    assert not check_survey(survey_of_folder(tmp_path / "out")).hinders


def test_labelme_and_via_keep_what_is_difficult_and_the_others_say_what_they_lose(tmp_path):
    fields = labelme_fields("x", [("cat", 1, 2, 30, 40), ("dog", 5, 6, 20, 30)], "x.jpg")
    fields["shapes"][0]["flags"] = {"difficult": True}
    for split in ("train", "val"):
        picture(tmp_path / f"data/{split}/{split}.jpg", split)
        put(tmp_path / f"data/{split}/{split}.json", json.dumps({**fields, "imagePath": f"{split}.jpg"}))
    data = opened("labelme", tmp_path / "data")
    assert [ignore for _, _, ignore in all_objects(data)["train", "train"]] == [True, False]
    for form in ("labelme", "via", "coco"):
        assert not write_dataset(data, tmp_path / form, form)
        assert all_objects(opened(form, tmp_path / form)) == all_objects(data)
    for form in ("yolo", "darknet", "labelstudio"):
        (line,) = write_dataset(data, tmp_path / form, form)
        assert line == f"{form} keeps no crowds and no difficult objects: 2 were left out"


# --- what tools draw ----------------------------------------------------------------------------------


def labelme_of(tmp_path, *shapes, **more):
    picture(tmp_path / "x.jpg", "x")
    put(tmp_path / "x.json", json.dumps({**labelme_fields("x", [], "x.jpg"), "shapes": list(shapes), **more}))
    return survey_of_folder(tmp_path)


def drawn(kind, *points, label="cat"):
    return {"label": label, "shape_type": kind, "points": [list(point) for point in points], "flags": {}}


LABELME = {
    "polygon": (drawn("polygon", (10, 5), (30, 20), (12, 40)), (10, 5, 30, 40), "polygon"),
    "no kind told": ({"label": "cat", "points": [[10, 5], [30, 20], [12, 40]]}, (10, 5, 30, 40), "polygon"),
    "circle": (drawn("circle", (20, 20), (23, 24)), (15, 15, 25, 25), "polygon"),
    "mask": (drawn("mask", (3, 4), (10, 12)), (3, 4, 11, 13), "polygon"),
    "turned": (drawn("rotation", (20, 10), (30, 20), (20, 30), (10, 20)), (10, 10, 30, 30), "polygon"),
    "four corners": (drawn("rectangle", (1, 2), (9, 2), (9, 8), (1, 8)), (1, 2, 9, 8), None),
    "point": (drawn("point", (5, 5)), None, "no-box"),
    "line": (drawn("linestrip", (5, 5), (9, 30)), None, "no-box"),
    "not a number": (drawn("rectangle", (5, "x"), (9, 30)), (math.nan,) * 4, "bad-box"),
    "no points": ({"label": "cat", "shape_type": "rectangle"}, (math.nan,) * 4, "bad-box"),
    "no label": ({"shape_type": "rectangle", "points": [[1, 2], [3, 4]]}, None, "unreadable-annotation"),
}


@pytest.mark.parametrize("case", LABELME)
def test_what_labelme_draws(tmp_path, case):
    shape, box, kind = LABELME[case]
    survey = labelme_of(tmp_path, shape)
    (image,) = survey.images
    assert [tuple(found.box) for found in image.boxes] == ([] if box is None else [pytest.approx(box, nan_ok=True)])
    told = {finding.kind: finding for finding in check_survey(survey).findings}
    if kind:
        assert told[kind].where == "shapes[0]"
        assert told[kind].file.endswith("x.json")
    else:
        assert not told


def test_a_labelme_file_that_is_none_is_told(tmp_path):
    labelme_of(tmp_path, drawn("rectangle", (1, 2), (9, 8)))
    put(tmp_path / "y.json", "{")
    put(tmp_path / "settings.json", "{}")
    picture(tmp_path / "z.jpg", "z")
    report = check_survey(survey_of_folder(tmp_path, "labelme"))
    found = {(finding.kind, Path(finding.file).name) for finding in report.findings}
    assert found == {("unreadable-annotation", "y.json"), ("other-file", "settings.json"), ("no-annotation", "z.jpg")}


def test_two_labelme_files_of_one_image_are_refused(tmp_path):
    labelme_of(tmp_path, drawn("rectangle", (1, 2), (9, 8)))
    put(tmp_path / "more/y.json", json.dumps(labelme_fields("x", [("cat", 1, 2, 3, 4)], "x.jpg")))
    report = check_survey(survey_of_folder(tmp_path))
    assert report.counts["duplicate-id"] == 1


def test_an_image_inside_its_labelme_file_is_turned_like_any_other(tmp_path):
    import base64
    import io

    content = io.BytesIO()
    exif = Pillow.Exif()
    exif[0x0112] = 6
    photograph("x").save(content, "JPEG", exif=exif)
    for split in ("train", "val"):
        fields = {"imageData": base64.b64encode(content.getvalue()).decode(), "imageWidth": 48, "imageHeight": 64}
        shapes = [drawn("rectangle", (1, 2), (40, 60))]
        put(tmp_path / f"data/{split}/{split}.json", json.dumps({"shapes": shapes, "imagePath": "gone.jpg", **fields}))
    data = opened("labelme", tmp_path / "data")
    assert data.splits["train"].image(0).shape == (64, 48, 3)
    np.testing.assert_allclose(data.splits["train"].annotations(0).boxes, [[1, 2, 40, 60]], atol=1e-3)
    write_dataset(data, tmp_path / "out", "coco")
    (copy,) = (tmp_path / "out/train").iterdir()
    assert (copy.suffix, copy.read_bytes()) == (".jpg", content.getvalue())


def via_of(tmp_path, *regions, name="via.json", **more):
    picture(tmp_path / "x.jpg", "x")
    entry = {"filename": "x.jpg", "size": 1, "file_attributes": {}, "regions": list(regions)}
    put(tmp_path / name, json.dumps({"x.jpg1": entry, **more}))
    return survey_of_folder(tmp_path)


def region(name, attributes=None, **shape):
    values = {"class": "cat"} if attributes is None else attributes
    return {"shape_attributes": {"name": name, **shape}, "region_attributes": values}


VIA = {
    "circle": (region("circle", cx=20, cy=20, r=5.5), (14.5, 14.5, 25.5, 25.5), "polygon"),
    "ellipse": (region("ellipse", cx=20, cy=20, rx=8, ry=4), (12, 16, 28, 24), "polygon"),
    "turned ellipse": (region("ellipse", cx=20, cy=20, rx=8, ry=4, theta=math.pi / 2), (16, 12, 24, 28), "polygon"),
    "polygon": (region("polygon", all_points_x=[3, 9, 5], all_points_y=[4, 6, 12]), (3, 4, 9, 12), "polygon"),
    "texts": (region("rect", x="3", y="4", width="6", height="8"), (3, 4, 9, 12), None),
    "point": (region("point", cx=20, cy=20), None, "no-box"),
    "polyline": (region("polyline", all_points_x=[3, 9], all_points_y=[4, 6]), None, "no-box"),
    "no width": (region("rect", x=3, y=4, height=8), (3, 4, math.nan, 12), "bad-box"),
    "no class": (region("rect", {"class": ""}, x=3, y=4, width=6, height=8), None, "unreadable-annotation"),
    "two ticked": (
        region("rect", {"class": {"cat": True, "dog": True}}, x=3, y=4, width=6, height=8),
        None,
        "unreadable-annotation",
    ),
    "one ticked": (region("rect", {"class": {"cat": True}}, x=3, y=4, width=6, height=8), (3, 4, 9, 12), None),
}


@pytest.mark.parametrize("case", VIA)
def test_what_via_draws(tmp_path, case):
    shape, box, kind = VIA[case]
    survey = via_of(tmp_path, region("rect", x=30, y=20, width=10, height=9), shape)
    (image,) = survey.images
    expected = [] if box is None else [pytest.approx(box, nan_ok=True)]
    assert [tuple(found.box) for found in image.boxes[1:]] == expected
    told = {finding.kind: finding for finding in check_survey(survey).findings}
    if kind:
        assert "regions[1]" in told[kind].where
    else:
        assert not told


def test_via_without_any_attribute_has_one_class(tmp_path):
    survey = via_of(tmp_path, region("rect", {}, x=3, y=4, width=6, height=8))
    assert survey.classes == ["object"]


def test_the_attribute_that_is_named_is_the_class_of_via(tmp_path):
    shape = region("rect", {"colour": "red", "age": "3"}, x=3, y=4, width=6, height=8)
    put(
        tmp_path / "more.json",
        json.dumps({f"{n}.jpg1": {"filename": f"{n}.jpg", "regions": [shape]} for n in "abcdef"}),
    )
    for name in "abcdef":
        picture(tmp_path / f"{name}.jpg", name)
    assert opened("via", tmp_path, attribute="colour", val_share=0.5).classes == ("red",)


def labelstudio_of(tmp_path, *results, size=SIZE, **fields):
    picture(tmp_path / "x.jpg", "x")
    task = labelstudio_task(1, "/data/upload/1/0a1b2c3d-x.jpg", [], **fields)
    told = {"original_width": size[0], "original_height": size[1], "type": "rectanglelabels"}
    task["annotations"][0]["result"] = [{"id": str(n), **told, **result} for n, result in enumerate(results)]
    put(tmp_path / "export.json", json.dumps([task]))
    return survey_of_folder(tmp_path)


def value(**fields):
    return {"value": {"rectanglelabels": ["cat"], **fields}}


LABELSTUDIO = {
    "turned by a quarter": (value(x=50, y=25, width=25, height=50, rotation=90), (8, 12, 32, 28), "polygon"),
    "turned by 45 degrees": (
        value(x=50, y=25, width=25, height=25, rotation=45),
        (32 - 12 / 2**0.5, 12, 32 + 16 / 2**0.5, 12 + 28 / 2**0.5),
        "polygon",
    ),
    "ellipse": (value(x=50, y=50, radiusX=25, radiusY=50), (16, 0, 48, 48), "polygon"),
    "polygon": (value(points=[[25, 50], [50, 25], [75, 75]]), (16, 12, 48, 36), "polygon"),
    "brush": (value(rle=[1, 2], format="rle"), None, "no-box"),
    "keypoint": (value(x=50, y=50, width=0.4), None, "no-box"),
    "two labels": (value(x=0, y=0, width=50, height=50, rectanglelabels=["cat", "dog"]), (0, 0, 32, 24), "several"),
    "no label": (value(x=0, y=0, width=50, height=50, rectanglelabels=[]), None, "unreadable-annotation"),
    "a choice": ({"type": "choices", "value": {"choices": ["indoors"]}}, None, None),
}


@pytest.mark.parametrize("case", LABELSTUDIO)
def test_what_label_studio_draws(tmp_path, case):
    result, box, kind = LABELSTUDIO[case]
    survey = labelstudio_of(tmp_path, value(x=0, y=0, width=100, height=100), result)
    (image,) = survey.images
    boxes = [in_pixels(image, found, SIZE) for found in image.boxes[1:]]
    assert boxes == ([] if box is None else [pytest.approx(box, abs=1e-6)])
    told = {finding.kind: finding for finding in check_survey(survey).findings}
    if kind:
        assert told[kind].where == "task 1: result[1]"
    else:
        assert not told


def test_a_label_beside_its_rectangle_is_read(tmp_path):
    """<Rectangle> with <Labels>: two results of one id."""
    place = {"x": 0, "y": 0, "width": 50, "height": 50}
    both = [{"id": "r", "type": "rectangle", "value": place}, {"id": "r", "value": {**place, "labels": ["dog"]}}]
    (image,) = labelstudio_of(tmp_path, *both).images
    assert [box.name for box in image.boxes] == ["dog"]


def test_tasks_that_nobody_has_done_are_left_out_and_of_several_answers_one_is_taken(tmp_path):
    tasks = [labelstudio_task(n, f"{name}.jpg", [("cat", 1, 2, 30, 40)]) for n, name in enumerate("abcd")]
    tasks[0]["annotations"] = []
    tasks[1]["annotations"][0]["was_cancelled"] = True
    tasks[2]["annotations"].append({"result": [], "ground_truth": False})
    tasks[3]["annotations"].append({"result": [], "ground_truth": False})
    tasks[3]["annotations"][0]["ground_truth"] = True
    for name in "abcd":
        picture(tmp_path / f"{name}.jpg", name)
    put(tmp_path / "export.json", json.dumps(tasks))
    report = check_survey(survey_of_folder(tmp_path))
    assert report.counts == {"several": 2, "no-boxes": 1, "no-annotation": 2}
    boxes = {image.file.stem: len(image.boxes) for image in report.survey.images if image.annotation != image.file}
    assert boxes == {"c": 0, "d": 1}


def test_what_supervisely_draws(tmp_path):
    put(tmp_path / "meta.json", json.dumps({"classes": [{"title": "cat", "shape": "any"}]}))
    picture(tmp_path / "ds/img/x.png", "x")
    outline = {"exterior": [[3, 4], [9, 6], [5, 12]], "interior": []}
    objects = [
        {"classTitle": "cat", "geometryType": "polygon", "points": outline},
        {"classTitle": "cat", "geometryType": "bitmap", "bitmap": supervisely_mask(5, 6, 20, 11)},
        {"classTitle": "cat", "geometryType": "point", "points": {"exterior": [[3, 4]]}},
        {"classTitle": "cat", "geometryType": "bitmap", "bitmap": {"data": "eJw=", "origin": [0, 0]}},
    ]
    size = {"width": 64, "height": 48}
    put(tmp_path / "ds/ann/x.png.json", json.dumps({"size": size, "objects": objects}))
    report = check_survey(survey_of_folder(tmp_path))
    boxes = [tuple(box.box) for box in report.survey.images[0].boxes]
    assert boxes[:2] == [(3, 4, 10, 13), (5, 6, 25, 17)]
    assert {(finding.kind, finding.where) for finding in report.findings} == {
        ("polygon", "objects[0]"),
        ("polygon", "objects[1]"),
        ("no-box", "objects[2]"),
        ("polygon", "objects[3]"),
        ("bad-box", "objects[3]"),
    }


# --- YOLO's layouts that go wrong ---------------------------------------------------------------------


def test_a_test_split_that_was_not_exported_hinders_only_what_asks_for_it(tmp_path):
    LAYOUTS["roboflow_yolo"][1](tmp_path / "data")
    report = check_survey(survey_of_folder(tmp_path / "data"))
    assert report.counts["missing-split"] == 1
    assert not report.hinders
    assert sorted(opened("yolo", tmp_path / "data").splits) == ["train", "val"]
    with pytest.raises(UserError):
        opened("yolo", tmp_path / "data", test="test")


def test_a_split_that_is_not_there_is_not_another_folder_of_the_same_last_name(tmp_path):
    LAYOUTS["labelstudio_yolo"][1](tmp_path / "data")
    put(tmp_path / "data/data.yaml", "train: images\nval: ../valid/images\nnames: [cat, dog]\n")
    report = check_survey(survey_of_folder(tmp_path / "data"))
    assert {finding.where: finding.kind for finding in report.findings if finding.hinders}["val"] == "bad-list"
    assert report.splits["val"]["images"] == 0


def test_class_lists_that_differ_are_refused(tmp_path):
    LAYOUTS["roboflow_darknet"][1](tmp_path / "data")
    put(tmp_path / "data/valid/_darknet.labels", "dog\ncat\n")
    report = check_survey(survey_of_folder(tmp_path / "data"))
    (finding,) = [finding for finding in report.findings if finding.hinders]
    assert "other classes than" in finding.message


def test_two_images_of_one_label_are_refused(tmp_path):
    LAYOUTS["labelimg"][1](tmp_path / "data")
    photograph("z").save(tmp_path / "data/b1.png")
    report = check_survey(survey_of_folder(tmp_path / "data"))
    assert [finding.kind for finding in report.findings if finding.hinders] == ["duplicate-id"]


def test_a_description_that_names_no_split_leaves_it_to_the_folders(tmp_path):
    LAYOUTS["moved_yolo"][1](tmp_path / "data")
    put(tmp_path / "data/data.yaml", "names: [cat, dog]\n")
    same(content_of(survey_of_folder(tmp_path / "data")), TRUTH)
    put(tmp_path / "data/data.yaml", "path: ../data\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n")
    report = check_survey(survey_of_folder(tmp_path / "data"))
    assert set(report.counts) == {"no-boxes"}


def test_annotated_images_beside_the_layout_are_told(tmp_path):
    LAYOUTS["labelimg_in_images"][1](tmp_path / "data")
    picture(tmp_path / "data/more/z.jpg", "z")
    put(tmp_path / "data/more/z.txt", "0 0.5 0.5 0.5 0.5\n")
    picture(tmp_path / "data/seen/plain.jpg", "p")  # without labels it is nobody's data
    report = check_survey(survey_of_folder(tmp_path / "data"))
    (finding,) = [finding for finding in report.findings if finding.kind == "no-split"]
    assert (finding.file.rpartition("/")[2], finding.message) == ("z.jpg", "it has labels, and lies outside of images")
    left = opened("yolo", tmp_path / "data").left_out
    assert [(entry.what, entry.count, entry.why) for entry in left] == [("images", 1, "in no split")]


@pytest.mark.parametrize("name", ["cvat-yolo11", "labelimg-flat-yolo/images", "labelimg-flat-yolo/pics", "jfif"])
def test_the_kept_cases_are_read(name, tmp_path):
    root = cases(name)
    assert format_of_folder(root) == "yolo"
    report = check_survey(survey_of_folder(root))
    assert not report.hinders, report.findings
    assert all(image.boxes for image in report.survey.images)
    assert list(report.classes) == ["cat", "dog"]
    assert DATASETS.load("yolo").model_validate({"root": str(root)}).open(tmp_path).facts["boxes_train"] > 0


def test_a_file_that_is_not_via_is_told(tmp_path):
    picture(tmp_path / "a.jpg", "a")
    put(tmp_path / "via.json", json.dumps(via_images({"a": TRUTH["val"]["e4"]})))
    put(tmp_path / "package.json", "{}")
    put(tmp_path / "table.csv", "a,b\n1,2\n")
    report = check_survey(survey_of_folder(tmp_path))
    assert [Path(f.file).name for f in report.findings if f.kind == "other-file"] == ["package.json", "table.csv"]


class Mine(ScannedDataset):
    """A format from another package."""

    name: ClassVar[str] = "my-own"
    layout: ClassVar[str] = "a file x.mine"
    to_fill_a_split: ClassVar[str] = "write more"

    @classmethod
    def recognises(cls, root):
        return (root / "x.mine").is_file()

    def survey(self):
        return Survey(str(self.folder), [], [], [])


def test_a_format_from_another_package_is_recognised_after_our_own(tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS.rows, "my-own", f"{__name__}:Mine")
    with pytest.raises(UserError, match=r"a file x\.mine \(my-own\)"):
        format_of_folder(tmp_path)
    put(tmp_path / "x.mine", "")
    assert format_of_folder(tmp_path) == format_of_folder(tmp_path, "my-own") == "my-own"
    assert survey_of_folder(tmp_path).root == str(tmp_path)
    put(tmp_path / "Annotations" / "a.xml", "<annotation/>")
    assert format_of_folder(tmp_path) == "voc"
