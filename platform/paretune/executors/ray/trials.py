"""Ray Tune as the one that carries out proposals."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.tune.search import Searcher


def run_trials(
    trial: Callable[[dict[str, Any]], None],
    searcher: Searcher,
    *,
    count: int,
    concurrent: int,
    resources: Mapping[str, float],
    folder: Path,
) -> None:
    """Run up to ``count`` trials by Ray Tune; returns when they are done or Ctrl-C was pressed once.

    Args:
        trial: called in a worker with each proposal; reports once.
        searcher: hands out proposals.
        count: how many.
        concurrent: how many at once.
        resources: what one trial takes, by Ray's names ("CPU", "GPU", custom ones).
        folder: where Tune keeps its own files, which nobody reads.
    """
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    tune.Tuner(
        tune.with_resources(trial, tune.PlacementGroupFactory([dict(resources)])),
        tune_config=tune.TuneConfig(
            search_alg=searcher, num_samples=count, max_concurrent_trials=concurrent, reuse_actors=True
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder.resolve()), verbose=0),
    ).fit()
