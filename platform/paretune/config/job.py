"""The job that a user writes, one YAML file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from paretune.config.measuring import Measuring
from paretune.config.recipe import Recipe, readable_size
from paretune.config.run_settings import Postprocessing, Resources, Store, Tracking
from paretune.config.search_settings import Search
from paretune.core.metrics import metric_of
from paretune.core.spec import Spec, misplaced, plugin
from paretune.core.target import Target
from paretune.core.types import LIMIT, InputSize
from paretune.data import DATASETS
from paretune.data.base import Dataset
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.training.multi_scale import multi_scale_unsupported_reason
from paretune.training.settings import Training

AUTO = "auto"
"""Input size that stands for a choice at the start of the training."""
UNCHOSEN = InputSize(320, 320)
"""Input size in place of ``auto`` until it is chosen."""


def _size_or_auto(value: int | str) -> int | str:
    return value if value == AUTO else readable_size(value)


class Constraint(Spec):
    """Limit of a metric that a version must keep; exactly one of the fields."""

    min: float | None = None
    """Smallest allowed value."""
    max: float | None = None
    """Largest allowed value."""
    max_drop: float | None = Field(default=None, ge=0)
    """Largest allowed loss against the eager baseline, in the metric's unit."""

    @model_validator(mode="after")
    def _one(self) -> Constraint:
        given = [value for value in (self.min, self.max, self.max_drop) if value is not None]
        if len(given) != 1:
            raise ValueError("give one of min, max, max_drop")
        return self

    def __str__(self) -> str:
        words = {"min": "at least", "max": "at most", "max_drop": "at most below the eager baseline by"}
        return next(
            f"{phrase} {getattr(self, name):g}" for name, phrase in words.items() if getattr(self, name) is not None
        )

    def violation(self, value: float, baseline: float | None) -> float:
        """Return by how much a value breaks the constraint; 0 or less is feasible.

        Infinite when the value itself, or the baseline's for ``max_drop``, is unknown.
        """
        if not math.isfinite(value):
            return math.inf
        if self.min is not None:
            return self.min - value
        if self.max is not None:
            return value - self.max
        return math.inf if baseline is None or self.max_drop is None else baseline - self.max_drop - value


