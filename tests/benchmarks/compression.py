"""What compression does to the networks of `make bench NAME=training`: the matrix, pruning, precision, sweeps, reading
again, faults, SSD300, YOLO tiny.

What is made is kept: the benchmark goes on where it was stopped. `ARGS="--part matrix --network voc --step int8"`
takes a part of it.
"""

from __future__ import annotations

import sys

import matrix
import precision
import pruning
import refusals
import ssd300
import stored
import sweeps
import tiny
from figures import Figures, parser_of, photographs
from training import CASES

PARTS = {
    "matrix": matrix.fill,
    "pruning": pruning.fill,
    "precision": precision.fill,
    "sweeps": sweeps.fill,
    "stored": stored.fill,
}
"""Carried out for each network."""
ONCE = {"faults": refusals.fill, "ssd300": ssd300.fill, "tiny": tiny.fill}
"""Carried out once, with the photographs of the first case; YOLO tiny is a case of its own."""


def main() -> int:
    """Carry out each part for each network."""
    parser = parser_of(__doc__)
    networks = {case.job: case for case in CASES[:3]}
    parser.add_argument("--part", action="append", choices=(*PARTS, *ONCE), help="take this one (default: all)")
    parser.add_argument("--network", action="append", choices=networks, help="take this one (default: all)")
    parser.add_argument("--step", action="append", choices=matrix.STEPS, help="of the matrix, take this row too")
    given = parser.parse_args()
    root, figures, parts = photographs(), Figures("compression"), given.part or (*PARTS, *ONCE)
    for case in (networks[name] for name in given.network or networks):
        for part in (part for part in parts if part in PARTS):
            more = {"steps": given.step} if part == "matrix" and given.step else {}
            PARTS[part](case, root, figures, **more)
    for part in (part for part in parts if part in ONCE):
        ONCE[part](CASES[0], root, figures)
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
