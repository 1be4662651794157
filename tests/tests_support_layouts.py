"""Small datasets as labelling tools write them, by their documentation: with their oddities, all of one content."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image as Pillow

SIZE = (64, 48)
CLASSES = ["cat", "dog"]
TRUTH = {
    "train": {
        "a 0": [("cat", 10, 20, 30, 40), ("dog", 0, 0, 64, 48)],
        "b1": [("dog", 4, 8, 20, 24)],
        "c2": [],
        "d3": [("cat", 32, 12, 48, 36)],
    },
    "val": {"e4": [("dog", 8, 6, 40, 30)], "f5": [("cat", 16, 24, 48, 42), ("cat", 2, 3, 18, 15)]},
}
"""Split → image → its objects: class, x1 y1 x2 y2 in pixels counted from 0, the second corner beyond."""
TOGETHER = {"": {name: objects for images in TRUTH.values() for name, objects in images.items()}}


def photograph(name: str, size: tuple[int, int] = SIZE) -> Any:
    coarse = np.random.default_rng(list(name.encode())).integers(0, 256, (6, 8, 3), np.uint8)
    return Pillow.fromarray(cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC))


def put(place: Path, text: str = "") -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")
    return place


def picture(place: Path, name: str) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    photograph(name).save(place, quality=95)
    return place


def lines(objects: Any, form: str = "%.6f") -> str:
    """Return a label file's text."""
    written = []
    for name, x1, y1, x2, y2 in objects:
        places = ((x1 + x2) / 2 / SIZE[0], (y1 + y2) / 2 / SIZE[1], (x2 - x1) / SIZE[0], (y2 - y1) / SIZE[1])
        written.append(" ".join([str(CLASSES.index(name)), *(form % place for place in places)]) + "\n")
    return "".join(written)


# --- YOLO's text files -------------------------------------------------------------------------------


def cvat_yolo(root: Path) -> dict[str, Any]:
    """CVAT's YOLO 1.1: paths below a folder data/ that is not there, endings in capitals, subsets by their names."""
    put(root / "obj.names", "cat\ndog\n")
    given = "classes = 2\n"
    for split, name in (("train", "train"), ("val", "Validation")):
        listed = ""
        for stem, objects in TRUTH[split].items():
            picture(root / f"obj_{name}_data/{stem}.PNG", stem)
            put(root / f"obj_{name}_data/{stem}.txt", lines(objects))
            listed += f"data/obj_{name}_data/{stem}.PNG\n"
        put(root / f"{name}.txt", listed)
        given += f"{name} = data/{name}.txt\n"
    put(root / "obj.data", given + "names = data/obj.names\nbackup = backup/\n")
    return {"train": TRUTH["train"], "validation": TRUTH["val"]}


def cvat_ultralytics(root: Path) -> dict[str, Any]:
    """CVAT's Ultralytics YOLO: lists whose lines begin with data/, no label file for an empty image."""
    for split, images in TRUTH.items():
        listed = ""
        for stem, objects in images.items():
            picture(root / f"images/{split}/{stem}.jpg", stem)
            if objects:
                put(root / f"labels/{split}/{stem}.txt", lines(objects))
            listed += f"data/images/{split}/{stem}.jpg\n"
        put(root / f"{split}.txt", listed)
    put(root / "data.yaml", "names:\n  0: cat\n  1: dog\npath: .\ntrain: train.txt\nval: val.txt\n")
    return TRUTH


def roboflow_yolo(root: Path) -> dict[str, Any]:
    """Roboflow's YOLO: paths that lead out of the folder, a test split that was not exported, two readmes."""
    for split, images in TRUTH.items():
        name = {"val": "valid"}.get(split, split)
        for stem, objects in images.items():
            picture(root / f"{name}/images/{stem}_jpg.rf.0a1b.jpg", stem)
            put(root / f"{name}/labels/{stem}_jpg.rf.0a1b.txt", lines(objects, "%.17g"))
    put(root / "README.dataset.txt", "# pets\n")
    put(root / "README.roboflow.txt", "pets - v1\n")
    places = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    put(root / "data.yaml", f"{places}\nnc: 2\nnames: ['cat', 'dog']\n\nroboflow:\n  workspace: x\n")
    return {split: {f"{stem}_jpg.rf.0a1b": o for stem, o in images.items()} for split, images in TRUTH.items()}


