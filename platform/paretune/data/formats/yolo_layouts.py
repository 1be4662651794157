"""Where YOLO's label files lie, and their images, lists and class names: the layouts of the tools that write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os.path import normpath
from pathlib import Path, PurePosixPath
from typing import Any

from paretune.core.yaml_document import read_yaml
from paretune.data.file_io import text_of
from paretune.data.formats.filenames import FileFinder, slashed
from paretune.data.formats.image_references import SPLITS, images_below
from paretune.data.image_io import SUFFIXES
from paretune.data.raw_annotations import Finding

NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt")
"""Files of one class name a line: labelImg's and Label Studio's, CVAT's, Roboflow's."""
_NO_LABELS = frozenset({*NAME_FILES, "predefined_classes.txt", *(f"{split}.txt" for split in SPLITS)})
"""Names of texts that are not the labels of an image."""
_LOOKED_AT = 200
"""Texts that are looked at to recognise a folder of labels."""


def data_file(root: Path) -> Path | None:
    """Return the YAML file that describes the folder, if there is one."""
    for file in [root / "data.yaml", root / "data.yml", *sorted(root.glob("*.y*ml"))]:
        if file.is_file() and b"names" in file.read_bytes()[:1_000_000]:
            return file
    return None


def darknet_file(root: Path) -> Path | None:
    """Return Darknet's description of the folder, obj.data (CVAT's YOLO 1.1 has it), if there is one."""
    return next((file for file in [root / "obj.data", *sorted(root.glob("*.data"))] if file.is_file()), None)


def description(root: Path) -> Path:
    """Return the file that describes a folder, the folder itself where none does."""
    return data_file(root) or darknet_file(root) or root


def is_yolo_folder(root: Path) -> bool:
    """Return whether a folder has any of the layouts."""
    if data_file(root) or darknet_file(root) or any(map(_texts, [*root.glob("labels"), *root.glob("*/labels")])):
        return True
    folders = [root, root / "images", *(root / split for split in SPLITS)]
    return any(_beside(folder) for folder in folders if folder.is_dir())


def _texts(folder: Path) -> bool:
    """Return whether a folder holds texts, or nothing at all: labels of another format are in other files."""
    if next(folder.rglob("*.txt"), None) is not None:
        return True
    return not any(path.is_file() for path in folder.rglob("*"))


def _beside(folder: Path) -> bool:
    """Return whether a folder holds images with labels of the same name beside them."""
    texts = [path for path in sorted(folder.glob("*.txt"))[:_LOOKED_AT] if not no_label(path)]
    stems = {path.stem for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}
    pairs = [path for path in texts if path.stem in stems]
    return bool(pairs) and all(_is_label(path) for path in pairs[:20])


def _is_label(path: Path) -> bool:
    """Return whether a text begins as a label does: with a number, or not at all."""
    words = path.read_bytes()[:200].split(maxsplit=2)
    return not words or words[0].removesuffix(b".0").isdigit()


def no_label(path: Path) -> bool:
    """Return whether a text's name is that of class names, a list or a readme, not of an image's labels."""
    return path.name.lower() in _NO_LABELS or path.name.lower().startswith("readme")


def label_of(image: Path) -> Path:
    """Return the path of an image's label: where one lies, else where it would be looked for first.

    ``images`` in its path becomes ``labels`` (Ultralytics), or it lies beside (Darknet, labelImg, Roboflow).
    """
    beside = image.with_suffix(".txt")
    parts = list(beside.parts)
    places = [index for index in range(len(parts) - 1) if parts[index].lower() in ("images", "jpegimages")]
    if not places:
        return beside
    parts[places[-1]] = "labels"
    apart = Path(*parts)
    return beside if beside.is_file() and not apart.is_file() else apart


def parts_of(
    root: Path, findings: list[Finding], file: Path | None = None
) -> tuple[dict[str, list[Path]], Mapping[str, Any]]:
    """Return the images of each split ("" where there are none), and the fields that describe them, as data.yaml's.

    Args:
        root: of the dataset.
        findings: what is wrong is added.
        file: the YAML file that describes it, where there are several.

    Raises:
        UserErrors: data.yaml is no YAML.
    """
    parts, fields = _described(root, findings, file)
    known = {path for files in parts.values() for path in files}
    more = [path for path in images_below(root) if path not in known and label_of(path).is_file()]
    message = f"it has labels, and lies outside of {_places(root, parts)}" if more else ""
    findings += [Finding("no-split", str(path), "", message) for path in more]
    return parts, fields


def _places(root: Path, parts: Mapping[str, Sequence[Path]]) -> str:
    """Return where the images lie that are read, for a message."""
    folders = {path.parent for files in parts.values() for path in files}
    names = sorted(str(path.relative_to(root)) if path.is_relative_to(root) else str(path) for path in folders)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _described(
    root: Path, findings: list[Finding], file: Path | None
) -> tuple[dict[str, list[Path]], Mapping[str, Any]]:
    if described := file or data_file(root):
        fields = read_yaml(described).data
        fields = fields if isinstance(fields, Mapping) else {}
        return _of_yaml(described, fields, findings) or _of_layout(root), fields
    if darknet := darknet_file(root):
        given = _fields(darknet)
        lists = {name.lower(): [place] for name, place in given.items() if place.lower().endswith(".txt")}
        parts = _listed(darknet, lists, [root], findings) or _of_layout(root)
        file = _resolved(given.get("names", ""), [root], is_file=True)
        names = names_in(file) if file else _names_beside(root, parts, findings)
        return parts, {"names": names, "nc": given.get("classes")}
    lists = {split: [f"{split}.txt"] for split in SPLITS if _is_list(root / f"{split}.txt")}
    parts = _listed(root, lists, [root], findings) if lists else _of_layout(root)
    return parts, {"names": _names_beside(root, parts, findings)}


def names_in(file: Path) -> list[str]:
    """Return the class names of a file with one on each line."""
    text = _text(file).rstrip()
    return [line.strip() for line in text.split("\n")[:100_000]] if text else []


def _text(file: Path) -> str:
    content = file.read_bytes()
    try:
        return text_of(content)
    except UnicodeDecodeError:  # names of classes and files in another code page: what is no ASCII in them is unknown
        return content.decode("utf-8-sig", errors="replace")


def _names_beside(root: Path, parts: Mapping[str, Sequence[Path]], findings: list[Finding]) -> list[str] | None:
    """Return the class names in files at the root, among the images or the labels; all such files must agree."""
    holding = dict.fromkeys(path.parent for files in parts.values() for path in files)
    folders = [root, root / "labels", *holding, *dict.fromkeys(label_of(folder / "a.jpg").parent for folder in holding)]
    names_by_file = {
        file: names_in(file) for folder in folders for name in NAME_FILES if (file := folder / name).is_file()
    }
    names_by_file = {file: names for file, names in names_by_file.items() if names}
    if not names_by_file:
        return None
    first = next(iter(names_by_file))
    for file, names in names_by_file.items():
        if names != names_by_file[first]:
            message = f"other classes than {first}: which number is which class is not known"
            findings.append(Finding("bad-list", str(file), "", message))
    return names_by_file[first]


def _fields(file: Path) -> dict[str, str]:
    """Return the fields of Darknet's description: ``name = value`` on each line."""
    lines = _text(file).splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line and not line.lstrip().startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _is_list(file: Path) -> bool:
    """Return whether a text lists images."""
    if not file.is_file():
        return False
    lines = _text(file).splitlines()[:20]
    endings = [PurePosixPath(slashed(line.strip())).suffix.lower() for line in lines if line.strip()]
    return bool(endings) and all(ending in SUFFIXES for ending in endings)


