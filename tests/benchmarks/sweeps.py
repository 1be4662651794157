"""A sweep of each family over everything: what was sampled, what failed, and how fast the best of it is."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from compressed import FOLDER, maps, optimized, ratios
from figures import Figures, paretune
from pruning import made
from repeated import Repeated, confirmed
from training import Case, by_hand, trained

JOBS = {"voc": "yolo"}
"""Job of a training → the one that searches, where they differ."""
NETWORK = {"voc": 1.5, "yolo_tiny": 3.0, "ssd": 3.5, "faster_rcnn": 3.0}
"""How many times as fast the network alone must be as the best dense one in fp32."""
WHOLE = {"voc": 5.0, "yolo_tiny": 7.0, "ssd": 12.0, "faster_rcnn": 5.0}
"""How many times as fast an image must become boxes as with the library itself, in eager."""
TRIALS = 30
DROP = 1.0
"""Points of map that may be lost."""
IN_HAND = 0.5
"""Of them, kept back on `val`: the fastest of many that just pass there was partly lucky."""
PEERS = {"voc": 1.5, "yolo_tiny": 1.5, "ssd": 1.7, "faster_rcnn": 1.5}
"""The same against the best that one tool makes of the dense network with no more points lost."""
DENSE = ("eager", "onnxruntime", "openvino")
BESIDE: dict[str, tuple[list[dict[str, Any]], Any]] = {
    "library": ([], "eager"),
    **{name: ([], name) for name in DENSE},
    "ONNX Runtime static INT8": ([{"quantize": {}}], "onnxruntime"),
    "NNCF": ([{"quantize": {"tool": "nncf"}}], "openvino"),
    "OpenVINO bfloat16": ([], {"openvino": {"precision": "bf16"}}),
    "Inductor": ([], "compiled"),
}
"""What others make of the network → steps and runtime; the library's own is not of ours (``library``)."""


def swept(case: Case, root: Path) -> Path:
    """Run the sweep, or go on with it; returns its folder."""
    job, runs = JOBS.get(case.job, case.job), FOLDER / "sweeps"
    field, folder = case.dataset
    if (runs / job / "sweep.json").is_file():
        paretune("resume", job, "--runs", str(runs))
    else:
        start = trained(case, 0, root).folder
        sets = (
            f"output={runs}",
            f"{field}={root / folder}",
            f"baseline={start}",
            f"search.trials={TRIALS}",
            "search.earlier=none",
            *by_hand(case),
        )
        words = [word for text in sets for word in ("--set", text)]
        paretune("sweep", f"jobs/{job}.yaml", "--name", job, *words)
    return runs / job


def fastest(records: Sequence[Any], floor: float) -> Any:
    """Return the fastest record that is accurate enough on `val`; None where there is none."""
    enough = [record for record in records if record.state == "complete" and 100 * record.metrics["map"] >= floor]
    return min(enough, key=lambda record: record.metrics["latency_ms"], default=None)


def better(case: Case, root: Path, eager: Path) -> Path:
    """Return the dense network or its control, the same trained on for longer: which has the higher map on `val`."""
    source, found = trained(case, 0, root).folder, {"dense": eager, "control": made(case, 0, "control", root)}
    for name, folder in found.items():
        told = ", ".join(f"{split} {value:.1f}" for split, value in maps(folder, source).items())
        print(f"{case.name}, {name}: map {told}", flush=True)
    return max(found.values(), key=lambda folder: maps(folder, source)["val"])


def fill(case: Case, root: Path, figures: Figures) -> None:
    """Search one family; the fastest within a point on `val` is measured beside dense networks, and told on `test`.

    There it is the mean of several seeds that must keep the point, and one of theirs that is measured.
    """
    from paretune.results.front_summary import records_of
    from paretune.results.sweep_folder import Sweep

    folder, source = swept(case, root), trained(case, 0, root).folder
    records = records_of(Sweep(folder.parent, folder.name))
    add_sweep(case, folder, records, figures)
    beside = peers_of(case, source)
    before = maps(better(case, root, beside["eager"]), source)
    best = fastest(records, before["val"] - DROP + IN_HAND)
    if best is None:
        figures.add(f"{case.name}: fastest within a point", None, at_least=WHOLE[case.job])
        return
    told = confirmed_alone(folder, best.number)
    lost = 100 * told["claim"]["lost"]
    print(
        f"{case.name}, trial {best.number}: with other seeds {lost:.1f} points lost on test against eager", flush=True
    )
    figures.add(f"{case.name}: points that trial {best.number} lost on test, mean of its seeds", lost)
    figures.more[f"{case.job} points lost, intervals"] = told["claim"]["lost_by_seed"]
    repeats = confirmed(case, told["tried"][told["chosen"]]["recipe"], root, DROP)
    add_accuracy(case, repeats, figures)
    add_speed(case, repeats[0].artefact, source, beside, figures)


