"""Whether profiling can be believed, is right, gives advice that helps, and leaves nothing behind.

The networks are those of `make bench NAME=training`; SSD300 has seeded random weights and half of its channels.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import believable
import right
import roofs
import unharmed
from compressed import optimized
from figures import BENCH, Figures, paretune, parser_of, photographs
from ssd300 import SLIM, network
from training import CASES, Trained, trained

from paretune.cli.options import INCOMPLETE

FOLDER = BENCH / "profiling"
KEPT = 0.5
"""Share of the predicted gain that must be measured,"""
OF = 3
"""for so many families."""
FAMILIES = ("voc", "ssd", "faster_rcnn", "ssd300")


def started(family: str, root: Path) -> tuple[Path, Path, Path]:
    """Return an artefact of a family in eager, the network it was made from, and the job of its images."""
    case = next(case for case in CASES if case.job == family.replace("ssd300", "voc"))
    source: Trained = trained(case, 0, root)
    start, steps = source.folder, list[dict[str, Any]]()
    if family == "ssd300":
        start, steps = network(tuple(source.facts["classes"])), [SLIM]
    artefact = FOLDER / f"{family}-eager"
    if reason := optimized(start, steps, "eager", artefact, source.folder):
        raise RuntimeError(f"{family}: {reason}")
    return artefact, start, source.folder / "job.yaml"


def advised(family: str, root: Path) -> dict[str, Any]:
    """Ask for advice, and try its first knob."""
    artefact, start, data = started(family, root)
    words = ("--network", str(start), "--data", str(data), "--try", "1", "--json")
    done = paretune("advise", str(artefact), *words, check=False)
    if done.returncode not in (0, INCOMPLETE):
        raise RuntimeError(f"{family}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def fill(root: Path, figures: Figures, families: Sequence[str] = FAMILIES) -> None:
    """Ask for advice for each family and print what came of it."""
    good = 0
    for family in families:
        found = advised(family, root)
        print(f"{family}: {found['verdict']}; {found['evidence']}", flush=True)
        for one in found["tried"]:
            told = one["reason"] or f"{one['speedup']:.2f}x measured"
            print(f"{family}: {one['knob']}: {one['predicted']:.2f}x predicted, {told}", flush=True)
        kept = found["tried"][0]["kept"] if found["tried"] else None
        good += kept is not None and kept >= KEPT
        figures.add(f"{family}: share of the first knob's predicted gain that was measured", kept)
        figures.more[family] = found
    figures.add(f"families whose first knob gives at least {KEPT:g} of what it promised", good, at_least=OF)


PARTS: dict[str, Callable[..., None]] = {
    "believable": believable.fill,
    "ranked": believable.rank,
    "right": right.fill,
    "useful": fill,
    "unharmed": unharmed.fill,
    "roofs": lambda _, figures: roofs.fill(figures),
}


def main() -> int:
    """Carry out each part."""
    parser = parser_of(__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="take this one (default: all)")
    parser.add_argument("--family", action="append", choices=FAMILIES, help="of `useful`, take this one (default: all)")
    parser.add_argument("--minutes", type=float, help="how long `believable` (20) and the loop of `unharmed` (10) last")
    given = parser.parse_args()
    root, figures = photographs(), Figures("profiling")
    more: dict[str, dict[str, Any]] = {
        "believable": {"minutes": given.minutes or 20},
        "useful": {"families": given.family or FAMILIES},
        "unharmed": {"minutes": given.minutes or 10},
    }
    for part in given.part or PARTS:
        PARTS[part](root, figures, **more.get(part, {}))
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
