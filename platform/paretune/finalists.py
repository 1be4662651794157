"""The front, measured once more: single latencies flatter whichever trial was lucky."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paretune.bench import Bench, measuring_images
from paretune.promises import BASELINES, base_name


def compare_front(bench: Bench, artefacts: Mapping[int, str], pairs: Sequence[tuple[int, int]] = ()) -> dict[str, Any]:
    """Measure artefacts again, interleaved in one run, against trials 0 and 1; raw samples are kept.

    Args:
        bench: the sweep's.
        artefacts: trial → its artefact's folder, relative to the sweep's; both baselines among them.
        pairs: of trials among them, the first of which is compared with the second too.

    Returns:
        ``{"mode", "notes", "images", "trials": {trial: {"eager" | "onnxruntime" | "trial_N": {"speedup", "low", "high",
        "verdict", "network_speedup"}}}}``; a speed-up is the latency of what it is named after, divided by the
        trial's.

    Raises:
        RuntimeError: one of the measuring processes died or hung.
    """
    from paretune.profiling.comparison import compare

    numbers = sorted(artefacts)
    folders = [bench.folder / artefacts[number] for number in numbers]
    images = measuring_images(bench.data.splits["val"])
    found = compare(folders, images, bench.job.target, rounds=bench.job.measuring.rounds)
    baselines = [n for n in range(len(BASELINES)) if n in numbers]
    trials: dict[str, Any] = {}
    for index, number in enumerate(numbers):
        rows = {}
        for base in dict.fromkeys([*baselines, *(other for one, other in pairs if one == number)]):
            place = numbers.index(base)
            ratio, network = found.ratio(index, place), found.ratio(index, place, network=True)
            rows[base_name(base)] = {
                "speedup": 1 / ratio.ratio,
                "low": 1 / ratio.high,
                "high": 1 / ratio.low,
                "verdict": ratio.verdict,
                "network_speedup": 1 / network.ratio,
            }
        trials[str(number)] = rows
    found.save_samples(bench.folder / "comparison.npz")
    return {"mode": found.mode, "notes": list(found.notes), "images": len(images), "trials": trials}
