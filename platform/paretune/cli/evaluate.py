"""``evaluate``: the accuracy of an artefact, or of another program's results."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from paretune.cli.options import images_arguments, progress, target_arguments
from paretune.cli.resolve import say


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    evaluate = verbs.add_parser(
        "evaluate",
        help="COCO's and VOC's figures of an artefact, or of results in COCO's format",
        epilog="without --data, the images of the sweep or training that the artefact lies in",
    )
    evaluate.add_argument("artefact", nargs="?", type=Path, metavar="ARTEFACT", help="folder of an artefact")
    images_arguments(evaluate, "evaluate on")
    evaluate.add_argument("--split", default="val", metavar="SPLIT", help="train, val or test (default: val)")
    evaluate.add_argument("--annotations", type=Path, metavar="GT.json", help="a ground truth in COCO's format,")
    evaluate.add_argument("--detections", type=Path, metavar="RESULTS.json", help="and what was found, the same")
    evaluate.add_argument(
        "--against",
        type=Path,
        metavar="OTHER",
        help="another artefact, or other results: what this one has more, how sure",
    )
    text = "for precision, recall, F1 and confusions (default: that of the best F1)"
    evaluate.add_argument("--confidence", type=float, metavar="C", help=text)
    text = "evaluate at this one too: average precision, and precision, recall and F1, for example 0.6"
    evaluate.add_argument("--iou", type=float, metavar="IOU", help=text)
    evaluate.add_argument("--limit", type=int, metavar="N", help="evaluate the first N images only")
    text = "most detections of a class in an image that count (default: COCO's 100, or what the artefact finds)"
    evaluate.add_argument("--max-detections", type=int, metavar="N", help=text)
    target_arguments(evaluate)
    evaluate.add_argument("--out", type=Path, metavar="FOLDER", help="curves, confusions and worst images as pictures")
    evaluate.add_argument("--json", action="store_true", help="one JSON object")
    evaluate.set_defaults(run=_evaluate)


def _evaluate(given: argparse.Namespace) -> int:
    from paretune.api.measuring import evaluate

    report = evaluate(
        given.artefact,
        given.data,
        format=given.format,
        split=given.split,
        annotations=given.annotations,
        detections=given.detections,
        against=given.against,
        confidence=given.confidence,
        iou=given.iou,
        limit=given.limit,
        max_detections=given.max_detections,
        device=given.device,
        threads=given.threads,
        out=given.out,
        images_done=progress,
        tell=say,
    )
    if given.json:
        import json

        print(json.dumps(report.tree(), indent=1))
    else:
        from paretune.data.left_out import lines_of_record
        from paretune.reports.evaluation_text import report_text

        print(report_text(report))
        for line in lines_of_record(report.facts):
            print(line)
        if given.out:
            print(f"pictures: {given.out}")
    return 0
