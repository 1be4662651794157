"""``export``: a bundle that runs without Paretune."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from paretune.cli.options import claiming_out, sweep_arguments
from paretune.cli.pick import rule_arguments, rule_fields
from paretune.cli.remote import address_argument, fetched_from_there
from paretune.core.errors import UserError

_ARCHIVES = {".tar.gz": "gztar", ".zip": "zip"}


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    verb = verbs.add_parser(
        "export",
        help="write a bundle that runs without Paretune: model, loader, settings, model card, hashes",
        epilog="SWEEP may be the folder of an artefact; without a rule it takes the point that `front` recommends; "
        "exit code: 0 a bundle with a loader is written, 1 one without, as its runtime or detector has none, 2 nothing",
    )
    sweep_arguments(verb)
    rule_arguments(verb).add_argument("--trial", type=int, metavar="N", help="that trial of the sweep")
    verb.add_argument("--target", metavar="T", help="the target (default: the job's first)")
    verb.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="of the bundle")
    verb.add_argument("--archive", choices=_ARCHIVES, help="write FOLDER as an archive beside it too")
    verb.add_argument("--json", action="store_true", help="one JSON object")
    address_argument(verb, "of a Ray cluster's head: choose there, and write the bundle here")
    verb.set_defaults(run=claiming_out(fetched_from_there(_export)))


def _export(given: argparse.Namespace) -> int:
    from paretune.storage.artefact import MANIFEST

    archive = None if given.archive is None else given.out.with_name(given.out.name + given.archive)
    if archive is not None and archive.exists():
        raise UserError(f"{archive} exists already; name a new folder with --out")
    of_artefact = (Path(given.sweep) / MANIFEST).is_file()
    facts = _of_artefact(given) if of_artefact else _of_sweep(given)
    if archive is not None:
        folder = given.out.resolve()
        shutil.make_archive(str(folder), _ARCHIVES[given.archive], folder.parent, folder.name)
    if given.json:
        print(json.dumps({"folder": str(given.out), "archive": None if archive is None else str(archive), **facts}))
    else:
        print(f"bundle: {given.out}" + ("" if archive is None else f"\narchive: {archive}"))
        reason = facts["loader_missing"]
        print(f"without detect.py: {reason}" if reason else f"run it: python {given.out / 'detect.py'} photo.jpg")
    return 1 if facts["loader_missing"] else 0


def _of_artefact(given: argparse.Namespace) -> dict[str, Any]:
    """Return the facts of the bundle of an artefact.

    Raises:
        UserError: a rule, trial or target is given, which belongs to a sweep.
    """
    from paretune.workflows.bundle import export_artefact

    named = ("max_latency", "max_drop", "min", "trial", "target")
    if given.knee or any(getattr(given, name) is not None for name in named):
        raise UserError(f"{given.sweep} is an artefact: a rule, --trial and --target choose from a sweep")
    return export_artefact(Path(given.sweep), given.out)


def _of_sweep(given: argparse.Namespace) -> dict[str, Any]:
    """Return the facts of the bundle of a sweep's trial."""
    from paretune.api import picking
    from paretune.results.sweep_folder import find_sweep
    from paretune.workflows.pick import pick_from, trial_of, write_bundle

    sweep = find_sweep(given.runs, given.sweep)
    if given.trial is not None:
        chosen = trial_of(sweep, given.trial, given.target)
    else:
        chosen = pick_from(sweep, picking.rule_of(**rule_fields(given)), given.target)
    return write_bundle(sweep.on(given.target), chosen, given.out)[1]