def confirmed_alone(folder: Path, trial: int) -> dict[str, Any]:
    """Return what `paretune confirm` makes of a trial with other seeds, from the network of the sweep itself."""
    words = ("--runs", str(folder.parent), "--trial", str(trial), "--max-drop", str(DROP / 100), "--json")
    done = paretune("confirm", folder.name, *words, check=False)
    if done.returncode > 1:  # 1: more is lost than is allowed
        raise RuntimeError(f"{folder.name}, trial {trial}: {done.stderr.strip().splitlines()[-1]}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def add_sweep(case: Case, folder: Path, records: Sequence[Any], figures: Figures) -> None:
    """Show the front, and what was sampled and what failed."""
    print((paretune("front", folder.name, "--runs", str(folder.parent))).stdout, flush=True)
    failed = [record for record in records if record.state != "complete"]
    for reason, count in Counter(record.failure for record in failed).most_common():
        print(f"{case.name}: {count} failed: {reason}", flush=True)
    sampled = {next(iter(step)) for record in records for step in record.recipe["steps"]}
    figures.add(f"{case.name}: trials", len(records), at_least=TRIALS)
    figures.add(f"{case.name}: failed without a reason", sum(not record.failure for record in failed), at_most=0)
    figures.more[f"{case.job} steps sampled"] = sorted(sampled)
    figures.more[f"{case.job} failed"] = {str(record.number): record.failure for record in failed}
    shutil.copy(folder / "front" / "front.png", FOLDER / f"{case.job}-front.png")


def peers_of(case: Case, source: Path) -> dict[str, Path]:
    """Make of the dense network what others make of it; returns the artefact of each that can."""
    beside = {}
    for name, (steps, runtime) in BESIDE.items():
        place = FOLDER / case.job / f"beside-{name.replace(' ', '-')}"
        if reason := optimized(source, steps, runtime, place, source):
            print(f"{case.name}, {name}: {reason}", flush=True)
        else:
            beside[name] = place
    return beside


def add_accuracy(case: Case, repeats: Sequence[Repeated], figures: Figures) -> None:
    """Tell what a recipe's artefacts lose on `test`."""
    losses = [one.lost() for one in repeats]
    for one, (low, lost, high) in zip(repeats, losses, strict=True):
        told = f"{lost:.1f} points lost on test against {one.against.name}, 95 % interval {low:.1f} to {high:.1f}"
        print(f"{case.name}, {one.artefact.name}: {told}", flush=True)
    title = f"{case.name}: points lost on test, mean of {len(losses)} seeds"
    figures.add(title, mean(lost for _, lost, _ in losses), at_most=DROP)
    figures.more[f"{case.job} points lost by each seed"] = losses


def add_speed(case: Case, artefact: Path, source: Path, beside: dict[str, Path], figures: Figures) -> None:
    """Measure an artefact interleaved with what others make of the dense network."""
    against = dict(zip(beside, ratios([*beside.values(), artefact], source), strict=True))
    points = {name: maps(place, source)["val"] for name, place in beside.items()}
    for name, (whole, core) in against.items():
        told = f"{whole:.2f}x, the network alone {core:.2f}x; it has map {points[name]:.1f} on val"
        print(f"{case.name}, {artefact.name} against {name}: {told}", flush=True)
    title = f"{case.name}: image to boxes, against the library in eager"
    figures.add(title, against["library"][0], "x", at_least=WHOLE[case.job])
    least = min(against[name][1] for name in DENSE[1:])
    figures.add(f"{case.name}: network, against the best dense fp32", least, "x", at_least=NETWORK[case.job])
    own = ("library", *DENSE)
    peers = [name for name in beside if name not in own and points[name] >= points["eager"] - DROP]
    most = min((against[name][1] for name in peers), default=None)
    figures.add(f"{case.name}: network, against the best peer of {len(peers)}", most, "x", at_least=PEERS[case.job])