def _of_yaml(file: Path, fields: Mapping[str, Any], findings: list[Finding]) -> dict[str, list[Path]]:
    bases = [file.parent / str(fields.get("path") or ""), file.parent]
    if not bases[0].is_dir():
        message = f"no such folder: {fields['path']}; places are looked for in that of the file"
        findings.append(Finding("other-name", str(file), "path", message))
    places = {split: fields[split] for split in SPLITS if fields.get(split)}
    given = {split: list(place) if isinstance(place, list) else [place] for split, place in places.items()}
    return _listed(file, given, bases, findings)


def _listed(
    told_by: Path, given: Mapping[str, Sequence[Any]], bases: Sequence[Path], findings: list[Finding]
) -> dict[str, list[Path]]:
    """Return the images of each split that a description names, as folders or lists."""
    parts: dict[str, list[Path]] = {}
    for split, places in given.items():
        for place in places:
            there = _resolved(str(place), bases, split)
            if there is not None:
                if _is_absolute(str(place)) and str(there) != str(place):
                    message = f"there is no such place; {there} is taken for it"
                    findings.append(Finding("other-name", str(told_by), str(place), message))
                more = images_below(there) if there.is_dir() else _in_list(there, bases, findings)
                parts[split] = parts.get(split, []) + more
            elif split == "test":
                message = f"no such folder or list: {place}; what is asked of `test` will be refused"
                findings.append(Finding("missing-split", str(told_by), split, message))
            else:
                parts.setdefault(split, [])
                findings.append(Finding("bad-list", str(told_by), split, f"no such folder or list: {place}"))
    return parts


