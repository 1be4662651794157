"""Writing small datasets as tools and people write them, with pictures that show what is right: see ``cases``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog")
COLOURS = np.array([(232, 40, 40), (40, 60, 230)], np.uint8)
WIDTH, HEIGHT = 160, 120


@dataclass(frozen=True)
class Scene:
    """One picture."""

    name: str
    split: str
    boxes: tuple[tuple[int, int, int, int, int], ...]
    """Class, x1 y1 x2 y2 in whole pixels."""

    def image(self) -> Image.Image:
        """Return the picture: rectangles on noise."""
        random = np.random.default_rng(sum(map(ord, self.name)))
        pixels = random.integers(70, 150, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        for label, x1, y1, x2, y2 in self.boxes:
            pixels[y1:y2, x1:x2] = COLOURS[label]
        return Image.fromarray(pixels)


def scenes() -> list[Scene]:
    """Return nine pictures, six of them to train on, with rectangles that do not touch."""
    random = np.random.default_rng(7)
    found = []
    for number in range(9):
        boxes = []
        for cell, (left, top) in enumerate([(4, 4), (84, 4), (4, 64), (84, 64)]):
            if cell < 3:
                x1, y1 = left + int(random.integers(0, 20)), top + int(random.integers(0, 10))
                x2, y2 = x1 + int(random.integers(22, 50)), y1 + int(random.integers(20, 40))
                boxes.append((int((number + cell) % 2), x1, y1, x2, y2))
        found.append(Scene(f"p{number}", "train" if number < 6 else "val", tuple(boxes)))
    return found


def saved(scene: Scene, file: Path, mode: str = "RGB", turn: int = 0, **options: Any) -> None:
    """Write a picture; ``turn`` is an EXIF orientation, and the stored pixels are such that it undoes them."""
    image = scene.image()
    if turn:
        flip = Image.Transpose
        stored = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}[turn]
        for operation in stored:
            image = image.transpose(flip(operation))
        exif = Image.Exif()
        exif[0x0112] = turn
        options["exif"] = exif
    image = image if mode == "RGB" else image.convert(mode)
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, **({"quality": 95} if file.suffix.lower() in {".jpg", ".jpeg", ".jfif"} else {}), **options)


def coco(
    folder: Path,
    *,
    change: Callable[[dict[str, Any]], None] = lambda _: None,
    stored: Callable[[str], str] = lambda name: name,
    listed: Callable[[str, str], str] = lambda _, name: name,
    end: str = ".jpg",
    turn: int = 0,
) -> None:
    """Write COCO's layout; ``stored`` and ``listed`` change names on disk and in the file, ``change`` the content."""
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        content: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        }
        for number, scene in enumerate((s for s in scenes() if s.split == split), start=1):
            saved(scene, folder / split / stored(scene.name + end), turn=turn)
            name = listed(split, scene.name + end)
            content["images"].append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
            for label, x1, y1, x2, y2 in scene.boxes:
                box = [x1, y1, x2 - x1, y2 - y1]
                corners = [x1, y1, x2, y1, x2, y2, x1, y2]
                row = {"image_id": number, "category_id": label + 1, "bbox": box, "segmentation": [corners]}
                row |= {"id": len(content["annotations"]) + 1, "area": box[2] * box[3], "iscrowd": 0}
                content["annotations"].append(row)
        change(content)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content, ensure_ascii=False))


