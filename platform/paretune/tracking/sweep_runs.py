"""The runs of one sweep in MLflow: a parent for the sweep, and a nested run for each trial.

All that is logged comes from the trial records, is keyed by tags and carries the records' own times. Logging it twice,
or again after a crash, changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.baselines import EAGER
from paretune.core.recipe_text import trial_title
from paretune.search.pareto_front import FrontRules
from paretune.storage.trial_events import read_events
from paretune.storage.trial_record import Record, trial_folder
from paretune.tracking import trial_values
from paretune.tracking.experiment_page import ExperimentPage
from paretune.tracking.experiment_runs import ExperimentRuns
from paretune.tracking.front_steps import front_steps
from paretune.tracking.log_names import log_name
from paretune.tracking.mlflow_client import (
    FORM,
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
    runs_page,
    trial_page,
)
from paretune.tracking.sweep_about import SweepAbout
from paretune.tracking.sweep_note import NoteLinks, sweep_note
from paretune.tracking.target_log import TargetLog, named, target_values

if TYPE_CHECKING:
    from mlflow.entities import Run

LOG_FORM = "2"
"""Form of new logs: metrics in groups, titles of recipes as names of runs. Logs of form 1 have no such tag."""
MORE = ("size_mib", "memory_mib_peak")
"""Metrics in the table of a sweep's view beside the objectives."""


@dataclass(frozen=True)
class _Child:
    """The run of a trial."""

    run_id: str
    started: int
    """Start in milliseconds since 1970."""
    ended: int | None
    """End in milliseconds since 1970; None if the writer died while it wrote the run."""
    measured: set[str] = field(default_factory=set)
    """Further targets whose figures are logged."""


