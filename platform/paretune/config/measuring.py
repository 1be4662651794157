"""How thoroughly a sweep measures latency and energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from paretune.core.spec import Spec

SHORTEST = 5.0
"""Least seconds over which counters of energy are reliable."""


class Measuring(Spec):
    """How thoroughly the latency of each trial, and of the front at the end, is measured; less is for a quick look."""

    renamed: ClassVar[Mapping[str, str]] = {
        "spare": "max_extra_repetitions",
        "patience": "contention_wait_seconds",
        "energy": "energy_seconds",
    }

    repetitions: int = Field(default=3, ge=2, le=100)
    """Fresh processes of each trial, each beside one of the reference; an interval needs two."""
    max_extra_repetitions: int = Field(default=3, ge=0, le=100)
    """Most further processes of each trial, started until the latency is known to 3 % (GPU: 1 %)."""
    seconds: float = Field(default=0.4, gt=0, le=60)
    """Least seconds of sampling in each process."""
    contention_wait_seconds: float = Field(default=12.0, ge=0, le=3600)
    """Seconds after which no further process is started, however well the latency is known."""
    energy_seconds: float = Field(default=5.0, ge=0, le=120)
    """Seconds of inferences, at least 5, over which each trial's energy is measured, after 5 of idling, where a counter
    can be read; 0 measures none."""
    rounds: int = Field(default=4, ge=2, le=100)
    """Rounds of the comparison of the front, each with fresh processes."""

    beside_training: Literal["auto", "never"] = "auto"
    """Whether trials train while another one is measured (``search.concurrent`` above 1): ``auto`` where a probe at the
    start of the sweep shows that this shifts no ratio of latencies by more than 3 %, ``never`` nowhere."""

    @field_validator("energy_seconds")
    @classmethod
    def _long_enough(cls, value: float) -> float:
        if 0 < value < SHORTEST:
            raise ValueError(f"counters of energy need {SHORTEST:g} s at least; 0 does not take it")
        return value
