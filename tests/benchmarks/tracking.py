"""Whether the MLflow log is ever in the way, and whether anything secret or hostile gets into it.

`faults`: sweeps whose server is killed, fails, refuses, is slow or silent; after `sync` nothing is lost and nothing
twice, and no stage has waited. `cost`: CPU of the log with 50 to 2,000 trials, and MLflow's list of 5,000. `secrets`:
a password in environment and addresses is looked for in every byte that a sweep leaves. `hostile`: names that are
markup or commands of a terminal, on pages and in the terminal. `--short` is a test.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tracking_cost
import tracking_faults
import tracking_hostile
import tracking_secrets
from faults_place import Bench, end_processes
from figures import BENCH, Figures, parser_of

PARTS = {
    "faults": tracking_faults.whole,
    "cost": tracking_cost.whole,
    "secrets": tracking_secrets.whole,
    "hostile": tracking_hostile.whole,
}


def main() -> int:
    """Measure the parts that are asked for."""
    parser = parser_of(__doc__)
    parser.add_argument("--part", choices=PARTS, help="one part alone")
    parser.add_argument("--short", action="store_true", help="the part that is a test, in half a minute")
    parser.add_argument("--folder", type=Path, default=BENCH / "tracking")
    given = parser.parse_args()
    figures, folder = Figures("tracking"), given.folder.resolve()
    if given.short:
        bench = Bench(folder / "short")
        try:
            tracking_faults.short(figures, bench)
            tracking_secrets.short(figures, bench)
        finally:
            end_processes(bench.place)
        return figures.end(as_json=given.json)
    for name, part in PARTS.items():
        if given.part in (None, name):
            part(figures, folder)
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
