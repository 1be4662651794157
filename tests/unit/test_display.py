"""What a terminal shows."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from paretune.compression.cluster import Cluster
from paretune.compression.factorize.step import Factorize
from paretune.compression.finetune import Finetune
from paretune.compression.prune.step import Prune
from paretune.compression.quantize.step import Quantize
from paretune.compression.sparsify import Sparsify
from paretune.core.console import WIDTH
from paretune.reports import terminal as display
from paretune.reports.tables import Table, print_table
from paretune.runtimes import RUNTIMES
from paretune.search.progress import SweepProgress
from paretune.storage.trial_record import Record
from paretune.training.settings import Distill
from tests_support_records import (
    INT8,
    changed,
    comparison,
    fake_records,
    finetune,
    front_of,
    judge,
    prune,
    recipe,
)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (recipe("192x144", prune(0.4), finetune(8), INT8), "192x144 prune 0.4 l1 → finetune 8 → int8 → onnxruntime"),
        (recipe(160, runtime="eager"), "160 eager"),
        (recipe(160, {"cluster": {"clusters": 16}}), "160 cluster → onnxruntime"),
        (recipe(160, {"prune": {"flops": 0.5}}), "160 prune → onnxruntime"),
    ],
)
def test_a_recipe_in_one_line(what, expected):
    assert display.recipe_line(what) == expected


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Prune(ratio=0.5, budget="flops", importance="taylor"), "prune 0.5 of flops taylor"),
        (Prune(ratio=0.5, rounds=3), "prune 0.5 l1 in 3 rounds"),
        (Finetune(epochs=6), "finetune 6"),
        (Finetune(epochs=6, distill=Distill()), "finetune 6 taught"),
        (Finetune(epochs=6, qat=True), "finetune 6 qat"),
        (Factorize(energy=0.9), "factorize tucker 0.9"),
        (Factorize(method="svd", rank=0.25), "factorize svd 0.25"),
        (Sparsify(sparsity=0.6), "sparsify 0.6"),
        (Sparsify(pattern="2:4"), "sparsify 2:4"),
        (Cluster(bits=5), "cluster 5 bits"),
        (Quantize(), "int8"),
        (Quantize(tool="nncf"), "int8 nncf"),
        (Quantize(max_drop=0.0), "int8 guarded"),
        (Quantize(tool="nncf", max_drop=0.01), "int8 nncf guarded"),
        (Quantize(scheme="fp16"), "fp16"),
    ],
)
def test_steps_are_told_apart(step, expected):
    assert display.recipe_line(recipe(160, {step.name: step.tree()})) == f"160 {expected} → onnxruntime"


def test_a_step_of_another_package_is_told_with_its_fields():
    lines = [display.recipe_line(recipe(160, {"clip": {"percentile": share, "by": "layer"}})) for share in (0.9, 0.99)]
    assert lines == [f"160 clip, percentile {share}, by layer → onnxruntime" for share in (0.9, 0.99)]
    assert display.recipe_line(recipe(160, {"bare": {}})) == "160 bare → onnxruntime"


@pytest.mark.parametrize("name", RUNTIMES.names)
def test_every_setting_of_a_runtime_is_told(name):
    runtime = RUNTIMES.load(name)
    settings = {
        field: [False, True] if about.annotation is bool else get_args(about.annotation)
        for field, about in runtime.model_fields.items()
    }
    ways = [dict(zip(settings, values, strict=True)) for values in itertools.product(*settings.values())]
    lines = [display.recipe_line(recipe(160) | {"runtime": runtime.model_construct(**way).named()}) for way in ways]
    assert len(set(lines)) == len(lines) >= 2
    assert display.recipe_line(recipe(160) | {"runtime": runtime().named()}) == f"160 {name}"


def test_the_line_of_a_trial():
    records = fake_records()
    progress = SweepProgress(judge(), records)
    line = display.trial_line(8, progress, 20)
    assert line == (
        "trial 8 (14/20 done, 1 failed): 128 prune 0.55 l1 → finetune 8 → int8 → onnxruntime: "
        "map 0.449, map50 0.727, 1.25 ms (7.3x eager); on the front of 7"
    )
    assert display.trial_line(9, progress, 20).endswith("(8.3x eager); breaks a constraint")
    assert display.trial_line(7, progress, 20).endswith("3.90 ms (2.3x eager)")


@pytest.mark.parametrize(
    ("failure", "said"), [("Boom: a\nb", "Boom: a"), ("", "unknown reason"), (None, "unknown reason")]
)
def test_the_line_of_a_failed_trial(failure, said):
    record = changed(fake_records()[10], failure=failure)
    progress = SweepProgress(judge(allowed=lambda _: True), [record])
    assert display.trial_line(record.number, progress, 5).endswith(f"FAILED: {said}")


def test_a_line_without_figures():
    bare = Record(5, "complete", recipe(160), {}, {}, {}, (), None, None, "sampled", 0.0)
    progress = SweepProgress(judge(allowed=lambda _: True), [bare])
    assert display.trial_line(bare.number, progress, 5).endswith("map -, map50 -, - ms")


def times(*spans, origin="sampled"):
    one = fake_records()[5]
    return [
        changed(one, number=i, started=float(start), seconds={"all": float(end - start)}, origin=origin)
        for i, (start, end) in enumerate(spans)
    ]


@pytest.mark.parametrize(
    ("spans", "budget", "said"),
    [
        ([(0, 120), (120, 240)], 6, ", about 8 min left"),  # one after another
        ([(0, 120), (0, 120)], 6, ", about 4 min left"),  # two at a time
        ([(0, 120), (7200, 7320)], 6, ", about 8 min left"),  # a night between them
        ([(0, 10), (10, 20)], 6, ", about a minute left"),
        ([(0, 10)], 1, ""),
        ([], 6, ""),
    ],
)
def test_the_time_that_is_left(spans, budget, said):
    assert display.time_left(SweepProgress(judge(), times(*spans)), budget) == said


@pytest.mark.parametrize(("limit", "text"), [(300.0, ", about 5 min left"), (1e6, ", about 8 min left"), (0.0, "")])
def test_the_time_that_is_left_is_no_longer_than_a_limit_in_hours(limit, text):
    assert display.time_left(SweepProgress(judge(), times((0, 120), (120, 240))), 6, limit) == text


def test_baselines_do_not_tell_how_long_trials_take():
    progress = SweepProgress(judge(), times((0, 3000), (3000, 6000), origin="baseline"))
    assert display.time_left(progress, 8) == ""


def row_of(text, trial):
    """Return the first two lines of a trial's row: figures, and the intervals under them."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line[:6].strip() == str(trial))
    return lines[first], " ".join([*lines, ""][first + 1].split())


