"""The Tune ``Searcher`` around a study.

Ray's OptunaSearch passes no constraints, leaves failed trials open in the study, and reports stopped ones as complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from paretune.search.study import SpaceExhausted, Study
from paretune.storage.trial_record import Record


class StudySearcher(Searcher):  # type: ignore[misc]  # Ray carries no types
    """Returns the study's proposals as Tune configurations, and passes records to the study.

    Args:
        study: that proposes.
        record_of: returns the record of a proposal's trial, even if its worker died.
        on_record: called with each new record, after the study.
        spent: returns why no further trial starts; None if one may.
    """

    def __init__(
        self,
        study: Study,
        record_of: Callable[[Mapping[str, Any]], Record],
        on_record: Callable[[Record], None],
        spent: Callable[[], str | None] = lambda: None,
    ) -> None:
        super().__init__()
        self._study = study
        self._record_of = record_of
        self._on_record = on_record
        self._spent = spent
        self._ended: str | None = None
        self._running: dict[str, dict[str, Any]] = {}
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
        self._ended = self._spent()
        if self._ended is not None:
            return finished
        try:
            proposal = self._study.propose()
        except SpaceExhausted:
            self.exhausted = True
            return finished
        if proposal is None:
            return None
        config = {"number": proposal.number, "recipe": dict(proposal.recipe), "origin": proposal.origin}
        self._running[trial_id] = config
        return config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass the trial's record to the study; an interrupted trial stays open."""
        proposal = self._running.pop(trial_id, None)
        if proposal is None:
            return
        if result is None and not error:
            self._ended, self._spent = None, lambda: None  # Ctrl-C ended the search, not a limit
            return
        record = self._record_of(proposal)
        self._study.tell(record)
        self._on_record(record)

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune keeps a copy of the searcher in its own state, which is never read."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Write a file that holds no state: study and records hold it."""
        Path(checkpoint_path).write_text("the study and the trial records hold the state")

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: a resumed sweep is a new Tune run of the unfinished trials."""
