"""Paretune against a plain script on the clock: the wall time at which it reaches the script's final hypervolume.

    make bench NAME=live ARGS="--case demo"

The script (`plain_script.py`) and Paretune search the same space from the same trained network with the same number of
trials, one after the other on the same machine. Then the artefacts of both fronts are measured interleaved in one run
and evaluated on the same images, and both hypervolumes are drawn over the wall time of their runs. Versions that are
not on a front keep the figures of their own run. A run goes on where it was stopped; only the time in which it ran
counts. `curves.csv`, `curves.png` and `final.json` in the folder hold the result.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import BENCH, ROOT, Figures, paretune, parser_of, photographs
from live_curves import OURS, SCRIPT, Clock, Point, add_times, curve_of, draw, last_volume, write_csv
from plain_script import FAILURE, RESULT
from training import CASES as TRAININGS
from training import by_hand

from paretune.config.job import Job
from paretune.core.baselines import BASELINES, EAGER, ONNXRUNTIME
from paretune.profiling.latency.compare import compare
from paretune.profiling.latency.shared_images import measuring_images
from paretune.results.front_summary import front_of, records_of
from paretune.results.sweep_folder import Sweep
from paretune.search.pareto_front import Objective, hypervolume_2d, keeps_all, pareto_front
from paretune.storage.atomic_files import write_text
from paretune.storage.trial_record import read_records, record_file

OBJECTIVES = (Objective("map", "maximize"), Objective("ratio", "minimize"))


@dataclass(frozen=True)
class Case:
    """A job that both runs search."""

    job: str
    trials: int
    settings: tuple[str, ...] = ()
    """``FIELD=VALUE`` set in the job."""
    data: tuple[str, str] | None = None
    """Field of the dataset's folder, and the folder below the photographs; None generates the images."""


_SSD = next(case for case in TRAININGS if case.job == "ssd")
CASES = {"demo": Case("quickstart", 24), "ssd": Case(_SSD.job, 30, by_hand(_SSD), _SSD.dataset)}


@dataclass(frozen=True)
class Version:
    """An artefact that a run finished."""

    name: str
    artefact: Path
    seconds: float
    """Wall time of the run at which it was finished."""
    ratio: float
    """Latency as a share of the ONNX Runtime baseline's, measured in the run itself."""
    metrics: Mapping[str, float]
    front: bool
    """Whether it is on the front of its run."""
    baseline: str | None = None
    """Runtime of the baseline that it is; None for the others."""


