"""A sweep whose trials cost next to nothing: all but the network's work is real.

The trials go through `trial.run`: events, stage store, artefact, duet and record are written as ever, by functions that
invent the figures of a recipe. As a script it is the command line ``paretune`` with such trials.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = ROOT / "tests" / "data" / "sweep_of_0.1.0.zip"
MARK = "PARETUNE_FAULTS_PLACE"
"""Environment variable by which the processes of a place are found."""
PACE = "PARETUNE_FAULTS_SECONDS"
"""Environment variable with the seconds of each stage of a cheap trial."""
NAME = "cheap"
JOB = """\
dataset: {{shapes: {{train: 48, val: 24, size: 96x64}}}}
detector: {{yolo: {{variant: nano, depthwise: true, width: 0.0625}}}}
input_size: 96x64
baseline: {baseline}
space: space.yaml
objectives: {{map: maximize, latency_ms: minimize}}
constraints: {{map: {{max_drop: 0.25}}}}
search:
  {{trials: {trials}, sampler: {sampler}, concurrent: {concurrent}, retries: 2, cheap_first: false,
   allow_unlearned: true}}
measuring: {{energy_seconds: 0}}
"""
SPACE = """\
input_size: 96x64
steps:
  - prune: {ratio: {low: 0.1, high: 0.9, step: 0.2}, round_to: {choices: [4, 8]}}
  - name: precision
    choices: {fp32: null, int8: {quantize: {images: 8}}}
runtime: {choices: [onnxruntime, eager]}
"""
QUALITY, DROP = 0.5, 0.25
"""map of the eager baseline, and most of it that a trial may lose."""


@dataclass
class CheapDuet:
    """A duet's result with invented figures."""

    facts: dict[str, Any]
    notes: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    latency: Any = field(default_factory=lambda: SimpleNamespace(facts={"threads": 1}))

    def metrics(self) -> dict[str, float]:
        """Return the artefact's own figures."""
        return {"latency_ms_p50": 4.0 * self.facts["ratio"], "network_ms_p50": 3.0 * self.facts["ratio"]}

    def save_samples(self, file: Path) -> None:
        """Write the raw samples."""
        file.write_bytes(b"samples")


