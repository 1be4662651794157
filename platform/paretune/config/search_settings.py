"""Settings of the search of a job."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator

from paretune.config.recipe import Recipe
from paretune.core.spec import Spec, plugin
from paretune.distributed.tune_schedulers import SCHEDULERS, NoScheduler, Scheduler
from paretune.search.samplers import SAMPLERS, Gp, Sampler


class FlatStop(Spec):
    """The search ends when the last trials raised the hypervolume of the front by less than a share of it."""

    trials: int = Field(default=8, ge=1, le=100_000)
    """Number of last trials, failed ones included."""
    gain: float = Field(default=0.01, gt=0, le=1)
    """Smallest share of the present hypervolume by which these trials have to raise it."""


class Search(Spec):
    """Settings of the search."""

    trials: int = Field(default=24, ge=2, le=100_000)
    """Number of trials, the two baselines included."""
    hours: float | None = Field(default=None, gt=0)
    """Hours of searching on the clock, without the training of the baseline, after which no further trial starts."""
    device_hours: float | None = Field(default=None, gt=0)
    """Hours of all trials together after which no further one starts; on GPUs GPU-hours: times `resources.gpu`."""
    stop_when_flat: FlatStop | None = None
    """When the search ends because further trials hardly improve the front; none never ends it so."""
    sampler: Annotated[Sampler, *plugin(SAMPLERS)] = Gp()
    """Sampler of the points after the first points of the space."""
    scheduler: Annotated[Scheduler, *plugin(SCHEDULERS)] = NoScheduler()
    """Row that decides which running trials are stopped early."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampler and of everything random in a trial."""
    siblings: int = Field(default=2, ge=0, le=100)
    """Other runtimes of the space that the trained network of each trial on the front is tried on; the training is
    taken from the store."""
    retries: int = Field(default=2, ge=0, le=100)
    """Times that a trial is run again whose process died (killed, out of memory, node lost) before it counts as
    failed."""
    stage_hours: float = Field(default=12.0, ge=0)
    """Hours that one stage of a trial may take, such as its training; a stage that takes longer hangs, and fails the
    trial. 0 is no limit."""
    cheap_first: bool = True
    """Whether the network of a drawn recipe that trains is built and timed before its training, and the trial stopped
    if it is too slow for the constraints, or slower than a version that is as accurate as any so far."""
    first: Annotated[tuple[Recipe, ...], Field(strict=False)] = ()
    """Recipes that are tried right after the baselines, also from outside the space, such as `advise` writes."""
    earlier: str = "auto"
    """Finished sweep of the output folder whose front is tried first, as far as it lies in the space: its name; auto
    takes one with the same detector and classes, if there is one; none takes none."""
    storage: str | None = None
    """Database of the study on a server, such as `postgresql://me:$PASSWORD@host/optuna`, in which variables are
    replaced; none keeps `study.db` in the sweep's folder."""
    allow_unlearned: bool = False
    """Whether to search although the trained network has not learned, or no accuracy would break a `max_drop`, such as
    in a quick try."""
    concurrent: int = Field(default=1, ge=1, le=1024)
    """Trials at the same time; only one of them measures latency at a time."""

    @field_validator("storage")
    @classmethod
    def _a_server(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"[a-z][a-z0-9+]*://[^/]", value):
            raise ValueError(f"{value!r} is no URL of a database: expected postgresql://USER:$PASSWORD@HOST/DATABASE")
        return value
