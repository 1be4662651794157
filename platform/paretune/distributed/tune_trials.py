"""Ray Tune as the one that carries out proposals."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher


def run_trials(
    trial: Callable[[dict[str, Any]], Mapping[str, Any]],
    searcher: Searcher,
    *,
    count: int,
    concurrent: int,
    resources: Mapping[str, float],
    folder: Path,
    nested: bool = False,
    scheduler: TrialScheduler | None = None,
) -> None:
    """Run up to ``count`` trials by Ray Tune; returns when they are done or Ctrl-C was pressed once.

    Args:
        trial: called in a worker with each proposal; what it returns is reported to the searcher.
        searcher: hands out proposals.
        count: how many.
        concurrent: how many at once.
        resources: what one trial takes, by Ray's names ("CPU", "GPU", custom ones).
        folder: where Tune keeps its own files, which nobody reads.
        nested: trials start training workers of their own. Each then gets a process of its own, whose end ends
            them: in one that went on to the next trial, the workers of a stopped one would train on.
        scheduler: may stop trials early; None lets each run to its end.
    """
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    tune.Tuner(
        tune.with_resources(functools.partial(_reported, trial), tune.PlacementGroupFactory([dict(resources)])),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=count,
            max_concurrent_trials=concurrent,
            reuse_actors=not nested,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder.resolve()), verbose=0),
    ).fit()


def _reported(trial: Callable[[dict[str, Any]], Mapping[str, Any]], proposal: dict[str, Any]) -> None:
    """Run one trial in a worker of Ray's and report what it returns."""
    from ray import tune

    tune.report(dict(trial(proposal)))
