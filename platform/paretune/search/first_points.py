"""The points of a space that a search begins with: the front of an earlier sweep, and the space's own first points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paretune.search.study_file import NUMBER

if TYPE_CHECKING:
    import optuna

    from paretune.storage.trial_record import Record

SAME_AS = "paretune.same_as"
"""Attribute of a trial of the study that was not run: the trial whose result it would repeat."""
ENQUEUED, EARLIER = "enqueued", "earlier"
"""Origins of a trial: a first point of the space, or a recipe that was on the front of another sweep."""


def enqueue_first(
    study: optuna.Study, earlier: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]]
) -> None:
    """Enqueue the points that a search begins with, unless the study has them.

    Args:
        study: of the sweep.
        earlier: points that were on the front of another sweep.
        first: first points of the space, tried after them.
    """
    for point, origin in [*((point, EARLIER) for point in earlier), *((point, ENQUEUED) for point in first)]:
        study.enqueue_trial(dict(point), user_attrs={"origin": origin}, skip_if_exists=True)


def enqueue_again(study: optuna.Study, records: Mapping[int, Record]) -> None:
    """Enqueue such points again whose runtime was missing when they were tried, and has been installed since.

    Args:
        study: of the sweep.
        records: trial → its record.
    """
    trials = study.get_trials(deepcopy=False)
    begun = [{**frozen.system_attrs.get("fixed_params", {}), **frozen.params} for frozen in trials]
    for index, frozen in enumerate(trials):
        attributes = frozen.user_attrs
        record = records.get(attributes.get(NUMBER, attributes.get(SAME_AS, -1)))
        is_first = attributes.get("origin") in (ENQUEUED, EARLIER)
        if not is_first or record is None or not record.runtime_installed_since:
            continue
        if begun[index] not in begun[index + 1 :]:
            study.enqueue_trial(begun[index], user_attrs={"origin": attributes["origin"]})
