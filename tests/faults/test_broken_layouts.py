"""Labelling tools' files with damage: each is read, or refused with clear lines; checking and training agree."""

from __future__ import annotations

import json
import random

import pytest

from paretune.core.errors import UserError
from paretune.data import DATASETS
from paretune.data.checks.report import check_survey
from tests_support_damage import EVIL, TEXT
from tests_support_data import survey_of_folder
from tests_support_layouts import LAYOUTS, via_images

ANNOTATIONS = (".json", ".csv", ".txt", ".names", ".data", ".yaml", ".labels")
SEEDS = 6


def opened(form, root):
    """Open for training; returns the refusal, or None."""
    try:
        DATASETS.load(form).model_validate({"root": str(root), "val_share": 0.5}).open(root)
    except UserError as error:
        return str(error)
    return None


def checked(form, root):
    """Check; returns whether something hinders training, or the refusal."""
    try:
        return check_survey(survey_of_folder(root, form)).hinders
    except UserError as error:
        return str(error)


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("damage", TEXT)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_damage_is_read_or_refused_by_check_and_training_alike(tmp_path, layout, damage):
    form, write = LAYOUTS[layout]
    write(tmp_path / "data")
    files = sorted(path for path in (tmp_path / "data").rglob("*") if path.suffix in ANNOTATIONS)
    for seed in range(SEEDS):
        chance = random.Random(f"{layout} {damage.__name__} {seed}")
        file = chance.choice(files)
        good = file.read_bytes()
        if not good:
            continue
        file.write_bytes(damage(chance, good))
        hinders, refused = checked(form, tmp_path / "data"), opened(form, tmp_path / "data")
        if not hinders:  # what nothing hinders is trained on, but for splits and classes that damage has emptied
            assert refused is None or "no objects" in refused or "split" in refused, (file, file.read_bytes(), refused)
        file.write_bytes(good)
    assert (checked(form, tmp_path / "data"), opened(form, tmp_path / "data")) == (False, None)


def places(value, path=()):
    """Give the place of every value in a JSON tree."""
    yield path
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*path, key))


WRONG = [None, True, [], {}, "", -1, 1e308, float("nan"), [None], {"a": None}, "x" * 300, *EVIL[:6]]
TREES = ["labelme", "via", "via_1", "via_project", "via_3", "labelstudio", "labelstudio_min", "supervisely"]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("layout", TREES)
def test_any_value_of_a_tree_may_be_anything(tmp_path, layout):
    form, write = LAYOUTS[layout]
    write(tmp_path / "data")
    files = sorted((tmp_path / "data").rglob("*.json"))
    chance = random.Random(layout)
    for _ in range(60):
        file = chance.choice(files)
        good = file.read_bytes()
        tree = json.loads(good)
        where = chance.choice(list(places(tree))[1:])
        part = tree
        for key in where[:-1]:
            part = part[key]
        part[where[-1]] = chance.choice(WRONG)
        file.write_text(json.dumps(tree))
        hinders, refused = checked(form, tmp_path / "data"), opened(form, tmp_path / "data")
        if not hinders:
            assert refused is None or "no objects" in refused or "split" in refused, (where, part, refused)
        file.write_bytes(good)


def test_names_that_no_file_can_have(tmp_path):
    names = [
        "a\0b.jpg",
        "x" * 5000 + ".jpg",
        "../../etc/passwd",
        "",
        "https://[::1/a.jpg",
        "data:image/png;base64,AA==",
    ]
    entries = via_images({str(number): [("cat", 1, 2, 30, 40)] for number in range(len(names))})
    for entry, name in zip(entries.values(), names, strict=True):
        entry["filename"] = name
    (tmp_path / "via.json").write_text(json.dumps(entries))
    report = check_survey(survey_of_folder(tmp_path))
    assert {finding.kind for finding in report.findings} <= {"missing-image", "unreadable-image", "duplicate-id"}
    assert len([finding for finding in report.findings if finding.hinders]) == len(names)
