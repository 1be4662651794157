"""``paretune advise``: what is printed, written and refused; what it rests on is tested with the roofline."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from paretune.cli.main import main
from paretune.config.recipe import Recipe
from paretune.core.errors import UserError
from paretune.core.target import Target
from paretune.core.types import Detections
from paretune.profiling.latency.compare import LatencyRatio
from paretune.profiling.operators import OperatorTimes
from paretune.profiling.roofline.advice import Advice
from paretune.profiling.roofline.hardware_peaks import HardwarePeaks
from paretune.profiling.roofline.layer_work import LayerWork
from paretune.reports import advice_page
from paretune.runtimes.base import Operator
from paretune.storage.artefact import Artefact, read_artefact
from paretune.workflows import advise as advising
from paretune.workflows.advise import TriedAdvice, diagnosed, write_advice
from paretune.workflows.optimize import OptimizationOptions
from paretune.workflows.recipe_source import read_source
from tests_support_accuracy import blind, changed, thinned
from tests_support_advising import advised, artefact_in_a_training

RECIPE = {"input_size": "64x64", "steps": [{"quantize": {"tool": "nncf"}}], "runtime": {"openvino": {}}}
ADVICE = Advice("runtime: openvino", "half of it lies between the layers", 2.0, "none", RECIPE)


@pytest.fixture
def artefact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artefact:
    made = artefact_in_a_training(tmp_path / "runs" / "trainings" / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(advising, "advise_artefact", lambda *_, **__: advised(made, ADVICE))
    return made


def test_advice_is_told_with_its_evidence_and_written_as_recipes(artefact: Artefact, capsys: Any) -> None:
    assert main(["advise", str(artefact.folder), "--out", "advice"]) == 0
    said = capsys.readouterr().out
    assert "10.00 ms from image to boxes, launch-bound" in said  # 5 of the network's 8 ms lie outside layers
    assert "runtime: openvino" in said
    assert "2.00x" in said
    assert "paretune sweep JOB.yaml --name advised --first advice" in said
    (file,) = Path("advice").glob("*.yaml")
    assert Recipe.model_validate(yaml.safe_load(file.read_text())) == Recipe.model_validate(RECIPE)


def test_as_json_it_says_the_same(artefact: Artefact, capsys: Any) -> None:
    assert main(["advise", str(artefact.folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "launch-bound"
    assert told["layers"][0]["attained"] == pytest.approx(2 / 3)
    assert [one["knob"] for one in told["advice"]] == ["runtime: openvino"]
    assert told["tried"] == []


def counted(*operators: tuple[float, str, str | None]) -> OperatorTimes:
    """(ms, kind, module) of each, and 8 ms of network when nothing counts."""
    told = tuple(Operator("core", kind, kind, module, ms) for ms, kind, module in operators)
    return OperatorTimes(told, counted_ms=10, counted_ms_p50=10, network_ms=8, inferences=30)


def test_less_than_half_of_the_time_in_known_layers_is_no_verdict(artefact: Artefact) -> None:
    work, roofs = (
        {"stem": LayerWork("stem", 2e6, 100, 1000, "fp32")},
        HardwarePeaks("cpu", {"fp32": 1e9}, [(1000, 1e9)], {}),
    )
    stages: Any = {"preprocess": 1.0, "network": 8.0, "postprocess": 1.0}
    few = diagnosed(stages, counted((4.9, "Conv", "stem"), (5.1, "cpp_fused", None)), work, roofs, "cpu")
    assert few.verdict == "unknown"
    assert "the runtime tells of 49% of its time only" in str(few.unknown)
    assert "advise the same network built for eager" in few.evidence
    enough = diagnosed(stages, counted((5.1, "Conv", "stem"), (4.9, "cpp_fused", None)), work, roofs, "cpu")
    assert enough.verdict == "compute-bound"
    host = counted((4.0, "host", None), (1.5, "Conv", "stem"), (4.5, "cpp_fused", None))
    assert diagnosed(stages, host, work, roofs, "cpu").unknown is None
    page = advice_page.advice_page("mine", few, (), {}, ())
    assert "10.00 ms from image to boxes, unknown" in page
    assert "none: the runtime tells of 49%" in page


def fewer(found: list[Detections]) -> list[Detections]:
    return thinned(found, 2)


def test_what_was_tried_stands_beside_what_was_predicted_also_where_it_did_not_help(
    artefact: Artefact, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    slower, failed = replace(ADVICE, knob="prune"), replace(ADVICE, knob="quantize")
    less, dead = (changed(tmp_path / name, worse) for name, worse in (("less", fewer), ("dead", blind)))
    tried = (
        TriedAdvice(ADVICE, LatencyRatio(1 / 1.75, 0.5, 0.6), accuracy=less),
        TriedAdvice(slower, LatencyRatio(1.25, 1.2, 1.3), accuracy=dead),
        TriedAdvice(failed, None, "not built: no images"),
    )
    found = replace(advised(artefact, ADVICE, slower, failed), tried=tried)
    monkeypatch.setattr(advising, "try_advice", lambda *_, **__: found)
    assert [one.kept for one in tried] == [pytest.approx(0.75), pytest.approx(-0.2), None]
    assert main(["advise", str(artefact.folder), "--try", "3"]) == 1  # one of them could not be tried
    said = " ".join(capsys.readouterr().out.split())
    for words in ("1.75x", "faster", "0.80x", "slower", "not built", "images", "map change", "NOT USABLE"):
        assert words in said
    for one in (less, dead):
        assert f"{one.decisive.delta[1]:+.3f}" in said
    assert main(["advise", str(artefact.folder), "--try", "3", "--json"]) == 1
    told = [one["map_change"] for one in json.loads(capsys.readouterr().out)["tried"]]
    for known, one in zip(told, (less, dead), strict=False):
        assert (known["low"], known["change"], known["high"]) == one.decisive.delta
        assert known["after"] - known["before"] == pytest.approx(known["change"])
        assert known["split"] == "val"
    assert told[2] is None


@pytest.fixture
def trying(artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that try four knobs: one helps, one cannot be read, one not be built, one not be measured."""
    knobs = {"quantize": RECIPE, "cluster": {"no": "recipe"}, "prune": RECIPE, "sparsify": RECIPE}
    four = [replace(ADVICE, knob=knob, recipe=recipe) for knob, recipe in knobs.items()]
    monkeypatch.setattr(advising, "advise_artefact", lambda *_, **__: advised(artefact, *four))

    def build(
        _: Any, recipe: Recipe, images: Any, folder: Path, wanted: OptimizationOptions, *__: Any
    ) -> SimpleNamespace:
        if "prune" in folder.name:
            raise ValueError("no channel\nis left")
        shutil.copytree(artefact.folder, folder)
        with pytest.raises(UserError, match=r"finds disc, .*; .* finds a, b, c"):
            advising._before(replace(artefact, classes=("disc", "x")), read_source(artefact.folder), Target())
        what, finds = wanted.against._load()  # what the advice is for, not the network that the recipe begins with
        assert (what, finds.artefact.folder) == (str(artefact.folder), artefact.folder)
        return SimpleNamespace(accuracy=changed(folder.parent.parent / "kept", fewer))

    def compare(folders: list[Path], *_: Any, **__: Any) -> SimpleNamespace:
        assert folders[0] == artefact.folder
        assert all((folder / "artefact.json").is_file() for folder in folders)
        if "sparsify" in folders[1].name:
            raise RuntimeError("the measuring process hung")
        return SimpleNamespace(ratio=lambda index: LatencyRatio(0.5**index, 0.4, 0.6))

    monkeypatch.setattr(advising, "optimize", build)
    monkeypatch.setattr(advising, "compare", compare)
    return ["advise", str(artefact.folder), "--try", "4"]


