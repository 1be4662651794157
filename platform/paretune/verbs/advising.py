"""``advise``: where the time of an artefact goes, and which knobs should help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from paretune.errors import UserError
from paretune.verbs.arguments import checked_target, images_arguments, named_images, target_arguments
from paretune.verbs.optimizing import named_training


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    advise = verbs.add_parser(
        "advise",
        help="where the time of an artefact goes, what could be gained, and which knobs to try",
        epilog="without --data, the images of the sweep or training that the artefact lies in",
    )
    advise.add_argument("artefact", type=Path, metavar="ARTEFACT", help="folder of an artefact")
    images_arguments(advise, "measure on, and train and calibrate with")
    advise.add_argument("--split", default="val", metavar="SPLIT", help="train, val or test (default: val)")
    target_arguments(advise)
    text = "new folder for a page with the roofline, and recipes for `paretune optimize` or `paretune sweep --first`"
    advise.add_argument("--out", type=Path, metavar="FOLDER", help=text)
    text = "build so many of them and measure what they gain (default: 0)"
    advise.add_argument("--try", dest="most", type=int, default=0, metavar="N", help=text)
    text = "the trained network to build them from (default: the one of the sweep or training around)"
    advise.add_argument("--network", type=Path, metavar="FOLDER", help=text)
    advise.add_argument("--json", action="store_true", help="one JSON object")
    advise.set_defaults(run=_advise)


def _advise(given: argparse.Namespace) -> int:
    if given.most < 0:
        raise UserError(f"--try {given.most}: expected 0 or more")
    if given.out is not None and given.out.exists():
        raise UserError(f"{given.out} exists already; name a new folder with --out")
    target = checked_target(given)
    from paretune.advising import PAGE, advise_artefact, try_advice, write_advice
    from paretune.folders import network_around
    from paretune.optimizations import images_of, read_source

    network = None
    if given.most:
        network = read_source(given.network or network_around(given.artefact))
    images = images_of(given.artefact, named_images(given), named_training(given))
    try:
        found = advise_artefact(given.artefact, images, target, split=given.split, progress=_say)
        if network is not None:
            found = try_advice(found, network, images, target, most=given.most, progress=_say)
    except RuntimeError as error:
        raise UserError(f"advise: {' '.join(str(error).split())}") from error
    files = write_advice(found, given.out) if given.out else []
    if given.json:
        import json

        print(json.dumps(found.tree(), indent=1))
        return 0
    _show(found)
    if files:
        print(f"\npage: {given.out / PAGE}")
        print(f"recipes: {given.out}; to try them first: paretune sweep JOB.yaml --first {given.out}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(found: Any) -> None:
    from paretune.display import print_table
    from paretune.profiling.advice_page import advice_tables, verdict

    print(f"{found.artefact.folder}: {verdict(found.diagnosis)}")
    print(f"{found.diagnosis.evidence}\n")
    for rows in advice_tables(found.diagnosis, found.advice, found.measured):
        print_table(rows.title, rows.head, rows.rows, rows.notes, left=rows.words)
    for note in found.notes:
        print(note)