def _resolved(place: str, bases: Sequence[Path], split: str = "", *, is_file: bool = False) -> Path | None:
    """Return the folder or list that a description means; None where there is none.

    Some tools write ``../train/images`` in a file that lies beside ``train/``, or ``data/train.txt``, or the path on
    another machine: the end of the path counts then, of two parts at least or with the split's name in it.
    """
    there = Path.is_file if is_file else Path.exists
    if not place:
        return None
    for base in bases:
        if there(base / place):
            return Path(normpath(base / place))
    parts = [part for part in slashed(place).split("/") if part not in ("", ".", "..") and not part.endswith(":")]
    for start in range(len(parts)):
        end = parts[start:]
        sure = start == 0 or len(end) > 1 or split in end[0].lower() or is_file
        for base in bases:
            if sure and there(path := base.joinpath(*end)):
                return Path(normpath(path))
    return None


def _of_layout(root: Path) -> dict[str, list[Path]]:
    images = root / "images"
    for places in ({split: images / split for split in SPLITS}, {split: root / split / "images" for split in SPLITS}):
        if there := {split: place for split, place in places.items() if place.is_dir()}:
            return {split: images_below(place) for split, place in there.items()}
    if plain := {split: found for split in SPLITS if (found := images_below(root / split))}:
        return plain
    return {"": images_below(images if images.is_dir() else root)}


def _in_list(file: Path, bases: Sequence[Path], findings: list[Finding]) -> list[Path]:
    """Return the images of a list: each is relative to the list, or the end of its path to the list or the dataset."""
    finder = FileFinder()
    folders = list(dict.fromkeys([file.parent, *bases]))
    seen: dict[Path, int] = {}
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if not (written := line.strip()):
            continue
        where = f"line {number}"
        path = Path(normpath(_listed_image(written, folders, finder)))
        usual = (written, written.removeprefix("data/"))  # CVAT writes data/ before the paths of any folder
        if path.is_file() and path not in {Path(normpath(folder / form)) for folder in folders for form in usual}:
            findings.append(Finding("other-name", str(file), where, f"{written!r} is taken for {path}"))
        if path in seen:
            findings.append(Finding("duplicate-id", str(file), where, f"is on line {seen[path]} already"))
        seen.setdefault(path, number)
    return list(seen)


def _listed_image(written: str, folders: Sequence[Path], finder: FileFinder) -> Path:
    for folder in folders:
        if (path := folder / written).is_file():
            return path
    for look in (finder.find, finder.end_of):
        for folder in folders:
            if image := look(folder, written):
                return image
    return folders[0] / slashed(written)


def _is_absolute(place: str) -> bool:
    return place.startswith("/") or slashed(place)[1:3] == ":/"
