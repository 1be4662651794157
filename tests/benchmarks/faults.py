"""Faults of every kind in sweeps: after each, the sweep is resumed to its end and checked by `faults_checker`.

Trials cost next to nothing (`faults_sweep`), so that a fault takes seconds. Each fault is printed with its moment and
result as it is tried, and a table comes at the end. With `--into` each is also a line of a file, and those that stand
there already are not tried again: a long run may be interrupted and goes on later.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import faults_files
import faults_log
import faults_ray
import faults_steps
from faults_kinds import Kind
from faults_place import Bench, end_processes
from figures import BENCH, parser_of
from rich.console import Console
from rich.table import Table

KINDS: list[Kind] = [*faults_steps.KINDS, *faults_files.KINDS, *faults_log.KINDS, *faults_ray.KINDS]
SHORT = {
    "each step of finishing a trial": 11,
    "a full disk for a moment": 1,
    "flipped byte in the stage store": 1,
    "cut record": 1,
    "cut study": 1,
    "the log's database is locked": 1,
    "Ctrl-C": 1,
    faults_ray.CHAIN.title: 2,
}
"""Fault → moments in the short form, which is a test."""


def main() -> int:
    """Try the faults that are asked for; 1 if anything was wrong after one of them."""
    parser = parser_of(__doc__)
    parser.add_argument("--only", default="", help="numbers or parts of titles, such as F7,F9,raylet")
    parser.add_argument("--moments", type=int, default=20, help="of each kind")
    parser.add_argument("--all-steps", action="store_true", help="every step of a trial and of its driver and log")
    parser.add_argument("--short", action="store_true", help="a moment of each important kind, in a minute or two")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=BENCH / "faults")
    parser.add_argument("--into", type=Path, help="JSON lines to which outcomes are added; what stands there is done")
    given = parser.parse_args()
    asked = [part for part in given.only.split(",") if part]
    kinds = [
        kind
        for kind in (*KINDS, faults_ray.CHAIN)
        if not asked or any(part == kind.number or part in kind.title for part in asked)
    ]
    if given.short:
        kinds = [kind for kind in (*KINDS, faults_ray.CHAIN) if kind.title in SHORT and (kind in kinds or not asked)]
    bench = Bench(given.folder.resolve(), given.seed)
    done = (
        [json.loads(line) for line in given.into.read_text().splitlines()]
        if given.into and given.into.is_file()
        else []
    )
    tried, failed, seconds = Counter[str](), Counter[str](), Counter[str]()
    try:
        for kind in kinds:
            count = None if given.all_steps else min(given.moments, kind.at_most or given.moments)
            count = SHORT[kind.title] if given.short else count
            start = time.monotonic()
            before = [one for one in done if (one["fault"], one["seed"]) == (kind.title, given.seed)]
            tried[kind.title] += len(before)
            failed[kind.title] += sum(bool(one["wrong"]) for one in before)
            bench.skip = len(before)
            if count is not None and len(before) >= count:
                continue
            for outcome in kind.run(bench, count):
                tried[kind.title] += 1
                failed[kind.title] += bool(outcome.wrong)
                spent = time.monotonic() - start
                seconds[kind.title] += spent  # type: ignore[assignment]
                verdict = "WRONG" if outcome.wrong else "right"
                print(f"{kind.number} {kind.title}: {outcome.moment}: {verdict} ({spent:.1f} s)", flush=True)
                for line in outcome.wrong:
                    print(f"    {line}", flush=True)
                if given.into:
                    line = {"fault": kind.title, "seed": given.seed, **asdict(outcome)}
                    with given.into.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                start = time.monotonic()
    finally:
        end_processes(bench.place)
    table = Table(title="faults")
    for column in ("number", "fault", "tried", "wrong", "seconds", ""):
        table.add_column(column, justify="right" if column in ("tried", "wrong", "seconds") else "left")
    for kind in kinds:
        row = (tried[kind.title], failed[kind.title], round(seconds[kind.title]))
        verdict = "FAIL" if row[1] or not row[0] else "pass"
        table.add_row(kind.number, kind.title, *map(str, row), verdict)
    Console(width=110).print(table)
    return 1 if any(failed[kind.title] or not tried[kind.title] for kind in kinds) else 0


if __name__ == "__main__":
    sys.exit(main())
