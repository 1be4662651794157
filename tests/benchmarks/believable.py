"""Whether a latency can be believed: the same again later, disturbance noticed, no pair of artefacts told both ways."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import combinations, pairwise
from pathlib import Path
from statistics import median

from compressed import images_of, optimized
from figures import BENCH, Figures
from training import CASES, trained

from paretune.core.target import Target
from paretune.core.types import Image
from paretune.profiling.latency.compare import Comparison, compare
from paretune.profiling.latency.measure import measure
from paretune.profiling.latency.memory_contention import note
from paretune.profiling.latency.result import Latency
from paretune.profiling.latency.samples import SHORT_MS
from paretune.profiling.latency.shared_images import measuring_images
from paretune.system.cpu_cores import choose_cores

FOLDER = BENCH / "profiling"
TIMES = 10
WANTED = 9
"""Measurements of so many that must be told right."""
CLOSE = 0.05
"""Share by which figures of one artefact may differ."""
NEIGHBOURS = 0.10
"""Artefacts that lie farther apart than this share must be told apart,"""
DECIDED = 0.5
"""at least so many of them."""
SIZES = {"brief": "128x96", "short": "256x192", "long": "1024x768"}
"""Input sizes of inferences shorter than the kernel's turns, as long as one, and far longer than SHORT_MS."""
LADDER = tuple(f"256x{height}" for height in range(192, 512, 16))
"""Input sizes of the artefacts that are compared, each little slower than the one before."""


def fill(root: Path, figures: Figures, *, minutes: float) -> None:
    """Measure three lengths of inference over some minutes, quiet and under load in turn."""
    source = trained(CASES[0], 0, root).folder
    images = measuring_images(images_of(source).splits["val"])
    lengths = {name: artefact(source, size, "onnxruntime") for name, size in SIZES.items()}
    quiet, loaded = _in_turn(list(lengths.values()), images, minutes)
    for name, before, under_load in zip(lengths, quiet, loaded, strict=True):
        _repeated(name, before, figures)
        _loaded(name, before, under_load, figures)


def rank(root: Path, figures: Figures) -> None:
    """Compare many artefacts, each little slower than the one before, twice."""
    source = trained(CASES[0], 0, root).folder
    artefacts = [artefact(source, size, "onnxruntime") for size in LADDER]
    _ranked(artefacts, measuring_images(images_of(source).splits["val"]), figures)


def artefact(source: Path, size: str, runtime: str) -> Path:
    """Make an artefact of a training at an input size, unless it is there already."""
    folder = FOLDER / f"{runtime}-{size}"
    if reason := optimized(source, [], runtime, folder, source, size):
        raise RuntimeError(f"{folder.name}: {reason}")
    return folder


def _in_turn(
    artefacts: Sequence[Path], images: Sequence[Image], minutes: float
) -> tuple[list[list[Latency]], list[list[Latency]]]:
    """Measure each artefact so many times, spread evenly, quiet and with a busy process on the core in turn.

    What a shared host does to both is the same then; returns each one's quiet measurements, and those under load.
    """
    quiet, loaded = ([list[Latency]() for _ in artefacts] for _ in range(2))
    start = time.monotonic()
    for number in range(TIMES):
        time.sleep(max(0.0, start + 60 * minutes * number / (TIMES - 1) - time.monotonic()))
        for way, found, load in (("quiet", quiet, nullcontext), ("loaded", loaded, _busy)):
            for artefact, all_ in zip(artefacts, found, strict=True):
                with load():
                    all_.append(measure(artefact, images, Target()))
                print(f"{way} {number + 1} of {TIMES}, {artefact.name}: {_told(all_[-1])}", flush=True)
    return quiet, loaded


def _repeated(name: str, found: Sequence[Latency], figures: Figures) -> None:
    """Add how far the figures of one artefact lie apart."""
    calm = sum(not latency.contended for latency in found)
    figures.add(f"{name} inference, quiet: measurements of {TIMES} that are not contended", calm, at_least=WANTED)
    medians = _metric(found, "latency_ms_p50")
    off = max(abs(value / median(medians) - 1) for value in medians)
    figures.add(f"{name} inference, quiet: farthest p50 from their median", 100 * off, "%", at_most=100 * CLOSE)
    close = sum(abs(value / median(medians) - 1) <= CLOSE for value in medians)
    figures.add(f"{name} inference, quiet: p50 of {TIMES} within {100 * CLOSE:g} % of it", close)
    beside = [_beside(latency) for latency in found]
    figures.add(f"{name} inference, quiet: measurements with guests of the host told", sum(beside))
    alone = [value for value, guests in zip(medians, beside, strict=True) if not guests]
    off = max((abs(value / median(alone) - 1) for value in alone), default=None)
    title = f"{name} inference, quiet: farthest p50 of the {len(alone)} without guests"
    figures.add(title, None if off is None else 100 * off, "%")
    figures.more[f"{name} quiet p50"] = medians


