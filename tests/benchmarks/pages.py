"""How fast the front page opens and answers the mouse: `make bench NAME=pages [ARGS=--json]`.

Pages of 50, 500 and 5,000 invented trials are opened in a headless Chromium. Opening is the time from the start of
the navigation to the end of the page's load event; a hover is the time in which the page finds the trial below the
mouse, shows its text and lays it out. README's promise is below 2 s and below 50 ms at 5,000 trials.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paretune.reports.front_page import front_html
from tests_support_browser import HOVER, BrowserPage, browser, chromium
from tests_support_page import simulated_page

COUNTS = (50, 500, 5000)
OPENED, ANSWERED = 2000.0, 50.0
"""Milliseconds that a page may take to open, and to answer the mouse."""
ROUNDS = 5


def measured(page: BrowserPage, count: int, folder: Path) -> dict[str, Any]:
    """Return the times of one page."""
    data = simulated_page(count)
    start = time.perf_counter()
    text = front_html(data)
    written = (time.perf_counter() - start) * 1000
    file = folder / f"{count}.html"
    file.write_text(text, encoding="utf-8")
    opened, answers = list[float](), list[float]()
    for _ in range(ROUNDS):
        page.open(file)
        opened.append(page.run("performance.getEntriesByType('navigation')[0].loadEventEnd"))
        answers += page.run(HOVER)
    return {
        "trials": count,
        "kib": round(file.stat().st_size / 1024),
        "written_ms": round(written),
        "opened_ms": round(statistics.median(opened)),
        "hover_ms_p50": round(statistics.median(answers), 1),
        "hover_ms_p95": round(sorted(answers)[int(0.95 * len(answers))], 1),
        "faults": page.faults(),
    }


def main() -> int:
    """Measure all pages; 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    asked = parser.parse_args()
    if chromium() is None:
        print("there is no Chromium on PATH (apt-get install chromium)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, browser() as page:
        rows = [measured(page, count, Path(folder)) for count in COUNTS]
    kept = all(
        row["opened_ms"] < OPENED and row["hover_ms_p95"] < ANSWERED and row["kib"] < 3000 and not row["faults"]
        for row in rows
    )
    if asked.json:
        print(json.dumps({"pages": rows, "kept": kept}))
    else:
        print(f"{'trials':>7}{'KiB':>7}{'written ms':>12}{'opened ms':>11}{'hover ms':>10}{'95 %':>7}")
        for row in rows:
            times = (
                f"{row['written_ms']:12d}{row['opened_ms']:11d}{row['hover_ms_p50']:10.1f}{row['hover_ms_p95']:7.1f}"
            )
            print(f"{row['trials']:7d}{row['kib']:7d}{times}", *row["faults"])
        print("every promise kept" if kept else "a promise is broken")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
