"""``paretune profile``: what is said of artefacts is what was measured of them."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paretune.cli import main
from paretune.compression.artefact import write_artefact
from paretune.data.shapes import Shapes
from paretune.detectors.yolo import Yolo
from paretune.model import Model
from paretune.profiling.latency import Latency
from paretune.profiling.page import page
from paretune.profiling.samples import COLUMNS
from paretune.profiling.tables import stage_table
from paretune.runtimes.eager import Eager
from paretune.structures import InputSize
from paretune.target import Target

DETECTOR = Yolo(depthwise=False, width=0.125)
DATA = Shapes(train=2, val=3, size="64x64")


def latency(count: int, *, preprocess: int, network: int, postprocess: int, **fields: Any) -> Latency:
    """Every inference takes the same ms in each stage, all of it CPU time."""
    rows = np.zeros((count, len(COLUMNS)), np.int64)
    stages = {"preprocess": preprocess, "network": network, "postprocess": postprocess}
    stages["latency"] = sum(stages.values())
    for stage, milliseconds in stages.items():
        for name in (f"{stage}_ns", f"{stage}_cpu_ns"):
            rows[:, COLUMNS.index(name)] = milliseconds * 1_000_000
    told = {"runtime": "eager", "precision": "fp32", "cpu": "a CPU"}
    more = {"steady": True, "cold": {"load_ms": 5.0, "first_inference_ms": 3.0}, "facts": told, **fields}
    return Latency(rows, np.arange(count) % 2, Target(), 100.0, {"foreign": 0.0, "steal": 0.0}, **more)


class Cells(HTMLParser):
    """The words of a page's tables, and where it loads things from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [str(value) for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_stages_are_told_with_their_share_and_what_is_unknown_as_such() -> None:
    table = stage_table("mine", latency(70, preprocess=1, network=6, postprocess=3))
    told = {row[0]: row[1:] for row in table.rows}
    assert told["preprocess"] == ("1.000", "1.000", "-", "-", "1.000", "10%")
    assert told["network"] == ("6.000", "6.000", "-", "-", "6.000", "60%")
    assert told["postprocess"] == ("3.000", "3.000", "-", "-", "3.000", "30%")
    assert told["end to end"] == ("10.000", "10.000", "-", "-", "10.000", "100%")
    assert any("latency_ms_p99: not known, 70 samples, 662 are needed" in note for note in table.notes)
    assert not any("latency_ms_p90" in note for note in table.notes)
    noisy = stage_table("mine", latency(70, preprocess=1, network=6, postprocess=3, steady=False))
    assert "no_steady_state" in noisy.notes[-1]


def test_a_page_needs_nothing_else_and_escapes_names() -> None:
    text = page(["<b>one</b>"], [latency(70, preprocess=1, network=6, postprocess=3)], None)
    found = Cells(text)
    assert [source[:22] for source in found.sources] == ["data:image/png;base64,"]
    assert "<b>one" not in text
    assert any("<b>one</b>" in word for word in found.words)
    assert found.words.count("6.000") == 3  # p50, p90 and CPU time


@pytest.fixture
def artefacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A small network and a wider one, and a folder with the job of their images."""
    monkeypatch.chdir(tmp_path)
    data = DATA.open(tmp_path / "runs" / "datasets")
    made = []
    for name, width in (("small", 0.125), ("wide", 0.5)):
        torch.manual_seed(0)
        detector, size = DETECTOR.model_copy(update={"width": width}), InputSize(96, 96)
        given = Model(detector.build(len(data.classes)).eval(), None, size)
        recipe = {"steps": [], "runtime": {"eager": {}}, "input_size": "96"}
        folder = tmp_path / name
        write_artefact(folder, given, detector=detector, runtime=Eager(), recipe_tree=recipe, classes=data.classes)
        made.append(folder)
    job = {"dataset": DATA.named(), "detector": DETECTOR.named(), "input_size": 96, "space": "space.yaml"}
    (tmp_path / "images.yaml").write_text(json.dumps(job))
    return made


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(240)
def test_the_smaller_network_is_found_faster(artefacts: list[Path], capsys: Any) -> None:
    words = ["profile", *map(str, artefacts), "--data", "images.yaml", "--repetitions", "2", "--out", "told", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["artefact"] for entry in found["artefacts"]] == [str(folder) for folder in artefacts]
    small, wide = (entry["metrics"] for entry in found["artefacts"])
    assert small["network_ms_p50"] < wide["network_ms_p50"]
    assert found["images"] == 3
    assert found["comparison"]["artefacts"][1]["network"]["ratio"] > 1
    assert sorted(path.name for path in Path("told").iterdir()) == [
        "profile.html",
        "profile.json",
        "samples-0.npz",
        "samples-1.npz",
        "samples-interleaved.npz",
    ]
    kept = np.load("told/samples-0.npz")["latency_ns"]
    assert float(np.median(kept)) / 1e6 == pytest.approx(small["latency_ms_p50"])
    assert json.loads(Path("told/profile.json").read_text()) == found
    assert main(["profile", str(artefacts[0]), "--data", "images.yaml", "--out", "told"]) == 2
    assert "told exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--data", "images.yaml"], "nowhere"),
        (["small"], "lies in no sweep or training"),
        (["small", "small", "--data", "images.yaml"], "named twice"),
        (["small", "--data", "images.yaml", "--split", "vol"], "did you mean"),
        (["small", "--data", "images.yaml", "--repetitions", "0"], "--repetitions 0: expected 1 to 100"),
        (["small", "--data", "images.yaml", "--threads", "0"], "--threads 0"),
        (["small", "--data", "images.yaml", "--out", "wide"], "wide exists already"),
    ],
)
@pytest.mark.usefixtures("artefacts")
def test_mistakes_are_one_line_and_nothing_is_measured(words: list[str], message: str, capsys: Any) -> None:
    assert main(["profile", *words]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
