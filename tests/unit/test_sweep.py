"""A sweep whose baseline fails, and one whose target this machine cannot be: Ray itself is not started."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paretune.cli.main import build_parser, main
from paretune.config.plan import read_plan
from paretune.config.recipe import Recipe
from paretune.core.errors import UserError
from paretune.profiling.energy import measure as energy
from paretune.results.sweep_changes import change_search
from paretune.results.sweep_folder import Sweep, new_sweep
from paretune.runtimes import eager
from paretune.runtimes.openvino import OpenVino
from paretune.storage.trial_record import RUNTIME_UNAVAILABLE, Record, read_records, write_record
from paretune.workflows.machine_check import refuse_unfit_machine
from paretune.workflows.sweep import run_trials
from paretune.workflows.sweep_reporter import SweepReporter
from tests_support_documented import printed, words

JOB = """\
dataset: {shapes: {}}
detector: {yolo: {variant: nano}}
input_size: 160
space: space.yaml
targets: {laptop: {threads: 2}}
search: {trials: 4, sampler: random}
"""
SPACE = "{input_size: {choices: [128, 160]}, steps: [{prune: {ratio: {low: 0.1, high: 0.5}}}], runtime: onnxruntime}"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "space.yaml").write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    return Path("job.yaml")


class Tune:
    """Carries out proposals one by one, as Tune does; trials named in ``broken`` fail."""

    def __init__(
        self,
        sweep: Sweep,
        broken: set[int],
        reasons: dict[str, str] | None = None,
        metrics: dict[str, float] | None = None,
    ) -> None:
        self.sweep, self.broken, self.reasons, self.ran = sweep, broken, reasons or {}, []
        self.metrics = {"map": 0.5, "latency_ms": 3.0, **(metrics or {})}

    def __call__(self, _trial: Any, searcher: Any, *, most: int = 100, **_: Any) -> None:
        for turn in range(most):
            proposal = searcher.suggest(str(turn))
            if proposal == searcher.FINISHED:
                return
            number, recipe = proposal["number"], proposal["recipe"]
            self.ran.append(number)
            what = (number, recipe, {}, proposal["origin"])
            if number in self.broken:
                record = Record.failed(*what, "RuntimeError: the measuring process died")
            else:
                result = {"metrics": self.metrics, "reasons": self.reasons}
                result |= {"notes": (), "artefact": "a"}
                record = Record.complete(*what, started=1.0 + number, **result)
            write_record(self.sweep.folder, record)
            searcher.on_trial_complete(str(turn), {"number": number})


class Quiet(SweepReporter):
    def trial_done(self, _record: Record) -> None:
        """Neither front nor log."""


def states(sweep: Sweep) -> list[tuple[int, str]]:
    return [(record.number, record.state) for record in read_records(sweep.folder)]


def test_a_baseline_that_failed_ends_the_sweep_and_is_run_again_on_resume(job: Path, capsys: Any) -> None:
    sweep = new_sweep(read_plan(job), "one")
    broken = Tune(sweep, {0})
    with pytest.raises(UserError, match=r"the measuring process died\nto run it again: paretune resume one$"):
        run_trials(sweep, Quiet(sweep), share=2, tuner=broken)
    assert broken.ran == [0]
    whole = Tune(sweep, set())
    run_trials(sweep, Quiet(sweep), share=2, tuner=whole)
    assert "trial 0 is a baseline and failed; it is run again" in capsys.readouterr().out
    assert whole.ran == [0, 1, 2, 3]
    assert states(sweep) == [(number, "complete") for number in range(4)]


@pytest.mark.parametrize(
    "asked",
    [
        {"objectives": {"map": "maximize", "memory_mib_peak": "minimize"}},
        {"constraints": {"memory_mib_peak": {"max": 100}}},
    ],
    ids=["objectives", "constraints"],
)
def test_a_baseline_without_a_metric_that_is_asked_for_ends_the_sweep(job: Path, asked: dict[str, Any]) -> None:
    """No other trial would have it, and every one would be in vain."""
    sweep = new_sweep(read_plan(job, asked), "one")
    tune = Tune(sweep, set(), {"memory_mib_peak": "it hides"})
    (place,) = asked
    for ran in ([0], [0]):  # on resume it is told again, and nothing is run
        with pytest.raises(
            UserError, match=f"^{place}.memory_mib_peak: not known of trial 0.*: it hides; name another"
        ):
            run_trials(sweep, Quiet(sweep), share=2, tuner=tune)
        assert tune.ran == ran


@pytest.mark.parametrize(
    ("asked", "found"),
    [({}, {"map": 0.004}), ({"constraints": {"map50": {"max_drop": 0.3}}}, {"map": 0.2, "map50": 0.3})],
    ids=["noise", "max_drop"],
)
def test_a_baseline_that_has_not_learned_ends_the_sweep_until_it_is_accepted(
    job: Path, asked: dict[str, Any], found: dict[str, float]
) -> None:
    sweep = new_sweep(read_plan(job, asked), "one")
    tune = Tune(sweep, set(), metrics=found)
    for _ in range(2):  # on resume it is told again, and nothing is run
        with pytest.raises(UserError, match=next(reversed(found))) as raised:
            run_trials(sweep, Quiet(sweep), share=2, tuner=tune)
        assert tune.ran == [0]
    (line,) = [line for line in printed(str(raised.value)) if " resume " in line]
    given = build_parser().parse_args(words(line))
    assert (given.sweep, given.allow_unlearned) == ("one", True)
    accepted = change_search(sweep, allow_unlearned=True)
    run_trials(accepted, Quiet(accepted), share=2, tuner=tune)
    assert tune.ran == [0, 1, 2, 3]
    kept = new_sweep(read_plan(job, {"constraints": {"map50": {"max_drop": 0.29}}}), "two")
    enough = Tune(kept, set(), metrics={"map": 0.2, "map50": 0.3})
    run_trials(kept, Quiet(kept), share=2, tuner=enough)
    assert enough.ran == [0, 1, 2, 3]


def test_the_unchanged_network_is_measured_on_each_runtime_of_a_longer_search(job: Path) -> None:
    space = "{input_size: 128, steps: [{prune: {ratio: {low: 0.1, high: 0.5}}}], runtime: {choices: {%s}}}"
    Path("space.yaml").write_text(space % "a: onnxruntime, b: openvino, c: {openvino: {precision: bf16}}, d: eager")
    for trials, expected in ((4, []), (12, ["openvino", "openvino"])):
        sweep = new_sweep(read_plan(job, {"search.trials": trials}), f"of-{trials}")
        tune = Tune(sweep, set())
        run_trials(sweep, Quiet(sweep), share=2, tuner=functools.partial(tune, most=5))
        plain = [record for record in read_records(sweep.folder)[2:] if not record.recipe["steps"]]
        assert [next(iter(record.recipe["runtime"])) for record in plain] == expected


def test_the_other_baseline_stops_nothing_and_is_run_again_before_what_is_left(job: Path) -> None:
    sweep = new_sweep(read_plan(job), "one")
    stopped = Tune(sweep, {1, 2})
    run_trials(
        sweep,
        Quiet(sweep),
        share=2,
        tuner=lambda *words, **more: stopped(*words, most=3, **more),
    )
    assert states(sweep) == [(0, "complete"), (1, "failed"), (2, "failed")]
    whole = Tune(sweep, set())
    run_trials(sweep, Quiet(sweep), share=2, tuner=whole)
    assert whole.ran == [1, 3]
    assert states(sweep) == [(0, "complete"), (1, "complete"), (2, "failed"), (3, "complete")]


@pytest.mark.parametrize(("missing", "share"), [(False, 2), (True, 2), (False, 0)])
def test_a_runtime_that_was_installed_since_is_tried_again_where_this_machine_can_tell(
    job: Path, monkeypatch: pytest.MonkeyPatch, missing: bool, share: int
) -> None:
    """On a cluster (no share) the trials run on machines that are not asked."""
    both = "runtime: {choices: [openvino, onnxruntime]}"
    Path("space.yaml").write_text(SPACE.replace("runtime: onnxruntime", both))
    sweep = new_sweep(read_plan(job, {"search.trials": 12}), "one")
    begun = Tune(sweep, set())
    run_trials(sweep, Quiet(sweep), share=2, tuner=lambda *words, **more: begun(*words, **more, most=2))
    recipe = {"input_size": 128, "steps": [], "runtime": "openvino"}
    failed = Record.failed(2, Recipe.model_validate(recipe).tree(), {}, "sampled", "UserError: not installed here")
    write_record(sweep.folder, replace(failed, facts={RUNTIME_UNAVAILABLE: True}))
    monkeypatch.setattr(OpenVino, "unsupported_reason", lambda *_: "not installed here" if missing else None)
    rest = Tune(sweep, set())
    run_trials(sweep, Quiet(sweep), share=share, tuner=rest)
    assert rest.ran == list(range(3, 12))
    ran = {next(iter(record.recipe["runtime"])) for record in read_records(sweep.folder)[3:]}
    assert ran == ({"openvino", "onnxruntime"} if share and not missing else {"onnxruntime"})


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "targets.laptop.threads=9",
            "targets.laptop.threads: 9 threads, each on a core of its own, and this process may use 2: at most 2",
        ),
        ("targets.laptop.device=cuda", "targets.laptop.device: the target is a GPU, and torch finds none"),
    ],
)
def test_a_target_that_this_machine_cannot_be_is_refused_before_anything_is_made(
    job: Path, target: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4})
    monkeypatch.setattr(
        eager, "gpu_unsupported_reason", lambda t: message.partition(": ")[2] if t.device == "cuda" else None
    )
    assert main(["sweep", str(job), "--name", "one", "--set", target]) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


ENERGY = "objectives={map: maximize, energy_mj_image: minimize}"


@pytest.mark.parametrize("why", [None, "no counters here"])
def test_energy_that_this_machine_does_not_tell_is_refused_before_anything_is_made(
    job: Path, why: str | None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4})
    monkeypatch.setattr(energy, "unsupported_reason", lambda _: why)
    refuse_unfit_machine(read_plan(job).job)  # nobody asks for it
    if why is None:
        refuse_unfit_machine(read_plan(job, {"objectives": {"map": "maximize", "energy_mj_image": "minimize"}}).job)
        return
    for asked in (ENERGY, "constraints={energy_mj_image_net: {max: 5}}"):
        assert main(["sweep", str(job), "--name", "one", "--set", asked]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith(": not known on this machine: no counters here")
    assert not Path("runs").exists()


def test_it_is_refused_on_resume_too_and_check_tells_of_it(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    new_sweep(read_plan(job), "one")
    assert main(["check", str(job)]) == 0
    assert capsys.readouterr().out == "job.yaml: a job, right; its space has 2 parameters\n"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    message = "targets.laptop.threads: 2 threads, each on a core of its own, and this process may use 1: at most 1"
    assert main(["resume", "one"]) == 2
    assert message in capsys.readouterr().err
    assert main(["check", str(job)]) == 0  # it may be meant for another one
    assert f"a job, right; its space has 2 parameters; not on this machine: {message}" in capsys.readouterr().out
