"""``predict``: the detections of an artefact in images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from paretune.cli.options import INCOMPLETE, NOTHING, target_arguments
from paretune.cli.resolve import say
from paretune.core.counts import counted
from paretune.core.types import SURE

OUT = Path("predictions")


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    predict = verbs.add_parser(
        "predict",
        help="find objects in images, and draw them",
        epilog="exit code: 0 done, 1 some images could not be read, 2 none could",
    )
    predict.add_argument("artefact", type=Path, metavar="ARTEFACT", help="folder of an artefact")
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image file")
    text = f"for the images with boxes, class names and scores drawn (default: {OUT}; none with --json)"
    predict.add_argument("--out", type=Path, metavar="FOLDER", help=text)
    predict.add_argument(
        "--confidence", type=float, default=SURE, metavar="C", help=f"smallest score that counts (default: {SURE})"
    )
    text = "most boxes kept in an image (default: as the artefact says, of a job without thresholds 100)"
    predict.add_argument("--max-detections", type=int, metavar="N", help=text)
    target_arguments(predict)
    predict.add_argument("--json", action="store_true", help="one JSON object with every box")
    predict.set_defaults(run=_predict)


def _predict(given: argparse.Namespace) -> int:
    from paretune.api.measuring import predictions

    out = given.out or (None if given.json else OUT)
    found = predictions(
        given.artefact,
        given.images,
        confidence=given.confidence,
        max_detections=given.max_detections,
        out=out,
        device=given.device,
        threads=given.threads,
        tell=say,
    )
    entries, failed, full = [], 0, 0
    for image in found:
        full += image.full is not None
        if image.failure is not None:
            failed += 1
            print(image.failure, file=sys.stderr)
        elif not given.json:
            print(image, flush=True)
        entries.append(image.tree())
    if given.json:
        import json

        body = {"artefact": str(given.artefact), "confidence": given.confidence, "images": entries}
        print(json.dumps(body, indent=1))
    elif failed < len(entries):
        print(f"pictures: {out}")
    if full:
        message = f"the limit of boxes in an image binds in {full} of {len(entries)} images"
        print(f"{message}: there may be more objects; --max-detections keeps more", file=sys.stderr)
    if failed:
        print(f"{failed} of {counted(len(entries), 'image')} could not be read", file=sys.stderr)
    if failed < len(entries):
        return INCOMPLETE if failed else 0
    return NOTHING
