"""``profile``: the cost of artefacts on this machine, and their comparison."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from paretune.cli.options import INCOMPLETE, claiming_out, images_arguments, target_arguments
from paretune.cli.resolve import say


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    profile = verbs.add_parser(
        "profile",
        help="latency of artefacts stage by stage and layer by layer, memory, energy, and which is faster",
        epilog="without --data, the images of the sweep or training that the first artefact lies in; "
        "exit code: 0 all was measured, 1 some of it, 2 nothing",
    )
    text = "folders of artefacts; the first is what the others are compared with"
    profile.add_argument("artefacts", nargs="+", type=Path, metavar="ARTEFACT", help=text)
    images_arguments(profile, "measure on")
    profile.add_argument("--split", default="val", metavar="SPLIT", help="train, val or test (default: val)")
    text = "fresh processes of each artefact, and rounds of the comparison (default: 5)"
    profile.add_argument("--repetitions", type=int, default=5, metavar="N", help=text)
    text = "seconds in which to sample on while guests of the same host use its memory; 0 does not look (default: 30)"
    profile.add_argument("--patience", type=float, default=30.0, metavar="SECONDS", help=text)
    target_arguments(profile)
    profile.add_argument("--out", type=Path, metavar="FOLDER", help="new folder for profile.html and the raw samples")
    text = "leave out what each layer costs"
    profile.add_argument("--no-operators", dest="operators", action="store_false", help=text)
    text = "images per second of so many processes at once, each on cores of its own, for example 1 2 4"
    profile.add_argument("--streams", type=int, nargs="+", default=[], metavar="N", help=text)
    text = "images of an inference in that scenario, for example 1 8; exported files take one"
    profile.add_argument("--batch", type=int, nargs="+", default=[], metavar="N", help=text)
    text = "look at the kernels of one inference with Nsight Compute too (--device cuda)"
    profile.add_argument("--nsight", action="store_true", help=text)
    profile.add_argument("--json", action="store_true", help="one JSON object")
    profile.set_defaults(run=claiming_out(_profile))


def _profile(given: argparse.Namespace) -> int:
    from paretune.api.measuring import profile
    from paretune.reports.profile_report import write_profile

    found = profile(
        *given.artefacts,
        data=given.data,
        format=given.format,
        split=given.split,
        repetitions=given.repetitions,
        patience=given.patience,
        operators=given.operators,
        streams=given.streams,
        batch=given.batch,
        nsight=given.nsight,
        device=given.device,
        threads=given.threads,
        tell=say,
    )
    _show(found, as_json=given.json)
    if given.out:  # after all was shown: the disk may be full by now
        write_profile(found, given.out)
        if not given.json:
            print(f"page and raw samples: {given.out}")
    for line in found.failures:
        say(f"not measured: {line}")
    return INCOMPLETE if found.failures else 0


def _show(found: Any, *, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(found.tree(), indent=1))
        return
    from paretune.reports.tables import print_table

    for rows in found.tables():
        print_table(rows)
