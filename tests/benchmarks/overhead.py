"""What a sweep costs besides its trials: seconds of the driver per trial by cause, beside Ray Tune alone.

The trials do nothing but write a record. All else is real: Ray Tune, the study, the reporter, MLflow in SQLite. The
folder grows from point to point, filled without Tune up to each number of records. ``--sweep FOLDER`` computes instead
the own time of a finished real sweep; without it a small real one is run at the end.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from figures import BENCH, Figures, parser_of
from own_time import add_own_time, real_sweep
from sqlalchemy import Engine, event

from paretune.config.plan import read_plan
from paretune.config.recipe import Recipe
from paretune.distributed import ray_session, tune_trials
from paretune.results.sweep_folder import Sweep, new_sweep
from paretune.search import study as studies
from paretune.search.latency_scale import on_one_scale
from paretune.storage.trial_record import Record, read_records, write_record
from paretune.tracking.sweep_runs import SweepRuns
from paretune.tracking.sweep_tracker import MlflowTracker
from paretune.workflows import sweep as sweeps
from paretune.workflows import sweep_log_client, sweep_reporter
from paretune.workflows.trial_context import TrialContext

FOLDER = BENCH / "overhead"
POINTS = (100, 500, 1000, 2000)
TRIALS = 60
"""Trials by the real driver at each point."""
JOB = """\
dataset: shapes
detector: {{yolo: {{variant: nano}}}}
input_size: 160
space: space.yaml
targets: {{laptop: {{threads: 1}}}}
objectives: {{map: maximize, latency_ms: minimize}}
constraints: {{map: {{max_drop: 0.1}}}}
search: {{allow_unlearned: true, trials: {trials}, sampler: {sampler}, concurrent: {concurrent}}}
"""
SPACE = """\
input_size: {choices: [64, 96, 128, 160, 192, 224]}
steps:
  - prune: {ratio: {low: 0.05, high: 0.9, step: 0.01}, importance: {choices: [l1, l2]}, round_to: {choices: [4, 8]}}
  - finetune: {epochs: {low: 1, high: 10}, lr_factor: {low: 0.1, high: 1.0, log: true}}
  - name: precision
    choices: {fp32: null, int8: {quantize: {images: 64}}}
