"""Search methods on recorded tables of real trials: hypervolume, and compute to the front of a plain script.

    make bench NAME=search ARGS="--table yolo --seeds 20 --processes 2"

The plain script is Ray Tune with Ray's OptunaSearch: Optuna's TPE with its own settings, no constraint, no early stop,
nothing shared between trials. What is tunable is fixed on the table ``yolo`` and judged on ``ssd``; see
``search_table.py`` for how tables are made, and ``--tables`` for a folder with other ones.

SMAC3, Syne Tune and OptunaHub are run where they are installed, which the project's environment need not be:

    python -m venv peers
    peers/bin/pip install smac optunahub "optuna<5" scikit-learn pandas dill sortedcontainers PyGithub
    peers/bin/pip install --no-deps syne-tune
    PARETUNE_PEERS=peers/bin/python make bench NAME=search

OptunaHub takes its samplers from GitHub; OPTUNAHUB may name a copy of its registry's folder ``package``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from statistics import mean, median

import numpy as np
from figures import Figures, parser_of
from rich.console import Console
from rich.table import Table as Printed
from scipy.stats import binomtest, wilcoxon
from search_methods import methods
from search_peers import PEERS, missing, replay_peer
from search_recorder import SOURCES, plan_of
from search_replay import Pool, Replay, pool_of, replay
from search_rows import TABLES, read_table
from search_world import Ingredients, whole_search

BUDGETS = (25, 50, 100)
OURS = "conditional"
SLOWEST = 1.0
"""CPU seconds that a proposal may take."""
SCRIPT = "plain script"
WHOLE = "paretune"
PARTS = ("store", "cheap_first", "siblings", "halving", "first", "sampler")
SHARE = 0.2
"""Share of the plain script's compute that reaches its hypervolume."""
MORE = 2
"""Trials of a whole search, many of which cost little, for each one of the script's; at most half of the table."""
SLOW = ("smac",)
"""Methods of which a proposal takes seconds."""


@cache
def pool(table: str, folder: str) -> Pool:
    """Read the pool of a table."""
    return pool_of(read_table(Path(folder) / f"{table}.jsonl"), plan_of(table).space)


