"""The runs of one sweep in MLflow: a parent for the sweep, and a nested run for each trial.

All that is logged comes from the trial records, is keyed by tags and carries the records' own times. Logging it twice,
or again after a crash, changes nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.recipe_text import recipe_line
from paretune.search.latency_scale import SCALED
from paretune.search.pareto_front import FrontRules, hypervolume, pareto_front
from paretune.storage.trial_record import Record, trial_folder
from paretune.tracking.mlflow_client import (
    NOTE,
    ON_FRONT,
    PARENT,
    SWEEP,
    TIED,
    TRIAL,
    LogPlace,
    Turn,
    key_of,
    log_values,
    run_page,
)
from paretune.tracking.target_log import TargetLog, named, on_front_tag, target_values

if TYPE_CHECKING:
    from mlflow.entities import Run

ON_SCALE = frozenset(f"{metric}{end}" for metric in SCALED for end in ("", "_low", "_high"))
"""Metrics that a comparison of the front may change."""
HEADING = "**Paretune**"
"""First words of the experiment's description; one that begins otherwise is a user's own."""
MOST_LINKS = 50
"""Sweeps in the experiment's description, the newest first."""


@dataclass(frozen=True)
class _Child:
    """The run of a trial."""

    run_id: str
    started: int
    """Start in milliseconds since 1970."""
    ended: int | None
    """End in milliseconds since 1970; None if the writer died while it wrote the run."""
    on_fronts: dict[str, bool] = field(default_factory=dict)
    """Further target → whether the trial is on its front, as it is logged."""


