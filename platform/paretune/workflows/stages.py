"""The stages of a trial: each is timed, leaves events, and may be followed by a decision to stop the trial."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from paretune.core.secret_texts import without_secrets
from paretune.storage.trial_events import EventLog, Unit
from paretune.training.history import TrainingStep


@dataclass(frozen=True)
class PartialResult:
    """What is known of a trial that runs."""

    stage: str
    """Stage that ended, or that reports an epoch."""
    metrics: Mapping[str, float]
    """Metrics known so far, those that are only expected among them (``expected_latency_ms``)."""
    epoch: int | None = None
    """Number of the finished epoch of the stage's training, from 1; None between stages."""


Decision = Callable[[PartialResult], str | None]
"""Function that returns the reason to stop a trial, or None to let it go on; it may raise ``TrialPaused``."""


def go_on(_: PartialResult) -> None:
    """Let a trial go on."""


class TrialStopped(Exception):  # noqa: N818 - nothing went wrong
    """Raised inside a trial that is to end early: it then frees what it holds and writes its record."""


class TrialPaused(Exception):  # noqa: N818 - nothing went wrong
    """Raised by a decision inside a trial that is to end for now, and may go on later from what it has saved."""


@dataclass(frozen=True)
class OpenStage:
    """A stage that runs."""

    name: str
    started: float
    """Reading of the trial's clock at its start."""


@dataclass
class Stages:
    """The stages of one trial so far."""

    clock: Callable[[], float] = time.monotonic
    """Seconds since any moment."""
    events: EventLog | None = None
    """Log of the trial's events; None keeps none."""
    decide: Decision = go_on
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage → seconds of wall time, those before a pause included."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics known so far."""
    done: list[dict[str, Any]] = field(default_factory=list)
    """Finished stages in their order: name, key, seconds, CPU seconds, whether the result was reused."""
    _open: list[OpenStage] = field(default_factory=list)

    @property
    def current(self) -> OpenStage | None:
        """Return the innermost stage that runs; None between stages."""
        return self._open[-1] if self._open else None

    @contextmanager
    def stage(self, name: str, key: str | None = None) -> Iterator[None]:
        """Time the block as a stage; its seconds are added to those of an earlier stage of the same name.

        Args:
            name: of the stage.
            key: of its result; None if the result is not shared.

        """
        self._event("begin", name, key=key)
        start, cpu = self.clock(), _cpu_seconds()
        self._open.append(OpenStage(name, start))
        try:
            yield
        finally:
            self._open.pop()
            seconds = round(self.clock() - start, 3)
            self.seconds[name] = round(self.seconds.get(name, 0) + seconds, 3)
            self.done.append(_entry(name, key, seconds, round(_cpu_seconds() - cpu, 3)))
            self._event("end", name, key=key, seconds=seconds)

    def decide_after(self, stage: str) -> None:
        """Ask whether the trial goes on after a stage, whose result is stored by now.

        Raises:
            TrialStopped: the trial is to end.
        """
        self._ask(PartialResult(stage, self.metrics))

    def reused(self, name: str, key: str) -> None:
        """Note that the result of a stage was taken from the store."""
        self.done.append(_entry(name, key, 0.0, 0.0, reused=True))
        self._event("reused", name, key=key)

    def known(self, stage: str, metrics: Mapping[str, float]) -> None:
        """Note metrics that are known from now on."""
        self.metrics.update(metrics)
        self._event("metrics", stage, metrics=metrics)

    def epoch(self, number: int, epochs: int, metrics: Mapping[str, float]) -> None:
        """Note a finished epoch of a training.

        Raises:
            TrialStopped: the trial is to end after this epoch.
        """
        stage = self.current.name if self.current is not None else "train"
        self._event("epoch", stage, epoch=number, epochs=epochs, metrics=metrics)
        self._ask(PartialResult(stage, {**self.metrics, **metrics}, number))

    def on_step(self, step: TrainingStep) -> None:
        """Note how far the training of the present stage is."""
        self.counter("epochs")(step.done, step.epochs)

    def counter(self, unit: Unit) -> Callable[[float, float], None]:
        """Return a function that notes how far the present stage is: how many units are done, and of how many."""

        def note(done: float, of: float) -> None:
            if self.events is not None and self.current is not None:
                self.events.progress(self.current.name, done, of, unit)

        return note

    def ended(self, kind: str, reason: str) -> None:
        """Note that the trial was stopped, or failed, and why."""
        stage = self.done[-1]["stage"] if self.done else ""
        self._event(kind, stage, reason=without_secrets(reason))

    def _ask(self, result: PartialResult) -> None:
        reason = self.decide(result)
        if reason is not None:
            raise TrialStopped(reason)

    def _event(self, kind: Any, stage: str, **fields: Any) -> None:
        if self.events is not None:
            self.events.add(kind, stage, **fields)


def _entry(name: str, key: str | None, seconds: float, cpu: float, *, reused: bool = False) -> dict[str, Any]:
    return {"stage": name, "key": key, "seconds": seconds, "cpu_seconds": cpu, "reused": reused}


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of its finished children, in seconds."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)
