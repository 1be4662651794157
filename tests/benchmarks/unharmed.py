"""What profiling leaves behind: nothing when it is killed, and nothing when it runs for minutes."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

from believable import FOLDER, artefact
from figures import ROOT, Figures
from training import CASES, trained

from paretune.core.target import Target
from paretune.reports.profile_report import write_profile
from paretune.system.device_lock import exclusive_device
from paretune.workflows.profile import ProfileOptions, profile_artefacts

SIZE = "256x192"
KILLS = 20
FREE = 5.0
"""Seconds after which the device must be free."""
WRITING = 0.6
"""Seconds after the first file of a result within which every fourth kill falls."""
WHOLE = {"profile.json", "profile.html", "samples-0.npz"}
"""Files without which a result is none."""
SETTLED = 0.3
"""Share of the loop after which memory is compared: until then libraries are loaded and caches filled."""
MORE_MIB = 8.0
"""Memory by which the second half of the loop may exceed the first."""


def fill(root: Path, figures: Figures, *, minutes: float) -> None:
    """Kill `paretune profile` again and again, then let it run in a loop."""
    source = trained(CASES[0], 0, root).folder
    folder = artefact(source, SIZE, "onnxruntime")
    _killed(folder, source, figures)
    _looped(folder, source, figures, minutes)


def _killed(folder: Path, source: Path, figures: Figures) -> None:
    rng, waited, half, done = random.Random(0), list[float](), 0, 0
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "told"
        words = ["profile", str(folder), "--data", str(source / "job.yaml"), "--repetitions", "2", "--out", str(out)]
        command = [sys.executable, "-m", "paretune", *words]
        start = time.monotonic()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        seconds = time.monotonic() - start
        for number in range(KILLS):
            for left in Path(place).iterdir():
                shutil.rmtree(left)
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            start = time.monotonic()
            if number % 4:
                moment = seconds * rng.random()
            else:  # while it writes the results
                while process.poll() is None and not any(Path(place).glob(".*.part/*")):
                    time.sleep(0.002)
                moment = rng.uniform(0, WRITING)
            with suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            process.kill()
            process.wait()
            moment = time.monotonic() - start
            with exclusive_device("cpu") as lock:
                waited.append(lock)
            files = {file.name for file in out.iterdir()} if out.is_dir() else set[str]()
            half += bool(files) and not files >= WHOLE
            done += bool(files)
            print(f"killed after {moment:.1f} s: free after {lock:.2f} s, {len(files)} files", flush=True)
    figures.add(f"killed at {KILLS} moments: longest until the device was free", max(waited), "s", at_most=FREE)
    figures.add("killed: results that are half-written", half, at_most=0)
    figures.add("killed: whole results", done)


def _looped(folder: Path, source: Path, figures: Figures, minutes: float) -> None:
    from paretune.config.job import Job
    from paretune.core.yaml_document import read_yaml, validate

    images = validate(Job, read_yaml(source / "job.yaml")).dataset, FOLDER / "datasets"
    start, memory, seen = time.monotonic(), list[tuple[float, float]](), list[dict[str, int]]()
    with tempfile.TemporaryDirectory() as place:
        while (spent := time.monotonic() - start) < 60 * minutes:
            out = Path(place) / "told"
            write_profile(profile_artefacts([folder], images, Target(), ProfileOptions(repetitions=2)), out)
            shutil.rmtree(out)
            memory.append((spent / (60 * minutes), _resident_mib()))
            seen.append({name: count() for name, count in COUNTS.items()})
        kept = [mib for share, mib in memory if share >= SETTLED]
        middle = len(kept) // 2
        grown = median(kept[middle:]) - median(kept[:middle])
        left = [path.name for path in Path(place).iterdir()]
    title = f"{len(memory)} profiles in {minutes:g} minutes"
    figures.add(f"{title}: memory by which the second half exceeds the first", grown, "MiB", at_most=MORE_MIB)
    for name in COUNTS:
        more = seen[-1][name] - seen[len(seen) // 3][name]
        figures.add(f"{title}: {name} more than at a third of them", more, at_most=0)
    figures.add(f"{title}: files left beside the results", len(left), at_most=0)
    figures.more["resident MiB"] = [mib for _, mib in memory]


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _children() -> int:
    return sum(len(file.read_text().split()) for file in Path("/proc/self/task").glob("*/children"))


def _temporary() -> int:
    return sum(1 for path in Path(tempfile.gettempdir()).iterdir() if path.name.startswith(("paretune-", "advice-")))


COUNTS: dict[str, Callable[[], int]] = {
    "open files": _open_files,
    "processes": _children,
    "temporary folders": _temporary,
}