def test_what_hinders_one_knob_is_the_reason_of_that_one(trying: list[str], capsys: Any) -> None:
    assert main([*trying, "--out", "advice", "--json"]) == 1
    told = {one["knob"]: one for one in json.loads(capsys.readouterr().out)["tried"]}
    assert told["quantize"]["speedup"] == pytest.approx(2)
    assert told["cluster"]["reason"].startswith("not built: advice cluster")
    assert told["prune"]["reason"] == "not built: no channel is left"
    assert told["sparsify"]["reason"] == "not measured: the measuring process hung"
    for knob in ("cluster", "prune"):
        assert (told[knob]["map_change"], told[knob]["map_change_unknown"]) == (None, told[knob]["reason"])
    for knob in ("quantize", "sparsify"):  # what was built is evaluated, also where it could not be measured
        assert told[knob]["map_change"]["change"] < 0
        assert told[knob]["map_change_unknown"] is None
    kept = {knob: one["artefact"] for knob, one in told.items() if one["artefact"]}
    assert kept == {"quantize": "advice/tried/1-quantize", "sparsify": "advice/tried/4-sparsify"}
    assert read_artefact(Path(kept["quantize"])).recipe["runtime"] == {"eager": {}}
    assert json.loads(Path("advice/advice.json").read_text())["tried"] == list(told.values())
    page = Path("advice/advice.html").read_text()
    assert "2.00x [1.67, 2.50] faster" in page
    change = told["quantize"]["map_change"]
    assert f"{change['change']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]" in page
    assert "not known: not built: no channel is left" in page
    assert "not built: no channel is left" in page


