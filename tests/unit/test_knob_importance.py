"""The importance of knobs, with planted effects and without any."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from paretune.cli.main import main
from paretune.search.knob_importance import LEAST_ACTIVE, KnobImportance, knob_importance
from paretune.search.study_database import StudyDatabase
from paretune.search.study_file import NUMBER
from paretune.storage.trial_record import Record
from tests_support_records import complete, finished_sweep, recipe

AIMS: dict[str, Any] = {"map": "maximize", "latency_ms": "minimize"}
Figures = Callable[[dict[str, Any], random.Random], tuple[float, float]]


def planted(params: dict[str, Any], noise: random.Random) -> tuple[float, float]:
    """Pruning costs accuracy, its ratio and the width make it fast, and the seed does nothing."""
    cut = params.get("ratio", 0.0)
    quality = 0.5 - (0.1 if params["slim"] == "pruned" else 0) - 0.01 * cut + 0.002 * noise.random()
    return quality, 9 - 4 * cut - 3 * params["width"] + 0.02 * noise.random()


def nothing(_: dict[str, Any], noise: random.Random) -> tuple[float, float]:
    return noise.random(), 1 + noise.random()


def searched(folder: Path, count: int, figures: Figures, name: str = "demo") -> list[Record]:
    """A study of random points with a conditional parameter, and the records of its trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    noise, records = random.Random(1), [complete(0, recipe(160, runtime="eager"), 0.5, 20.0)]
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}",
        study_name=name,
        directions=list(AIMS.values()),
        sampler=optuna.samplers.RandomSampler(seed=2),
    )
    for number in range(2, count + 2):
        trial = study.ask()
        trial.suggest_float("width", 0, 1)
        trial.suggest_int("seed", 0, 9)
        if trial.suggest_categorical("slim", ["none", "pruned"]) == "pruned":
            trial.suggest_float("ratio", 0, 1)
        trial.set_user_attr(NUMBER, number)
        quality, ms = figures(trial.params, noise)
        study.tell(trial, [0.0, 1.0])  # the figures are those of the records
        records.append(complete(number, recipe(160), quality, ms))
    return records


def by_name(found: list[KnobImportance]) -> dict[str, KnobImportance]:
    return {one.knob: one for one in found}


@pytest.mark.slow
def test_a_planted_effect_is_found_and_the_rest_is_chance(tmp_path: Path) -> None:
    records = searched(tmp_path, 60, planted)
    found = by_name(knob_importance(StudyDatabase(tmp_path / "study.db", "demo"), AIMS, records, ["width", "unused"]))
    for aim in ("front", *AIMS):
        assert sum((one.shares or {}).get(aim, 0.0) for one in found.values()) == pytest.approx(1)
    slim, ratio, width, seed = (found[name] for name in ("slim", "ratio", "width", "seed"))
    assert slim.shares is not None
    assert slim.shares["map"] > 0.6
    for knob, aim in ((slim, "map"), (ratio, "latency_ms"), (width, "latency_ms")):
        assert (knob.above_chance or {})[aim], (knob, aim)
    assert max((seed.shares or {"": 1.0}).values()) < 0.2
    assert sum((seed.above_chance or {}).values()) <= 1  # of three, each in one case of twenty by chance
    assert ratio.active == sum("ratio" in json.dumps(t.params) for t in _trials(tmp_path))
    assert found["unused"] == KnobImportance("unused", 0, None, None, "active in no complete trial; 8 are needed")


def _trials(folder: Path) -> Any:
    return optuna.load_study(study_name="demo", storage=f"sqlite:///{folder / 'study.db'}").get_trials()


@pytest.mark.slow
def test_without_an_effect_most_figures_are_chance(tmp_path: Path) -> None:
    found = knob_importance(StudyDatabase(tmp_path / "study.db", "demo"), AIMS, searched(tmp_path, 30, nothing))
    told = [above for one in found for above in (one.above_chance or {}).values()]
    assert len(told) == 12
    assert sum(told) <= 2  # one in twenty is expected


def test_a_knob_of_few_trials_is_not_known_and_the_reason_counts_them(tmp_path: Path) -> None:
    records = searched(tmp_path, LEAST_ACTIVE - 1, planted)
    found = by_name(knob_importance(StudyDatabase(tmp_path / "study.db", "demo"), AIMS, records))
    assert found["width"].reason == "active in 7 complete trials; 8 are needed"
    few = found["ratio"].active
    assert found["ratio"].reason == f"active in {few} complete trials; 8 are needed"
    assert all(one.shares is None and one.above_chance is None for one in found.values())


def test_failed_trials_and_recipes_outside_the_space_do_not_count(tmp_path: Path) -> None:
    records = searched(tmp_path, 6, planted)
    failed = [Record.failed(r.number, r.recipe, r.params, r.origin, "died") if r.number == 4 else r for r in records]
    extra = complete(99, recipe(128), 0.4, 1.0)
    found = by_name(knob_importance(StudyDatabase(tmp_path / "study.db", "demo"), AIMS, [*failed, extra]))
    assert found["width"].active == 5


def test_no_study_leaves_every_knob_unknown(tmp_path: Path) -> None:
    (found,) = knob_importance(StudyDatabase(tmp_path / "study.db", "demo"), AIMS, [], ["width"])
    assert found.reason == "active in no complete trial; 8 are needed"
    assert not (tmp_path / "study.db").exists()


def test_it_is_printed_with_the_front(tmp_path: Path, capsys: Any) -> None:
    job = {
        "dataset": {"shapes": {"train": 8, "val": 4, "size": "64x48"}},
        "detector": {"yolo": {"variant": "nano"}},
        "input_size": 160,
        "space": "space.yaml",
    }
    sweep = finished_sweep(tmp_path, job)
    (sweep.folder / "space.yaml").write_text(
        "input_size: {choices: [128, 160]}\nsteps: [{prune: {ratio: {low: 0.1, high: 0.5}}}]\nruntime: onnxruntime\n"
    )
    searched(sweep.folder, 10, planted)
    words = ["front", "demo", "--runs", str(tmp_path)]
    assert main([*words, "--importance", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    knobs = {one["knob"]: one for one in told["importance"]}
    assert set(knobs) == {"input_size", "prune.ratio", "width", "seed", "slim", "ratio"}
    assert knobs["prune.ratio"]["shares"] is None
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {name: told[name] for name in told if name != "importance"}
    assert main([*words, "--importance"]) == 0
    text = capsys.readouterr().out
    assert "importance of the knobs of demo" in text
    assert "active in no complete trial" in text
