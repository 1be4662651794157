"""No verb dies of the encoding or width of its output: names of classes and files of any script are printed somehow."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from paretune.cli.main import build_parser, main
from paretune.config.plan import read_plan
from paretune.config.recipe import Recipe
from paretune.core.startup import any_output
from paretune.results.sweep_folder import new_sweep
from paretune.storage.trial_record import Record, write_record
from tests_support import ROOT
from tests_support_data import cases
from tests_support_records import complete
from tests_support_yolo import yolo_artefact

CLASSES = ("猫", "Hündchen")
PICTURE = "größe_猫"
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
PLACES = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "the C locale": C_LOCALE,
    "latin-1": {"PYTHONIOENCODING": "latin-1:strict"},
    "narrow and dumb": {"TERM": "dumb", "COLUMNS": "40"},
    "all": {**C_LOCALE, "PYTHONIOENCODING": "ascii", "TERM": "dumb", "COLUMNS": "40"},
}
JOB = """\
dataset: {yolo: {root: données}}
detector: {yolo: {variant: nano, depthwise: false, width: 0.0625}}
input_size: 64
training: {epochs: 1, batch_size: 2, threads: 1}
space: räume.yaml
tracking: {trainings: false}
output: läufe
"""
VERBS: dict[tuple[str, ...], int] = {
    ("check", "jöb.yaml"): 0,
    ("plugins",): 0,
    ("data", "check", "données"): 0,
    ("data", "convert", "données", "nach_é", "--to", "coco"): 0,
    ("data", "split", "données", "geteilt_é", "--val", "0.3"): 0,
    ("data", "annotate", "données/images/val", "beschriftet_é", "--to", "coco", "--with", "kunstwerk_é"): 0,
    ("data", "download", "vöc", "da_é"): 2,
    ("predict", "kunstwerk_é", f"données/images/val/{PICTURE}2.png", "--out", "gesehen_é"): 0,
    ("predict", "kunstwerk_é", f"données/images/val/{PICTURE}2.png", "--json"): 0,
    ("evaluate", "kunstwerk_é", "--data", "jöb.yaml", "--out", "bilder_é"): 0,
    ("evaluate", "--annotations", "wahr_é.json", "--detections", "gefunden_é.json"): 0,
    ("logs", "größe", "--address", "http://127.0.0.1:9"): 2,
    ("cluster", "check", "jöb.yaml", "--set", "output=/läufe", "--address", "http://127.0.0.1:9"): 2,
    ("stop", "größe", "--address", "http://127.0.0.1:9"): 2,
    ("front", "mine", "--runs", "läufe"): 0,
    ("watch", "mine", "--runs", "läufe", "--once"): 1,
    ("status", "läufe", "--address", "http://127.0.0.1:9"): 2,
    ("train", "jöb.yaml", "--name", "erste"): 0,
    ("sweep", "nirgends_é.yaml"): 2,
    ("resume", "é"): 2,
    ("optimize", "nirgends_é", "--step", "prune", "--runtime", "eager", "--out", "neu_é"): 2,
    ("profile", "nirgends_é"): 2,
    ("advise", "nirgends_é"): 2,
    ("submit", "nirgends_é.yaml", "--address", "http://127.0.0.1:9"): 2,
    ("ui", "--runs", "nirgends_é"): 2,
    ("sync", "mine", "--runs", "läufe"): 0,
    ("mlflow", "rebuild", "nirgends_é"): 2,
    ("promote", "nirgends_é"): 2,
    ("confirm", "nirgends_é"): 2,
    ("store", "list", "--runs", "läufe"): 0,
    ("pick", "nirgends_é", "--out", "gewählt_é"): 2,
    ("list", "--runs", "läufe"): 0,
    ("show", "mine", "1", "--runs", "läufe"): 0,
    ("compare", "mine", "0", "1", "--runs", "läufe"): 0,
    ("completion", "bash"): 0,
    ("doctor", "--help"): 0,  # itself it runs every runtime, for minutes
    ("export", "kunstwerk_é", "--out", "bündel_é"): 0,
}
"""Command → its exit code."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a job, an artefact, results and a sweep, all of them with names of other scripts."""
    place = tmp_path_factory.mktemp("é")
    data = place / "données"
    for number, split in enumerate(["train", "train", "val", "val"]):
        for kind in ("images", "labels"):
            (data / kind / split).mkdir(parents=True, exist_ok=True)
        picture = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        _, content = cv2.imencode(".png", picture)
        (data / "images" / split / f"{PICTURE}{number}.png").write_bytes(content.tobytes())
        (data / "labels" / split / f"{PICTURE}{number}.txt").write_text(f"{number % 2} 0.4 0.5 0.5 0.3\n")
    names = ", ".join(CLASSES)
    text = f"path: .\ntrain: images/train\nval: images/val\nnames: [{names}]\n"
    (data / "data.yaml").write_text(text, encoding="utf-8")
    (place / "jöb.yaml").write_text(JOB, encoding="utf-8")
    (place / "räume.yaml").write_text("{input_size: 64, steps: [], runtime: eager}")
    yolo_artefact(place / "kunstwerk_é", CLASSES)
    recipe = Recipe.model_validate({"input_size": "64", "runtime": "eager"})
    row = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}
    truth = {
        "images": [{"id": 1, "file_name": f"{PICTURE}.png"}],
        "categories": [{"id": 1 + index, "name": name} for index, name in enumerate(CLASSES)],
        "annotations": [{**row, "id": 1}],
    }
    (place / "wahr_é.json").write_text(json.dumps(truth, ensure_ascii=False), encoding="utf-8")
    named = [{**row, "image_id": PICTURE, "score": 90}]
    (place / "gefunden_é.json").write_text(json.dumps(named, ensure_ascii=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        sweep = new_sweep(read_plan(Path("jöb.yaml")), "mine")
        write_record(sweep.folder, complete(0, recipe.tree(), 0.5, 9.0))
        write_record(sweep.folder, Record.failed(1, recipe.tree(), {}, "baseline", f"{PICTURE}: weg → fort"))
    return place


def run(place: Path, words: tuple[str, ...], around: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """Run a command as a shell does, somewhere else for each environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    environment = {**kept, "PYTHONPATH": str(ROOT / "platform"), **around}
    command = [sys.executable, "-m", "paretune", *words]
    return subprocess.run(command, capture_output=True, cwd=place, env=environment, check=False)


def test_every_verb_is_among_them() -> None:
    (verbs,) = (action for action in build_parser()._actions if getattr(action, "choices", None))
    assert {words[0] for words in VERBS} == set(verbs.choices)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_no_verb_dies_where_all_is_against_it(words: tuple[str, ...], place: Path) -> None:
    done = run(place, words, PLACES["all"])
    said = (done.stdout + done.stderr).decode("ascii")  # and nothing else
    assert "Traceback" not in said
    assert done.returncode == VERBS[words], said
    assert said.strip()


@pytest.mark.parametrize("kind", PLACES)
def test_the_names_are_read_and_found_in_each(kind: str, place: Path) -> None:
    encoding = {"ascii": "ascii", "the C locale": "ascii", "latin-1": "latin-1", "all": "ascii"}.get(kind, "utf-8")
    done = run(place, ("check", "jöb.yaml"), PLACES[kind])
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding).startswith(
        "jöb.yaml: a job, right".encode(encoding, "replace").decode(encoding)
    )
    words = ("evaluate", "--annotations", "wahr_é.json", "--detections", "gefunden_é.json")
    done = run(place, words, PLACES[kind])
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode(encoding)
    for name in CLASSES:
        assert any(line.startswith(name.encode(encoding, "replace").decode(encoding)) for line in said.splitlines())
    assert json.loads(run(place, (*words, "--json"), PLACES[kind]).stdout)["per_class"].keys() == set(CLASSES)


@pytest.mark.slow
def test_files_are_written_alike_in_each(place: Path) -> None:
    written = []
    for kind, around in PLACES.items():
        out = f"geschrieben_{kind.replace(' ', '')}_é"
        assert run(place, ("data", "convert", "données", out, "--to", "yolo"), around).returncode == 0
        written.append({path.name: path.read_bytes() for path in (place / out).rglob("*") if path.is_file()})
        assert f"{PICTURE}0.txt" in written[-1]
    assert all(files == written[0] for files in written)
    assert CLASSES[0].encode() in written[0]["data.yaml"]


def test_a_stream_that_is_no_text_file_is_left_alone(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    strict = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", strict)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    any_output()
    print("猫 →", file=sys.stdout, flush=True)
    assert strict.buffer.getvalue() == b"? ?\n"  # type: ignore[attr-defined]
    assert main(["check", "nirgends_é.yaml"]) == 2
    assert "nirgends_é.yaml" in sys.stderr.getvalue()


def test_the_classes_of_a_user(tmp_path: Path) -> None:
    folder = str(cases("unicode-classes"))
    for around in PLACES.values():
        done = run(tmp_path, ("data", "check", folder), around)
        assert b"Traceback" not in done.stderr
        assert b"chen" in done.stdout
