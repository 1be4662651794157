"""Broken artefacts: one clear line for each, whoever reads them; nothing outside their folder is touched."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paretune.cli.main import main
from paretune.compression.factorize.step import Factorize
from paretune.core.errors import UserError
from paretune.core.target import Target
from paretune.detectors.yolox.detector import Yolo
from paretune.runtimes import RUNTIMES
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.predictor import load_predictor
from paretune.storage.artefact import MANIFEST, STRUCTURE, WEIGHTS, read_artefact
from tests_support_compression import CLASSES, context, model
from tests_support_damage import CASES, TEXT, flip, truncate

DETECTOR = Yolo(width=0.125, depthwise=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact whose structure holds chains."""
    place = tmp_path_factory.mktemp("artefacts")
    found = Factorize(rank=0.25).apply(model(DETECTOR), context(place / "work", DETECTOR))
    runtime = RUNTIMES.load("eager")()
    made = write_artefact(place / "whole", found, detector=DETECTOR, runtime=runtime, recipe_tree={}, classes=CLASSES)
    return made.folder


@pytest.fixture
def artefact(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "artefact"))


def edited(folder: Path, change: Callable[[dict[str, Any]], Any], *, sealed: bool = True) -> None:
    """Change a manifest; with its seal made anew, as somebody would who means harm."""
    path = folder / MANIFEST
    body = json.loads(path.read_text())
    change(body)
    if sealed:
        body["manifest_sha256"] = seal(body)
    path.write_text(json.dumps(body))


