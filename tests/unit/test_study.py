"""The study and the records stay in step, whatever happens between them."""

from __future__ import annotations

import contextlib
import dataclasses
import time

import optuna
import pytest

from paretune.core.yaml_document import read_yaml
from paretune.search import optuna_chooser as module
from paretune.search.samplers import SAMPLERS, Random
from paretune.search.space_reader import read_space
from paretune.search.study import Study
from paretune.search.study_database import StudyDatabase
from paretune.search.study_file import StudyFile
from paretune.search.study_settings import Proposal, SpaceExhausted, StudySettings
from paretune.storage.trial_record import Record

SPACE = """\
input_size: {choices: [64, 96, 128, 160, 192, 224, 256, 288]}
steps:
  - prune: {ratio: {low: 0.0, high: 0.6, step: 0.1}}
runtime: onnxruntime
first:
  - {input_size: 96, prune.ratio: 0.3}
"""


def record(proposal, state="complete", facts=None, **metrics):
    values = {"map": 0.5, "latency_ms_p50": 3.0, **metrics}
    return Record(
        number=proposal.number,
        state=state,
        recipe=proposal.recipe,
        params={},
        metrics=values if state == "complete" else {},
        reasons={},
        notes=(),
        failure=None,
        artefact=None,
        origin=proposal.origin,
        started=time.time(),
        facts=facts or {},
    )


@pytest.fixture
def study(tmp_path):
    made = []

    def make(records=(), text=SPACE, sampler=None, violations=lambda _: {}, more=()):
        for before in made:  # as the file is a moment later
            before.save()
        (tmp_path / "s.yaml").write_text(text)
        setup = StudySettings(
            space=read_space(read_yaml(tmp_path / "s.yaml")),
            objectives={"map": "maximize", "latency_ms_p50": "minimize"},
            violations=violations,
            sampler=sampler or Random(),
            seed=0,
            normal=lambda raw: raw,
            fixed=[({"runtime": "eager"}, "baseline"), ({"runtime": "onnxruntime"}, "baseline"), *more],
        )
        made.append(Study(StudyDatabase(tmp_path / "study.db", "s"), setup, records))
        return made[-1]

    yield make
    for one in made:
        one.close()


def trials(tmp_path, study):
    """The trials in the file."""
    study.save()
    return in_file(tmp_path)


def in_file(tmp_path):
    return optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 'study.db'}").trials


def test_baselines_first_then_known_points_then_the_sampler(study):
    asked = study()
    eager = asked.propose()
    assert (eager.number, eager.origin, eager.recipe) == (0, "baseline", {"runtime": "eager"})
    assert asked.propose() is None  # all else waits for it
    asked.tell(record(eager))
    assert [asked.propose().origin for _ in range(4)] == ["baseline", "enqueued", "sampled", "sampled"]


def test_recipes_named_one_by_one_come_between_and_are_asked_for_once(study):
    advised = {"runtime": "openvino", "steps": ["outside of the space"]}
    asked = study(more=[(advised, "enqueued")])
    asked.tell(record(asked.propose()))
    told = [asked.propose() for _ in range(3)]
    assert [(one.number, one.origin) for one in told] == [(1, "baseline"), (2, "enqueued"), (3, "enqueued")]
    assert told[1].recipe == advised
    again = study(records=[record(told[1])], more=[(advised, "enqueued")])
    assert [again.propose().number for _ in range(1)] == [0]


