"""Runs trials by Ray Tune."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.storage.trial_record import written_beside

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher


def run_trials(
    trial: Callable[[dict[str, Any]], Mapping[str, Any]],
    searcher: Searcher,
    *,
    concurrent: int,
    resources: Mapping[str, float],
    labels: Mapping[str, str] | None = None,
    folder: Path,
    nested: bool = False,
    scheduler: TrialScheduler | None = None,
) -> None:
    """Run trials by Ray Tune, until the searcher has no more or Ctrl-C is pressed once.

    Args:
        trial: called in a worker with each proposal; its result is reported to Tune.
        searcher: makes proposals.
        concurrent: trials at the same time.
        resources: of one trial, by Ray's names ("CPU", "GPU", custom ones).
        labels: of the nodes that run them; None is any node.
        folder: for Tune's own files.
        nested: whether trials start training workers of their own. Each trial then gets its own process, whose end
            stops them.
        scheduler: may stop trials early; None lets each run to its end.
    """
    from ray import tune

    selector = {"bundle_label_selector": [dict(labels)]} if labels else {}
    place = tune.PlacementGroupFactory([dict(resources)], **selector)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    tune.Tuner(
        tune.with_resources(functools.partial(_reported, trial), place),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=concurrent,
            reuse_actors=not nested,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder.resolve()), verbose=0),
    ).fit()


def _reported(trial: Callable[[dict[str, Any]], Mapping[str, Any]], proposal: dict[str, Any]) -> None:
    """Run one trial in a worker of Ray's and report its result.

    Tune learns that the trial ended when this function returns, and the record is on the disk then.
    """
    from ray import tune

    with written_beside():
        tune.report(dict(trial(proposal)))
