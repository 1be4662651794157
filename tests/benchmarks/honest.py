"""Whether the latencies of a sweep at full concurrency are those of the same artefacts measured alone.

    make bench NAME=honest
    make bench NAME=honest ARGS="--sweep runs/NAME"

A sweep of the quickstart's detector at a ladder of input sizes runs two trials at a time, of which every second one
trains. Then all its artefacts are measured alone, by a long interleaved run. The latencies of the sweep are those that
its search was given: the comparison at its end replaces none of them. `honest.csv` in the folder holds both.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from figures import BENCH, ROOT, Figures, paretune, parser_of
from numpy.typing import ArrayLike, NDArray

from paretune.profiling.latency.compare import Comparison, compare
from paretune.profiling.latency.shared_images import measuring_images
from paretune.results.sweep_folder import Sweep
from paretune.search.latency_scale import on_one_scale, reference_of
from paretune.storage.trial_record import read_records

WIDTHS = (96, 112, 128, 144, 168, 192, 216, 248, 280, 320, 360, 408, 464, 528)
"""Input widths of the versions, each some 14 % wider than the one before; heights are three quarters."""
APART = 0.10
"""Share of the latency by which two versions are apart."""
MEDIAN, CORRELATION, VERSIONS, ALIKE = 1.03, 0.98, 10, 0.98
"""What is promised: the median ratio, or its inverse; the rank correlation; versions that are apart; pairs of versions
that are apart and have the same order in the sweep and alone."""


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Return the rank of each value from 1; equal values share the mean of their ranks."""
    _, place, count = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    mean: NDArray[np.float64] = last - (count - 1) / 2
    return mean[place]


def rank_correlation(one: ArrayLike, other: ArrayLike) -> float | None:
    """Return Spearman's rank correlation; None if either has fewer than two different values."""
    pair = np.stack([ranks(one), ranks(other)])
    if (pair.std(axis=1) == 0).any():
        return None
    return float(np.corrcoef(pair)[0, 1])


def pairs_apart(alone: Sequence[float], share: float = APART) -> list[tuple[int, int]]:
    """Return the pairs of versions of which the slower takes longer by at least a share."""
    places = combinations(range(len(alone)), 2)
    return [(a, b) for a, b in places if max(alone[a], alone[b]) >= (1 + share) * min(alone[a], alone[b])]


def ordered_alike(sweep: Sequence[float], alone: Sequence[float], pairs: Sequence[tuple[int, int]]) -> int:
    """Return the number of pairs that have the same order in both."""
    return sum((sweep[a] < sweep[b]) == (alone[a] < alone[b]) and sweep[a] != sweep[b] for a, b in pairs)


def versions_apart(alone: Sequence[float], share: float = APART) -> int:
    """Return the largest number of versions that are all apart from each other by at least a share."""
    count, last = 0, 0.0
    for value in sorted(alone):
        if not count or value >= (1 + share) * last:
            count, last = count + 1, value
    return count


def swept(folder: Path, given: argparse.Namespace) -> Sweep:
    """Run the sweep, or go on with it."""
    sweep, job = Sweep(folder, "sweep"), str(ROOT / "jobs" / "quickstart.yaml")
    baseline = folder / "trainings" / "baseline"
    if not (baseline / "artefact").is_dir():
        words = ["--name", "baseline", "--set", f"output={folder}", "--set", "training.epochs=3"]
        words += ["--set", "tracking.trainings=false", *(["--resume"] if baseline.is_dir() else [])]
        paretune("train", job, *words)
    if sweep.finished:
        return sweep
    if (sweep.folder / "sweep.json").is_file():
        print(paretune("resume", "sweep", "--runs", str(folder)).stdout, flush=True)
        return Sweep(folder, "sweep")
    first = [recipe(place, width) for place, width in enumerate(WIDTHS[: given.versions])]
    sets = {"output": folder, "baseline": baseline, "search.first": json.dumps(first), "constraints": "{}"}
    sets |= {"search.trials": len(first) + 2, "search.concurrent": given.concurrent}
    sets |= {"measuring.energy_seconds": 0, "measuring.rounds": 2}
    words = [word for field, value in sets.items() for word in ("--set", f"{field}={value}")]
    print(paretune("sweep", job, "--name", "sweep", *words).stdout, flush=True)
    return Sweep(folder, "sweep")