RUNTIMES = """\
input_size: {choices: [64, 96, 128, 160]}
runtime: {choices: [onnxruntime, openvino]}
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_runtime_that_the_target_cannot_run_is_tried_once(study):
    asked, ran = study(text=RUNTIMES), []
    with contextlib.suppress(SpaceExhausted):
        while True:
            one = asked.propose()
            failed = one.recipe["runtime"] == "openvino"
            ran.append((one.recipe["runtime"], one.origin))
            how = {"state": "failed", "facts": {"unfit_runtime": True}} if failed else {}
            asked.tell(record(one, **how))
    assert [runtime for runtime, _ in ran].count("openvino") == 1
    assert ran.count(("onnxruntime", "sampled")) == 4
    assert len(ran) == len(set(asked.numbers)) == 1 + 2 + 4


FIRST = """\
input_size: {choices: [64, 96, 128, 160]}
runtime: {choices: [onnxruntime, openvino]}
first:
  - {input_size: 64, runtime: openvino}
  - {input_size: 96, runtime: onnxruntime}
  - {input_size: 128, runtime: openvino}
"""


def test_first_points_of_a_runtime_that_was_installed_since_are_tried_again(study):
    asked, records = study(text=FIRST), []
    for _ in range(4):
        one = asked.propose()
        failed = one.recipe["runtime"] == "openvino"
        records.append(record(one, **({"state": "failed", "facts": {"unfit_runtime": True}} if failed else {})))
        asked.tell(records[-1])
    assert [(one.recipe.get("input_size"), one.state) for one in records[2:]] == [(64, "failed"), (96, "complete")]
    assert asked.propose().recipe["runtime"] == "onnxruntime"  # the third point was passed over
    records[2] = dataclasses.replace(records[2], facts={"unfit_runtime": False, "runtime_installed_since": True})
    study(records=records, text=FIRST)
    again, tried = study(records=records, text=FIRST), []  # also where nothing came of a resume before
    for _ in range(3):
        tried.append(again.propose())
        again.tell(record(tried[-1]))
    wanted = [({"input_size": size, "runtime": "openvino"}, "enqueued") for size in (64, 128)]
    assert [(one.recipe, one.origin) for one in tried if one.origin == "enqueued"] == wanted
    assert not {one.number for one in tried} & {one.number for one in records}
    records += [record(one) for one in tried]
    later = study(records=records, text=FIRST)
    assert later.propose().origin == "sampled"  # once


class Stubborn(optuna.samplers.BaseSampler):
    """Proposes the same recipe again and again, as one does that learns nothing from failed trials."""

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, param_name, param_distribution):
        categorical = isinstance(param_distribution, optuna.distributions.CategoricalDistribution)
        return param_distribution.choices[0] if categorical else param_distribution.low


def test_a_sampler_that_insists_on_a_failed_recipe_does_not_end_the_search(study, monkeypatch):
    monkeypatch.setattr(Random, "build", lambda *_: Stubborn())
    asked = study()
    asked.tell(record(asked.propose()))
    ran = []
    for _ in range(10):
        ran.append(asked.propose())
        asked.tell(record(ran[-1], state="failed"))
    assert len({str(one.recipe) for one in ran}) == len(ran)
    assert isinstance(asked._study.sampler, Stubborn)  # it is asked first each time


UNFIT = """\
input_size: {choices: [64, 96, 128, 160, 192, 224, 256, 288]}
steps:
  - prune: {ratio: {low: 0.1, high: 0.9, step: 0.05}, budget: {choices: [channels, flops]}}
runtime: {choices: [onnxruntime, openvino, tensorrt]}
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("unfit", [True, False])
def test_the_default_sampler_uses_the_whole_budget_where_much_of_the_space_fails(study, unfit):
    """What fails is the fastest: a runtime that the target lacks, or a cut that leaves nothing."""
    asked, ran = study(text=UNFIT, sampler=SAMPLERS.load("gp")()), []
    while len(ran) < 24:
        one = asked.propose()
        ran.append(one)
        if one.origin == "baseline":
            asked.tell(record(one))
            continue
        ratio, runtime = one.recipe["steps"][0]["prune"]["ratio"], one.recipe["runtime"]
        if runtime == "tensorrt" if unfit else ratio > 0.6:
            asked.tell(record(one, state="failed", facts={"unfit_runtime": True} if unfit else {}))
        else:
            asked.tell(record(one, map=0.7 - ratio / 3, latency_ms_p50=one.recipe["input_size"] / 40 * (1 - ratio)))
    assert len({str(one.recipe) for one in ran}) == len(ran)