def _loaded(name: str, before: Sequence[Latency], found: Sequence[Latency], figures: Figures) -> None:
    """Add what a busy process on the core did to the figures of one artefact."""
    is_short = median(_metric(before, "latency_ms_p50_cpu")) < SHORT_MS
    held = "latency_ms_p50_clean" if is_short else "latency_ms_p50_cpu"
    noticed = sum(bool(latency.contended) for latency in found)
    figures.add(f"{name} inference, loaded: measurements of {TIMES} that are contended", noticed, at_least=WANTED)
    missing = sum(held not in latency.metrics() for latency in found)
    figures.add(f"{name} inference, loaded: {held} not known", missing, at_most=TIMES - WANTED)
    for metric in dict.fromkeys((held, "latency_ms_p50_cpu")):
        wanted, under_load = median(_metric(before, metric)), _metric(found, metric)
        off = [abs(value / wanted - 1) for value in under_load]
        promised = {"at_most": 100 * CLOSE} if metric == held else {}
        title = f"{name} inference, loaded: {metric} from the quiet one"
        figures.add(f"{title}, median", 100 * median(off) if off else None, "%", **promised)
        figures.add(f"{title}, farthest", 100 * max(off) if off else None, "%")
    walls = median(_metric(found, "latency_ms_p50")) / median(_metric(before, "latency_ms_p50"))
    figures.add(f"{name} inference, loaded: plain p50 against the quiet one", walls, "x")


@contextmanager
def _busy() -> Iterator[None]:
    """Keep the core busy that is measured on."""
    code = f"import os; os.sched_setaffinity(0, [{choose_cores(1)[0]}]); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()


def _ranked(artefacts: Sequence[Path], images: Sequence[Image], figures: Figures) -> None:
    """Compare all artefacts twice."""
    runs = [compare(artefacts, images, Target()) for _ in range(2)]
    pairs = list(combinations(range(len(artefacts)), 2))
    verdicts = [{pair: run.ratio(*pair).verdict for pair in pairs} for run in runs]
    both_ways = [pair for pair in pairs if {told[pair] for told in verdicts} == {"faster", "slower"}]
    apart = [pair for pair in pairs if abs(_middle(runs, pair) - 1) > NEIGHBOURS]
    decided = [[told[pair] != "tied" for pair in apart] for told in verdicts]
    steps = [abs(_middle(runs, pair) - 1) for pair in pairwise(range(len(artefacts)))]
    many = f"{len(artefacts)} artefacts"
    figures.add(f"{many}: largest difference of neighbours", 100 * max(steps), "%", at_most=100 * NEIGHBOURS)
    figures.add(f"{many}: pairs of {len(pairs)} told both ways by two comparisons", len(both_ways), at_most=0)
    share = min(sum(told) / len(told) for told in decided)
    figures.add(f"{many}: share of the {len(apart)} pairs far apart that is decided", share, at_least=DECIDED)
    tied = sum(told != "tied" for told in verdicts[0].values()) / len(pairs)
    figures.add(f"{many}: share of all pairs that is decided", tied)


def _middle(runs: Sequence[Comparison], pair: tuple[int, int]) -> float:
    """Return the latency of the second as a share of the first's, or the other way round, below 1; of both runs."""
    ratios = [run.ratio(*pair).ratio for run in runs]
    found = float((ratios[0] * ratios[1]) ** 0.5)
    return min(found, 1 / found)


def _metric(found: Sequence[Latency], name: str) -> list[float]:
    return [metrics[name] for metrics in (latency.metrics() for latency in found) if name in metrics]


def _told(latency: Latency) -> str:
    metrics = latency.metrics()
    names = ("latency_ms_p50", "latency_ms_p50_clean", "latency_ms_p50_cpu")
    told = [f"{name.removeprefix('latency_ms_')} {metrics[name]:.2f} ms" for name in names if name in metrics]
    slowed = ", ".join("unknown" if share is None else f"{share:.0%}" for share in latency.slowed)
    return ", ".join([*told, "contended" if latency.contended else "calm", f"memory slower by {slowed}"])


def _beside(latency: Latency) -> bool:
    """Tell whether guests of the host used the memory around any of its repetitions."""
    return bool(note(latency.slowed))