runtime: {choices: [onnxruntime, eager]}
"""
CAUSES = {
    "proposal": (studies.Study, "propose"),
    "study": (studies.Study, "tell"),
    "record": (sweeps, "record_of"),
    "line": (sweep_reporter.SweepReporter, "trial_done"),
    "log process": (sweep_log_client.SweepLogProcess, "trial_done"),
    "study at the end": (studies.Study, "close"),
}
"""Cause → the function of the driver whose time, less that of the others within it, it is."""


class Clocks:
    """Seconds in functions, each without those of the others that it calls."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(CAUSES, 0.0)
        self.ended: list[float] = []
        """When each trial was done with."""
        self._inside: list[float] = []

    def timed(self, cause: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time counts."""

        @functools.wraps(call)
        def counted(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            self._inside.append(0.0)
            try:
                return call(*given, **named)
            finally:
                spent = time.perf_counter() - start
                self.seconds[cause] += spent - self._inside.pop()
                if self._inside:
                    self._inside[-1] += spent

        return counted

    def noting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose end is noted."""

        @functools.wraps(call)
        def noted(*given: Any, **named: Any) -> Any:
            try:
                return call(*given, **named)
            finally:
                self.ended.append(time.perf_counter())

        return noted

    @property
    def each(self) -> float:
        """Return the median seconds from the end of a trial to the end of the next, in stretches of ten."""
        gaps = [(b - a) / 10 for a, b in zip(self.ended[::10], self.ended[10::10], strict=False)]
        return median(gaps) if gaps else float("nan")


@contextmanager
def clocks() -> Iterator[Clocks]:
    """Count the driver's seconds in the block by cause."""
    from paretune.distributed import tune_searcher  # imports Ray, which reads its token then

    made, real = Clocks(), {}
    places = {**CAUSES, "end": (tune_searcher.StudySearcher, "on_trial_complete")}
    for cause, (place, name) in places.items():
        real[cause] = getattr(place, name)
        wrapped = made.noting(real[cause]) if cause == "end" else made.timed(cause, real[cause])
        setattr(place, name, wrapped)
    try:
        yield made
    finally:
        for cause, (place, name) in places.items():
            setattr(place, name, real[cause])


def invented(proposal: Mapping[str, Any]) -> Record:
    """Return a record as a trial writes it, with figures that a recipe always has again."""
    recipe = Recipe.model_validate(proposal["recipe"])
    dice = hashlib.sha256(repr(recipe.tree()).encode()).digest()
    a, b, c = (value / 255 for value in dice[:3])
    ratio, number = 0.3 + 1.5 * b, proposal["number"]
    quality = 0.5 if number < 2 else 0.3 + 0.2 * b + 0.05 * a
    duet = {f"{part}{end}": ratio * by for part in ("", "network_") for end, by in ENDS.items()}
    duet |= {"reference": min(number, 1), "reference_ms": 4 + c / 10, "reference_network_ms": 3 + c / 10, "calm": True}
    metrics = {"map": quality, "map50": 1.5 * quality, "size_mib": 3.0, "params": 9e5, "flops": 3e8}
    metrics |= {f"{name}_p{n}": 4 * ratio for name in ("latency_ms", "network_ms") for n in (50, 90)}
    metrics |= {f"map_delta{end}": quality - 0.5 for end in ("", "_low", "_high")}
    return Record.complete(
        number,
        recipe.tree(),
        recipe.params(),
        proposal["origin"],
        metrics=metrics,
        reasons={"latency_ms_p99": "662 samples are needed, there are 300"},
        notes=(),
        artefact=None,
        started=time.time(),
        seconds={"export": 0.0, "evaluate": 0.0, "measure": 0.0},
        facts={"duet": duet if number else {**duet, "ratio": 1.0, "low": 1.0, "high": 1.0, "network_ratio": 1.0}},
    )


ENDS = {"ratio": 1.0, "low": 0.98, "high": 1.02}


def no_trial(folder: str, kept: dict[str, TrialContext], proposal: dict[str, Any]) -> dict[str, Any]:
    """Write the record of a trial that does nothing, as `trial.run` does at its end; ``kept`` lasts in a worker."""
    if folder not in kept:
        kept[folder] = TrialContext(None, None, Path(folder), Path(folder))  # type: ignore[arg-type]
    context = kept[folder]
    record = context.scaled(invented(proposal))
    write_record(context.folder, record)
    return {"number": record.number, "state": record.state}


def with_no_trials(_: Any, searcher: Any, **settings: Any) -> None:
    """Run trials by Tune that do nothing."""
    tune_trials.run_trials(functools.partial(no_trial, str(settings["folder"].resolve()), {}), searcher, **settings)


def filled(sweep: Sweep, count: int) -> None:
    """Write records up to a number, and tell study and log of them, without Tune."""

    def fill(_: Any, searcher: Any, *, folder: Path, **__: Any) -> None:
        first: list[Record] = []
        for turn in itertools.count():
            proposal = searcher.suggest(str(turn))
            if proposal == searcher.FINISHED:
                return
            first = [*first[:2], invented(proposal)]
            write_record(folder, on_one_scale(first)[-1])
            searcher.on_trial_complete(str(turn), {})

    class Quiet(sweep_reporter.SweepReporter):
        def trial_done(self, record: Record) -> None:
            """Print and log nothing."""

    sweeps.run_trials(with_trials(sweep, count), Quiet(sweep), share=1, tuner=fill)
    place = MlflowTracker(sweep.runs, sweep.name, None, sweep.job.tracking.experiment or "paretune").place
    records = read_records(sweep.folder)
    event.listen(Engine, "connect", _without_waiting)
    try:
        runs = SweepRuns(place, {}, sweep.facts["created"])
        runs.log_trials(records, sweep.folder)
        runs._log(runs._parent_id, metrics={"trials/done": float(len(records))}, step=len(records))
    finally:
        event.remove(Engine, "connect", _without_waiting)


def _without_waiting(connection: Any, _record: Any) -> None:
    """Let SQLite not wait for the disk while the log is filled."""
    connection.execute("PRAGMA synchronous=OFF")


def with_trials(sweep: Sweep, count: int) -> Sweep:
    """Return the sweep with another budget."""
    facts = sweep.facts
    facts["job"]["search"]["trials"] = count
    again = Sweep(sweep.runs, sweep.name)
    again.facts.update(facts)
    again.note()
    return Sweep(sweep.runs, sweep.name)


def drawn(trial: Any) -> None:
    """Draw the parameters of `SPACE` as Ray's own searcher asks for them."""
    trial.suggest_categorical("input_size", [64, 96, 128, 160, 192, 224])
    trial.suggest_float("ratio", 0.05, 0.9, step=0.01)
    trial.suggest_categorical("importance", ["l1", "l2"])
    trial.suggest_categorical("round_to", [4, 8])
    trial.suggest_int("epochs", 1, 10)
    trial.suggest_float("lr_factor", 0.1, 1.0, log=True)
    trial.suggest_categorical("precision", ["fp32", "int8"])
    trial.suggest_categorical("runtime", ["onnxruntime", "eager"])


def bare(count: int, concurrent: int, sampler: str) -> list[float]:
    """Run trials by Ray Tune with Ray's own searcher; returns when each was done with."""
    import optuna
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ended: list[float] = []

    class Noting(OptunaSearch):  # type: ignore[misc]
        def on_trial_complete(self, *given: Any, **named: Any) -> None:
            super().on_trial_complete(*given, **named)
            ended.append(time.perf_counter())

        def save(self, checkpoint_path: str) -> None:
            """Save nothing: a class in a function cannot be pickled."""

    def nothing(config: dict[str, Any]) -> None:
        tune.report({"map": config["ratio"], "latency_ms": config["lr_factor"]})

    samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
    searcher = Noting(drawn, metric=["map", "latency_ms"], mode=["max", "min"], sampler=samplers[sampler](seed=0))
    tune.Tuner(
        tune.with_resources(nothing, {"CPU": 1}),
        tune_config=tune.TuneConfig(
            search_alg=searcher, num_samples=count, max_concurrent_trials=concurrent, reuse_actors=True
        ),
        run_config=tune.RunConfig(name="bare", storage_path=str(FOLDER.resolve()), verbose=0),
    ).fit()
    shutil.rmtree(FOLDER / "bare", ignore_errors=True)
    return ended


def measured(sweep: Sweep, records: int, trials: int) -> Clocks:
    """Run trials by the real driver on a folder with records, and return where its time went."""
    sweep = with_trials(sweep, records + trials)
    reporter = sweep_reporter.SweepReporter(sweep)
    reporter.started()
    with clocks() as made:
        sweeps.run_trials(sweep, reporter, share=1, tuner=with_no_trials)
    if hasattr(reporter, "stop"):
        reporter.stop()
    return made


def main() -> int:
    """Measure every point and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--records", type=int, nargs="+", default=list(POINTS), help="numbers of records to start from")
    parser.add_argument("--trials", type=int, default=TRIALS, help="trials at each of them")
    parser.add_argument("--concurrent", type=int, default=1, help="trials at the same time")
    parser.add_argument("--sampler", choices=["random", "tpe"], default="random")
    parser.add_argument("--sweep", type=Path, help="compute the own time of this finished sweep, and nothing else")
    given = parser.parse_args()
    if given.sweep is not None:
        figures = Figures("overhead")
        add_own_time(figures, given.sweep)
        return figures.end(as_json=given.json)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    text = JOB.format(trials=10_000, sampler=given.sampler, concurrent=given.concurrent)
    (FOLDER / "job.yaml").write_text(text + f"output: {FOLDER / 'runs'}\n")
    (FOLDER / "space.yaml").write_text(SPACE)
    sweep, figures = new_sweep(read_plan(FOLDER / "job.yaml"), "noop"), Figures("overhead")
    seconds: dict[int, float] = {}
    shares: list[float] = []
    with ray_session.session(sweep.runs):
        for records in given.records:
            begun = time.perf_counter()
            filled(sweep, records)
            print(f"{records} records: filled in {time.perf_counter() - begun:.1f} s", flush=True)
            cpu = sum(os.times()[:2])
            made = measured(sweep, records, given.trials)
            seconds[records] = made.each
            figures.add(f"{records} records: seconds per trial", made.each, "s")
            figures.add(
                f"{records} records: CPU seconds of the driver", (sum(os.times()[:2]) - cpu) / given.trials, "s"
            )
            for cause, spent in made.seconds.items():
                figures.add(f"{records} records: {cause}", spent / given.trials, "s")
            cpu, alone = sum(os.times()[:2]), Clocks()
            alone.ended = bare(given.trials, given.concurrent, given.sampler)
            shares.append(alone.each / made.each)
            figures.add("Ray Tune alone, just after: seconds per trial", alone.each, "s")
            figures.add("Ray Tune alone: CPU seconds of the driver", (sum(os.times()[:2]) - cpu) / given.trials, "s")
    least, most = min(seconds.values()), max(seconds.values())
    figures.add("trials per minute, of those of Ray Tune alone", min(shares), "x", at_least=0.9)
    figures.add("slowest point, of the fastest", most / least, "x", at_most=1.2)
    add_own_time(figures, real_sweep(FOLDER))
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