def moved_yolo(root: Path) -> dict[str, Any]:
    """Ultralytics' data.yaml with the path on the machine where it was made."""
    for split, images in TRUTH.items():
        for stem, objects in images.items():
            picture(root / f"images/{split}/{stem}.jpg", stem)
            put(root / f"labels/{split}/{stem}.txt", lines(objects))
    put(root / "data.yaml", "path: /content/datasets/pets\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n")
    return TRUTH


def absolute_yolo(root: Path) -> dict[str, Any]:
    """Lists of a Windows machine, without a path in data.yaml."""
    for split, images in TRUTH.items():
        for stem, objects in images.items():
            picture(root / f"images/{split}/{stem}.jpg", stem)
            put(root / f"labels/{split}/{stem}.txt", lines(objects))
        put(root / f"{split}.txt", "".join(f"D:\\pets\\images\\{split}\\{stem}.jpg\n" for stem in images))
    put(root / "data.yaml", "train: D:\\pets\\train.txt\nval: D:\\pets\\val.txt\nnames: [cat, dog]\n")
    return TRUTH


def roboflow_darknet(root: Path) -> dict[str, Any]:
    """Roboflow's YOLO Darknet: images and labels together in the folder of the split, with the class names."""
    for split, images in TRUTH.items():
        name = {"val": "valid"}.get(split, split)
        for stem, objects in images.items():
            picture(root / f"{name}/{stem}.jpg", stem)
            put(root / f"{name}/{stem}.txt", lines(objects))
        put(root / f"{name}/_darknet.labels", "cat\ndog")
    return {"train": TRUTH["train"], "valid": TRUTH["val"]}


def labelimg(root: Path) -> dict[str, Any]:
    """labelImg's YOLO: everything in one folder."""
    for stem, objects in TOGETHER[""].items():
        picture(root / f"{stem}.jpg", stem)
        put(root / f"{stem}.txt", lines(objects))
    put(root / "classes.txt", "cat\ndog\n")
    return TOGETHER


def labelimg_in_images(root: Path) -> dict[str, Any]:
    """The same in a folder that is called images."""
    labelimg(root / "images")
    return TOGETHER


def labelstudio_yolo(root: Path) -> dict[str, Any]:
    """Label Studio's YOLO export."""
    for stem, objects in TOGETHER[""].items():
        picture(root / f"images/0a1b2c3d-{stem}.jpg", stem)
        put(root / f"labels/0a1b2c3d-{stem}.txt", lines(objects, "%.17g"))
    put(root / "classes.txt", "cat\ndog")
    put(root / "notes.json", json.dumps({"categories": [{"id": 0, "name": "cat"}], "info": {"version": "1.0"}}))
    return {"": {f"0a1b2c3d-{stem}": objects for stem, objects in TOGETHER[""].items()}}


YOLO: dict[str, Callable[[Path], dict[str, Any]]] = {
    function.__name__: function
    for function in (
        cvat_yolo,
        cvat_ultralytics,
        roboflow_yolo,
        moved_yolo,
        absolute_yolo,
        roboflow_darknet,
        labelimg,
        labelimg_in_images,
        labelstudio_yolo,
    )
}


# --- labelme ------------------------------------------------------------------------------------------


def labelme_fields(name: str, objects: Any, path: str, *, embed: bool = False) -> dict[str, Any]:
    content = io.BytesIO()
    photograph(name).save(content, "PNG")
    shapes = [
        {"label": kind, "points": [[x2, y1], [x1, y2]], "group_id": None, "shape_type": "rectangle", "flags": {}}
        for kind, x1, y1, x2, y2 in objects
    ]
    data = base64.b64encode(content.getvalue()).decode() if embed else None
    fields = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": path, "imageData": data}
    return {**fields, "imageHeight": SIZE[1], "imageWidth": SIZE[0]}


def labelme(root: Path) -> dict[str, Any]:
    """labelme's files beside the images, in a folder for each split; corners in the order of the mouse."""
    for split, images in TRUTH.items():
        for stem, objects in images.items():
            picture(root / f"{split}/{stem}.jpg", stem)
            put(root / f"{split}/{stem}.json", json.dumps(labelme_fields(stem, objects, f"{stem}.jpg"), indent=2))
    return TRUTH