def recipe(place: int, width: int) -> dict[str, Any]:
    """Return the recipe of a version; every second one trains, so that others are measured meanwhile."""
    steps = [{"finetune": {"epochs": 1}}] if place % 2 else []
    return {"input_size": f"{width}x{2 * round(width * 3 / 8)}", "steps": steps, "runtime": "onnxruntime"}


def judged(sweep: Sweep, folder: Path, rounds: int, figures: Figures) -> None:
    """Measure the artefacts of a sweep alone, and add how its own latencies differ."""
    raw = read_records(sweep.folder)
    done = [record for record in on_one_scale(raw) if record.state == "complete" and record.artefact]
    reference = reference_of(raw)
    numbers = [record.number for record in done]
    in_sweep = [record.metrics["latency_ms"] for record in done]
    print(f"measuring {len(done)} artefacts alone, interleaved", flush=True)
    images = measuring_images(sweep.job.dataset.open(sweep.cache).splits["val"])
    folders = [sweep.folder / str(record.artefact) for record in done]
    place = numbers.index(reference) if reference in numbers else 0
    measured = compare(folders, images, sweep.job.target, rounds=rounds, blocks=12, baseline=place)
    print(f"{measured.mode}; {', '.join(measured.notes) or 'undisturbed'}", flush=True)
    alone = milliseconds_of(measured)
    write_csv(folder / "honest.csv", numbers, in_sweep, alone)
    shares = [value / in_sweep[place] / measured.ratio(index).ratio for index, value in enumerate(in_sweep)]
    figures.more |= {"trials": numbers, "sweep_ms": in_sweep, "alone_ms": alone, "shares": shares}
    figures.more |= {"mode": measured.mode, "notes": list(measured.notes)}
    figures.add("trials at the same time", sweep.job.search.concurrent)
    figures.add("versions", len(done))
    figures.add(f"versions that are at least {APART:.0%} apart", versions_apart(alone), at_least=VERSIONS)
    ratios = [one / other for one, other in zip(in_sweep, alone, strict=True)]
    middle = median(ratios)
    figures.add("latency in the sweep, of that alone: median", middle, "x")
    figures.add("the larger of it and its inverse", max(middle, 1 / middle), "x", at_most=MEDIAN)
    figures.add("latency in the sweep, of that alone: farthest from 1", max(ratios, key=lambda x: abs(np.log(x))), "x")
    figures.add("the same as shares of the reference's: median", median(shares), "x")
    figures.add("the same as shares of the reference's: farthest", max(shares, key=lambda x: abs(np.log(x))), "x")
    figures.add("rank correlation", rank_correlation(in_sweep, alone), at_least=CORRELATION)
    pairs = pairs_apart(alone)
    figures.add(f"pairs that are at least {APART:.0%} apart", len(pairs))
    alike = ordered_alike(in_sweep, alone, pairs)
    figures.add("of them, pairs in the same order", alike)
    figures.add("share of them in the same order", alike / len(pairs) if pairs else None, at_least=ALIKE)


def milliseconds_of(measured: Comparison) -> list[float]:
    """Return the median latency of each artefact."""
    return [float(np.nanmedian(measured.latency[:, :, index])) for index in range(measured.latency.shape[2])]


def write_csv(file: Path, numbers: Sequence[int], sweep: Sequence[float], alone: Sequence[float]) -> None:
    """Write both latencies of each trial."""
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(("trial", "sweep_ms", "alone_ms", "ratio"))
        writer.writerows((n, a, b, a / b) for n, a, b in zip(numbers, sweep, alone, strict=True))


def main() -> int:
    """Sweep, measure alone, and print how the latencies differ."""
    parser = parser_of(__doc__)
    parser.add_argument("--folder", type=Path, default=BENCH / "honest", help="folder of everything")
    parser.add_argument("--sweep", type=Path, help="folder of a sweep that is there, in place of running one")
    parser.add_argument("--versions", type=int, default=len(WIDTHS), help="versions of the sweep, without baselines")
    parser.add_argument("--concurrent", type=int, default=2, help="trials at the same time")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of the long run")
    given, figures = parser.parse_args(), Figures("honest")
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    there = None if given.sweep is None else given.sweep.resolve()
    sweep = swept(folder, given) if there is None else Sweep(there.parent, there.name)
    judged(sweep, folder, given.rounds, figures)
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
