"""``data check`` and ``data download``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from paretune.cli.options import answering, json_argument, progress

DEFECTS = 1
"""Exit code of a check that found a defect that hinders training."""


def add(verbs: Any) -> None:
    """Add the subverbs to the parser."""
    check = verbs.add_parser(
        "check",
        help="find every defect of a dataset before any compute is spent",
        epilog="exit code: 0 nothing hinders training, 1 something does, 2 no such dataset",
    )
    check.add_argument(
        "source", type=Path, metavar="JOB.yaml|FOLDER", help="a job, the folder of a dataset, or YOLO's data.yaml"
    )
    check.add_argument("--from", dest="format", metavar="FORMAT", help="of the folder (default: told by its layout)")
    json_argument(check, "one JSON object with every defect")
    check.add_argument("--picture", type=Path, metavar="FILE.png", help="classes, box sizes and samples as a picture")
    check.add_argument(
        "--near",
        type=int,
        default=0,
        choices=range(17),
        metavar="BITS",
        help="images of two splits are nearly the same when their hashes differ in at most so many of 64 bits (0)",
    )
    check.set_defaults(run=_check)
    download = verbs.add_parser("download", help="fetch the official archives of a public dataset, and unpack them")
    download.add_argument("dataset", metavar="coco|voc")
    download.add_argument("folder", type=Path, metavar="FOLDER", help="where it is to lie")
    download.add_argument(
        "--part",
        action="append",
        metavar="PART",
        help="only this one, perhaps several times (an unknown one lists all)",
    )
    download.add_argument(
        "--from", dest="base", metavar="URL", help="fetch the archives from below this address instead"
    )
    download.add_argument("--keep", action="store_true", help="keep the archives once they are unpacked")
    json_argument(download)
    download.set_defaults(run=answering(_download))


def _check(given: argparse.Namespace) -> int:
    from paretune.api.inputs import dataset_of
    from paretune.data.checks.report import checked_dataset

    dataset, _ = dataset_of(given.source, given.format)
    if not given.json and not given.source.is_file():
        print(f"format: {dataset.name} (in a job: dataset: {{{dataset.name}: {{root: {given.source}}}}})")
    with checked_dataset(dataset, given.near, progress) as report:
        _show(report, given)
    return DEFECTS if report.hinders else 0


def _show(report: Any, given: argparse.Namespace) -> None:
    """Print a report, then draw it, so that a picture that cannot be written loses nothing."""
    if given.json:
        import json

        print(json.dumps(report.tree(), indent=1))
    else:
        from paretune.reports.dataset_check_text import report_text

        print(report_text(report))
    if given.picture:
        from paretune.reports.dataset_check_plot import draw

        draw(report, given.picture)


def _download(given: argparse.Namespace) -> int:
    from paretune.data.download.http_download import Fetcher
    from paretune.data.download.install import download

    fetcher = Fetcher(progress=_bytes)
    download(given.dataset, given.folder, given.part, given.base, given.keep, fetcher=fetcher, tell=print)
    given.answer({"dataset": given.dataset, "folder": str(given.folder), "parts": given.part})
    return 0


def _bytes(name: str, done: int, of: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == of else ""
        print(f"\r{name}: {done / 1e6:.0f} of {of / 1e6:.0f} MB", end=end, file=sys.stderr, flush=True)
