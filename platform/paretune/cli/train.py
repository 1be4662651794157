"""``train``: from a job to a trained network."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from paretune.cli.options import INTERRUPTED, job_arguments, overrides
from paretune.core.hints import command


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    train = verbs.add_parser("train", help="train the detector of a job, and nothing more")
    job_arguments(train, "training", trials=False)
    train.add_argument("--resume", action="store_true", help="go on with a training that was stopped or killed")
    train.add_argument("--test", action="store_true", help="evaluate the trained network on the test split, too")
    train.set_defaults(run=_train, trials=None)


def _train(given: argparse.Namespace) -> int:
    from paretune.api.running import Stopped, train
    from paretune.config.output_folder import JOB_FILE

    name = given.name or given.job.stem
    try:
        place = train(given.job, name, set=overrides(given), resume=given.resume, test=given.test, progress=True).place
    except Stopped:
        tested = ["--test"] if given.test else []
        changed = [word for text in given.set for word in ("--set", text)]
        again = command("train", given.job, "--name", name, "--resume", *tested, *changed)
        print(f"\nstopped; nothing is lost. To go on: {again}", file=sys.stderr)
        return INTERRUPTED
    print(f"network, training.json, curves.png, samples.png: {place.folder}")
    print(f"to evaluate it: {command('evaluate', place.folder / 'artefact')}")
    begun = ["--name", place.free_sweep_name(), "--set", f"baseline={place.folder}"]
    print(f"to search from it: {command('sweep', place.folder / JOB_FILE, *begun)}")  # what was chosen stands there
    return 0
