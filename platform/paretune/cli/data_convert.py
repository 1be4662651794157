"""``data convert``, ``data split`` and ``data annotate``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from paretune.api.inputs import dataset_of
from paretune.api.measuring import check_confidence
from paretune.cli.options import answering, json_argument, progress
from paretune.core.errors import UserError
from paretune.core.hints import command
from paretune.data import WRITTEN_FORMATS as FORMATS


def add(verbs: Any) -> None:
    """Add the subverbs to the parser."""
    convert = verbs.add_parser("convert", help="write a dataset in another format, saying what is lost")
    _source(convert)
    convert.add_argument("--to", required=True, choices=FORMATS, help="format to write")
    _images(convert)
    json_argument(convert)
    convert.set_defaults(run=answering(_convert))
    split = verbs.add_parser("split", help="share the images of a dataset out anew, the same for the same seed")
    _source(split)
    split.add_argument("--to", choices=FORMATS, help="format to write (default: the source's)")
    split.add_argument("--val", type=float, default=0.2, metavar="SHARE", help="for choosing by (default: 0.2)")
    split.add_argument(
        "--test", type=float, default=0.1, metavar="SHARE", help="that no search looks at (default: 0.1)"
    )
    split.add_argument("--seed", type=int, default=0)
    _images(split)
    json_argument(split)
    split.set_defaults(run=answering(_split))
    annotate = verbs.add_parser("annotate", help="write annotations for images: by a detector, or from a table")
    annotate.add_argument("images_in", type=Path, metavar="IMAGES", help="folder of images")
    annotate.add_argument("folder", type=Path, metavar="FOLDER", help="new folder of the dataset")
    annotate.add_argument("--to", required=True, choices=FORMATS, help="format to write")
    way = annotate.add_mutually_exclusive_group(required=True)
    way.add_argument("--with", dest="artefact", type=Path, metavar="ARTEFACT", help="folder of a deployed detector")
    way.add_argument(
        "--from-csv", type=Path, metavar="FILE", help="filename, class, xmin, ymin, xmax, ymax in a header"
    )
    text = "of the table: 0, corners are edges counted from 0 (default); 1, as in Pascal VOC, pixels counted from 1, "
    annotate.add_argument("--origin", type=int, choices=(0, 1), help=f"{text}xmax and ymax the object's last")
    annotate.add_argument("--score", type=float, default=0.5, help="smallest score that counts (default: 0.5)")
    _images(annotate)
    json_argument(annotate)
    annotate.set_defaults(run=answering(_annotate))


def _source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="JOB.yaml|FOLDER", help="a job, or the folder of a dataset")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="new folder of the dataset")
    parser.add_argument("--from", dest="format", metavar="FORMAT", help="of the source (default: told by its layout)")
    parser.add_argument("--policy", choices=("strict", "skip"), help="what to do with broken entries (default: strict)")


def _images(parser: argparse.ArgumentParser) -> None:
    text = "what to do with the image files (default: copy)"
    parser.add_argument("--images", choices=("copy", "link", "none"), default="copy", help=text)


def _convert(given: argparse.Namespace) -> int:
    dataset, cache = _dataset(given)
    return _write(dataset.open(cache), given, given.to)


def _split(given: argparse.Namespace) -> int:
    from paretune.data.splits import split_by_hash

    dataset, cache = _dataset(given)
    form = given.to or {"voc_flat": "voc"}.get(dataset.name, dataset.name)
    if form not in FORMATS:
        raise UserError(f"{dataset.name} cannot be written; name a format with --to {'|'.join(FORMATS)}")
    return _write(split_by_hash(dataset.open(cache), given.val, given.test, given.seed), given, form)


def _annotate(given: argparse.Namespace) -> int:
    check_confidence(given.score, "--score")
    if given.origin is not None and not given.from_csv:
        raise UserError("--origin: of the boxes of --from-csv; a detector's are told")
    if given.from_csv:
        from paretune.data.csv_boxes import read_table

        data = read_table(given.from_csv, given.images_in, given.origin or 0)
    else:
        from paretune.workflows.annotate import annotate

        data = annotate(given.images_in, given.artefact, given.score, progress)
    return _write(data, given, given.to)


def _dataset(given: argparse.Namespace) -> tuple[Any, Path]:
    """Return the dataset that is read, with the policy that is asked for, and its cache.

    Raises:
        UserError: broken entries are to be skipped, and the reader of this format refuses them all.
    """
    dataset, cache = dataset_of(given.source, given.format)
    if given.policy and hasattr(dataset, "policy"):
        dataset = dataset.model_copy(update={"policy": given.policy})
    elif given.policy == "skip":
        raise UserError(
            f"--policy skip: {given.source} is read as {dataset.name}, whose reader skips no broken entries; "
            f"`{command('data', 'check', given.source)}` lists what to mend"
        )
    return dataset, cache


def _write(data: Any, given: argparse.Namespace, form: str) -> int:
    from paretune.data.conversion import write_dataset
    from paretune.data.left_out import lines_of

    lost = write_dataset(data, given.folder, form, given.images)
    for note in (notes := lines_of(data)):
        print(note)
    for line in lost:
        print(f"lost: {line}")
    counts = ", ".join(f"{name} {len(split)}" for name, split in data.splits.items())
    print(f"{given.folder}: {form}, images: {counts}")
    images = {name: len(split) for name, split in data.splits.items()}
    told = {"format": form, "images": images, "lost": list(lost), "notes": list(notes)}
    given.answer({"folder": str(given.folder), **told})
    return 0