def searched(name: str, sampler: str, table: str, folder: str, trials: int, seed: int) -> Replay:
    """Replay one method with one seed; a function of its own for other processes."""
    rows, known = pool(table, folder), methods()
    if name in PEERS:
        return replay_peer(rows, name, seed, trials)
    if name == SCRIPT:
        return replay(rows, known["script"], seed, trials, constrained=False)
    if name.startswith(WHOLE):
        part = name.removeprefix(WHOLE).removeprefix(" without ")
        whole = Ingredients(sampler=sampler)
        ingredients = whole.without(part) if part else whole
        script = searched(SCRIPT, sampler, table, folder, trials, seed)
        most = min(MORE * trials, len(rows.answers) // 2)
        return whole_search(rows, ingredients, known[ingredients.sampler], seed, most, script.seconds[-1])
    return replay(rows, known[name], seed, trials)


def compute_until(run: Replay, wanted: float) -> float:
    """Return the CPU seconds of the trials until a hypervolume is reached; infinite if it never is."""
    reached = [seconds for volume, seconds in zip(run.hypervolume, run.seconds, strict=True) if volume >= wanted]
    return reached[0] if reached else float("inf")


def at(run: Replay, budget: int) -> float:
    """Return the hypervolume after some trials, or at the end of a shorter search."""
    return run.hypervolume[min(budget, len(run.hypervolume)) - 1]


def against(ours: Sequence[Replay], others: Sequence[Replay], budget: int) -> str:
    """Return wins, losses and the p of Wilcoxon's signed-rank test over the seeds that both have."""
    pairs = [(at(a, budget), at(b, budget)) for a, b in zip(ours, others, strict=False)]
    wins, losses = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    same = wins + losses == 0
    p = 1.0 if same else float(wilcoxon([a for a, _ in pairs], [b for _, b in pairs]).pvalue)
    return f"{wins}:{losses}, p {p:.2g}"


def shares(runs: Sequence[Replay], scripts: Sequence[Replay]) -> list[float]:
    """Return for each seed the compute to the script's last hypervolume, as a share of the script's compute."""
    return [
        compute_until(run, script.hypervolume[-1]) / script.seconds[-1]
        for run, script in zip(runs, scripts, strict=False)
    ]


def volume_within(run: Replay, seconds: float) -> float:
    """Return the hypervolume of the trials that ended within some compute."""
    return max((v for v, spent in zip(run.hypervolume, run.seconds, strict=True) if spent <= seconds), default=0.0)


def gains(runs: Sequence[Replay], scripts: Sequence[Replay], share: float = 1.0) -> list[float]:
    """Return by how much the hypervolume of each seed is above the script's within a share of the script's compute."""
    return [
        volume_within(run, share * script.seconds[-1]) - volume_within(script, share * script.seconds[-1])
        for run, script in zip(runs, scripts, strict=False)
    ]


def sign_test(gained: Sequence[float]) -> tuple[int, int, float]:
    """Return how many gains are above and below 0, and the p of the sign test."""
    above, below = sum(gain > 0 for gain in gained), sum(gain < 0 for gain in gained)
    return above, below, float(binomtest(above, above + below).pvalue) if above + below else 1.0


def add_whole(figures: Figures, runs: dict[str, list[Replay]], console: Console) -> None:
    """Print whole searches beside the plain script."""
    scripts = runs[SCRIPT]
    table = Printed(title=f"whole searches against the {SCRIPT}; compute in recorded CPU seconds")
    for column in ("search", "compute to the script's front, share of its: median, quartiles", "seeds that reach it",
                   "hypervolume within its compute", "above:below the script's, p", "trials"):  # fmt: skip
        table.add_column(column)
    for name, found in runs.items():
        if not (name.startswith(WHOLE) or name == SCRIPT or name in PEERS):
            continue
        part, gained = shares(found, scripts), gains(found, scripts)
        above, below, p = sign_test(gained)
        low, middle, high = (float(np.quantile(part, q, method="inverted_cdf")) for q in (0.25, 0.5, 0.75))
        table.add_row(
            PEERS.get(name, name),
            f"{middle:.2f} ({low:.2f} to {high:.2f})",
            f"{sum(np.isfinite(part))} of {len(part)}",
            f"{median(volume_within(a, b.seconds[-1]) for a, b in zip(found, scripts, strict=False)):.3f}",
            "" if name == SCRIPT else f"{above}:{below}, p {p:.2g}",
            f"{median(len(run.seconds) for run in found):.0f}",
        )
        if name == WHOLE:
            figures.add("compute to the script's front, share of the script's", middle, at_most=SHARE)
            least = min(median(gains(found, scripts, share)) for share in np.linspace(0.1, 1, 10))
            figures.add(
                "hypervolume above the script's, median, least within 0.1 to 1 of its compute", least, at_least=0.0
            )
            figures.add("sign test at the end", p if above > below else 1.0, "p", at_most=0.05)
        figures.more[name] = {"share": part, "above": above, "below": below, "p": p}
    console.print(table)


def add_samplers(figures: Figures, runs: dict[str, list[Replay]], budgets: Sequence[int], console: Console) -> None:
    """Print samplers alone beside ours."""
    table = Printed(title="samplers alone: hypervolume as a share of the table's, mean and deviation")
    for column in ("method", "seeds", *(f"at {budget}" for budget in budgets),
                   *(f"{OURS} against it at {budget}" for budget in budgets), "proposal, longest"):  # fmt: skip
        table.add_column(column)
    for name, found in runs.items():
        if name.startswith(WHOLE):
            continue
        volumes = [[at(run, budget) for run in found] for budget in budgets]
        slowest = max(max(run.proposing) for run in found)
        tests = [against(runs[OURS], found, budget) if OURS in runs and name != OURS else "" for budget in budgets]
        cells = [f"{mean(part):.3f} ± {np.std(part):.3f}" for part in volumes]
        table.add_row(PEERS.get(name, name), str(len(found)), *cells, *tests, f"{slowest:.2f} s")
        for budget, part in zip(budgets, volumes, strict=True):
            figures.add(f"{name}: hypervolume at {budget} trials, share of the table's", mean(part))
        limit = {"at_most": SLOWEST} if name == OURS else {}
        figures.add(f"{name}: longest proposal", slowest, "s", **limit)
        figures.more.setdefault(name, {})["hypervolume"] = volumes
    console.print(table)


def chosen(given: list[str] | None, rows: Pool) -> list[str]:
    """Return the methods to replay; prints which of them are not installed."""
    wholes = [WHOLE, *(f"{WHOLE} without {part}" for part in PARTS)]
    names = given or [OURS, *(name for name in methods() if name not in (OURS, "script")), SCRIPT, *wholes, *PEERS]
    kept = []
    for name in names:
        if name in PEERS and (reason := missing(name, rows.space)) is not None:
            print(f"{PEERS[name]}: not installed ({reason}); see the top of {Path(__file__).name}", flush=True)
        else:
            kept.append(name)
    return kept


def main() -> int:
    """Replay the methods and print what came of them."""
    parser = parser_of(__doc__)
    parser.add_argument("--table", choices=list(SOURCES), default="yolo")
    parser.add_argument("--tables", default=str(TABLES), help="folder of the recorded tables")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--slow-seeds", type=int, default=5, help="of methods whose proposals take seconds")
    parser.add_argument("--trials", type=int, default=max(BUDGETS))
    parser.add_argument("--methods", nargs="*", help="default: all")
    parser.add_argument("--sampler", default="gp", choices=list(methods()), help="of the whole search")
    parser.add_argument("--processes", type=int, default=1)
    given, figures, console = parser.parse_args(), Figures("search"), Console(width=200)
    rows = pool(given.table, given.tables)
    trials = min(given.trials, len(rows.answers))
    networks = len({answer.network for answer in rows.answers})
    print(f"{given.table}: {networks} networks, {len(rows.answers)} trials; latencies: {rows.cost}", flush=True)
    runs: dict[str, list[Replay]] = {}
    with ProcessPoolExecutor(given.processes) as workers:
        for name in chosen(given.methods, rows):
            seeds = range(min(given.seeds, given.slow_seeds) if name in SLOW else given.seeds)
            one = partial(searched, name, given.sampler, given.table, given.tables, trials)
            runs[name] = list(workers.map(one, seeds))
            volumes = " ".join(f"{mean(at(run, budget) for run in runs[name]):.3f}" for budget in BUDGETS)
            print(f"{name}: hypervolume at {', '.join(map(str, BUDGETS))}: {volumes}", flush=True)
    if SCRIPT in runs:
        add_whole(figures, runs, console)
    add_samplers(figures, runs, [budget for budget in BUDGETS if budget <= trials], console)
    figures.more["table"] = {"name": given.table, "networks": networks, "latencies": rows.cost}
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
