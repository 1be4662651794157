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
    from paretune.api.running import Stopped, train
    from paretune.config.output_folder import JOB_FILE
    from paretune.reports.progress_bar import training_bar

    name = given.job.stem if given.name is None else given.name
    try:
        with training_bar() as on_step:
            trained = train(
                given.job,
                name,
                set=overrides(given),
                resume=given.resume,
                test=given.test,
                progress=True,
                on_step=on_step,
            )
    except Stopped:
        tested = ["--test"] if given.test else []
        changed = [word for text in given.set for word in ("--set", text)]
        again = command("train", given.job, "--name", name, "--resume", *tested, *changed)
        print(f"\nstopped; nothing is lost. To go on: {again}", file=sys.stderr)
        return INTERRUPTED
    place, facts, artefact = trained.place, trained.facts, trained.artefact
    print(f"network, training.json, curves.png, samples.png: {place.folder}")
    if given.json:
        figures = {name: facts[name] for name in ("metrics", "reasons")}
        given.answer({"training": place.name, "folder": str(place.folder), "artefact": str(artefact), **figures})
    print(f"to evaluate it: {command('evaluate', artefact)}")
    begun = ["--name", place.free_sweep_name(), "--set", f"baseline={place.folder}"]
    print(f"to search from it: {command('sweep', place.folder / JOB_FILE, *begun)}")  # what was chosen stands there
    return 0