def test_the_table_of_a_front():
    text = display.front_table(front_of(fake_records()), comparison())
    lines = text.splitlines()
    assert lines[0] == "front of demo on target laptop: maximize map, minimize latency_ms"
    assert max(map(len, lines)) <= WIDTH
    assert "\x1b" not in text
    numbers = [line[:6].strip() for line in lines if line[:6].strip().isdecimal()]
    assert numbers == ["8", "5", "12", "6", "4", "2", "3", "0"]
    figures, intervals = row_of(text, 8)
    assert figures.endswith("  0.449  -0.063  0.727  1.25          7.28          3.44  0.49  0.13 M")
    assert intervals == "onnxruntime [7.06, 7.57] [3.34, 3.58]"


@pytest.mark.parametrize("columns", [80, 40])
def test_a_narrow_terminal_leaves_out_columns_and_names_them(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = display.front_table(front_of(fake_records()), comparison()).splitlines()
    (head,) = [line for line in lines if line.startswith("trial ")]
    assert {"recipe", "map", "ms"} <= set(head.split())
    told = " ".join(lines).partition("left out")[2]
    missing = {"params", "MiB"} if columns == 80 else {"params", "MiB", "map50", "x ONNX RT", "Δ map", "x eager"}
    assert {name.strip() for name in told.partition(": ")[2].split(",")} >= missing
    assert not {name for name in missing if name in head}
    assert max(map(len, lines)) <= columns


def test_a_table_for_a_file_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    wide = Table("", ("name", *"abc"), (("x" * 90, *("9" * 30 for _ in range(3))),), spare=("a",))
    text = wide.text()
    assert "x" * 90 in text
    assert text.count("9" * 30) == 3


def test_a_table_with_no_column_to_spare_becomes_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    rows = ((f"name{number}", "some words that are long", "1.25\n[1.20, 1.30]", "0.449") for number in range(2))
    text = Table("title", ("artefact", "why", "times as fast", "map of all the classes"), tuple(rows)).text()
    assert max(map(len, text.splitlines())) <= 40
    assert text.count("artefact ") == 2
    assert "1.25 [1.20, 1.30]" in text


def test_before_the_comparison_no_speed_up_is_shown():
    text = display.front_table(front_of(fake_records()), None)
    assert row_of(text, 2)[0].split()[-5:] == ["-", "-", "1.21", "0.31", "M"]


def test_a_tie_is_marked_and_the_baseline_has_no_interval():
    rows = comparison()
    rows["trials"]["3"]["onnxruntime"] |= {"speedup": 1.01, "low": 0.99, "high": 1.03, "verdict": "tied"}
    text = display.front_table(front_of(fake_records()), rows)
    figures, intervals = row_of(text, 3)
    assert figures.split()[-5:-3] == ["=", "1.01"]
    assert intervals.endswith("[0.99, 1.03]")
    assert row_of(text, 0)[0].split()[6:8] == ["9.10", "1.00"]


def test_a_change_of_accuracy_is_shown_with_how_sure_it_is():
    sure = {"map_delta_low": -0.071, "map_delta": -0.063, "map_delta_high": -0.055}
    records = [changed(r, metrics={**r.metrics, **sure}) if r.number == 8 else r for r in fake_records()]
    text = display.front_table(front_of(records), comparison())
    figures, intervals = row_of(text, 8)
    assert " -0.063 " in figures
    assert " [-0.071, -0.055] " in intervals
    assert max(map(len, text.splitlines())) <= WIDTH
    exact = dict.fromkeys(sure, 0.0)
    records = [changed(r, metrics={**r.metrics, **exact}) if r.number == 0 else r for r in records]
    assert " 0.512 +0.000 0.829 " in " ".join(display.front_table(front_of(records), None).splitlines()[-1].split())


@pytest.mark.parametrize(
    ("low", "high", "unsure"), [(-0.02, 0.01, True), (-0.0101, -0.005, True), (-0.01, 0.0, False), (None, None, False)]
)
def test_what_may_lose_more_than_is_allowed_is_said(low, high, unsure):
    told = display.unsure("map", 0.01, {"map_delta_low": low, "map_delta_high": high})
    assert (told is not None) == unsure
    assert told is None or f"changed by {low:+.3f} to {high:+.3f} (95 %), and may fall by 0.01;" in told
    assert told is None or "{map_delta_low: {min: -0.01}}" in told


def test_unknown_values_and_markup_are_shown_as_they_are():
    front = front_of(fake_records())
    front["front"][0]["metrics"] |= {"map50": None, "params": None}
    front["front"][0]["recipe"]["input_size"] = "[red]160[/red]:car:"
    text = display.front_table(front, None)
    assert "[red]160[/red]:car:" in text
    empty = display.front_table({**front, "front": [], "baseline": None}, None)
    assert empty.startswith("front of demo")


def test_words_of_a_printed_table_are_no_markup(capsys):
    rows = [("sweep[lr=0.1]/b", "1.00"), ("runs/a[/b]/artefact", "[red]2[/red]"), ("a:car:b", "3")]
    print_table(Table("of [a]", ("artefact", "ms[/i]"), tuple(rows), ("noted [b]",)))
    text = capsys.readouterr().out
    for word in ("of [a]", "artefact", "ms[/i]", *itertools.chain(*rows), "noted [b]"):
        assert word in text