class SweepRuns:
    """The log of a sweep: the constructor reads its runs, and the methods add what they lack.

    Every method raises ``MlflowException`` or ``OSError`` if the log cannot be written.

    Args:
        place: where the sweep is logged.
        params: the job as flat params.
        started: time at which the sweep was made, in seconds since 1970.
        turn: makes the context of each call of MLflow.
    """

    def __init__(self, place: LogPlace, params: Mapping[str, Any], started: float, turn: Turn = nullcontext) -> None:
        self._sweep = place.sweep
        self._client = place.connect(turn)
        self._experiment_id = place.experiment_id(self._client)
        parent = self._parent(started)
        self._parent_id: str = parent.info.run_id
        self._log(self._parent_id, params={k: v for k, v in params.items() if key_of(k) not in parent.data.params})
        self._steps = int(parent.data.metrics.get("trials_done", 0))
        self._ended = _ms(started)
        self._linked = False
        self._children: dict[int, _Child] = {}
        self._on_front: dict[int, bool] = {}
        for run in self._find(f"tags.`{PARENT}` = '{self._parent_id}'"):
            number, running = int(run.data.tags[TRIAL]), run.info.status == "RUNNING"
            start = on_front_tag("")
            on_fronts = {
                tag.removeprefix(start): v == "true" for tag, v in run.data.tags.items() if tag.startswith(start)
            }
            ended = None if running else run.info.end_time
            self._children[number] = _Child(run.info.run_id, run.info.start_time, ended, on_fronts)
            if ON_FRONT in run.data.tags:
                self._on_front[number] = run.data.tags[ON_FRONT] == "true"

    def _parent(self, started: float) -> Run:
        """Return the run of this sweep, by its start time: other sweeps may have the same name."""
        named = f"tags.`{SWEEP}` = '{self._sweep}' and tags.`{TRIAL}` = 'all'"
        found = self._find(f"{named} and attributes.start_time = {_ms(started)}")
        if found:
            return found[0]
        return self._client.create_run(
            self._experiment_id,
            start_time=_ms(started),
            run_name=self._sweep,
            tags={SWEEP: self._sweep, TRIAL: "all"},
        )

    def _find(self, condition: str) -> list[Run]:
        return list(self._client.search_runs([self._experiment_id], condition, max_results=50_000))

    def resume(self) -> None:
        """Mark the sweep's run as running."""
        self._client.update_run(self._parent_id, status="RUNNING")

    def finish(self) -> None:
        """Mark the sweep's run as finished at the end of its last trial."""
        self._client.set_terminated(self._parent_id, "FINISHED", end_time=self._ended)

    def log_trials(self, records: Sequence[Record], sweep_folder: Path) -> None:
        """Log the trials that are not in the log yet."""
        for record in records:
            child = self._children.get(record.number)
            if child is not None and child.started != _ms(record.started):
                # the trial was run again after its damaged record was removed: the log follows the records
                self._client.delete_run(child.run_id)
                self._on_front.pop(record.number, None)
                child = None
            if child is None or child.ended is None:
                self._children[record.number] = self._log_trial(record, sweep_folder, child)
                self._on_front[record.number] = False
        self._ended = max([self._ended, *(_ms(record.finished) for record in records)])

    def _log_trial(self, record: Record, sweep_folder: Path, begun: _Child | None) -> _Child:
        started, ended = _ms(record.started), _ms(record.finished)
        run_id = begun.run_id if begun is not None else self._new_child(record)
        seconds = {f"seconds_{stage}": value for stage, value in record.seconds.items()}
        tags = {f"paretune.unknown.{name}": reason for name, reason in record.reasons.items()}
        tags |= {"paretune.recipe": recipe_line(record.recipe), "paretune.origin": record.origin, ON_FRONT: "false"}
        if record.failure is not None:
            tags |= {"paretune.failure": record.failure, NOTE: f"Failed: {record.failure}"}
        elif record.stop_reason is not None:
            tags |= {"paretune.stopped": record.stop_reason, NOTE: f"Stopped early: {record.stop_reason}"}
        elif record.notes:
            tags[NOTE] = "\n\n".join(record.notes)
        self._log(run_id, metrics={**record.metrics, **seconds}, params=record.params, tags=tags, stamp=ended)
        if record.facts:
            self._client.log_dict(run_id, dict(record.facts), "environment.json")
        folder = trial_folder(sweep_folder, record.number)
        for file in (folder / "samples.npz", folder / "failure.txt"):
            if file.exists():
                self._client.log_artifact(run_id, str(file))
        if record.artefact is not None:
            self._client.log_artifacts(run_id, str(sweep_folder / record.artefact), "artefact")
        status = {"complete": "FINISHED", "stopped": "KILLED"}.get(record.state, "FAILED")
        self._client.set_terminated(run_id, status, end_time=ended)
        return _Child(run_id, started, ended)

    def _new_child(self, record: Record) -> str:
        tags = {SWEEP: self._sweep, TRIAL: str(record.number), PARENT: self._parent_id}
        run = self._client.create_run(
            self._experiment_id, start_time=_ms(record.started), run_name=f"t{record.number:04d}", tags=tags
        )
        return str(run.info.run_id)

    def mark_front(self, trials: Collection[int]) -> None:
        """Write into each trial's tag whether it is on the front; only changes are written."""
        for number, child in self._children.items():
            now = number in trials
            if self._on_front.get(number) != now:
                self._client.set_tag(child.run_id, ON_FRONT, str(now).lower())
                self._on_front[number] = now

    def log_steps(self, records: Sequence[Record], front: Mapping[str, Any], judge: FrontRules) -> None:
        """Log size and hypervolume of the front after each trial; the step is the number of finished trials."""
        baseline = (front["baseline"] or {"metrics": {}})["metrics"]
        ordered = sorted(records, key=lambda record: (record.finished, record.number))
        before = ordered[: self._steps]
        best = _best([r.metrics for r in before if r.state == "complete" and judge.feasible(r)], judge)
        ended = Counter(record.state for record in before)
        for step, record in enumerate(ordered[self._steps :], self._steps + 1):
            ended[record.state] += 1
            if record.state == "complete" and judge.feasible(record):
                best = _best([*best, record.metrics], judge)
            counts = {f"trials_{state}": float(ended[state]) for state in ("failed", "stopped")}
            values = {"front_size": float(len(best)), "trials_done": float(step), **counts}
            volume = hypervolume(best, judge.objectives, baseline)  # dominated points add nothing
            if volume is not None:
                values["hypervolume"] = volume
            self._log(self._parent_id, metrics=values, stamp=_ms(record.finished), step=step)
            self._steps = step
        if front["hypervolume"] is not None:
            self._client.set_tag(self._parent_id, "paretune.hypervolume_reference", json.dumps(front["reference"]))

    def log_target(self, log: TargetLog) -> None:
        """Log the figures of each trial on a further target, whether it is on that front, and the front's size."""
        target = str(log.target)
        trials, tag = {point["trial"] for point in log.front["front"]}, on_front_tag(target)
        for record in log.records:
            child = self._children.get(record.number)
            if child is None or record.state != "complete":
                continue
            known, now = child.on_fronts.get(target), record.number in trials
            if known is None:
                values = target_values(record.metrics, target)
                self._log(child.run_id, metrics=values, stamp=child.ended or child.started)
            if known != now:
                self._client.set_tag(child.run_id, tag, str(now).lower())
                child.on_fronts[target] = now
        self._log(self._parent_id, metrics=_sizes(log.front, target), stamp=self._ended, step=self._steps)
        for file in log.files:
            self._client.log_artifact(self._parent_id, str(file), f"front-{target}")

    def log_comparison(
        self,
        records: Sequence[Record],
        front: Mapping[str, Any],
        comparison: Mapping[str, Any],
        target: str | None = None,
    ) -> None:
        """Log the result of the comparison: latencies on its scale, speed-ups, ties, size and hypervolume of the front.

        These values replace those that were logged when the trials ended. Those of a further target are below its name.
        """
        stamp = _ms(comparison["ended"])
        tested, points = comparison.get("test") or {}, {point["trial"]: point for point in front["front"]}
        for record in records:
            child = self._children.get(record.number)
            if child is None or record.state != "complete":
                continue
            rows = comparison["trials"].get(str(record.number), {})
            values = {name: value for name, value in record.metrics.items() if name in ON_SCALE}
            values |= {f"speedup_vs_{name}": row["speedup"] for name, row in rows.items()}
            values = {named(name, target): value for name, value in values.items()}
            if target is None:
                on_test = tested.get(str(record.number), {"metrics": {}})["metrics"]
                values |= {f"test_{name}": value for name, value in on_test.items()}
            point, tag = points.get(record.number), TIED if target is None else f"{TIED}.{target}"
            tags = {} if point is None else {tag: ", ".join(map(str, point["tied_with"])) or "none"}
            self._log(child.run_id, metrics=values, tags=tags, stamp=max(stamp, child.ended or child.started))
        values = _sizes(front, target)
        self._log(self._parent_id, metrics=values, stamp=max(stamp, self._ended), step=self._steps)

    def log_front_files(self, files: Sequence[Path]) -> None:
        """Log the pictures and tables of the front in the sweep's run, in place of older ones."""
        for file in files:
            self._client.log_artifact(self._parent_id, str(file), "front")

    def link_sweeps(self) -> None:
        """Write links to the fronts of all sweeps into the experiment's description, once; a user's own one stays."""
        if self._linked:
            return
        self._linked = True
        if not self._client.get_experiment(self._experiment_id).tags.get(NOTE, HEADING).startswith(HEADING):
            return
        wanted, newest = f"tags.`{TRIAL}` = 'all'", ["attributes.start_time DESC"]
        sweeps = self._client.search_runs([self._experiment_id], wanted, order_by=newest, max_results=MOST_LINKS)
        links = [f"- [{run.data.tags[SWEEP]}]({run_page(self._experiment_id, run.info.run_id)})" for run in sweeps]
        self._client.set_experiment_tag(self._experiment_id, NOTE, "\n".join([HEADING, "", *links]))

    def _log(self, run_id: str, **values: Any) -> None:
        log_values(self._client, run_id, **values)


def _sizes(front: Mapping[str, Any], target: str | None) -> dict[str, float]:
    """Return size and hypervolume of a front by their names in the log."""
    values = {"front_size": float(len(front["front"])), "hypervolume": front["hypervolume"]}
    return {named(name, target): value for name, value in values.items() if value is not None}


def _best(points: Sequence[Mapping[str, float]], judge: FrontRules) -> list[Mapping[str, float]]:
    """Return the points that no other one dominates."""
    return [points[i] for i in pareto_front(points, judge.objectives)]


def _ms(seconds: float) -> int:
    """Return a time in seconds since 1970 as MLflow takes it, in milliseconds."""
    return int(seconds * 1000)
