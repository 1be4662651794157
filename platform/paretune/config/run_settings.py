"""Settings of a job about how it runs: postprocessing, cluster resources, stage store, log."""

from __future__ import annotations

from pydantic import Field, field_validator

from paretune.core.spec import Spec
from paretune.core.target import checked_labels
from paretune.core.types import LIMIT, Thresholds


class Postprocessing(Spec):
    """Postprocessing of the detections, in training, in sweeps and in deployments."""

    detections: int = Field(default=LIMIT, ge=1, le=10_000)
    """Most boxes kept in an image; crowded scenes want more. Where it is above COCO's 100, accuracy counts as many
    of a class in an image."""

    @property
    def thresholds(self) -> Thresholds:
        """Return all thresholds."""
        return Thresholds().keeping(self.detections)


class Resources(Spec):
    """Resources of one trial on a Ray cluster."""

    cpu: float = Field(default=1, gt=0)
    """CPU cores."""
    gpu: float = Field(default=0, ge=0)
    """GPUs."""
    custom: dict[str, float] = Field(default_factory=dict)
    """Custom resources, such as the one that marks a target's nodes."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the Ray nodes on which the baseline and all trials train, such as `{pool: train}` for nodes that were
    started with `ray start --labels pool=train`; a value may be `in(a, b)` or `!a`. None is any node."""

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        return checked_labels(labels)

    def by_ray_name(self) -> dict[str, float]:
        """Return the requested resources by Ray's names."""
        asked = {"CPU": self.cpu, "GPU": self.gpu, **self.custom}
        return {name: amount for name, amount in asked.items() if amount}


class Store(Spec):
    """Store of the results of steps, which trials and sweeps share: a pruned and trained network is made once."""

    url: str | None = None
    """Folder on any file system of fsspec, such as `s3://bucket/store`; None keeps `store` under the output folder."""
    max_gib: float = Field(default=20.0, ge=0)
    """Size in GiB above which the results that were not used for longest are removed; 0 stores nothing."""


class Tracking(Spec):
    """Settings of the MLflow log."""

    uri: str | None = None
    """Tracking server, in which variables such as `$HOST` are replaced; None takes that of `MLFLOW_TRACKING_URI`, or
    else keeps a database under the output folder."""
    experiment: str | None = Field(default=None, min_length=1)
    """Experiment the runs belong to; None takes that of `MLFLOW_EXPERIMENT_NAME`, or else `paretune`."""
    trainings: bool = True
    """Log the trainings of `paretune train` too."""