def labelme_apart(root: Path) -> dict[str, Any]:
    """The files in a folder of their own, with paths of Windows."""
    for stem, objects in TOGETHER[""].items():
        picture(root / f"pictures/{stem}.jpg", stem)
        put(root / f"labels/{stem}.json", json.dumps(labelme_fields(stem, objects, f"..\\pictures\\{stem}.jpg")))
    put(root / "labels.txt", "__ignore__\n_background_\ncat\ndog\n")
    return TOGETHER


def labelme_inside(root: Path) -> dict[str, Any]:
    """The images only inside of the files; keys sorted, so that the image comes first."""
    for stem, objects in TOGETHER[""].items():
        fields = labelme_fields(stem, objects, f"C:\\Users\\me\\{stem}.jpg", embed=True)
        put(root / f"{stem}.json", json.dumps(fields, sort_keys=True))
    return TOGETHER


# --- VGG Image Annotator ------------------------------------------------------------------------------


def via_images(images: Any, *, numbered: bool = False) -> dict[str, Any]:
    entries = {}
    for stem, objects in images.items():
        regions = [
            {
                "shape_attributes": {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1},
                "region_attributes": {"animal": kind},
            }
            for kind, x1, y1, x2, y2 in objects
        ]
        listed = {str(index): region for index, region in enumerate(regions)} if numbered else regions
        entries[f"{stem}.jpg1234"] = {
            "filename": f"{stem}.jpg",
            "size": 1234,
            "regions": listed,
            "file_attributes": {"caption": ""},
        }
    return entries


def via_split(root: Path, make: Callable[[Any], tuple[str, str]]) -> dict[str, Any]:
    for split, images in TRUTH.items():
        for stem in images:
            picture(root / f"{split}/{stem}.jpg", stem)
        name, text = make(images)
        put(root / f"{split}/{name}", text)
    return TRUTH


def via(root: Path) -> dict[str, Any]:
    """Annotations of version 2 beside the images of each split."""
    return via_split(root, lambda images: ("via_region_data.json", json.dumps(via_images(images))))


def via_1(root: Path) -> dict[str, Any]:
    """Annotations of version 1, whose regions are numbered."""
    return via_split(root, lambda images: ("via_region_data.json", json.dumps(via_images(images, numbered=True))))


def via_project(root: Path) -> dict[str, Any]:
    """A project of version 2 with its images in another folder."""
    for stem in TOGETHER[""]:
        picture(root / f"pictures/{stem}.jpg", stem)
    options = {"type": "dropdown", "options": {"cat": "", "dog": ""}, "default_options": {}}
    project = {
        "_via_settings": {"core": {"default_filepath": "./pictures/"}, "project": {"name": "pets"}},
        "_via_img_metadata": via_images(TOGETHER[""]),
        "_via_attributes": {"region": {"animal": options}, "file": {}},
    }
    put(root / "pets.json", json.dumps(project))
    return TOGETHER


