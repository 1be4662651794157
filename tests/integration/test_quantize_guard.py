"""The accuracy guard: the first rung that loses little enough, judged on the validation split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from paretune.compression.base import Context
from paretune.compression.export import Export
from paretune.compression.quantize import step as quantize
from paretune.compression.quantize.accuracy_guard import Candidate, try_candidates
from paretune.compression.quantize.step import Quantize
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import Annotations, Data
from paretune.detectors import DETECTORS
from paretune.evaluation import evaluate
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.onnxruntime import OnnxRuntime
from paretune.runtimes.predictor import load_predictor
from tests_support_compression import CLASSES, context
from tests_support_quantize import GRID, Labelled, guarded_context, photographs, sure, sure_file


@pytest.fixture(autouse=True)
def grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DETECTORS.rows, "grid", "tests_support_quantize:Grid")


@pytest.mark.parametrize("seed", range(40))
def test_the_first_rung_within_the_limit_is_taken_and_none_after_it_is_made(seed: int) -> None:
    random = np.random.default_rng(seed)
    maps = {name: float(random.uniform(0.5, 0.6)) for name in "abcde"}
    limit = float(random.uniform(0, 0.06))
    made: list[str] = []

    def rung(name: str) -> Candidate:
        return Candidate(name, lambda: made.append(name) or {"core": Path(name)})

    def further(best: Candidate, files: dict[str, Path]) -> list[Candidate]:
        assert best.label == files["core"].name == max("abc", key=maps.get)
        return [rung("d"), rung("e")]

    outcome = try_candidates(
        [rung(name) for name in "abc"],
        further,
        lambda files: 0.6 if files is None else maps[files["core"].name],
        limit,
        lambda _: None,
    )
    good = [name for name in "abcde" if 0.6 - maps[name] <= limit]
    assert made == list("abcde" if not good else "abcde"[: "abcde".index(good[0]) + 1])
    (note,) = outcome.notes
    if not good:
        assert outcome.files is None
        best = max(maps, key=maps.get)
        assert note.startswith(f"quantize changed nothing: {best} loses least of map on val, {0.6 - maps[best]:.4f}")
        return
    assert outcome.files == {"core": Path(good[0])}
    assert note.startswith(f"quantize: {good[0]} loses {0.6 - maps[good[0]]:.4f} of map on val")
    assert (f"plain quantization (a) loses {0.6 - maps['a']:.4f}" in note) == (good[0] != "a")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_the_guard_says_is_what_the_file_loses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures labelled by the float network: its map is 1. One layer has a huge weight for a channel that is
    always zero, which takes the levels from all others: no way of integers helps, to leave the layer in float does.
    """
    monkeypatch.setattr(quantize, "find_spec", lambda _: None)
    made = sure()
    with torch.no_grad():
        made.network.deep[1].weight[31], made.network.deep[1].bias[31] = 0, 0
        made.network.plain[0].weight[:, 63] = 20
    source = Export().apply(made, context(tmp_path / "source", GRID))
    around = guarded_context(tmp_path / "work", made)
    whole = map_of(source, around, "val")
    assert whole > 0.97
    plain = Quantize(per_channel=False, method="percentile").apply(source, around)
    lost = whole - map_of(plain, around, "val")
    assert lost > 0.01
    limit = round(lost / 2, 4)
    for split in around.data.splits.values():
        split.read.clear()
    found = Quantize(per_channel=False, method="percentile", max_drop=limit).apply(source, around)
    note = next(note for note in found.notes if "loses" in note)
    drop = whole - map_of(found, around, "val")
    assert drop <= limit
    assert "in float loses" in note
    assert f"loses {drop:.4f} of map on val, within max_drop {limit:g}" in note
    assert note.endswith(f"one scale for each weight) loses {lost:.4f}")
    assert around.data.splits["test"].read == []
    assert sorted(path.name for path in around.workdir.iterdir()) == ["model.int8.onnx"]


@pytest.mark.slow
def test_where_nothing_holds_the_float_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the help of NNCF; no file of integers says exactly what the float file says."""
    monkeypatch.setattr(quantize, "find_spec", lambda _: None)
    made, source = sure_file(tmp_path / "source")
    around = guarded_context(tmp_path / "work", made)
    lines: list[str] = []
    found = Quantize(images=4, max_drop=0).apply(source, replace(around, progress=lines.append))
    told = [line for line in lines if "loses" in line]
    if found.file == source.file:
        assert found.notes[0].startswith("quantize changed nothing: ")
        assert "more than max_drop 0;" in found.notes[0]
        assert len(told) == 4  # two methods, one and two of four layers in float
    else:
        assert "within max_drop 0" in found.notes[0]
    assert sum("percentile" in line for line in told) >= 1


@pytest.mark.slow
def test_a_split_without_objects_cannot_be_judged_by(tmp_path: Path) -> None:
    _, source = sure_file(tmp_path / "source")
    nothing = Annotations(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    val = Labelled(photographs(2).pictures, name="val", truth=(nothing, nothing))
    around = guarded_context_of(tmp_path / "work", val)
    with pytest.raises(UserError, match="max_drop needs objects in the validation split"):
        Quantize(images=2, max_drop=0.1, scheme="weight_only").apply(source, around)


def guarded_context_of(workdir: Path, val: Labelled) -> Context:
    return replace(context(workdir, GRID), data=Data(CLASSES, {"train": photographs(4), "val": val}, "0"))


def map_of(made: Model, around: Context, split: str) -> float:
    """Evaluated by itself, on ONNX Runtime."""
    artefact = write_artefact(
        around.workdir.parent / "artefact", made, detector=GRID, runtime=OnnxRuntime(), recipe_tree={}, classes=CLASSES
    )
    found = evaluate(load_predictor(artefact.folder, Target()), around.data.splits[split])
    assert found.map is not None
    return found.map
