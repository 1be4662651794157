"""What compression does to the networks of `make bench NAME=training`: the matrix, pruning, precision.

What is made is kept: the benchmark goes on where it was stopped. `ARGS="--part matrix --network voc --step int8"`
takes a part of it.
"""

from __future__ import annotations

import argparse
import sys

import matrix
import precision
import pruning
from figures import Figures, photographs
from training import CASES

PARTS = ("matrix", "pruning", "precision")


def main() -> int:
    """Carry out each part for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = {case.job: case for case in CASES[:3]}
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--part", action="append", choices=PARTS, help="take this one (default: all)")
    parser.add_argument("--network", action="append", choices=networks, help="take this one (default: all)")
    parser.add_argument("--step", action="append", choices=matrix.STEPS, help="of the matrix, take this row too")
    given = parser.parse_args()
    root, figures = photographs(), Figures("compression")
    steps = ["none", *(step for step in given.step or matrix.STEPS if step != "none")]
    for case in (networks[name] for name in given.network or networks):
        for part in given.part or PARTS:
            if part == "matrix":
                matrix.fill(case, steps, root, figures)
            else:
                {"pruning": pruning, "precision": precision}[part].fill(case, root, figures)
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
