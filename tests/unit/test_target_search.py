"""One search for several targets: what the sampler gets of a trial, and comparisons at the end of each target."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest

from paretune.config.job import Job
from paretune.core.yaml_document import read_yaml
from paretune.distributed import ray_session as session
from paretune.results.front_summary import comparison_of
from paretune.results.sweep_folder import Sweep
from paretune.search.samplers import SAMPLERS, Random
from paretune.search.space_reader import read_space
from paretune.search.study import Study
from paretune.search.study_database import StudyDatabase
from paretune.search.study_settings import StudySettings
from paretune.search.target_values import TargetValues
from paretune.storage.trial_record import Record
from paretune.workflows import sweep as module
from paretune.workflows.compare_front import FrontComparison, finalists_of
from paretune.workflows.sweep import SweepResult
from paretune.workflows.sweep_reporter import SweepReporter
from paretune.workflows.target_search import TargetSearch, target_objectives
from tests_support_records import compared
from tests_support_targets import JOB, on_both, records_on_both, two_target_sweep

WIDE = {"map": "maximize", "latency_ms": "minimize", "latency_ms@two": "minimize"}
OWN = [["latency_ms"], ["latency_ms@two"]]


def test_the_objectives_are_one_latency_for_each_target_and_one_accuracy() -> None:
    assert target_objectives(Job.model_validate(JOB)) == WIDE
    sizes = Job.model_validate({**JOB, "objectives": {"map": "maximize", "size_mib": "minimize"}})
    assert target_objectives(sizes) == sizes.objectives
    alone = Job.model_validate({**JOB, "targets": {"one": {}}})
    assert target_objectives(alone) == alone.objectives


def test_a_target_that_cannot_run_a_version_counts_as_the_slowest_so_far() -> None:
    values = TargetValues(WIDE, OWN)
    for one, two in ((9.0, 7.0), (4.0, 3.0), (5.0, 8.5)):
        values.add({"map": 0.5, "latency_ms": one, "latency_ms@two": two})
    assert values.of({"map": 0.4, "latency_ms": 2.0}) == [0.4, 2.0, 8.5]
    assert values.of({"map": 0.4, "latency_ms@two": 2.0}) == [0.4, 9.0, 2.0]
    assert values.of({"map": 0.4}) == [0.4, None, None]
    assert values.of({"latency_ms": 2.0}) == [None, 2.0, 8.5]
    assert values.of({"map": 0.4, "latency_ms": math.inf, "latency_ms@two": 1.0}) == [0.4, 9.0, 1.0]


def test_one_target_alone_has_nothing_filled_in() -> None:
    values = TargetValues({"map": "maximize", "latency_ms": "minimize"})
    values.add({"map": 0.5, "latency_ms": 9.0})
    assert values.of({"map": 0.4}) == [0.4, None]


LIMITED = {
    **JOB,
    "constraints": {"latency_ms": {"max": 2.0}, "memory_mib_peak": {"max": 150}, "map": {"max_drop": 0.1}},
}


def test_a_version_is_feasible_if_it_keeps_every_limit_on_one_target(tmp_path: Path) -> None:
    sweep = two_target_sweep(tmp_path, records_on_both(), LIMITED)
    search = TargetSearch(sweep)

    def told(record: Record) -> dict[str, float]:
        return search.violations(search.view(record))

    for record in records_on_both():
        latencies = [record.targets[name]["metrics"].get("latency_ms", math.inf) for name in ("one", "two")]
        assert all(value <= 0 for value in told(record).values()) == (min(latencies) <= 2.0)
    assert told(on_both(8, 0.5, 5.0, 3.0))["latency_ms"] == pytest.approx(1.0)
    assert told(on_both(8, 0.3, 1.0, 1.0))["map"] == pytest.approx(0.1)
    divided = on_both(8, 0.5, 1.0, 3.0)  # fast where it takes too much memory, and slow elsewhere
    divided.targets["one"]["metrics"]["memory_mib_peak"] = divided.metrics["memory_mib_peak"] = 500.0  # type: ignore[index]
    assert told(divided) == {"latency_ms": pytest.approx(1.0), "memory_mib_peak": -50.0, "map": pytest.approx(-0.1)}


def study_of(folder: Path, sweep: Sweep, records: list[Record], sampler: str = "random") -> Study:
    (folder / "s.yaml").write_text((sweep.folder / "space.yaml").read_text())
    search = TargetSearch(sweep)
    settings = StudySettings(
        space=read_space(read_yaml(folder / "s.yaml")),
        objectives=search.objectives,
        violations=search.violations,
        view=search.view,
        targets=search.own_objectives,
        sampler=Random() if sampler == "random" else SAMPLERS.load(sampler)(),
        seed=0,
        normal=lambda raw: raw,
        fixed=[({"runtime": "eager"}, "baseline"), ({"runtime": "onnxruntime"}, "baseline")],
    )
    return Study(StudyDatabase(folder / "study.db", "both"), settings, records)


def kept(folder: Path) -> list[Any]:
    storage = f"sqlite:///{folder / 'study.db'}"
    return optuna.load_study(study_name="both", storage=storage).get_trials(
        deepcopy=False, states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
    )


@pytest.mark.parametrize("sampler", ["random", "gp", "tpe", "conditional"])
def test_the_study_learns_a_latency_of_each_target(tmp_path: Path, sampler: str) -> None:
    sweep = two_target_sweep(tmp_path, records_on_both()[:2], LIMITED)
    study = study_of(tmp_path, sweep, records_on_both()[:2], sampler)
    latencies: list[tuple[float | None, float | None]] = [(2.0, 2.5), (None, 0.5), (0.8, None)]
    latencies += [(3.0 - 0.1 * turn, 2.0 + 0.1 * turn) for turn in range(8)]
    for one, two in latencies:
        proposal = study.propose()
        assert proposal is not None
        study.tell(on_both(proposal.number, 0.48, one, two))
    failed = study.propose()
    assert failed is not None
    study.tell(Record.failed(failed.number, failed.recipe, {}, "sampled", "RuntimeError: no"))
    study.close()
    trials = kept(tmp_path)
    told = [trial.values for trial in trials]
    assert told[:3] == [[0.48, 2.0, 2.5], [0.48, 9.0, 0.5], [0.48, 0.8, 7.0]]
    assert told[3] == [0.48, 3.0, 2.0]
    assert trials[-1].state == optuna.trial.TrialState.FAIL
    assert [all(value <= 0 for value in trial.constraints.values()) for trial in trials[:3]] == [True] * 3


def test_a_trial_that_was_stopped_is_told_what_is_expected_on_each_target(tmp_path: Path) -> None:
    sweep = two_target_sweep(tmp_path, records_on_both()[:2], LIMITED)
    study = study_of(tmp_path, sweep, records_on_both()[:2])
    known = {"expected_map": 0.3, "expected_latency_ms": 5.0, "expected_latency_ms@two": 4.0}
    proposal = study.propose()
    assert proposal is not None
    what = (proposal.number, proposal.recipe, {}, "sampled", "too slow")
    study.tell(Record.stopped(*what, stage="structure", metrics=known, facts={}))
    study.close()
    (trial,) = kept(tmp_path)
    assert trial.values == [0.3, 5.0, 4.0]
    assert max(trial.constraints.values()) == pytest.approx(2.0)  # on two, where it is nearer to the limit


def test_a_study_that_is_opened_again_learns_the_same(tmp_path: Path) -> None:
    sweep = two_target_sweep(tmp_path, records_on_both()[:2])
    study = study_of(tmp_path, sweep, records_on_both()[:2])
    proposal = study.propose()
    assert proposal is not None
    study.close()
    again = study_of(tmp_path, sweep, [*records_on_both()[:2], on_both(proposal.number, 0.48, 2.0, None)])
    again.close()
    assert [trial.values for trial in kept(tmp_path)] == [[0.48, 2.0, 7.0]]


def test_a_baseline_without_the_latency_of_one_target_ends_the_search(tmp_path: Path) -> None:
    sweep = two_target_sweep(tmp_path, records_on_both()[:2])
    assert not study_of(tmp_path, sweep, records_on_both()[:2]).baseline_failed
    (tmp_path / "study.db").unlink()
    assert study_of(tmp_path, sweep, [on_both(0, 0.5, 9.0, None)]).baseline_failed


class Quiet(SweepReporter):
    """A reporter without a log."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def prepare(self) -> None:
        pass

    def started(self) -> None:
        pass

    def finished(self) -> None:
        pass


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep for two targets whose trials are all done."""
    for name in ("take_baseline", "train_baseline", "refuse_impossible", "note_machines"):
        monkeypatch.setattr(module, name, lambda *_, **__: None)
    monkeypatch.setattr(session, "session", lambda *_, **__: nullcontext())
    monkeypatch.setattr(session, "cores", lambda: 1)
    return two_target_sweep(tmp_path, records_on_both(), {**JOB, "search": {"trials": 8}})


def run(sweep: Sweep, measure: Any) -> tuple[SweepResult, Quiet]:
    reporter = Quiet(sweep)
    return module.run_sweep(sweep, reporter=reporter, measure=measure), reporter


def test_the_front_is_compared_once_on_each_target(ended: Sweep) -> None:
    asked: list[Any] = []

    def measure(context: Any, finalists: FrontComparison) -> dict[str, Any]:
        asked.append((context.job.target_name, context.further, sorted(finalists.artefacts), dict(finalists.tested)))
        found = compared(records_on_both(), dict.fromkeys(finalists.artefacts, 1.0))
        tests = {str(number): {"metrics": {"map": 0.4}} for number in finalists.artefacts}
        return {**found, "test": tests}

    outcome, reporter = run(ended, measure)
    assert outcome.finished
    (one, first, there, before), (two, further, elsewhere, tested) = asked
    assert (one, first, two, further) == ("one", None, "two", "two")
    assert there == [0, 1, 2, 4, 6]
    assert elsewhere == [0, 1, 2, 3, 5]
    assert before == {}
    assert sorted(tested) == there  # accuracy is not taken again
    assert [line for line in reporter.lines if "comparing" in line] == [
        f"comparing 5 trials on {name}, interleaved in one run: it decides the front" for name in ("one", "two")
    ]
    told = comparison_of(ended.on("two"))
    assert told is not None
    assert sorted(map(int, told["latencies"])) == elsewhere


def test_a_comparison_that_failed_is_made_again_and_the_other_stays(ended: Sweep) -> None:
    asked: list[str] = []

    def measure(context: Any, finalists: FrontComparison) -> dict[str, Any]:
        asked.append(context.job.target_name)
        if asked == ["one", "two"]:
            raise RuntimeError("the node died")
        return compared(records_on_both(), dict.fromkeys(finalists.artefacts, 1.0))

    assert run(ended, measure)[0].finished
    failed = json.loads((ended.folder / "comparison-two.json").read_text())
    assert failed == {"reason": "the node died", "trials": {}}
    assert run(ended, measure)[0].finished
    assert asked == ["one", "two", "two"]
    told = comparison_of(ended.on("two"))
    assert told is not None
    assert "reason" not in told


def test_only_what_a_target_has_measured_is_compared_on_it(tmp_path: Path) -> None:
    records = [on_both(0, 0.5, 9.0, 7.0), on_both(1, 0.5, 4.0, None), on_both(2, 0.49, 2.0, 2.5)]
    sweep = two_target_sweep(tmp_path, records)
    one, two = (finalists_of(view) for view in sweep.each_target())
    assert (sorted(one.artefacts), one.reference) == ([0, 1, 2], 1)
    assert (sorted(two.artefacts), two.reference) == ([0, 2], 0)