@pytest.mark.parametrize("written", ["160", "160x160", 160])
def test_a_baseline_is_not_run_again_however_its_size_is_written(study, written):
    """Also where the records are those of a sweep that is resumed."""
    text = "input_size: {choices: [160, 192]}\nruntime: openvino\nfirst: [{input_size: 160}, {input_size: 192}]\n"
    done = study(more=[({"input_size": written, "runtime": "openvino"}, "baseline")], text=text)
    records = [record(done.propose())]
    done.tell(records[0])
    records += [record(done.propose()) for _ in range(2)]
    assert records[2].recipe["input_size"] == written
    assert study(records=records, text=text).propose().recipe == {"input_size": 192, "runtime": "openvino"}


def test_a_study_that_holds_integers_goes_on_with_them(study, tmp_path):
    """A step of a half between whole ends was once taken for one of 1."""
    whole = "size: {low: 1, high: 4}\nruntime: onnxruntime\n"
    asked = study(text=whole)
    records = [record(asked.propose())]
    asked.tell(records[0])
    records += [record(asked.propose()), record(asked.propose())]
    again = study(records=records, text=whole.replace("high: 4", "high: 4, step: 1.5"))
    assert isinstance(again.propose().recipe["size"], int)


@pytest.mark.parametrize("count", [50, 500])
def test_a_trial_costs_the_study_the_same_however_many_there_are(study, monkeypatch, count):
    """Counted are the recipes that are hashed, and the writes to the file before it is saved."""
    records = [record(Proposal(number, {"known": number}, "sampled")) for number in range(count)]
    asked, hashed, written = study(records=records), [], []
    real, write = module.fingerprint, StudyFile._write
    monkeypatch.setattr(module, "fingerprint", lambda recipe: [hashed.append(1), real(recipe)][1])
    monkeypatch.setattr(StudyFile, "_write", lambda file, trial: [written.append(1), write(file, trial)][1])
    monkeypatch.setattr("paretune.search.study_file.IDLE", 600)
    for _ in range(5):
        asked.tell(record(asked.propose()))
    assert len(hashed) <= 5 * 3
    assert written == []
    asked.save()
    assert 5 <= len(written) <= 5 + 2  # each trial once, and points that wait


def test_a_trial_is_in_the_file_a_moment_after_it_was_proposed(study, tmp_path):
    """As a killed sweep leaves it."""
    asked = study()
    asked.tell(record(asked.propose()))
    asked.propose()
    number = asked.propose().number
    end = time.monotonic() + 60
    while not any(t.user_attrs.get("paretune.trial") == number for t in in_file(tmp_path)):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_numbers_are_never_used_twice(study):
    asked = study()
    done = [asked.propose()]
    asked.tell(record(done[0]))
    for _ in range(8):
        done.append(asked.propose())
        asked.tell(record(done[-1]))
    assert [p.number for p in done] == list(range(9))


def test_failed_trials_and_those_without_an_objective_are_told_as_failed(study, tmp_path):
    asked = study()
    asked.tell(record(asked.propose()))
    asked.propose()
    states = optuna.trial.TrialState
    unknown = record(asked.propose())
    del unknown.metrics["map"]
    asked.tell(unknown)
    assert trials(tmp_path, asked)[-1].state == states.FAIL
    asked.tell(record(asked.propose()))
    assert trials(tmp_path, asked)[-1].state == states.COMPLETE
    asked.tell(record(asked.propose(), state="failed"))
    assert trials(tmp_path, asked)[-1].state == states.FAIL