class Live:
    """Both runs of a case in one folder.

    Args:
        given: arguments of the command line.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.case = given, CASES[given.case]
        self.folder: Path = (given.folder or BENCH / "live" / given.case).resolve()
        self.trials: int = given.trials or self.case.trials
        self.sweep, self.script = Sweep(self.folder, OURS), self.folder / SCRIPT
        self.file = ROOT / "jobs" / f"{self.case.job}.yaml"
        data = () if self.case.data is None else (f"{self.case.data[0]}={photographs() / self.case.data[1]}",)
        self.sets = [*data, *self.case.settings, f"output={self.folder}", *given.set]
        self.clocks = {run: Clock(self.folder / f"{run}-clock.json") for run in (SCRIPT, OURS)}

    def same_settings(self) -> None:
        """Refuse a folder of runs with other settings."""
        given = self.given
        wanted = [given.case, self.trials, given.concurrent, given.first, given.set, given.ours, str(given.baseline)]
        file = self.folder / "settings.json"
        if file.is_file() and json.loads(file.read_text()) != wanted:
            sys.exit(f"{self.folder} holds runs with other settings ({file.read_text()}); name another --folder")
        write_text(file, json.dumps(wanted))

    @property
    def baseline(self) -> Path:
        """Return the folder of the trained network, which is trained if it does not exist."""
        place: Path = (self.given.baseline or self.folder / "trainings" / "baseline").resolve()
        if not (place / "artefact").is_dir():
            words = ["train", str(self.file), "--name", "baseline", *self._words(["tracking.trainings=false"])]
            print(paretune(*words, *(["--resume"] if place.is_dir() else [])).stdout, flush=True)
        return place

    def _words(self, more: Sequence[str]) -> list[str]:
        return [word for text in (*self.sets, *more) for word in ("--set", text)]

    def run_script(self) -> None:
        """Run the script, or what is left of it."""
        if (self.script / "finished").is_file():
            return
        words = ["--baseline", self.baseline, "--folder", self.script, "--trials", self.trials]
        words += ["--concurrent", self.given.concurrent, *(["--first"] if self.given.first else [])]
        program = Path(__file__).with_name("plain_script.py")
        command = [sys.executable, str(program), str(self.file), *map(str, words), *self._words(())]
        with self.clocks[SCRIPT].running():
            subprocess.run(command, cwd=ROOT, check=True)
        (self.script / "finished").touch()

    def run_ours(self) -> None:
        """Run Paretune's sweep, or what is left of it, without results of an earlier one in the store."""
        if self.sweep.finished:
            return
        baseline = self.baseline
        with self.clocks[OURS].running():
            if (self.sweep.folder / "sweep.json").is_file():
                print(paretune("resume", OURS, "--runs", str(self.folder)).stdout, flush=True)
                return
            shutil.rmtree(self.folder / "store", ignore_errors=True)
            search = (f"search.trials={self.trials}", f"search.concurrent={self.given.concurrent}")
            more = (f"baseline={baseline}", *search, "measuring.energy_seconds=0", *self.given.ours)
            print(paretune("sweep", str(self.file), "--name", OURS, *self._words(more)).stdout, flush=True)

    def our_versions(self) -> list[Version]:
        """Return the complete trials of the sweep."""
        records = records_of(self.sweep)
        front = {point["trial"] for point in front_of(self.sweep, records)["front"]}
        done = {record.number: record for record in records if record.state == "complete" and record.artefact}
        reference, clock = done[ONNXRUNTIME].metrics["latency_ms"], self.clocks[OURS]
        return [
            Version(
                f"{OURS} {number}",
                self.sweep.folder / str(record.artefact),
                clock.until(record_file(self.sweep.folder, number).stat().st_mtime),
                record.metrics["latency_ms"] / reference,
                record.metrics,
                number in front,
                BASELINES[number] if number < len(BASELINES) else None,
            )
            for number, record in done.items()
        ]

    def script_versions(self, job: Job) -> list[Version]:
        """Return the finished trials of the script."""
        found = {file.parent: json.loads(file.read_text()) for file in sorted(self.script.glob(f"*/{RESULT}"))}
        eager, onnxruntime = (found[self.script / name] for name in BASELINES)
        eager["ratio"], onnxruntime["ratio"] = 1 / onnxruntime["ratio"], 1.0  # this one was measured beside eager
        fit = [place for place, one in found.items() if keeps(job, one["metrics"], eager["metrics"])]
        rows = [{**found[place]["metrics"], "ratio": found[place]["ratio"]} for place in fit]
        front = {fit[index] for index in pareto_front(rows, OBJECTIVES)}
        clock = self.clocks[SCRIPT]
        return [
            Version(
                f"{SCRIPT} {place.name}",
                place / "artefact",
                clock.until(one["ended"]),
                one["ratio"],
                one["metrics"],
                place in front,
                place.name if place.name in BASELINES else None,
            )
            for place, one in found.items()
        ]

    def final(self, versions: Sequence[Version], job: Job) -> dict[str, Any]:
        """Measure some versions interleaved and evaluate them; a result of the same versions is kept.

        Returns:
            Name → ``ratio`` to the ONNX Runtime baseline with ``low`` and ``high``, and ``val`` and ``test``, metrics.
        """
        from paretune.evaluation.accuracy import evaluate
        from paretune.runtimes.predictor import load_predictor

        file, names = self.folder / "final.json", [version.name for version in versions]
        if file.is_file() and list(kept := json.loads(file.read_text())) == names:
            return dict(kept)
        print(f"measuring {len(versions)} artefacts of both fronts, interleaved", flush=True)
        data, place = job.dataset.open(self.sweep.cache), names.index(f"{OURS} {ONNXRUNTIME}")
        folders = [version.artefact for version in versions]
        images = measuring_images(data.splits["val"])
        measured = compare(folders, images, job.target, rounds=self.given.rounds, baseline=place)
        print(f"{measured.mode}; {', '.join(measured.notes) or 'undisturbed'}", flush=True)
        result: dict[str, Any] = {}
        for index, version in enumerate(versions):
            ratio, predictor = measured.ratio(index), load_predictor(version.artefact, job.target)
            row: dict[str, Any] = {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high}
            for name in ("val", "test"):
                if (split := data.splits.get(name)) is not None:
                    accuracy = evaluate(predictor, split, limit=job.thresholds.thresholds.limit)
                    row[name] = {key: value for key, value in accuracy.metrics().items() if value is not None}
            result[version.name] = row
        write_text(file, json.dumps(result, indent=1))
        return result


def keeps(job: Job, metrics: Mapping[str, float], base: Mapping[str, float]) -> bool:
    """Return whether metrics keep the job's constraints, given those of the eager baseline."""
    limits = job.constraints.items()
    return keeps_all({name: limit.violation(metrics.get(name, float("nan")), base.get(name)) for name, limit in limits})