class Job(Spec):
    """A dataset, a detector, how it is trained, and how its versions are searched."""

    dataset: Annotated[Dataset, *plugin(DATASETS)]
    detector: Annotated[Detector, *plugin(DETECTORS)]
    input_size: Annotated[int | str, AfterValidator(_size_or_auto)] = 320
    """Input size of the baseline: one number, or WIDTHxHEIGHT such as 192x144; auto has it chosen with `training:
    auto`."""
    training: Training = Training()
    """Training of the baseline."""
    thresholds: Postprocessing = Postprocessing()
    baseline: str | None = None
    """Folder of a trained network with this detector and these classes, in place of training one."""
    space: str
    """Search space: a file, its path relative to the job's."""
    targets: dict[str, Target] = Field(default_factory=lambda: {"local": Target()})
    """The targets on which latency is measured, by their names; each has a front of its own."""
    objectives: dict[str, Literal["maximize", "minimize"]] = Field(
        default={"map": "maximize", "latency_ms": "minimize"}
    )
    """The two metrics of the front, each with its direction."""
    constraints: dict[str, Constraint] = Field(default_factory=dict)
    """Limits that every point of the front keeps."""
    search: Search = Search()
    measuring: Measuring = Measuring()
    resources: Resources = Resources()
    store: Store = Store()
    tracking: Tracking = Tracking()
    output: str = "runs"
    """Folder under which everything is written."""

    @field_validator("objectives", "constraints")
    @classmethod
    def _known_metrics(cls, value: dict[str, Any]) -> dict[str, Any]:
        for metric in value:
            metric_of(metric)
        return value

    @field_validator("objectives")
    @classmethod
    def _two(cls, value: dict[str, Any]) -> dict[str, Any]:
        if odd := [metric for metric in value if metric_of(metric).constraint_only]:
            raise ValueError(f"{odd[0]} is for constraints; the objective is {odd[0].removesuffix('_delta_low')}")
        if len(value) != 2:
            raise ValueError(f"two objectives are expected, such as map and latency_ms; got {len(value)}")
        return value

    @field_validator("constraints")
    @classmethod
    def _drops(cls, value: dict[str, Constraint]) -> dict[str, Constraint]:
        for metric, constraint in value.items():
            if constraint.max_drop is not None and metric_of(metric).direction == "minimize":
                raise ValueError(f"{metric} is the better the smaller: give its largest value as max, not max_drop")
        return value

    @field_validator("targets")
    @classmethod
    def _named_targets(cls, value: dict[str, Target]) -> dict[str, Target]:
        if not value:
            raise ValueError("one target at least is expected, such as {local: {device: cpu}}")
        odd = [name for name in value if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name)]
        if len(value) > 1 and odd:  # their names are those of files
            raise ValueError(f"target {odd[0]!r}: its name may have letters, digits, '.', '_' and '-' only")
        return value

    @model_validator(mode="after")
    def _fitting_size(self) -> Job:
        problem = self.detector.size_unsupported_reason(self.size)
        if problem:
            raise ValueError(f"input_size: {problem}")
        return self

    @model_validator(mode="after")
    def _chosen_where_it_can_be(self) -> Job:
        if self.input_size == AUTO and (self.baseline is not None or not self.training.auto):
            if self.baseline is not None:
                raise ValueError("input_size: auto is for a training; of a trained network take the job.yaml beside it")
            raise ValueError("input_size: auto is chosen with `training: auto`, which is off; name the size")
        return self

    @model_validator(mode="after")
    def _fitting_detections(self) -> Job:
        asked, most = self.thresholds.detections, self.detector.most_boxes
        if asked > max(most, LIMIT):
            message = f"{self.detector.name} finds at most {most:g} boxes in an image; give it as many proposals"
            raise misplaced("Job", {("thresholds", "detections"): (message, asked)})
        return self

    @model_validator(mode="after")
    def _flat_where_it_is_known(self) -> Job:
        if self.search.stop_when_flat and sorted(self.objectives.values()) != ["maximize", "minimize"]:
            reason = "a front is flat by its hypervolume: name one objective to maximize and one to minimize"
            raise misplaced("Job", {("search", "stop_when_flat"): (reason, None)})
        return self

    @model_validator(mode="after")
    def _fitting_first(self) -> Job:
        reasons = {index: self.recipe_unsupported_reason(recipe) for index, recipe in enumerate(self.search.first)}
        wrong: dict[tuple[str | int, ...], tuple[str, Any]] = {
            ("search", "first", index): (problem, None) for index, problem in reasons.items() if problem
        }
        if wrong:
            raise misplaced("Job", wrong)
        return self

    @model_validator(mode="after")
    def _fitting_scheduler(self) -> Job:
        scheduler = self.search.scheduler
        reason = scheduler.unsupported_reason(self.objectives, self.detector, self.training)
        far = any(target.elsewhere for target in self.targets.values())
        if reason is None and (self.further_targets or far) and scheduler.name == "halving":
            reason = "halving ranks trials by the latency on one target, of this machine; for others take `none`"
        if reason:
            raise misplaced("Job", {("search", "scheduler"): (reason, scheduler.name)})
        return self

    @model_validator(mode="after")
    def _fitting_training(self) -> Job:
        wrong: dict[tuple[str | int, ...], tuple[str, Any]] = {}
        if not self.training.epochs and self.baseline is None and not self.detector.starts_trained:
            message = f"0 takes weights as they are; name a trained network's: detector.{self.detector.name}.weights"
            wrong["training", "epochs"] = message, 0
        losses = self.training.losses
        if losses.box is not None and (problem := self.detector.loss_unsupported_reason("box_loss", losses.box)):
            wrong["training", "box_loss"] = problem, losses.box
        if losses.classes is not None and (
            problem := self.detector.loss_unsupported_reason("class_loss", losses.classes)
        ):
            wrong["training", "class_loss"] = problem, losses.classes
        share = self.training.multi_scale
        if problem := multi_scale_unsupported_reason(self.detector, self.size, share):
            wrong["training", "multi_scale"] = problem, share
        if wrong:
            raise misplaced("Job", wrong)
        return self

    @model_validator(mode="after")
    def _taken(self) -> Job:
        """Refuse metrics that no trial of this job can have."""
        wrong: dict[tuple[str | int, ...], tuple[str, Any]] = {}
        for place, metric in self.asked:
            if metric_of(metric).available == "energy" and not self.measuring.energy_seconds:
                wrong[place, metric] = "energy is not taken: measuring.energy_seconds is 0", None
            cpus = [name for name, target in self.targets.items() if target.device == "cpu"]
            if metric_of(metric).available == "gpu" and cpus:
                wrong[place, metric] = f"target {cpus[0]!r} is a CPU; memory_mib_peak is what it has", None
        if wrong:
            raise misplaced("Job", wrong)
        return self

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Return (field, metric) for every objective and constraint."""
        fields: dict[str, Iterable[str]] = {"objectives": self.objectives, "constraints": self.constraints}
        return [(place, metric) for place, metrics in fields.items() for metric in metrics]

    @property
    def size(self) -> InputSize:
        """Return the input size of the baseline, or one that every detector supports while it is ``auto``."""
        return UNCHOSEN if self.input_size == AUTO else InputSize.parse(self.input_size)

    @property
    def target(self) -> Target:
        """Return the first target."""
        return next(iter(self.targets.values()))

    @property
    def target_name(self) -> str:
        """Return the first target's name."""
        return next(iter(self.targets))

    @property
    def further_targets(self) -> tuple[str, ...]:
        """Return the names of the targets after the first."""
        return tuple(self.targets)[1:]

    @property
    def max_drops(self) -> dict[str, float]:
        """Return metric → largest allowed loss against the eager baseline."""
        return {name: one.max_drop for name, one in self.constraints.items() if one.max_drop is not None}

    def for_target(self, name: str) -> Job:
        """Return the job with one of its targets alone."""
        return self.model_copy(update={"targets": {name: self.targets[name]}})

    def recipe_unsupported_reason(self, recipe: Recipe) -> str | None:
        """Return why this job's detector or none of its targets can carry out a recipe; None if they can."""
        if problem := self.detector.size_unsupported_reason(recipe.size):
            return f"input_size: {problem}"
        reasons = [self.target_unsupported_reason(recipe, name) for name in self.targets]
        return None if None in reasons else "; ".join(dict.fromkeys(filter(None, reasons)))

    def target_unsupported_reason(self, recipe: Recipe, name: str) -> str | None:
        """Return why a target cannot run a recipe, whatever its machine; None if it can."""
        target, devices = self.targets[name], recipe.runtime.devices
        if target.device not in devices:
            runs = f"{recipe.runtime.name!r} runs on {', '.join(devices)}"
            return f"runtime: {runs}; target {name!r} is a {target.device}"
        return recipe.unsupported_reason(target)
