"""The sweep that a user would write without Paretune's search: Ray Tune, Ray's OptunaSearch with TPE, and a trial.

    python tests/benchmarks/plain_script.py jobs/quickstart.yaml --baseline TRAINING --folder runs/script --trials 24

A trial builds, fine-tunes, evaluates and measures one recipe by the functions that a sweep of Paretune uses, with the
same settings, so it costs the same. Nothing is stopped early, nothing is shared between trials, and the constraints are
unknown to the search. Both baselines are measured first and count as trials, as in Paretune. ``bench live`` runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paretune.config.job import Job
from paretune.config.plan import read_plan
from paretune.config.recipe import Recipe
from paretune.core.baselines import BASELINES
from paretune.core.errors import one_line
from paretune.core.types import Data
from paretune.core.yaml_document import read_value
from paretune.distributed.ray_session import session
from paretune.profiling.latency.duet import measure_duet
from paretune.profiling.latency.shared_images import measuring_images
from paretune.search.optuna_chooser import OptunaChooser
from paretune.search.space import Space
from paretune.storage.atomic_files import write_text
from paretune.system.device_lock import shared_device
from paretune.system.file_lock import exclusive_file_lock
from paretune.workflows.build_artefact import build
from paretune.workflows.recipe_source import RecipeImages
from paretune.workflows.step_chain import InitialArtefactNetwork
from paretune.workflows.trial_context import protocol_of, step_context, with_threads

RESULT, FAILURE = "result.json", "failure.txt"


@dataclass(frozen=True)
class Script:
    """What the trials share; each worker opens the dataset once."""

    job: Job
    baseline: Path
    folder: Path
    opened: dict[str, Data] = field(default_factory=dict)

    @property
    def data(self) -> Data:
        """Return the dataset."""
        if not self.opened:
            self.opened["data"] = self.job.dataset.open(self.folder.parent / "datasets")
        return self.opened["data"]

    def trial(self, name: str, recipe: Recipe) -> dict[str, float]:
        """Build, fine-tune, evaluate and measure one recipe, and write its result."""
        from paretune.evaluation.accuracy import evaluate
        from paretune.runtimes.predictor import load_predictor

        job, place, val = self.job, self.folder / name, self.data.splits["val"]
        (place / "work").mkdir(parents=True, exist_ok=True)
        images = RecipeImages(job.dataset, self.folder.parent / "datasets", with_threads(job.training))
        kept = job.thresholds.thresholds
        context = step_context(recipe, images, self.data, detector=job.detector, baseline=self.baseline,
                               target=job.target, thresholds=kept, workdir=place / "work")  # fmt: skip
        network = InitialArtefactNetwork(self.baseline)
        build(network, recipe, replace(context, seed=job.search.seed), place / "artefact")
        with shared_device(job.target.device):
            accuracy = evaluate(load_predictor(place / "artefact", job.target), val, limit=kept.limit)
        reference = None if name == BASELINES[0] else self.folder / BASELINES[name != BASELINES[1]] / "artefact"
        protocol = protocol_of(job.measuring)
        duet = measure_duet(place / "artefact", reference, measuring_images(val), job.target, protocol)
        shutil.rmtree(place / "work")
        metrics = {key: value for key, value in accuracy.metrics().items() if value is not None}
        found = {"ended": time.time(), "ratio": duet.ratio.ratio, "metrics": metrics}
        write_text(place / RESULT, json.dumps({**found, "recipe": recipe.tree()}))
        return {"map": metrics["map"], "latency": duet.ratio.ratio}


@dataclass(frozen=True)
class Drawn:
    """Asks Optuna for the parameters of the conditional space, those inside an option if it is chosen."""

    space: Space

    def __call__(self, trial: Any) -> dict[str, Any]:
        """Return the recipe of a trial of Optuna."""
        return {"recipe": self.space.sample(OptunaChooser(trial)).value}


def main() -> int:
    """Measure the baselines, then let Ray Tune run the rest of the trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("--baseline", type=Path, required=True, help="folder of the trained network")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the results; finished trials are kept")
    parser.add_argument("--trials", type=int, required=True, help="number of trials, the two baselines included")
    parser.add_argument("--concurrent", type=int, default=2, help="trials at the same time")
    parser.add_argument(
        "--first", action="store_true", help="try the first points of the space first, as Paretune does"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="set a field of the job")
    given = parser.parse_args()
    pairs = (text.partition("=") for text in given.set)
    plan = read_plan(given.job, {field: read_value(value, field) for field, _, value in pairs})
    script = Script(plan.job, given.baseline.resolve(), given.folder.resolve())
    script.folder.mkdir(parents=True, exist_ok=True)
    with exclusive_file_lock(script.folder, "the script"):
        for name in BASELINES:
            if not (script.folder / name / RESULT).is_file():
                script.trial(name, Recipe.model_validate({"input_size": str(plan.job.size), "runtime": name}))
        with session(script.folder):
            search(replace(script, opened={}), plan.space, given.trials, given.concurrent, first=given.first)
    return 0


def search(script: Script, space: Space, trials: int, concurrent: int, *, first: bool) -> None:
    """Run the trials that are left of the budget."""
    import optuna
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    def trial(config: dict[str, Any]) -> None:
        name = tune.get_context().get_trial_id()
        try:
            tune.report(script.trial(name, Recipe.model_validate(config["recipe"])))
        except Exception as error:
            write_text(script.folder / name / FAILURE, f"{type(error).__name__}: {one_line(error)}")
            raise

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    done = len([*script.folder.glob(f"*/{RESULT}"), *script.folder.glob(f"*/{FAILURE}")]) - len(BASELINES)
    file = optuna.storages.journal.JournalFileBackend(str(script.folder / "study.log"))
    searcher = OptunaSearch(
        Drawn(space),
        metric=["map", "latency"],
        mode=["max", "min"],
        points_to_evaluate=[dict(point) for point in space.first] if first and not done else None,
        sampler=optuna.samplers.TPESampler(seed=script.job.search.seed + done),
        storage=optuna.storages.JournalStorage(file),
    )
    if (left := trials - len(BASELINES) - done) > 0:
        cores = max(1, len(os.sched_getaffinity(0)) // concurrent)
        settings = {"num_samples": left, "max_concurrent_trials": concurrent, "reuse_actors": True}
        tune.Tuner(
            tune.with_resources(trial, {"CPU": cores}),
            tune_config=tune.TuneConfig(search_alg=searcher, **settings),
            run_config=tune.RunConfig(name="tune", storage_path=str(script.folder), verbose=0),
        ).fit()


if __name__ == "__main__":
    sys.exit(main())