def points_of(versions: Sequence[Version], final: Mapping[str, Any], job: Job) -> list[Point]:
    """Return the versions that keep the constraints, with the figures of the final run where it measured them."""
    base, points = final[f"{OURS} {EAGER}"]["val"], list[Point]()
    for version in versions:
        same = f"{OURS} {BASELINES.index(version.baseline)}" if version.baseline else version.name
        row = final.get(same, {"ratio": version.ratio, "val": version.metrics})
        if keeps(job, row["val"], base):
            points.append(Point(version.name, version.seconds, row["val"]["map"], row["ratio"]))
    return points


def judged(live: Live, figures: Figures) -> None:
    """Add what came of both runs."""
    job = live.sweep.job
    runs = {SCRIPT: live.script_versions(job), OURS: live.our_versions()}
    chosen = [one for run in runs.values() for one in run if (one.front and not one.baseline)]
    final = live.final([*[one for one in runs[OURS] if one.baseline], *chosen], job)
    base = final[f"{OURS} {EAGER}"]["ratio"]
    curves = {run: curve_of(points_of(versions, final, job), base) for run, versions in runs.items()}
    seconds = {run: clock.seconds for run, clock in live.clocks.items()}
    write_csv(live.folder / "curves.csv", curves)
    draw(live.folder / "curves.png", curves, seconds, f"{live.case.job}, {live.trials} trials, {job.target_name}")
    for run, versions in runs.items():
        figures.add(f"{run}: versions finished, of {live.trials} trials", len(versions))
        figures.add(f"{run}: versions on its front", sum(one.front for one in versions))
        figures.add(f"{run}: minutes on the clock", seconds[run] / 60, "min")
        figures.add(f"{run}: times that it was interrupted", len(live.clocks[run].attempts) - 1)
        figures.add(f"{run}: final hypervolume", last_volume(curves[run]))
        figures.add(f"{run}: hypervolume of its front on test", on_test(versions, final, base))
    figures.more |= {"case": live.given.case, "settings": json.loads((live.folder / "settings.json").read_text())}
    figures.more |= {"failed": failures(live), "final": final}
    add_times(curves, seconds, figures)


def on_test(versions: Sequence[Version], final: Mapping[str, Any], base: float) -> float | None:
    """Return the hypervolume of a run's front on the images that it did not choose by; None without such images."""
    from math import log

    rows = [final[one.name] for one in versions if one.front and one.name in final]
    if not all("test" in row for row in final.values()):
        return None
    return hypervolume_2d([(row["test"]["map"], log(base / row["ratio"])) for row in rows], (0.0, 0.0))


def failures(live: Live) -> dict[str, dict[str, str]]:
    """Return run → trial → why it has no artefact."""
    ours = {
        str(record.number): record.failure or record.stop_reason or "unknown"
        for record in read_records(live.sweep.folder)
        if record.state != "complete"
    }
    return {SCRIPT: {file.parent.name: file.read_text() for file in live.script.glob(f"*/{FAILURE}")}, OURS: ours}


def main() -> int:
    """Train, run both, measure both fronts together, and print what came of it."""
    parser = parser_of(__doc__)
    parser.add_argument("--case", choices=list(CASES), default="demo")
    parser.add_argument("--trials", type=int, help="trials of each run, the two baselines included")
    parser.add_argument("--only", choices=(SCRIPT, OURS), help="run this one only, and compare nothing")
    parser.add_argument("--folder", type=Path, help="folder of everything (default: runs/bench/live/CASE)")
    parser.add_argument("--baseline", type=Path, help="folder of a network that is trained already")
    parser.add_argument("--concurrent", type=int, default=2, help="trials at the same time in both runs")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of the final interleaved run")
    parser.add_argument("--first", action="store_true", help="give the script the first points of the space too")
    for flag, what in (("--set", "the job of both runs"), ("--ours", "the job of Paretune's run only")):
        parser.add_argument(flag, action="append", default=[], metavar="FIELD=VALUE", help=f"set a field in {what}")
    given = parser.parse_args()
    live, figures = Live(given), Figures("live")
    live.folder.mkdir(parents=True, exist_ok=True)
    live.same_settings()
    if given.only != OURS:
        live.run_script()
    if given.only != SCRIPT:
        live.run_ours()
    if given.only is not None:
        minutes = live.clocks[given.only].seconds / 60
        print(f"{given.only}: {minutes:.1f} minutes on the clock; without --only both runs are compared")
        return 0
    judged(live, figures)
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
