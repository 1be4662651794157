"""Two commands to a front: a fresh clone, an empty environment, `make demo`, and what comes of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from figures import BENCH, ROOT, Figures, add_front, arguments
from mlflow import MlflowClient

sys.path.append(str(ROOT / "tests"))
from tests_support import RELOAD, brute_force_front

KEPT = ("PATH", "HOME", "LANG", "SSL_CERT_FILE", "PIP_CERT", "TMPDIR")


def main() -> int:
    """Clone, run `make demo`, and hold its front against MLflow and against its own artefacts."""
    given = arguments(__doc__)
    clone = BENCH / "demo"
    shutil.rmtree(clone, ignore_errors=True)  # the time is what is measured: nothing is reused
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    environment = {name: value for name, value in os.environ.items() if name in KEPT}
    start = time.monotonic()
    subprocess.run(["make", "demo"], cwd=clone, env=environment, check=True)
    minutes = (time.monotonic() - start) / 60
    figures = Figures("demo")
    figures.add("minutes of `make demo`, installation included", minutes, at_most=9)
    front = json.loads(run(clone, "front", "quickstart", "--json")[1])
    add_front(figures, front, clone / "runs" / "quickstart")
    figures.add("INT8 artefacts evaluated", int8_trials(clone), at_least=1)
    figures.add("points that differ from the front recomputed from MLflow", difference(clone, front), at_most=0)
    figures.add("largest difference in map of a reloaded artefact", reload_error(clone, front), at_most=1e-9)
    figures.add("seconds of `paretune --help`", run(clone, "--help")[0], at_most=0.7)
    figures.add(
        "seconds of `paretune check jobs/quickstart.yaml`", run(clone, "check", "jobs/quickstart.yaml")[0], at_most=2
    )
    again = subprocess.run(["make", "demo"], cwd=clone, env=environment, check=False, stdout=subprocess.DEVNULL)
    figures.add("exit code of `make demo` run again", again.returncode, at_most=0)
    return figures.end(as_json=given.json)


def run(clone: Path, *words: str) -> tuple[float, str]:
    """Run a command of the clone; returns (seconds, output)."""
    start = time.monotonic()
    done = subprocess.run([clone / ".venv/bin/paretune", *words], cwd=clone, check=True, capture_output=True, text=True)
    return time.monotonic() - start, done.stdout


def trials_of(clone: Path) -> list[Any]:
    """Return the trials' runs as MLflow has them."""
    client = MlflowClient(tracking_uri=f"sqlite:///{clone / 'runs' / 'mlflow.db'}")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run for run in client.search_runs(ids, max_results=1000) if "mlflow.parentRunId" in run.data.tags]


def int8_trials(clone: Path) -> int:
    """Count the finished trials that were quantized."""
    return sum("quantize.scheme" in r.data.params and r.info.status == "FINISHED" for r in trials_of(clone))


def difference(clone: Path, front: dict[str, Any]) -> int:
    """Recompute the front from MLflow by brute force, with the job's constraint; count what differs."""
    done = [r for r in trials_of(clone) if r.info.status == "FINISHED"]
    floor = next(r.data.metrics["accuracy/map50"] for r in done if r.data.tags["paretune.trial"] == "0") - 0.1
    points = {
        int(r.data.tags["paretune.trial"]): (r.data.metrics["accuracy/map"], r.data.metrics["latency/ms"])
        for r in done
        if r.data.metrics["accuracy/map50"] >= floor and "speedup/vs_eager" in r.data.metrics
    }
    return len(brute_force_front(points) ^ {point["trial"] for point in front["front"]})


def reload_error(clone: Path, front: dict[str, Any]) -> float:
    """Evaluate every artefact of the front in a fresh process; returns the largest difference in map."""
    folders = [str(Path("runs/quickstart") / point["artefact"]) for point in front["front"]]
    command = [clone / ".venv/bin/python", "-c", RELOAD, "runs", "quickstart", *folders]
    done = subprocess.run(command, cwd=clone, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    logged = [point["metrics"]["map"] for point in front["front"]]
    return max(abs(a - b) for a, b in zip(found, logged, strict=True))


if __name__ == "__main__":
    sys.exit(main())
