"""Whether latencies of different minutes can be compared: as before and by duets, beside a long interleaved run.

Twelve artefacts of one small detector are measured one after the other, as the trials of a sweep are: three times, the
last time with busy processes on the cores that come and go. What is judged is each artefact's latency as a share of the
reference's, beside the share that a long, quiet, interleaved run of all of them gives.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from compressed import optimized
from figures import BENCH, ROOT, Figures, beside, paretune, parser_of

from paretune.core.target import Target
from paretune.profiling.latency.compare import Comparison, compare
from paretune.profiling.latency.duet import measure_duet
from paretune.profiling.latency.measure import measure
from paretune.profiling.latency.samples import MeasurementProtocol
from paretune.profiling.latency.shared_images import saved_images
from paretune.workflows.trial_context import protocol_of

FOLDER = BENCH / "duet"
SLIM: list[dict[str, Any]] = [{"prune": {"ratio": 0.5, "budget": "flops", "round_to": 8}}]
INT8: list[dict[str, Any]] = [{"quantize": {"images": 32}}]
ARTEFACTS: dict[str, tuple[str, list[dict[str, Any]], Any]] = {
    "reference": ("192x144", [], "onnxruntime"),
    "onnxruntime-128": ("128x96", [], "onnxruntime"),
    "onnxruntime-256": ("256x192", [], "onnxruntime"),
    "onnxruntime-320": ("320x256", [], "onnxruntime"),
    "slim-192": ("192x144", SLIM, "onnxruntime"),
    "slim-256": ("256x192", SLIM, "onnxruntime"),
    "int8-192": ("192x144", INT8, "onnxruntime"),
    "int8-256": ("256x192", INT8, "onnxruntime"),
    "openvino-192": ("192x144", [], "openvino"),
    "openvino-int8-192": ("192x144", INT8, "openvino"),
    "eager-192": ("192x144", [], "eager"),
    "compiled-192": ("192x144", [], "compiled"),
}
"""Input size, steps and runtime of each; the first is the reference."""
PASSES = ("quiet", "quiet again", "beside others")
QUIET, BESIDE, SECONDS = 0.05, 0.08, 12.0
"""Largest deviations of a ratio, and the seconds of a trial, that the duet may have."""
BEFORE = MeasurementProtocol(repetitions=3, spare=3, seconds=1.0, patience=30.0)
"""How trials were measured before."""


def main() -> int:
    """Build the artefacts, find the truth, measure three times in both ways."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="rounds of the long interleaved run")
    parser.add_argument(
        "--way", action="append", choices=("before", "duet"), help="measure in this way (default: both)"
    )
    given = parser.parse_args()
    folders = {name: artefact(name) for name in ARTEFACTS}
    figures = Figures("duet")
    with saved_images(measured_images()) as images:
        truth = compare(list(folders.values()), images, Target(), rounds=given.rounds, blocks=12)
        print(f"truth: {truth.mode}; {', '.join(truth.notes) or 'undisturbed'}", flush=True)
        for way in given.way or ("before", "duet"):
            judge(way, WAYS[way], folders, images, truth, figures)
    return figures.end(as_json=given.json)


def artefact(name: str) -> Path:
    """Make an artefact of the quickstart's detector, unless it is there already."""
    source = trained()
    size, steps, runtime = ARTEFACTS[name]
    if reason := optimized(source, steps, runtime, FOLDER / name, source, size):
        raise RuntimeError(f"{name}: {reason}")
    return FOLDER / name


def trained() -> Path:
    """Train the quickstart's detector, unless that is done; its accuracy is not asked for here."""
    folder = FOLDER / "runs" / "trainings" / "duet"
    if not (folder / "artefact").is_dir():
        words = ("train", str(ROOT / "jobs/quickstart.yaml"), "--name", "duet", "--set", f"output={FOLDER / 'runs'}")
        paretune(*words, "--set", "training.epochs=3", "--resume" if folder.is_dir() else "--set", "training.seed=0")
    return folder


def measured_images() -> Sequence[Any]:
    """Return the images that trials of the quickstart are measured on."""
    from paretune.config.job import Job
    from paretune.core.yaml_document import read_yaml, validate
    from paretune.profiling.latency.shared_images import measuring_images

    job = validate(Job, read_yaml(ROOT / "jobs/quickstart.yaml"))
    return measuring_images(job.dataset.open(FOLDER / "datasets").splits["val"])


def before(folders: Mapping[str, Path], images: Path) -> tuple[dict[str, float], list[float]]:
    """Measure each artefact by itself; return wall medians as shares of the reference's, and the seconds each took."""
    found, seconds = {}, []
    for name, folder in folders.items():
        start = time.monotonic()
        found[name] = measure(folder, images, Target(), BEFORE).metrics()["latency_ms_p50"]
        seconds.append(time.monotonic() - start)
    return {name: value / found["reference"] for name, value in found.items()}, seconds


def duets(folders: Mapping[str, Path], images: Path) -> tuple[dict[str, float], list[float]]:
    """Measure each artefact beside the reference; return the ratios, and the seconds each took."""
    found, seconds = {}, []
    for name, folder in folders.items():
        start = time.monotonic()
        duet = measure_duet(folder, folders["reference"], images, Target(), protocol_of())
        found[name] = duet.ratio.ratio
        seconds.append(time.monotonic() - start)
    return found, seconds


WAYS: dict[str, Callable[..., tuple[dict[str, float], list[float]]]] = {"before": before, "duet": duets}


def judge(
    way: str,
    measured: Callable[..., tuple[dict[str, float], list[float]]],
    folders: Mapping[str, Path],
    images: Path,
    truth: Comparison,
    figures: Figures,
) -> None:
    """Measure all artefacts three times in one way, and add the largest deviations and the seconds."""
    wanted = dict(zip(folders, (ratio.ratio for ratio in truth.ratios()), strict=True))
    promised = way == "duet"
    for number, title in enumerate(PASSES):
        with neighbours(number) if title == "beside others" else nullcontext():
            found, seconds = measured(folders, images)
        off = {name: found[name] / wanted[name] - 1 for name in folders}
        told = ", ".join(f"{name} {found[name]:.3f} ({off[name]:+.1%})" for name in folders)
        print(f"{way}, {title}: {told}; {sum(seconds):.0f} s", flush=True)
        most = BESIDE if title == "beside others" else QUIET
        limits = {"at_most": 100 * most} if promised else {}
        figures.add(f"{way}, {title}: largest deviation of a ratio", 100 * max(map(abs, off.values())), "%", **limits)
        figures.add(f"{way}, {title}: seconds of a trial, mean", sum(seconds) / len(seconds), "s")
        limits = {"at_most": SECONDS} if promised else {}
        figures.add(f"{way}, {title}: seconds of a trial, longest", max(seconds), "s", **limits)
        figures.more[f"{way}, {title}"] = {"ratios": found, "seconds": seconds}
    figures.more["truth"] = wanted


def neighbours(seed: int) -> AbstractContextManager[None]:
    """Keep a core busy, or all of them, or none, for 1 to 5 seconds each, in an order that the seed draws."""
    cores = sorted(os.sched_getaffinity(0))

    def come_and_go(ended: threading.Event) -> None:
        drawn = random.Random(seed)
        while not ended.is_set():
            busy = [
                subprocess.Popen([sys.executable, "-c", "while True: pass"])
                for _ in range(drawn.choice((0, 1, len(cores))))
            ]
            ended.wait(drawn.uniform(1, 5))
            for process in busy:
                process.kill()
                process.wait()

    return beside(come_and_go)


if __name__ == "__main__":
    sys.exit(main())
