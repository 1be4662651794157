"""Record a table of real trials, on which search methods are replayed: networks, epochs and deployments crossed.

    python tests/benchmarks/search_table.py record --table yolo --hours 2
    python tests/benchmarks/search_table.py measure --table yolo
    python tests/benchmarks/search_table.py status

Both commands go on where they were interrupted. ``record`` may run on a busy machine, because it counts CPU seconds
and takes no latency; ``measure`` needs a quiet one. Artefacts lie in the folder PARETUNE_TABLES (by default
``runs/bench/tables``), rows in ``tests/data/search_tables``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time

import numpy as np
from search_meters import cpu_seconds
from search_recorder import REFERENCE, SOURCES, Recorder
from search_rows import DEPLOY, TABLES, append, label_of, latency_file, lines_of, read_table

TOGETHER = 6
"""Artefacts that are measured at once, beside the uncompressed network."""
ROUNDS = 3
"""Fresh processes of each of them."""


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
    """Measure the artefacts of the last rungs on one thread, interleaved with the uncompressed network.

    What was measured is removed, except the uncompressed network's artefact.
    """
    from paretune.profiling.latency.compare import compare
    from paretune.profiling.latency.shared_images import measuring_images
    from paretune.workflows.trial_context import protocol_of

    recorder, until = Recorder(name), time.monotonic() + 3600 * hours
    known = {(line["network"], line[DEPLOY]) for line in lines_of(latency_file(recorder.file))}
    images = measuring_images(recorder.data.splits["val"])
    reference = recorder.folder / "networks" / "0" / "artefacts" / f"0-{label_of(REFERENCE)}"
    waiting = [
        (number, label, place)
        for number in sorted(read_table(recorder.file).networks)
        for place in sorted((recorder.folder / "networks" / str(number) / "artefacts").glob("*-*"))
        if (number, label := place.name.partition("-")[2]) not in known
    ]
    while waiting and time.monotonic() < until:
        group, waiting = waiting[:TOGETHER], waiting[TOGETHER:]
        folders = [reference, *(place for _, _, place in group)]
        found = compare(folders, images, recorder.target, rounds=ROUNDS, protocol=protocol_of())
        base = float(np.nanmedian(found.latency[:, :, 0]))
        lines = []
        for index, (number, label, _) in enumerate(group, start=1):
            ratio = found.ratio(index)
            figures = {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high, "reference_ms": base}
            rounded = {key: float(f"{value:.6g}") for key, value in figures.items()}
            lines.append({"network": number, DEPLOY: label, **rounded})
        append(latency_file(recorder.file), *lines)
        for place in {place for _, _, place in group} - {reference}:
            shutil.rmtree(place)
        print(f"{name}: {len(waiting)} artefacts left; {'; '.join(found.notes) or 'calm'}", flush=True)


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
