"""From photographs to a front: 364 blood-cell photographs, trained from scratch, within 15 minutes."""

from __future__ import annotations

import json
import shutil
import sys
import time

from figures import BENCH, Figures, add_front, arguments, paretune, photographs


def main() -> int:
    """Run the sweep of jobs/voc.yaml on the blood cells and print its figures."""
    given = arguments(__doc__)
    root = photographs() / "bccd" / "BCCD"
    runs = BENCH / "photographs"
    shutil.rmtree(runs, ignore_errors=True)  # the time is what is measured: nothing is reused
    start = time.monotonic()
    sets = (f"dataset.voc.root={root}", f"output={runs}", "training.minutes=4")
    done = paretune("sweep", "jobs/voc.yaml", *(word for text in sets for word in ("--set", text)))
    minutes = (time.monotonic() - start) / 60
    print(done.stdout)
    figures = Figures("photographs")
    front = json.loads(paretune("front", "voc", "--runs", str(runs), "--json").stdout)
    figures.add("minutes", minutes, at_most=15)
    figures.add("baseline map50 from scratch", front["baseline"]["metrics"]["map50"], at_least=0.70)
    add_front(figures, front, runs / "voc")
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