def test_constraints_reach_optuna_and_keep_points_off_its_front(study, tmp_path):
    asked = study(violations=lambda r: {"map": 0.4 - r.metrics["map"]})
    asked.tell(record(asked.propose()))
    asked.propose()
    asked.tell(record(asked.propose(), map=0.3, latency_ms_p50=1.0))
    asked.tell(record(asked.propose(), map=0.5, latency_ms_p50=2.0))
    asked.save()
    loaded = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert [t.values for t in loaded.best_trials] == [[0.5, 2.0]]


def test_optunas_own_tools_show_the_objectives_by_their_names(study, tmp_path):
    for _ in range(2):  # also when a sweep goes on
        study().save()
        loaded = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 'study.db'}")
        assert loaded.metric_names == ["map", "latency_ms_p50"]


def test_after_a_crash_the_unfinished_trial_keeps_its_number_and_its_recipe(study):
    asked = study()
    first = asked.propose()
    asked.tell(record(first))
    second, third, fourth = asked.propose(), asked.propose(), asked.propose()
    written = [record(first), record(third)]  # the third was recorded, but we died before it was told
    again = study(written)
    told = [again.propose() for _ in range(3)]
    assert told[0].number == second.number
    assert (told[1].number, told[1].recipe) == (fourth.number, fourth.recipe)
    assert told[2].number == fourth.number + 1


def test_what_was_recorded_but_not_told_is_told_on_opening(study, tmp_path):
    asked = study()
    first = asked.propose()
    asked.tell(record(first))
    asked.propose()
    third = asked.propose()
    again = study([record(first), record(third, map=0.7)])
    told = [t for t in trials(tmp_path, again) if t.user_attrs.get("paretune.trial") == third.number]
    assert [t.state for t in told] == [optuna.trial.TrialState.COMPLETE]
    assert told[0].values == [0.7, 3.0]


@pytest.mark.slow
def test_a_recipe_that_was_run_is_not_run_again_and_a_space_can_be_used_up(study):
    small = "input_size: {choices: [64, 96]}\nruntime: onnxruntime\n"
    asked = study(text=small)
    asked.tell(record(asked.propose()))
    asked.tell(record(asked.propose()))
    seen = []
    for _ in range(2):
        seen.append(asked.propose())
        asked.tell(record(seen[-1]))
    with pytest.raises(SpaceExhausted):
        asked.propose()
    assert sorted(p.recipe["input_size"] for p in seen) == [64, 96]


def test_trials_that_run_at_once_have_different_recipes(study, tmp_path):
    """Those of the baselines too: the second one is what the first point asks for."""
    point = {"input_size": 96, "steps": [{"prune": {"ratio": 0.3}}], "runtime": "onnxruntime"}
    asked = study(text=SPACE.replace("low: 0.0, high: 0.6", "low: 0.2, high: 0.3"), more=[(point, "enqueued")])
    asked.tell(record(asked.propose()))
    running = [asked.propose() for _ in range(12)]
    assert len({str(one.recipe) for one in running}) == 12
    same = next(trial for trial in trials(tmp_path, asked) if "paretune.same_as" in trial.user_attrs)
    assert (same.state, same.user_attrs["paretune.same_as"]) == (optuna.trial.TrialState.FAIL, 2)


def test_a_space_is_used_up_once_nothing_of_it_runs_any_more(study, tmp_path, monkeypatch):
    monkeypatch.setattr("paretune.search.study.DRAWS", 12)
    asked = study(text="input_size: {choices: [64, 96]}\nruntime: onnxruntime\n")
    asked.tell(record(asked.propose()))
    asked.tell(record(asked.propose()))
    running = [asked.propose(), asked.propose()]
    assert asked.propose() is None
    drawn = len(trials(tmp_path, asked))
    assert asked.propose() is None
    assert len(trials(tmp_path, asked)) == drawn  # the study does not grow while one waits
    asked.tell(record(running[0]))
    assert asked.propose() is None
    asked.tell(record(running[1], state="failed"))
    with pytest.raises(SpaceExhausted):
        asked.propose()
