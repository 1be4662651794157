"""Record a table of real trials, on which search methods are replayed: networks, epochs and deployments crossed.

    python tests/benchmarks/search_table.py record --table yolo --hours 2
    python tests/benchmarks/search_table.py measure --table yolo
    python tests/benchmarks/search_table.py status

Both commands go on where they were interrupted. Both count CPU seconds, so that they may run on a busy machine: the
latencies of a table are good enough to replay a search on them, and are compared with nothing else. Artefacts lie in
the folder PARETUNE_TABLES (by default ``runs/bench/tables``), rows in ``tests/data/search_tables``.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from search_meters import cpu_seconds
from search_recorder import REFERENCE, SOURCES, Recorder
from search_rows import DEPLOY, TABLES, append, label_of, latency_file, lines_of, read_table

from paretune.core.types import Image
from paretune.profiling.latency.quick_compare import interleaved
from paretune.runtimes.predictor import Predictor

IMAGES = 12
"""Images on which an artefact is measured, a round on each."""
ROUND_SECONDS = 0.1
"""Approximate time of a round."""


def record(name: str, hours: float, networks: int) -> None:
    """Record recipes until the time is over or the table is full."""
    recorder, until = Recorder(name), time.monotonic() + 3600 * hours
    _ = recorder.baseline
    known = set(read_table(recorder.file).networks)
    for number in (number for number in range(networks) if number not in known):
        if time.monotonic() > until:
            break
        start, began = cpu_seconds(), time.monotonic()
        recorder.record(number)
        print(f"{name} {number}: {cpu_seconds() - start:.0f} CPU s, {time.monotonic() - began:.0f} s", flush=True)


def measure(name: str, hours: float) -> None:
    """Measure the artefacts of the last rungs on one thread, interleaved with the uncompressed network in this process.

    Counted is CPU time, which other users of the machine hardly change. What was measured is removed, except the
    uncompressed network's artefact.
    """
    from paretune.runtimes.predictor import load_predictor

    recorder, until = Recorder(name), time.monotonic() + 3600 * hours
    known = {(line["network"], line[DEPLOY]) for line in lines_of(latency_file(recorder.file))}
    reference_folder = recorder.folder / "networks" / "0" / "artefacts" / f"0-{label_of(REFERENCE)}"
    split = recorder.data.splits["val"]
    images = [split.image(number) for number in range(min(IMAGES, len(split)))]
    reference = load_predictor(reference_folder, recorder.target)
    for number in sorted(read_table(recorder.file).networks):
        began, lines = time.monotonic(), []
        places = sorted((recorder.folder / "networks" / str(number) / "artefacts").glob("*-*"))
        waiting = [place for place in places if (number, place.name.partition("-")[2]) not in known]
        for place in waiting:
            figures = ratio_to(load_predictor(place, recorder.target), reference, images)
            rounded = {key: float(f"{value:.6g}") for key, value in figures.items()}
            lines.append({"network": number, DEPLOY: place.name.partition("-")[2], **rounded})
        append(latency_file(recorder.file), *lines)
        for place in set(waiting) - {reference_folder}:
            shutil.rmtree(place)
        if waiting:
            print(f"{name} {number}: {len(waiting)} artefacts in {time.monotonic() - began:.0f} s", flush=True)
        if time.monotonic() > until:
            break


def ratio_to(version: Predictor, reference: Predictor, images: Sequence[Image]) -> dict[str, float]:
    """Return the time of a version as a share of the reference's, with the 95 % interval of the rounds' median.

    Args:
        version: measured predictor.
        reference: predictor of the uncompressed network.
        images: (H, W, 3) uint8 RGB; one round for each.
    """
    times = np.array([_round(version, reference, image) for image in images])
    logs = np.log(times[:, 0] / times[:, 1])
    half = 1.253 * 1.96 * float(np.std(logs, ddof=1)) / math.sqrt(len(logs))  # of a median of normal values
    middle = float(np.median(logs))
    return {
        "ratio": math.exp(middle),
        "low": math.exp(middle - half),
        "high": math.exp(middle + half),
        "reference_ms": 1000 * float(np.median(times[:, 1])),
    }


def _round(version: Predictor, reference: Predictor, image: Image) -> NDArray[np.float64]:
    """Return the CPU seconds of the fastest of some calls of a version and of the reference, taken in turns."""
    runs = (partial(version, image), partial(reference, image))
    return interleaved(runs, rounds=2, block=ROUND_SECONDS / 4, clock=time.process_time).min(axis=0)


def status(name: str) -> str:
    """Return how much of a table is recorded."""
    table = read_table(TABLES / f"{name}.jsonl")
    failed = sum(network.failure is not None for network in table.networks.values())
    seconds = [
        sum(network.seconds.values()) + sum(sum(row.seconds.values()) for row in table.rows if row.network == number)
        for number, network in table.networks.items()
    ]
    lost = sum(row.failure is not None for row in table.rows)
    middle = float(np.median(seconds)) / 60 if seconds else 0.0
    return (
        f"{name}: {len(table.networks)} networks ({failed} failed), {len(table.rows)} artefacts ({lost} failed), "
        f"{len(table.latency)} latencies; {middle:.1f} CPU minutes a network"
    )


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["record", "measure", "status"])
    parser.add_argument("--table", choices=list(SOURCES), default="yolo")
    parser.add_argument("--hours", type=float, default=1.0, help="after which no further recipe is begun")
    parser.add_argument("--networks", type=int, default=200, help="recipes in the whole table")
    given = parser.parse_args()
    if given.command == "record":
        record(given.table, given.hours, given.networks)
    elif given.command == "measure":
        measure(given.table, given.hours)
    else:
        print("\n".join(map(status, SOURCES)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
