"""The Tune ``Searcher`` around a study.

Ray's OptunaSearch passes no constraints, leaves failed trials open in the study, and reports stopped ones as complete.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ray.tune.search import Searcher

from paretune.search.study import Study
from paretune.search.study_settings import Proposal, SpaceExhausted
from paretune.storage.trial_record import Record


class PausedTrials(Protocol):
    """Decides on trials that are paused at a rung."""

    def promotable(self, paused: Collection[int]) -> int | None:
        """Return a paused trial that is by now good enough to go on; None if there is none."""

    def finalist(self, paused: Collection[int]) -> int | None:
        """Return a paused trial that may reach the front, once no further one is drawn; None if there is none."""

    def expected(self, number: int) -> Mapping[str, float]:
        """Return what is expected of a paused trial at the end of its training, without what is unknown."""

    def stop(self, proposals: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
        """Write and yield the records of paused trials that do not go on."""


class NoPausedTrials:
    """Trials are never paused."""

    def promotable(self, paused: Collection[int]) -> int | None:  # noqa: ARG002 - there are none
        """Return None."""
        return None

    finalist = promotable

    def expected(self, number: int) -> Mapping[str, float]:  # noqa: ARG002 - there are none
        """Return nothing."""
        return {}

    def stop(self, proposals: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
        """Raise a RuntimeError: there is nothing to stop."""
        raise RuntimeError(f"trials {[proposal['number'] for proposal in proposals]} are not paused")


class StudySearcher(Searcher):  # type: ignore[misc]  # Ray carries no types
    """Returns the study's proposals as Tune configurations, and passes records to the study.

    A trial whose process died without a record is run again, and a paused one when it is good enough.

    Args:
        study: that proposes.
        record_of: returns the record of a proposal's trial; None if its process died and it is to be run again.
        on_record: called with each new record, after the study.
        spent: returns why no further trial starts; None if one may.
        count: most trials to propose.
        rungs: decides on paused trials.
    """

    def __init__(
        self,
        study: Study,
        record_of: Callable[[Mapping[str, Any]], Record | None],
        on_record: Callable[[Record], None],
        spent: Callable[[], str | None] = lambda: None,
        *,
        count: int | None = None,
        rungs: PausedTrials = NoPausedTrials(),  # noqa: B008 - holds nothing
    ) -> None:
        super().__init__()
        self._study = study
        self._record_of = record_of
        self._on_record = on_record
        self._spent = spent
        self._left = count
        self._rungs = rungs
        self._ended: str | None = None
        self._running: dict[str, dict[str, Any]] = {}
        self._again: list[dict[str, Any]] = []
        """Proposals whose process died."""
        self._paused = {proposal.number: _config(proposal) for proposal in study.paused}
        """Trial number → proposal, for paused trials."""
        self.exhausted = False
        """Whether the space is exhausted."""

    @property
    def ended(self) -> str | None:
        """Return which limit ended the search; None if none did, or a trial is unfinished."""
        return None if self._running else self._ended

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial as ``{number, recipe, origin}``; None makes Tune ask again later."""
        finished: str = Searcher.FINISHED
        if self._study.baseline_failed:
            return finished
        config = self._next()
        if config is None:
            return None if self._running else finished
        if config is _LATER:
            return None
        self._running[trial_id] = config
        return config

    def _next(self) -> dict[str, Any] | None:
        """Return the next trial, ``_LATER`` if a running trial has to end first, or None if all are proposed."""
        if self._again:
            return self._again.pop(0)
        if self._ended is None:
            self._ended = self._spent()
        if self._ended is None and (number := self._rungs.promotable(self._paused)) is not None:
            return self._paused.pop(number)
        if self._ended is None and self._left != 0 and not self.exhausted:
            try:
                proposal = self._study.propose()
            except SpaceExhausted:
                self.exhausted = True
            else:
                if proposal is None:
                    return _LATER
                self._left = None if self._left is None else self._left - 1
                return _config(proposal)
        return self._finalist()

    def _finalist(self) -> dict[str, Any] | None:
        """Return a paused trial that goes on at the end of the search; stop the others when nothing runs."""
        if self._paused and (number := self._rungs.finalist(self._paused)) is not None:
            return self._paused.pop(number)
        if self._paused and not self._running:
            ended, self._paused = sorted(self._paused.items()), {}
            for record in self._rungs.stop(proposal for _, proposal in ended):
                self._finish(record)
        return None

    def _finish(self, record: Record) -> None:
        self._study.tell(record)
        self._on_record(record)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass the trial's record to the study; an interrupted trial stays open, a paused one waits."""
        proposal = self._running.pop(trial_id, None)
        if proposal is None:
            return
        if result is None and not error:
            self._ended, self._spent, self._left, self._paused = None, lambda: None, 0, {}  # Ctrl-C, and no limit
            return
        if result is not None and result.get("state") == "paused":
            self._paused[proposal["number"]] = proposal
            self._study.expect(proposal["number"], self._rungs.expected(proposal["number"]))
            return
        record = self._record_of(proposal)
        if record is None:
            self._again.append(proposal)
        else:
            self._finish(record)

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune keeps a copy of the searcher in its own state, which is never read."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Write a file that holds no state: study and records hold it."""
        Path(checkpoint_path).write_text("the study and the trial records hold the state")

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: a resumed sweep is a new Tune run of the unfinished trials."""


def _config(proposal: Proposal) -> dict[str, Any]:
    """Return a proposal as a configuration of Tune's."""
    return {"number": proposal.number, "recipe": dict(proposal.recipe), "origin": proposal.origin}


_LATER: dict[str, Any] = {}
"""Returned in place of a trial if a running one has to end first."""