def seal(body: dict[str, Any]) -> str:
    rest = {key: body[key] for key in body if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def refusal(folder: Path) -> str:
    """What loading says; one line that names the folder or a file in it."""
    with pytest.raises(UserError) as told:
        load_predictor(folder, Target())
    said = str(told.value)
    assert len(said.splitlines()) == 1
    assert said.startswith(str(folder))
    assert said.isprintable()
    return said


@pytest.mark.parametrize("damage", [truncate, flip])
@pytest.mark.parametrize("name", [WEIGHTS, STRUCTURE])
def test_damage_to_a_file_is_told_with_its_name(artefact: Path, name: str, damage: Callable[..., bytes]) -> None:
    good = (artefact / name).read_bytes()
    for seed in range(CASES):
        bad = damage(random.Random(seed), good)
        (artefact / name).write_bytes(bad)
        if bad != good:
            assert f"{name}: damaged or missing" in refusal(artefact)


@pytest.mark.slow
@pytest.mark.parametrize("damage", TEXT)
def test_damage_to_the_manifest_is_told(artefact: Path, damage: Callable[..., bytes]) -> None:
    """What leaves every value as it was, such as a space more, does no harm."""
    path, whole = artefact / MANIFEST, read_artefact(artefact)
    good, refused = path.read_bytes(), []
    for seed in range(10 * CASES):
        path.write_bytes(damage(random.Random(f"{damage.__name__} {seed}"), good))
        try:
            assert read_artefact(artefact) == whole
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 5 * CASES
    assert all(len(said.splitlines()) == 1 and said.startswith(str(artefact)) for said in refused)


def test_every_bit_of_the_manifest_counts(artefact: Path) -> None:
    path, whole = artefact / MANIFEST, read_artefact(artefact)
    good, refused = path.read_bytes(), []
    for place in range(0, len(good), 7):
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        path.write_bytes(bad)
        try:
            assert read_artefact(artefact) == whole
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > len(good) // 14
    assert all(said.startswith(str(artefact)) for said in refused)


def test_an_edited_manifest_is_told(artefact: Path) -> None:
    edited(artefact, lambda body: body["thresholds"].update(score=0.9), sealed=False)
    assert "artefact.json: damaged or edited" in refusal(artefact)


LATER = ("preprocessing", "seed", "device", "network")
"""Keys that the first manifests lack."""


def test_an_artefact_from_before_the_seal_is_read(artefact: Path) -> None:
    edited(artefact, lambda body: [body.pop(key) for key in LATER])
    assert load_predictor(artefact, Target()).preprocessing == DETECTOR.preprocess
    edited(artefact, lambda body: (body.update(paretune_artefact=1), body.pop("manifest_sha256")), sealed=False)
    assert read_artefact(artefact).classes == CLASSES


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "newer": (lambda body: body.update(paretune_artefact=3), "artefact version 3; this Paretune reads 1 and 2"),
    "no version": (lambda body: body.pop("paretune_artefact"), "not a readable manifest"),
    "no files": (lambda body: body.update(files={}), "tells of no files"),
    "files in a list": (lambda body: body.update(files=[WEIGHTS]), "not a readable manifest"),
    "no input size": (lambda body: body.update(input_size="wide"), "not a readable manifest"),
    "thresholds": (lambda body: body.update(thresholds={"sharp": 1}), "not a readable manifest"),
    "shrinking": (
        lambda body: body["preprocessing"].update(shrinking="by area"),
        "preprocesses images as this Paretune",
    ),
    "resizing": (lambda body: body["preprocessing"].update(resize="crop"), "preprocesses images as this Paretune"),
    "more of it": (
        lambda body: body["preprocessing"].update(blur=2),
        "(a newer one made it): blur is told and unknown",
    ),
    "less of it": (lambda body: body["preprocessing"].pop("std"), "std is not told"),
    "a list of it": (lambda body: body.update(preprocessing=[1]), "preprocesses images as this Paretune"),
    "unknown runtime": (lambda body: body.update(runtime={"tensorflow": {}}), "runtime: unknown runtime 'tensorflow'"),
    "runtime's field": (lambda body: body.update(runtime={"eager": {"speed": 9}}), "runtime: eager.speed: Extra"),
    "two runtimes": (lambda body: body.update(runtime={"eager": {}, "openvino": {}}), "runtime: expected one runtime"),
    "unknown detector": (lambda body: body.update(detector={"yola": {}}), "detector: unknown detector 'yola'"),
    "another detector": (lambda body: body.update(detector={"yolo": {}}), "not a network of detector"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_manifest_that_is_wrong_is_refused(artefact: Path, name: str) -> None:
    change, said = WRONG[name]
    edited(artefact, change)
    assert said in refusal(artefact)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", ".", "", "a/../../secret", "w\0eights", "sub/file"])
def test_names_that_lead_out_of_the_folder_are_refused(artefact: Path, name: str) -> None:
    (artefact.parent / "secret").write_text("secret")
    edited(artefact, lambda body: body["files"].update({name: {"bytes": 6, "sha256": "0"}}))
    with pytest.raises(UserError) as told:
        read_artefact(artefact)
    assert "is no name of a file beside it" in str(told.value)


def test_a_runtime_that_is_not_installed_is_told(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RUNTIMES.load("eager"), "libraries", ("torch", "no_such_library"))
    assert "runs on eager, which needs no_such_library: not installed here" in refusal(artefact)


def test_another_version_of_the_structure_is_told(artefact: Path) -> None:
    """In an artefact the hash tells first; a training's folder has none."""
    path = artefact / STRUCTURE
    path.write_text(path.read_text().replace('"paretune_structure": 1', '"paretune_structure": 7'))
    resealed(artefact)
    assert "structure version 7; this Paretune reads 1" in refusal(artefact)


def resealed(folder: Path) -> None:
    """Make the hashes of a manifest anew, for files that have changed."""
    files = {name: (folder / name).read_bytes() for name in (WEIGHTS, STRUCTURE)}
    told = {name: {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()} for name, raw in files.items()}
    edited(folder, lambda body: body.update(files=told))


@pytest.mark.slow
@pytest.mark.parametrize("damage", TEXT)
def test_a_structure_with_damage_but_a_right_hash_is_refused_or_loads(artefact: Path, damage: Any) -> None:
    """A chain's fields are numbers that a file may say anything of; no case may end in another error."""
    path = artefact / STRUCTURE
    good, refused = path.read_bytes(), []
    for seed in range(CASES):
        path.write_bytes(damage(random.Random(f"{damage.__name__} {seed}"), good))
        resealed(artefact)
        try:
            load_predictor(artefact, Target())
        except UserError as error:
            refused.append(str(error))
    assert refused
    assert all(len(said.splitlines()) == 1 and len(said) < 1000 for said in refused)


def test_evaluate_tells_it_and_ends_with_2(artefact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (artefact / WEIGHTS).write_bytes((artefact / WEIGHTS).read_bytes()[:-9])
    assert main(["evaluate", str(artefact)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert f"{WEIGHTS}: damaged or missing" in said.err


STEPS = {
    "factorize: {rank: 0}": "rank",
    "factorize: {rank: 1.5}": "rank",
    "factorize: {energy: 2}": "energy",
    "factorize: {method: cp}": "method",
    "cluster: {bits: 1}": "bits",
    "cluster: {bits: 9}": "bits",
    "sparsify: {sparsity: 1}": "sparsity",
    "sparsify: {pattern: '1:4'}": "pattern",
    "sparsify: {pattern: '2:4', sparsity: 0.7}": "2:4 is a sparsity of 0.5, not 0.7",
    "prune: {ratio: 1}": "ratio",
}


@pytest.mark.parametrize("step", STEPS)
def test_check_tells_impossible_fields_with_their_line(
    step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(f"input_size: 64x48\nsteps:\n  - {step}\nruntime: eager\n")
    assert main(["check", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{file}:3: ")
    assert STEPS[step] in line
