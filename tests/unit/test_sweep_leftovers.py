"""What killed processes leave in a sweep's folder is removed at its end, and nothing else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from paretune.workflows.sweep_leftovers import remove_leftovers


def test_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    done, unfinished = tmp_path / "trials" / "0000", tmp_path / "trials" / "0001"
    for folder in (done / "work" / "stage", done / "artefact", unfinished / "work", tmp_path / "front"):
        folder.mkdir(parents=True)
    (done / "record.json").write_text("{}")
    dead = [
        tmp_path / f".sweep.json.{process.pid}.part",
        tmp_path / "front" / f".front.png.{process.pid}.part",
        done / f".record.json.{process.pid}.part",
    ]
    alive = [done / f".record.json.{os.getpid()}.part", tmp_path / "front" / ".mine.part"]
    for file in (*dead, *alive):
        file.write_text("half of")
    (half := done / f".artefact.{process.pid}.part").mkdir()
    (half / "model.onnx").write_text("half of")
    remove_leftovers(tmp_path)
    assert not any(file.exists() for file in (*dead, half, done / "work"))
    assert all(file.exists() for file in (*alive, done / "artefact", done / "record.json", unfinished / "work"))