def test_without_a_folder_nothing_that_was_built_is_kept(trying: list[str], capsys: Any) -> None:
    before = sorted(Path().iterdir())
    assert main([*trying, "--json"]) == 1
    assert {one["artefact"] for one in json.loads(capsys.readouterr().out)["tried"]} == {None}
    assert sorted(Path().iterdir()) == before


def test_advice_is_shown_and_written_before_any_of_it_is_tried(
    trying: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(advising, "optimize", stopped)
    assert main([*trying, "--out", "advice"]) == 130
    assert "2.00x" in capsys.readouterr().out
    assert (Path("advice/1-quantize.yaml").is_file(), Path("advice/advice.html").is_file()) == (True, True)


def test_the_page_needs_nothing_else_and_shows_roofline_and_what_was_tried(artefact: Artefact, tmp_path: Path) -> None:
    slower = replace(ADVICE, knob="<b>prune", risk="points")
    tried = (TriedAdvice(ADVICE, LatencyRatio(1 / 1.75, 0.5, 0.6)), TriedAdvice(slower, None, "not built: no images"))
    found = replace(advised(artefact, ADVICE, slower), tried=tried)
    write_advice(found, tmp_path / "new")
    files = sorted((tmp_path / "new").glob("*.yaml"))
    assert [file.name for file in files] == ["1-runtime-openvino.yaml", "2-<b>prune.yaml"]
    text = (tmp_path / "new" / "advice.html").read_text()
    assert text.count("<svg") == 2  # the roofline, and the one that was built
    assert "http:" not in text
    assert "https:" not in text
    assert "<b>prune" not in text
    assert "1.75x [1.67, 2.00] faster" in text
    assert "not built: no images" in text
    write_advice(replace(found, tried=()), tmp_path / "untried")
    assert (tmp_path / "untried" / "advice.html").read_text().count("<svg") == 1


def test_advice_is_not_written_over_other_and_not_by_half(
    artefact: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = advised(artefact, ADVICE)
    write_advice(found, tmp_path / "new")
    with pytest.raises(UserError, match="exists already"):
        write_advice(found, tmp_path / "new")

    def fails(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(advice_page, "advice_page", fails)
    with pytest.raises(UserError, match="half: cannot be written"):
        write_advice(found, tmp_path / "half")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "runs"}
