"""The notebook and the README's Python, on the small sweep that other tests look at too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests_support import ROOT
from tests_support_documented import blocks, notebook_cells

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]  # by the sweep that it looks at

SHOW = """\
import ast, sys
def show(cell, names):
    *body, last = ast.parse(cell).body
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    if not isinstance(last, ast.Expr):
        exec(compile(ast.Module([last], []), "cell", "exec"), names)
        return
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    html = getattr(value, "_repr_html_", None)
    print("SHOWN", type(value).__name__, len(html() if html else repr(value)))
names = {}
for cell in CELLS:
    show(cell, names)
"""
"""Runs cells and shows their last values, as a notebook does."""


def python(place: Any, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=place.folder,
        env=place.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_notebook_shows_the_front_and_finds_objects(swept: Any) -> None:
    cells = notebook_cells("jobs/quickstart.ipynb")
    begin = next(line for line in cells[0].splitlines() if "paretune.sweep" in line)
    cells[0] = cells[0].replace(begin, 'front = paretune.Front("tiny")')
    said = python(swept, SHOW.replace("CELLS", repr(cells)))
    shown = [line.split() for line in said.splitlines() if line.startswith("SHOWN")]
    assert [words[1] for words in shown] == ["Front", "DataFrame", "NoneType", "PngImageFile"]
    assert int(shown[0][2]) > 10_000  # with its picture


def test_the_notebook_is_short_and_has_no_outputs() -> None:
    book = json.loads((ROOT / "jobs/quickstart.ipynb").read_text())
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert sum(len("".join(cell["source"]).splitlines()) for cell in code) <= 15


def test_the_readmes_python_finds_objects(swept: Any) -> None:
    import cv2
    import numpy as np

    (block,) = [one for one in blocks("README.md") if one.language == "python"]
    cv2.imwrite(str(swept.folder / "photo.jpg"), np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    python(swept, block.text.replace('"quickstart"', '"tiny"'))
    assert (Path(swept.folder) / "seen" / "photo.png").is_file()