def via_3(root: Path) -> dict[str, Any]:
    """A project of version 3: files, views, and what is told of them."""
    files, views, told = {}, {}, {}
    for number, (stem, objects) in enumerate(TOGETHER[""].items(), start=1):
        picture(root / f"{stem}.jpg", stem)
        key = str(number)
        files[key] = {"fid": key, "fname": f"{stem}.jpg", "type": 2, "loc": 1, "src": f"{stem}.jpg"}
        views[key] = {"fid_list": [key]}
        for place, (kind, x1, y1, x2, y2) in enumerate(objects):
            av = {"1": str(CLASSES.index(kind))}
            told[f"{number}_{place}"] = {"vid": key, "flg": 0, "z": [], "xy": [2, x1, y1, x2 - x1, y2 - y1], "av": av}
    options = {"0": "cat", "1": "dog"}
    attribute = {"1": {"aname": "animal", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": options}}
    parts = {"attribute": attribute, "file": files, "metadata": told, "view": views}
    put(root / "pets.json", json.dumps({"project": {"pid": "1", "pname": "pets"}, "config": {}, **parts}))
    return TOGETHER


def via_csv(root: Path, mark: str = "") -> dict[str, Any]:
    """The table of version 2."""

    def quoted(value: Any) -> str:
        return '"' + json.dumps(value, separators=(",", ":")).replace('"', '""') + '"'

    columns = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    rows = [mark + columns]
    for entry in via_images(TOGETHER[""]).values():
        picture(root / entry["filename"], entry["filename"][:-4])
        start = f'{entry["filename"]},1234,"{{}}",{len(entry["regions"])}'
        for number, region in enumerate(entry["regions"]):
            shape, values = quoted(region["shape_attributes"]), quoted(region["region_attributes"])
            rows.append(f"{start},{number},{shape},{values}")
        if not entry["regions"]:
            rows.append(f'{start},0,"{{}}","{{}}"')
    put(root / "via_region_data.csv", "\n".join(rows))
    return TOGETHER


def via_csv_1(root: Path) -> dict[str, Any]:
    """The table of version 1, whose header is a comment."""
    return via_csv(root, "#")


# --- Label Studio -------------------------------------------------------------------------------------


def labelstudio_values(objects: Any) -> list[dict[str, Any]]:
    return [
        {
            "x": 100 * x1 / SIZE[0],
            "y": 100 * y1 / SIZE[1],
            "width": 100 * (x2 - x1) / SIZE[0],
            "height": 100 * (y2 - y1) / SIZE[1],
            "rotation": 0,
            "rectanglelabels": [kind],
        }
        for kind, x1, y1, x2, y2 in objects
    ]


def labelstudio_task(number: int, image: str, objects: Any, **fields: Any) -> dict[str, Any]:
    told = {"original_width": SIZE[0], "original_height": SIZE[1], "image_rotation": 0}
    results = [
        {"id": f"r{place}", "type": "rectanglelabels", "from_name": "l", "to_name": "i", **told, "value": value}
        for place, value in enumerate(labelstudio_values(objects))
    ]
    answer = {"id": 7, "completed_by": 1, "result": results, "was_cancelled": False, "ground_truth": False, **fields}
    return {"id": number, "annotations": [answer], "predictions": [], "data": {"image": image}, "project": 1}


def labelstudio(root: Path) -> dict[str, Any]:
    """The JSON export of a project whose images were uploaded: their names have a hash before them."""
    tasks = []
    for number, (stem, objects) in enumerate(TOGETHER[""].items(), start=1):
        picture(root / f"pictures/{stem}.jpg", stem)
        written = f"/data/upload/1/0a1b2c3d-{stem.replace(' ', '%20')}.jpg"
        tasks.append(labelstudio_task(number, written, objects))
    put(root / "project-1-at-2026-11-30.json", json.dumps(tasks))
    return TOGETHER


def labelstudio_local(root: Path) -> dict[str, Any]:
    """Local files, in an export for each split."""
    for split, images in TRUTH.items():
        tasks = []
        for number, (stem, objects) in enumerate(images.items(), start=1):
            picture(root / f"pets/{split}/{stem}.jpg", stem)
            written = f"/data/local-files/?d=mnt/pets/{split}/{stem.replace(' ', '%20')}.jpg"
            tasks.append(labelstudio_task(number, written, objects))
        put(root / f"{split}.json", json.dumps(tasks))
    return TRUTH


def labelstudio_min(root: Path) -> dict[str, Any]:
    """JSON-MIN: of an image without objects the field is missing, so it stands for nobody's answer."""
    rows = []
    for number, (stem, objects) in enumerate(TOGETHER[""].items(), start=1):
        picture(root / f"{stem}.jpg", stem)
        told = {"original_width": SIZE[0], "original_height": SIZE[1]}
        label = {"label": [{**value, **told} for value in labelstudio_values(objects)]} if objects else {}
        image = f"s3://bucket/pets/{stem.replace(' ', '%20')}.jpg"
        rows.append({"image": image, "id": number, **label, "annotator": 1, "annotation_id": number})
    put(root / "result.json", json.dumps(rows))
    return TOGETHER


# --- COCO as tools export it -------------------------------------------------------------------------


def coco_content(names: dict[str, Any], categories: list[dict[str, Any]], first: int) -> dict[str, Any]:
    images, annotations = [], []
    for number, (name, objects) in enumerate(names.items()):
        images.append({"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        for kind, x1, y1, x2, y2 in objects:
            box = [x1, y1, x2 - x1, y2 - y1]
            row = {"id": len(annotations), "image_id": number, "category_id": CLASSES.index(kind) + first, "bbox": box}
            annotations.append({**row, "area": box[2] * box[3], "iscrowd": 0, "segmentation": []})
    return {"info": {}, "images": images, "categories": categories, "annotations": annotations}


def labelstudio_coco(root: Path) -> dict[str, Any]:
    """Label Studio's COCO export, made on Windows: ids from 0, images in a folder beside result.json."""
    names = {stem: objects for stem, objects in TOGETHER[""].items() if objects}  # it leaves the others out
    for stem in names:
        picture(root / f"images/0a1b2c3d-{stem}.jpg", stem)
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    written = {f"images\\0a1b2c3d-{stem}.jpg": objects for stem, objects in names.items()}
    put(root / "result.json", json.dumps(coco_content(written, categories, 0)))
    return {"result": {f"0a1b2c3d-{stem}": objects for stem, objects in names.items()}}


def roboflow_coco(root: Path) -> dict[str, Any]:
    """Roboflow's COCO: a file in the folder of each split, and a category above the others."""
    above = {"id": 0, "name": "pets", "supercategory": "none"}
    below = [{"id": n, "name": name, "supercategory": "pets"} for n, name in enumerate(CLASSES, start=1)]
    expected = {}
    for split, images in TRUTH.items():
        folder = {"val": "valid"}.get(split, split)
        expected[folder] = {f"{stem}_jpg.rf.0a1b": objects for stem, objects in images.items()}
        for stem in images:
            picture(root / f"{folder}/{stem}_jpg.rf.0a1b.jpg", stem)
        written = {f"{name}.jpg": objects for name, objects in expected[folder].items()}
        put(root / f"{folder}/_annotations.coco.json", json.dumps(coco_content(written, [above, *below], 1)))
    return expected


# --- Supervisely --------------------------------------------------------------------------------------


def supervisely(root: Path) -> dict[str, Any]:
    """A project: corners are pixels, both inside."""
    classes = [{"title": name, "shape": "rectangle", "color": "#FF0000", "id": n} for n, name in enumerate(CLASSES)]
    put(root / "meta.json", json.dumps({"classes": classes, "tags": [], "projectType": "images"}))
    for split, images in TRUTH.items():
        for stem, objects in images.items():
            picture(root / f"{split}/img/{stem}.jpg", stem)
            entries = [
                {
                    "classTitle": kind,
                    "geometryType": "rectangle",
                    "tags": [],
                    "points": {"exterior": [[x1, y1], [x2 - 1, y2 - 1]], "interior": []},
                }
                for kind, x1, y1, x2, y2 in objects
            ]
            size = {"height": SIZE[1], "width": SIZE[0]}
            fields = {"description": "", "tags": [], "size": size, "objects": entries}
            put(root / f"{split}/ann/{stem}.jpg.json", json.dumps(fields))
    return TRUTH


def supervisely_mask(x: int, y: int, width: int, height: int) -> dict[str, Any]:
    """Return a mask as Supervisely packs it."""
    content = io.BytesIO()
    Pillow.new("1", (width, height), 1).save(content, "PNG")
    return {"data": base64.b64encode(zlib.compress(content.getvalue())).decode(), "origin": [x, y]}


TOOLS: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    function.__name__: (form, function)
    for form, functions in {
        "labelme": (labelme, labelme_apart, labelme_inside),
        "via": (via, via_1, via_project, via_3, via_csv, via_csv_1),
        "labelstudio": (labelstudio, labelstudio_local, labelstudio_min),
        "supervisely": (supervisely,),
        "coco": (labelstudio_coco, roboflow_coco),
    }.items()
    for function in functions
}
LAYOUTS = {**{name: ("yolo", write) for name, write in YOLO.items()}, **TOOLS}
"""Name → its format, and what writes it and returns split → image → objects."""


def exif_behind(png: bytes, exif: bytes) -> bytes:
    """Return a PNG file with EXIF behind its pixels, where ExifTool writes it."""
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    end = png.rindex(b"IEND") - 4
    return png[:end] + chunk + png[end:]
