"""``train``: from a job to a trained network."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from paretune.cli.options import INTERRUPTED, answering, job_arguments, json_argument, overrides
from paretune.core.hints import command


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    train = verbs.add_parser("train", help="train the detector of a job, and nothing more")
    job_arguments(train, "training", trials=False)
    train.add_argument("--resume", action="store_true", help="go on with a training that was stopped or killed")
    train.add_argument("--test", action="store_true", help="evaluate the trained network on the test split, too")
    json_argument(train, "one JSON object at the end; what goes on is printed on stderr")
    train.set_defaults(run=answering(_train), trials=None)


def _train(given: argparse.Namespace) -> int:
    from paretune.config.output_folder import JOB_FILE
    from paretune.config.plan import read_plan
    from paretune.reports.progress_bar import training_bar
    from paretune.workflows.machine_check import refuse_unfit_for_training
    from paretune.workflows.train import open_place, run_training

    plan = read_plan(given.job, overrides(given))
    refuse_unfit_for_training(plan.job)
    tested = ["--test"] if given.test else []
    place, job = open_place(plan, given.name or given.job.stem, resume=given.resume, test=given.test)
    changed = [word for text in given.set for word in ("--set", text)]
    try:
        with training_bar() as on_step:
            facts = run_training(place, job, test=given.test, new=not given.resume, on_step=on_step)
    except KeyboardInterrupt:
        again = command("train", given.job, "--name", place.name, "--resume", *tested, *changed)
        print(f"\nstopped; nothing is lost. To go on: {again}", file=sys.stderr)
        return INTERRUPTED
    artefact = place.folder / "artefact"
    print(f"network, training.json, curves.png, samples.png: {place.folder}")
    if given.json:
        figures = {name: facts[name] for name in ("metrics", "reasons")}
        given.answer({"training": place.name, "folder": str(place.folder), "artefact": str(artefact), **figures})
    print(f"to evaluate it: {command('evaluate', artefact)}")
    begun = ["--name", place.free_sweep_name(), "--set", f"baseline={place.folder}"]
    print(f"to search from it: {command('sweep', place.folder / JOB_FILE, *begun)}")  # what was chosen stands there
    return 0
