"""The Tune ``Searcher`` around a study.

Ray's own OptunaSearch passes no constraints, leaves failed trials running for ever in the study and
tells stopped ones as complete; this one asks the study and tells it the trial's record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from paretune.search.study import SpaceExhausted, Study
from paretune.storage.trial_record import Record


class StudySearcher(Searcher):  # type: ignore[misc]  # Ray carries no types
    """Hands out the study's proposals as Tune configurations.

    Args:
        study: the study.
        record_of: proposal → record of the trial, also when its worker died.
        on_record: called with each new record, after the study has been told.
    """

    def __init__(
        self,
        study: Study,
        record_of: Callable[[Mapping[str, Any]], Record],
        on_record: Callable[[Record], None],
    ) -> None:
        super().__init__()
        self._study = study
        self._record_of = record_of
        self._on_record = on_record
        self._running: dict[str, dict[str, Any]] = {}
        self.exhausted = False
        """The space holds nothing more to try."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial as ``{number, recipe, origin}``; None makes Tune ask again later."""
        finished: str = Searcher.FINISHED
        if self._study.baseline_failed:
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
        """Tell the study what the trial's record says; a trial that was interrupted stays open."""
        proposal = self._running.pop(trial_id, None)
        if proposal is None or (result is None and not error):
            return
        record = self._record_of(proposal)
        self._study.tell(record)
        self._on_record(record)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing worth keeping: the study and the records are the truth, Tune only carries out."""
        Path(checkpoint_path).write_text("the study and the trial records hold the state")

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: a resumed sweep is a new Tune run over what is not finished."""