class SweepRuns:
    """The log of a sweep: the constructor reads its runs, and the methods add what they lack.

    Every method raises ``MlflowException`` or ``OSError`` if the log cannot be written.

    Args:
        place: where the sweep is logged.
        params: the job as flat params.
        started: time at which the sweep was made, in seconds since 1970.
        turn: makes the context of each call of MLflow.
        about: targets, data and lineage of the sweep.
    """

    def __init__(
        self,
        place: LogPlace,
        params: Mapping[str, Any],
        started: float,
        turn: Turn = nullcontext,
        about: SweepAbout | None = None,
    ) -> None:
        self._sweep, self._about, self._begun = place.sweep, about or SweepAbout(), _ms(started)
        self._client = place.connect(turn)
        self._experiment_id = place.experiment_id(self._client)
        self._runs = ExperimentRuns(self._client, self._experiment_id, place.pauses)
        parent = self._parent(started)
        self._parent_id: str = parent.info.run_id
        self._grouped = parent.data.tags.get(FORM) == LOG_FORM
        self._log(self._parent_id, params={k: v for k, v in params.items() if key_of(k) not in parent.data.params})
        self._describe_run(self._parent_id, parent.data.tags)
        self._steps = int(parent.data.metrics.get(self._name("trials_done"), 0))
        self._ended = _ms(started)
        self._page = ExperimentPage(self._client, self._experiment_id)
        self._note = parent.data.tags.get(NOTE)
        self._children: dict[int, _Child] = {}
        self._usual_size: Any = None
        self._tags: dict[int, dict[str, str]] = {}
        self._titles: dict[int, str] = {}
        runs_of: dict[int, list[Run]] = {}
        for run in self._runs.find(f"tags.`{PARENT}` = '{self._parent_id}'"):
            runs_of.setdefault(int(run.data.tags[TRIAL]), []).append(run)
        for number, found in runs_of.items():
            run = self._runs.one_of(found, lambda run: run.info.status != "RUNNING")
            measured = {name.partition("/")[0] for name in run.data.metrics} & set(self._about.targets)
            ended = None if run.info.status == "RUNNING" else run.info.end_time
            self._children[number] = _Child(run.info.run_id, run.info.start_time, ended, measured)
            self._titles[number] = run.info.run_name
            self._tags[number] = {name: text for name, text in run.data.tags.items() if name.startswith(ON_FRONT)}

    def _name(self, metric: str) -> str:
        """Return the name of a metric in this sweep's log: logs of older versions keep the names they began with."""
        return log_name(metric) if self._grouped else metric

    def _parent(self, started: float) -> Run:
        """Return the run of this sweep, by its start time: other sweeps may have the same name."""
        ours = f"tags.`{SWEEP}` = '{self._sweep}' and tags.`{TRIAL}` = 'all' and attributes.start_time = {_ms(started)}"
        if found := self._runs.find(ours):
            return self._runs.one_of(found, lambda run: bool(run.data.params))
        tags = {SWEEP: self._sweep, TRIAL: "all", FORM: LOG_FORM}
        return self._runs.make(ours, start_time=_ms(started), run_name=self._sweep, tags=tags)

    def _describe_run(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Log the data and the lineage of a run, unless its tags have them."""
        lineage = {name: text for name, text in self._about.lineage.items() if tags.get(name) != text}
        if lineage:
            self._log(run_id, tags=lineage)
            if self._about.dataset is not None:
                self._client.log_inputs(run_id, datasets=self._about.dataset.inputs())

    def resume(self) -> None:
        """Mark the sweep's run as running."""
        self._client.update_run(self._parent_id, status="RUNNING")

    def finish(self) -> None:
        """Mark the sweep's run as finished at the end of its last trial."""
        self._client.set_terminated(self._parent_id, "FINISHED", end_time=self._ended)

    def delete(self) -> None:
        """Delete the runs of the sweep and of its trials, and its views."""
        self._page.remove_views(self._parent_id, self._about.targets)
        for run_id in (*(child.run_id for child in self._children.values()), self._parent_id):
            self._client.delete_run(run_id)

    def log_trials(self, records: Sequence[Record], sweep_folder: Path) -> None:
        """Log the trials that are not in the log yet."""
        self._usual_size = next((one.recipe["input_size"] for one in records if one.number == EAGER), self._usual_size)
        for record in records:
            child = self._children.get(record.number)
            if child is not None and child.started != _ms(record.started):
                # the trial was run again after its damaged record was removed: the log follows the records
                self._client.delete_run(child.run_id)
                child = None
            if child is None or child.ended is None:
                self._children[record.number] = self._log_trial(record, sweep_folder, child)
        self._ended = max([self._ended, *(_ms(record.finished) for record in records)])

    def _log_trial(self, record: Record, sweep_folder: Path, begun: _Child | None) -> _Child:
        started, ended = _ms(record.started), _ms(record.finished)
        run_id = begun.run_id if begun is not None else self._new_child(record)
        folder = trial_folder(sweep_folder, record.number)
        self._tags[record.number] = trial_values.front_tags(dict.fromkeys(self._about.targets, False), ON_FRONT)
        self._log(
            run_id,
            metrics=trial_values.metrics_of(record, self._name),
            params=trial_values.params_of(record) if self._grouped else record.params,
            tags=trial_values.tags_of(record) | self._tags[record.number],
            stamp=ended,
            curves=[(one.name, one.value, one.stamp, one.epoch) for one in trial_values.curves_of(read_events(folder))],
        )
        self._describe_run(run_id, {})
        if record.facts:
            self._client.log_dict(run_id, dict(record.facts), "environment.json")
        for file in (folder / "samples.npz", folder / "failure.txt"):
            if file.exists():
                self._client.log_artifact(run_id, str(file))
        if record.artefact is not None:
            self._client.log_artifacts(run_id, str(sweep_folder / record.artefact), "artefact")
        self._client.set_terminated(run_id, trial_values.STATUS.get(record.state, "FAILED"), end_time=ended)
        return _Child(run_id, started, ended)

    def _new_child(self, record: Record) -> str:
        parent, number = self._parent_id, str(record.number)
        self._titles[record.number] = self._title(record, starred=False)
        run = self._runs.make(
            f"tags.`{PARENT}` = '{parent}' and tags.`{TRIAL}` = '{number}' and attributes.status = 'RUNNING'",
            start_time=_ms(record.started),
            run_name=self._titles[record.number],
            tags={SWEEP: self._sweep, TRIAL: number, PARENT: parent},
        )
        return str(run.info.run_id)

    def _title(self, record: Record, *, starred: bool) -> str:
        """Return the name of a trial's run."""
        if not self._grouped:
            return f"t{record.number:04d}"
        return trial_title(record.number, record.recipe, starred=starred, usual_size=self._usual_size)

    def mark_fronts(self, records: Sequence[Record], fronts: Mapping[str, Collection[int]]) -> None:
        """Write into each trial's run whether it is on the fronts, by tags and by its name; only changes are written.

        Args:
            records: of all trials.
            fronts: target → trials on its front.
        """
        for record in records:
            number, child = record.number, self._children.get(record.number)
            if child is None:
                continue
            on_front = {target: number in trials for target, trials in fronts.items()}
            for name, text in trial_values.front_tags(on_front, ON_FRONT).items():
                if self._tags[number].get(name) != text:
                    self._client.set_tag(child.run_id, key_of(name), text)
                    self._tags[number][name] = text
            title = self._title(record, starred=any(on_front.values()))
            if self._titles.get(number) != title:
                self._client.update_run(child.run_id, name=title)
                self._titles[number] = title

    def log_steps(self, records: Sequence[Record], front: Mapping[str, Any], judge: FrontRules) -> None:
        """Log size and hypervolume of the front after each trial; the step is the number of finished trials."""
        for step in front_steps(records, front, judge, self._steps):
            self._log(self._parent_id, metrics=self._named(step.metrics), stamp=step.stamp, step=step.number)
            self._steps = step.number
        if front["hypervolume"] is not None:
            self._client.set_tag(self._parent_id, "paretune.hypervolume_reference", json.dumps(front["reference"]))

    def log_target(self, log: TargetLog) -> None:
        """Log the figures of each trial on a further target, and the size, pictures and tables of its front."""
        target = str(log.target)
        for record in log.records:
            child = self._children.get(record.number)
            if child is None or record.state != "complete" or target in child.measured:
                continue
            values = self._named(target_values(record.metrics), target)
            self._log(child.run_id, metrics=values, stamp=child.ended or child.started)
            child.measured.add(target)
        self._log_sizes(log.front, target, self._ended)
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
        points = {point["trial"]: point for point in front["front"]}
        for record in records:
            child = self._children.get(record.number)
            if child is None or record.state != "complete":
                continue
            point, tag = points.get(record.number), TIED if target is None else f"{TIED}.{target}"
            tags = {} if point is None else {tag: ", ".join(map(str, point["tied_with"])) or "none"}
            metrics = self._named(trial_values.compared_metrics(record, comparison, tested=target is None), target)
            self._log(child.run_id, metrics=metrics, tags=tags, stamp=max(stamp, child.ended or child.started))
        self._log_sizes(front, target, max(stamp, self._ended))

    def _log_sizes(self, front: Mapping[str, Any], target: str | None, stamp: int) -> None:
        """Log size and hypervolume of a front."""
        values = {"front_size": float(len(front["front"])), "hypervolume": front["hypervolume"]}
        known = {name: value for name, value in values.items() if value is not None}
        self._log(self._parent_id, metrics=self._named(known, target), stamp=stamp, step=self._steps)

    def log_front_files(self, files: Sequence[Path]) -> None:
        """Log the pictures and tables of the front in the sweep's run, in place of older ones."""
        for file in files:
            self._client.log_artifact(self._parent_id, str(file), "front")

    def describe(
        self, records: Sequence[Record], front: Mapping[str, Any], judge: FrontRules, *, ended: bool = False
    ) -> None:
        """Write the answer of the sweep into the description of its run, and its view for charts.

        Args:
            records: of all trials.
            front: result of ``front_object``.
            judge: objectives and constraints.
            ended: whether the search is over.
        """
        trials = {number: trial_page(self._experiment_id, child.run_id) for number, child in self._children.items()}
        page = run_page(self._experiment_id, self._parent_id)
        key = None
        if self._grouped:
            names = [self._name(metric) for metric in (judge.quality.metric, judge.cost.metric, *MORE)]
            name = f"{self._sweep} on {front['target']}"
            key = self._page.save_view(self._parent_id, front["target"], name, self._begun, names)
        view = None if key is None else runs_page(self._experiment_id, key)
        text = sweep_note(front, records, judge, NoteLinks(page, trials, view), ended=ended)
        if text != self._note:
            self._client.set_tag(self._parent_id, NOTE, text)
            self._note = text

    def link_sweeps(self) -> None:
        """Write links to the fronts of all sweeps into the experiment's description, once; a user's own one stays."""
        self._page.link_sweeps()

    def _named(self, metrics: Mapping[str, float], target: str | None = None) -> dict[str, float]:
        """Return metrics by their names in the log; those of a further target are below its name."""
        return {named(self._name(metric), target): value for metric, value in metrics.items()}

    def _log(self, run_id: str, **values: Any) -> None:
        log_values(self._client, run_id, **values)


def _ms(seconds: float) -> int:
    """Return a time in seconds since 1970 as MLflow takes it, in milliseconds."""
    return int(seconds * 1000)
