"""``advise``: the bottlenecks of an artefact, and changes that should help."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from paretune.cli.options import INCOMPLETE, claiming_out, images_arguments, target_arguments
from paretune.cli.resolve import checked_target, named_images, named_training
from paretune.core.errors import UserError, one_line
from paretune.core.hints import command


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    advise = verbs.add_parser(
        "advise",
        help="where the time of an artefact goes, what could be gained, and which knobs to try",
        epilog="without --data, the images of the sweep or training that the artefact lies in; "
        "exit code: 0 done, 1 some advice could not be tried, 2 there is none",
    )
    advise.add_argument("artefact", type=Path, metavar="ARTEFACT", help="folder of an artefact")
    images_arguments(advise, "measure on, and train and calibrate with")
    advise.add_argument("--split", default="val", metavar="SPLIT", help="train, val or test (default: val)")
    target_arguments(advise)
    text = "new folder for a page with the roofline, recipes for `paretune optimize` or `paretune sweep --first`, "
    text += "and what --try builds"
    advise.add_argument("--out", type=Path, metavar="FOLDER", help=text)
    text = "build so many of them, and measure what they gain and what they cost of map (default: 0)"
    advise.add_argument("--try", dest="most", type=int, default=0, metavar="N", help=text)
    text = "the trained network to build them from (default: the one of the sweep or training around)"
    advise.add_argument("--network", type=Path, metavar="FOLDER", help=text)
    advise.add_argument("--json", action="store_true", help="one JSON object")
    advise.set_defaults(run=claiming_out(_advise))


def _advise(given: argparse.Namespace) -> int:
    if given.most < 0:
        raise UserError(f"--try {given.most}: expected 0 or more")
    target = checked_target(given, [given.artefact])
    from paretune.results.locate import network_around
    from paretune.workflows.advise import advise_artefact, try_advice, write_advice, write_tried
    from paretune.workflows.recipe_source import images_of, read_source

    network = None
    if given.most:
        network = read_source(given.network or network_around(given.artefact))
    images = images_of(given.artefact, named_images(given), named_training(given))
    try:
        advice = advise_artefact(given.artefact, images, target, split=given.split, progress=_say)
    except RuntimeError as error:
        raise UserError(f"advise: {one_line(error)}") from error
    if not given.json:
        _show(advice)
    if given.out:
        write_advice(advice, given.out)
    if network is not None:  # minutes to hours of building, which may not cost what is known already
        options = {"most": given.most, "split": given.split, "out": given.out}
        advice = try_advice(advice, network, images, target, **options, progress=_say)
        if given.out:
            write_tried(advice, given.out)
    _end(advice, given)
    return INCOMPLETE if any(one.reason for one in advice.tried) else 0


def _end(found: Any, given: argparse.Namespace) -> None:
    """Print the measured gains of the advice, and the folders of the results."""
    if given.json:
        import json

        print(json.dumps(found.tree(), indent=1))
        return
    if found.tried:
        from paretune.reports.advice_page import knob_table
        from paretune.reports.tables import print_table

        rows = knob_table([one.advice for one in found.tried], found.measured, found.changes)
        print_table(replace(rows, title="advice that was tried", notes=()))
    if given.out:
        from paretune.workflows.advise import PAGE, TRIED

        print(f"\npage: {given.out / PAGE}")
        if found.advice:
            again = command("sweep", "JOB.yaml", "--name", "advised", "--first", given.out)
            print(f"recipes: {given.out}; to try them first: {again}")
        if any(one.artefact for one in found.tried):
            print(f"artefacts: {given.out / TRIED}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(found: Any) -> None:
    from paretune.reports.advice_page import advice_tables, verdict
    from paretune.reports.tables import print_table

    print(f"{found.artefact.folder}: {verdict(found.diagnosis)}")
    print(f"{found.diagnosis.evidence}\n")
    for rows in advice_tables(found.diagnosis, found.advice, found.measured):
        print_table(rows)
    for note in found.notes:
        print(note)
