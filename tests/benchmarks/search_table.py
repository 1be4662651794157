"""Record a table of real trials, on which search methods are replayed: networks, epochs and deployments crossed.

    python tests/benchmarks/search_table.py record --table yolo --hours 2
    python tests/benchmarks/search_table.py status

A table goes on where it was interrupted, also on another machine: rows lie in ``tests/data/search_tables``, and the
folder PARETUNE_TABLES (by default ``runs/bench/tables``) holds no more than the trained network and what is being
recorded. Times are CPU seconds, so that it may run on a busy machine: the latencies of a table are good enough to
replay a search on them, and are compared with nothing else.
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
from search_recorder import SOURCES, Recorder
from search_rows import DEPLOY, TABLES, append, latency_file, read_table

from paretune.core.types import Image
from paretune.profiling.latency.quick_compare import interleaved
from paretune.runtimes.predictor import Predictor

IMAGES = 12
"""Images on which an artefact is measured, a round on each."""
ROUND_SECONDS = 0.1
"""Approximate time of a round."""


def record(name: str, hours: float, networks: int) -> None:
    """Record recipes, and the latencies of their artefacts, until the time is over or the table is full."""
    from paretune.runtimes.predictor import load_predictor

    recorder, until = Recorder(name), time.monotonic() + 3600 * hours
    reference = load_predictor(recorder.reference, recorder.target)
    split = recorder.data.splits["val"]
    images = [split.image(number) for number in range(min(IMAGES, len(split)))]
    table = read_table(recorder.file)
    known = {number for number, network in table.networks.items() if network.failure is not None}
    known |= {number for number, _ in table.latency}
    for number in (number for number in range(networks) if number not in known):
        if time.monotonic() > until:
            break
        start, began = cpu_seconds(), time.monotonic()
        recorder.record(number)
        measure(recorder, number, reference, images)
        print(f"{name} {number}: {cpu_seconds() - start:.0f} CPU s, {time.monotonic() - began:.0f} s", flush=True)


def measure(recorder: Recorder, number: int, reference: Predictor, images: Sequence[Image]) -> None:
    """Measure the artefacts of a network's last rung on one thread, interleaved with the uncompressed network.

    Counted is CPU time in this process, which other users of the machine hardly change. The artefacts are then removed.
    """
    from paretune.runtimes.predictor import load_predictor

    lines, folder = [], recorder.folder / "networks" / str(number)
    for place in sorted((folder / "artefacts").glob("*-*")):
        figures = ratio_to(load_predictor(place, recorder.target), reference, images)
        rounded = {key: float(f"{value:.6g}") for key, value in figures.items()}
        lines.append({"network": number, DEPLOY: place.name.partition("-")[2], **rounded})
    append(latency_file(recorder.file), *lines)
    shutil.rmtree(folder, ignore_errors=True)


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
    parser.add_argument("command", choices=["record", "status"])
    parser.add_argument("--table", choices=list(SOURCES), default="yolo")
    parser.add_argument("--hours", type=float, default=1.0, help="after which no further recipe is begun")
    parser.add_argument("--networks", type=int, default=200, help="recipes in the whole table")
    given = parser.parse_args()
    if given.command == "record":
        record(given.table, given.hours, given.networks)
    else:
        print("\n".join(map(status, SOURCES)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
