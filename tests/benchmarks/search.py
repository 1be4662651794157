"""Search methods on recorded tables of real trials: hypervolume at 25, 50, 100 trials, and compute to reach one.

    make bench NAME=search ARGS="--table yolo --seeds 20"

What is tunable is fixed on the table ``yolo`` and judged on ``ssd``; see ``search_table.py`` for how tables are made.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import mean, median

import numpy as np
from figures import Figures, parser_of
from rich.console import Console
from rich.table import Table as Printed
from scipy.stats import wilcoxon
from search_methods import methods
from search_recorder import SOURCES, plan_of
from search_replay import Pool, Replay, pool_of, replay
from search_rows import TABLES, read_table

BUDGETS = (25, 50, 100)
OURS = "conditional"
SLOWEST = 1.0
"""CPU seconds that a proposal may take."""


def searched(name: str, table: str, trials: int, seed: int) -> Replay:
    """Replay one method with one seed; a function of its own for other processes."""
    return replay(pool(table), methods()[name], seed, trials)


def pool(table: str) -> Pool:
    """Read the pool of a table."""
    return pool_of(read_table(TABLES / f"{table}.jsonl"), plan_of(table).space)


def compute_until(run: Replay, wanted: float) -> float:
    """Return the CPU seconds of the trials until a hypervolume is reached; infinite if it never is."""
    reached = [seconds for volume, seconds in zip(run.hypervolume, run.seconds, strict=True) if volume >= wanted]
    return reached[0] if reached else float("inf")


def against(ours: list[Replay], others: list[Replay], budget: int) -> str:
    """Return wins, losses and the p of Wilcoxon's signed-rank test over the seeds."""
    pairs = [(a.hypervolume[budget - 1], b.hypervolume[budget - 1]) for a, b in zip(ours, others, strict=True)]
    wins, losses = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    same = wins + losses == 0
    p = 1.0 if same else float(wilcoxon([a for a, _ in pairs], [b for _, b in pairs]).pvalue)
    return f"{wins}:{losses}, p {p:.2g}"


def main() -> int:
    """Replay the methods and print what came of them."""
    parser = parser_of(__doc__)
    parser.add_argument("--table", choices=list(SOURCES), default="yolo")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--methods", nargs="*", default=list(methods()), choices=list(methods()))
    parser.add_argument("--processes", type=int, default=1)
    given, figures = parser.parse_args(), Figures("search")
    rows = pool(given.table)
    trials = min(max(BUDGETS), len(rows.answers))
    runs: dict[str, list[Replay]] = {}
    with ProcessPoolExecutor(given.processes) as workers:
        for name in given.methods:
            runs[name] = list(workers.map(partial(searched, name, given.table, trials), range(given.seeds)))
            volumes = [
                mean(run.hypervolume[budget - 1] for run in runs[name]) for budget in BUDGETS if budget <= trials
            ]
            print(name, " ".join(f"{volume:.3f}" for volume in volumes), flush=True)
    budgets = [budget for budget in BUDGETS if budget <= trials]
    wanted = median(run.hypervolume[-1] for run in runs.get("random", next(iter(runs.values()))))
    cost = "latency_ms" if rows.measured else "CPU time of the network while it was evaluated, for want of latencies"
    table = Printed(title=f"{given.table}: {len(rows.answers)} rows, {given.seeds} seeds; cost: {cost}")
    for column in ("method", *(f"hypervolume at {budget}" for budget in budgets), f"CPU s to {wanted:.3f}",
                   *(f"{OURS} against it at {budget}" for budget in budgets), "proposal, longest"):  # fmt: skip
        table.add_column(column)
    for name, found in runs.items():
        shares = [[run.hypervolume[budget - 1] for run in found] for budget in budgets]
        seconds = median(compute_until(run, wanted) for run in found)
        slowest = max(max(run.proposing) for run in found)
        tests = [against(runs[OURS], found, budget) if OURS in runs and name != OURS else "" for budget in budgets]
        table.add_row(
            name,
            *(f"{mean(part):.3f} ± {np.std(part):.3f}" for part in shares),
            f"{seconds:.0f}",
            *tests,
            f"{slowest:.2f} s",
        )
        for budget, part in zip(budgets, shares, strict=True):
            figures.add(f"{name}: hypervolume at {budget} trials, share of the table's", mean(part))
        limit = {"at_most": SLOWEST} if name == OURS else {}
        figures.add(f"{name}: longest proposal", slowest, "s", **limit)
        figures.more[name] = {"hypervolume": shares, "seconds_until": seconds}
    Console(width=200).print(table)
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