def dice(recipe: Any) -> tuple[float, float]:
    """Return two numbers between 0 and 1 that a recipe always has again."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32, int.from_bytes(digest[4:8]) / 2**32


def _pause() -> None:
    time.sleep(random.uniform(0.5, 1.5) * float(os.environ.get(PACE, "0")))


def cheap_build(context: Any, _target: Any, number: int, recipe: Any, stages: Any, *_: Any, **__: Any) -> Any:
    """Write an artefact of a few bytes, through the stage store where the recipe has steps."""
    from paretune.core.types import Thresholds
    from paretune.storage.artefact import Artefact, write_manifest
    from paretune.storage.atomic_files import new_folder

    folder = context.trial_folder(number)
    (work := folder / "work").mkdir(parents=True, exist_ok=True)
    tree = recipe.tree()
    if tree["steps"]:
        key = hashlib.sha256(json.dumps(tree["steps"][0]).encode()).hexdigest()
        weights = work / "stage" / "weights.safetensors"
        store = context.stage_store(print)
        with store.making(key):
            if store.read(key, work / "stage") is None:
                with stages.stage("prune", key):
                    _pause()
                    (work / "stage").mkdir(exist_ok=True)
                    weights.write_bytes(key.encode() * 20)
                store.write(key, work / "stage", {"key": key})
            else:
                stages.reused("prune", key)
        if weights.read_bytes() != key.encode() * 20:
            raise AssertionError("a damaged result was taken from the store")
    with stages.stage("write"), new_folder(folder / "artefact", replace=True) as draft:
        (draft / "model.onnx").write_bytes(json.dumps(tree).encode())
        artefact = Artefact(
            draft, "onnx", tree, tree["runtime"], tree, ("a",), recipe.size, Thresholds(), params=1000, flops=1000
        )
        write_manifest(draft, artefact)
        _pause()
    from paretune.storage.artefact import read_artefact

    return SimpleNamespace(artefact=read_artefact(folder / "artefact"), network=None, changed=False)


def cheap_evaluate(_: Any, number: int, built: Any, *__: Any) -> Any:
    """Return the invented accuracy of a recipe."""
    _pause()
    a, b = dice(built.artefact.recipe)
    quality = QUALITY if number < 2 else 0.2 + 0.15 * a + 0.2 * b
    accuracy = SimpleNamespace(metrics=lambda: {"map": quality, "map50": 1.5 * quality}, facts=dict, reasons={})
    ends = {f"map_delta{end}": quality - QUALITY for end in ("", "_low", "_high")}
    return SimpleNamespace(metrics=dict), accuracy, SimpleNamespace(figures=ends, reasons={}), []


def level_of(number: int, recipe: Any) -> float:
    """Return the latency of a recipe in milliseconds."""
    return (4.0, 3.2)[number] if number < 2 else 3.2 * (0.3 + dice(recipe)[1])


def _level(artefact: Path) -> float:
    from paretune.storage.artefact import read_artefact

    return level_of(int(artefact.parent.name), read_artefact(artefact).recipe)


def cheap_duet(artefact: Path, beside: Path | None, *_: Any, **__: Any) -> CheapDuet:
    """Return invented latencies, measured by a process of its own where trials are to take their time."""
    if seconds := float(os.environ.get(PACE, "0")):
        _measuring(seconds)
    reference = _level(beside or artefact)
    ratios = dict.fromkeys(RATIOS, _level(artefact) / reference)
    levels = {"reference_ms": reference, "reference_network_ms": 0.75 * reference}
    return CheapDuet({**ratios, **levels, "calm": True, "mode": "clean", "rounds": 2, "unstable": False})


RATIOS = tuple(f"{part}{end}" for part in ("", "network_") for end in ("ratio", "low", "high"))
CHILD = """
import ctypes, sys, time
ctypes.CDLL(None).prctl(1, 9)
time.sleep(float(sys.argv[1]))
print("measured", flush=True)
"""


def _measuring(seconds: float) -> None:
    from paretune.profiling.latency.worker_client import MeasuringKilled

    command = [sys.executable, "-S", "-c", CHILD, str(seconds), "faults-measuring"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        if process.stdout.read() != b"measured\n":
            raise MeasuringKilled("the measuring process was killed by SIGKILL")


def cheap_comparison(context: Any, finalists: Any) -> dict[str, Any]:
    """Return a comparison of the front that agrees with the duets."""
    levels = {number: _level(context.folder / folder) for number, folder in sorted(finalists.artefacts.items())}
    base = levels[finalists.reference]

    def verdict(one: float, other: float) -> str:
        return "tied" if one == other else "faster" if one < other else "slower"

    return {
        "mode": "clean",
        "notes": [],
        "images": 4,
        "rounds": 2,
        "reference": finalists.reference,
        "reference_ms": base,
        "reference_network_ms": 0.75 * base,
        "calm": True,
        "seen": sorted(finalists.seen),
        "left_out": {},
        "trials": {},
        "latencies": {str(n): {**dict.fromkeys(RATIOS, v / base), "unstable": False} for n, v in levels.items()},
        "verdicts": {str(n): {str(m): verdict(v, w) for m, w in levels.items() if m != n} for n, v in levels.items()},
        "test": None,
        "no_test": "the data has no split test",
        "ended": time.time(),
    }


def cheap_trial(runs: str, name: str, proposal: dict[str, Any]) -> dict[str, Any]:
    """Run one trial as `trial_worker.run_in_worker` does, with invented figures."""
    from paretune.workflows import trial, trial_worker
    from paretune.workflows.trial_stages import Instruments

    trial._build, trial.evaluate = cheap_build, cheap_evaluate  # type: ignore[assignment]
    trial_worker.run = functools.partial(trial.run, instruments=Instruments(duet=cheap_duet))  # type: ignore[assignment, arg-type]
    return trial_worker.run_in_worker(runs, name, proposal)


def on_ray(trial: Any, searcher: Any, **settings: Any) -> None:
    """Run cheap trials by Ray Tune."""
    from paretune.distributed import tune_trials

    tune_trials.run_trials(functools.partial(cheap_trial, *trial.args), searcher, **settings)


def install(tuner: Any = on_ray) -> None:
    """Let sweeps of this process run cheap trials."""
    from paretune.workflows import sweep

    sweep.run_sweep = functools.partial(sweep.run_sweep, tuner=tuner, measure=cheap_comparison)


@dataclass(frozen=True)
class Place:
    """A folder with a job, locks of its own, and the output folder ``runs``."""

    folder: Path

    @property
    def runs(self) -> Path:
        """Return the output folder."""
        return self.folder / "runs"

    @property
    def sweep(self) -> Path:
        """Return the sweep's folder."""
        return self.runs / NAME

    @property
    def locks(self) -> Path:
        """Return the folder of the device's locks."""
        return self.folder / "locks"

    def environment(self, pace: float = 0.0) -> dict[str, str]:
        """Return the environment of a process of this place."""
        path = [str(self.folder / "site"), str(ROOT / "platform"), str(ROOT / "tests" / "benchmarks")]
        more = {MARK: str(self.folder), PACE: str(pace), "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
        return {
            **os.environ,
            **more,
            "HOME": str(self.folder / "home"),
            "MPLCONFIGDIR": str(self.folder.parent / "mpl"),
        }

    def start(self, *words: str, pace: float = 0.0, **more: str) -> subprocess.Popen[str]:
        """Start the command line with cheap trials on Ray."""
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), *words],
            cwd=self.folder,
            env={**self.environment(pace), **more},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


LOCKS = """\
from contextlib import suppress
from pathlib import Path

with suppress(ImportError):
    from paretune.system import device_lock

    device_lock.lock_folder = lambda: Path({locks!r})
"""


def new_place(folder: Path, trials: int = 6, concurrent: int = 2, sampler: str = "random", extra: str = "") -> Place:
    """Make a place with a job that names a trained baseline."""
    place = Place(folder)
    for part in ("home", "locks", "site"):
        (folder / part).mkdir(parents=True)
    (folder / "site" / "sitecustomize.py").write_text(LOCKS.format(locks=str(place.locks)))
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = [name for name in archive.namelist() if name.startswith("runs/before/baseline/") and name[-1] != "/"]
        for name in names:
            goal = folder / "trained" / Path(name).name
            goal.parent.mkdir(exist_ok=True)
            goal.write_bytes(archive.read(name))
    text = JOB.format(baseline=folder / "trained", trials=trials, concurrent=concurrent, sampler=sampler)
    (folder / f"{NAME}.yaml").write_text(text + extra)
    (folder / "space.yaml").write_text(SPACE)
    return place


@contextmanager
def thrown_away(folder: Path) -> Iterator[Path]:
    """Yield a folder that is removed after the block, unless it fails."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.modules["faults_sweep"] = sys.modules[__name__]  # workers find its functions by this name
    cheap_trial.__module__ = "faults_sweep"
    install()
    from paretune.cli.main import main

    sys.exit(main())