def each(part: str, **changes: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    """Return a change of fields of every entry of a part."""

    def change(content: dict[str, Any]) -> None:
        for row in content[part]:
            row.update({key: made(row) for key, made in changes.items()})

    return change


def both(*changes: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Return several changes as one."""

    def change(content: dict[str, Any]) -> None:
        for one in changes:
            one(content)

    return change


def run_lengths(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a box as COCO's uncompressed run lengths, column by column."""
    x, y, w, h = row["bbox"]
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"counts": counts, "size": [HEIGHT, WIDTH]}


def without_boxes(content: dict[str, Any]) -> None:
    """Leave the outline alone."""
    for row in content["annotations"]:
        del row["bbox"]


def line(label: int, box: tuple[int, ...]) -> str:
    """Return YOLO's line of one box."""
    x1, y1, x2, y2 = box
    shares = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
    return " ".join([str(label), *(f"{share:.6f}" for share in shares)])


def outline(label: int, box: tuple[int, ...]) -> str:
    """Return YOLO's line of one box as a polygon of five points."""
    x1, y1, x2, y2 = box
    points = [(x1, y1), ((x1 + x2) / 2, y1), (x2, y1), (x2, y2), (x1, y2)]
    return " ".join([str(label), *(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in points)])


def yolo(
    folder: Path,
    *,
    written: Callable[[int, tuple[int, ...]], str] = line,
    ending: str = "\n",
    start: str = "",
    end: str = ".jpg",
    mode: str = "RGB",
    turn: int = 0,
    layout: str = "images/{split}",
    fields: Callable[[Path], str] | None = None,
    stored: Callable[[str], str] = lambda name: name,
    **options: Any,
) -> None:
    """Write YOLO's layout."""
    for scene in scenes():
        place = folder / layout.format(split=scene.split) / stored(scene.name + end)
        saved(scene, place, mode, turn, **options)
        label = Path(*("labels" if part == "images" else part for part in place.parts)).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        text = start + ending.join(written(one[0], one[1:]) for one in scene.boxes) + ending
        label.write_bytes(text.encode())
    told = "train: images/train\nval: images/val\nnc: 2\nnames: [cat, dog]\n" if fields is None else fields(folder)
    if told:
        (folder / "data.yaml").write_text(told)


def voc(
    folder: Path,
    *,
    box: Callable[[tuple[int, ...]], tuple[Any, ...]] = lambda box: (box[0] + 1, box[1] + 1, box[2], box[3]),
    encoding: str = "utf-8",
    named: Callable[[str], str] = lambda name: name + ".jpg",
    stored: Callable[[str], str] = lambda name: name,
    sized: bool = True,
    turn: int = 0,
    told: tuple[int, int] = (WIDTH, HEIGHT),
    listed: Callable[[str], str] = lambda name: name,
) -> None:
    """Write Pascal VOC's layout."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for scene in scenes():
        name = stored(scene.name)
        saved(scene, folder / "JPEGImages" / f"{name}.jpg", turn=turn)
        objects = "".join(
            f"<object><name>{CLASSES[one[0]]}</name><bndbox>"
            + "".join(f"<{c}>{v}</{c}>" for c, v in zip(("xmin", "ymin", "xmax", "ymax"), box(one[1:]), strict=True))
            + "</bndbox></object>"
            for one in scene.boxes
        )
        size = f"<size><width>{told[0]}</width><height>{told[1]}</height><depth>3</depth></size>" if sized else ""
        body = f"<annotation><filename>{named(name)}</filename>{size}{objects}</annotation>"
        text = f'<?xml version="1.0" encoding="{encoding}"?>\n{body}'
        file = folder / "Annotations" / f"{name}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode(encoding))
    for split in ("train", "val"):
        ids = [listed(stored(scene.name)) for scene in scenes() if scene.split == split]
        (folder / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids))


def labelme(folder: Path, *, shape: str = "rectangle", path: str = "{}") -> None:
    """Write labelme's JSON beside each picture, in a folder for each split."""
    for scene in scenes():
        saved(scene, folder / scene.split / f"{scene.name}.jpg")
        shapes = []
        for label, x1, y1, x2, y2 in scene.boxes:
            points = [[x1, y1], [x2, y2]] if shape == "rectangle" else [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
            more = {"group_id": None, "shape_type": shape, "flags": {}}
            shapes.append({"label": CLASSES[label], "points": [[float(v) for v in p] for p in points], **more})
        told = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imageData": None}
        told |= {"imagePath": path.format(f"{scene.name}.jpg"), "imageHeight": HEIGHT, "imageWidth": WIDTH}
        (folder / scene.split / f"{scene.name}.json").write_text(json.dumps(told))


def via(folder: Path, *, form: str = "json") -> None:
    """Write VGG Image Annotator's export, JSON or CSV, beside the pictures."""
    rows, content = [], {}
    for scene in scenes():
        file = folder / f"{scene.name}.jpg"
        saved(scene, file)
        size = file.stat().st_size
        regions = [
            {
                "shape_attributes": {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1},
                "region_attributes": {"type": CLASSES[label]},
            }
            for label, x1, y1, x2, y2 in scene.boxes
        ]
        entry = {"filename": file.name, "size": size, "regions": regions, "file_attributes": {}}
        content[f"{file.name}{size}"] = entry
        for number, region in enumerate(regions):
            quoted = [json.dumps(region[key]).replace('"', '""') for key in ("shape_attributes", "region_attributes")]
            rows.append(f'{file.name},{size},"{{}}",{len(regions)},{number},"{quoted[0]}","{quoted[1]}"')
    if form == "json":
        (folder / "via_region_data.json").write_text(json.dumps(content))
    else:
        head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
        (folder / "via_region_data.csv").write_text("\n".join([head, *rows]) + "\n")
