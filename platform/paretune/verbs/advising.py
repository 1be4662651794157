"""``advise``: where the time of an artefact goes, and which knobs should help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from paretune.errors import UserError
from paretune.verbs.arguments import checked_target, images_arguments, named_images, target_arguments
from paretune.verbs.optimizing import named_training

LAYERS = 8
"""Slowest layers that are shown."""


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
    text = "new folder for the advice as recipes: for `paretune optimize`, or `paretune sweep --first`"
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
    from paretune.advising import advise_artefact, try_advice, write_recipes
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
    files = write_recipes(found.advice, given.out) if given.out else []
    if given.json:
        import json

        print(json.dumps(found.tree(), indent=1))
        return 0
    _show(found)
    if files:
        print(f"\nrecipes: {given.out}; to try them first: paretune sweep JOB.yaml --first {given.out}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(found: Any) -> None:
    from paretune.display import print_table

    diagnosis = found.diagnosis
    print(f"{found.artefact.folder}: {diagnosis.total_ms:.2f} ms from image to boxes, {diagnosis.verdict}")
    print(f"{diagnosis.evidence}\n")
    print_table(
        "what could be gained at most",
        ("part", "ms", "share", "if free", "at its roof"),
        [
            (one.part, f"{one.ms:.3f}", f"{one.share:.0%}", _times(one.free), _times(one.at_roof))
            for one in diagnosis.ceilings(0)
        ],
    )
    print_table(
        "slowest layers",
        ("layer", "ms", "GFLOP/s", "of its roof", "bound by"),
        [
            (
                layer.work.module,
                f"{layer.ms:.3f}",
                f"{layer.work.flops / layer.ms / 1e6:.1f}" if layer.ms else "-",
                f"{layer.attained:.0%}",
                layer.bound,
            )
            for layer in diagnosis.layers[:LAYERS]
        ],
        left=("bound by",),
    )
    if found.advice:
        told = {one.advice.knob: one for one in found.tried}
        rows = [
            (one.knob, _times(one.predicted), _measured(told.get(one.knob)), one.risk, one.why) for one in found.advice
        ]
        head = ("knob", "predicted", "measured", "may cost", "why")
        print_table("advice, the largest gain first", head, rows, left=("may cost", "why"))
    else:
        print("no knob of the network gains anything that could be measured")
    for note in found.notes:
        print(note)


def _measured(tried: Any) -> str:
    """Say what a tried piece of advice gained, also where that was nothing."""
    if tried is None:
        return "-"
    if tried.measured is None:
        return f"not built: {tried.reason}"
    ratio = tried.measured
    return f"{1 / ratio.ratio:.2f}x [{1 / ratio.high:.2f}, {1 / ratio.low:.2f}] {ratio.verdict}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"
