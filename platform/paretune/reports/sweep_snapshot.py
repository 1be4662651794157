"""The present state of a sweep as plain data, from which its live view, its plain lines and its JSON are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from paretune.storage.trial_events import StageProgress

State = Literal["running", "finished", "stopped", "unknown"]
"""running: a process runs the sweep; stopped: none does, and it is not finished; unknown: that cannot be found out."""


@dataclass(frozen=True)
class RunningStage:
    """A stage that runs, of a trial or of the sweep itself."""

    name: str
    since: float
    """Seconds since 1970."""
    progress: StageProgress | None = None
    """None if the stage has not said how far it is."""

    @property
    def share(self) -> float | None:
        """Return the share of the stage that is done; None if it is not known."""
        return None if self.progress is None or not self.progress.of else self.progress.done / self.progress.of

    def seconds_left(self, now: float) -> float | None:
        """Return the seconds that the rest takes at the speed so far; None before a twentieth is done."""
        share = self.share
        return None if share is None or share < 0.05 else (now - self.since) * (1 - share) / share


@dataclass(frozen=True)
class RunningTrial:
    """A trial that runs."""

    number: int
    recipe: str
    """In a few words; empty if it is not known yet."""
    started: float
    """Seconds since 1970."""
    stage: RunningStage | None
    """None between two stages."""


@dataclass(frozen=True)
class Version:
    """A complete trial with its figures."""

    number: int
    recipe: str
    quality: float | None
    cost: float | None
    gain: float | None
    """Latency of the eager baseline divided by the version's; None if one of them is not known."""


@dataclass(frozen=True)
class FailedTrial:
    """A trial that failed."""

    number: int
    recipe: str
    reason: str


@dataclass(frozen=True)
class TargetFront:
    """The front of a sweep on one of its targets."""

    target: str
    quality: str
    """Name of the metric of ``Version.quality``; that of the cost if there is one objective."""
    cost: str
    versions: tuple[Version, ...]
    """Versions on the front, the cheapest first."""
    others: tuple[Version, ...]
    """The newest of the other complete versions."""
    best: int | None
    """Trial that is recommended, or would be if the sweep ended now."""
    claim: str
    """What it is, such as "fastest that is accurate enough"."""


@dataclass(frozen=True)
class SweepSnapshot:
    """The state of a sweep at one moment, as its folder tells it."""

    name: str
    time: float
    """Seconds since 1970."""
    state: State
    stage: RunningStage | None
    """Stage of the sweep itself: ``baseline``, ``probe``, ``search``, ``compare`` or ``log``."""
    done: int
    """Number of trials that have a record."""
    budget: int
    failed: int
    stopped_early: int
    paused: int
    started: float | None
    """Begin of the present run, in seconds since 1970."""
    seconds_left: float | None
    """Expected seconds to the end; None if they are not known."""
    left_from: str
    """What that rests on, or why it is not known."""
    running: tuple[RunningTrial, ...]
    failures: tuple[FailedTrial, ...]
    fronts: tuple[TargetFront, ...]
    """Front of each target, the first one's before the others'."""
    resume: str
    """Command that goes on with the sweep."""

    def tree(self) -> Mapping[str, Any]:
        """Return the snapshot as plain data."""
        return asdict(self)
