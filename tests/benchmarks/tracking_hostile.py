"""Names that are markup or commands of a terminal: on the pages of a sweep, in MLflow, and in the terminal."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from figures import ROOT, Figures
from tracking_servers import mlflow_server

from paretune.results.sweep_folder import Sweep
from paretune.tracking.mlflow_client import LogPlace
from tests_support_browser import BrowserPage, browser
from tests_support_hostile import EVIL, harm, hostile_sweep

COMMANDS = (
    ("front", "demo"),
    ("front", "demo", "--json"),
    ("pick", "demo", "--knee", "--out", "picked"),
    ("sync", "demo"),
)
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def said(runs: Path, *words: str) -> str:
    """Return all that a command prints."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "platform"),
        "MLFLOW_EXPERIMENT_NAME": EVIL.replace("\n", " "),
    }
    command = [sys.executable, "-m", "paretune", *words, "--runs", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=runs, env=environment, check=False)
    return done.stdout + done.stderr


def add_pages(figures: Figures, page: BrowserPage, sweep: Sweep) -> None:
    """Open the pages and pictures of a sweep."""
    for name in ("front.html", "report.html", "front.svg"):
        page.open(sweep.folder / "front" / name)
        figures.add(f"hostile, {name}: what it runs", len(harm(page)), at_most=0)


def add_mlflow(figures: Figures, page: BrowserPage, sweep: Sweep, pictures: Path) -> None:
    """Open the pages of a sweep and of a failed trial in MLflow."""
    place = LogPlace.of(sweep.runs, sweep.name, None, EVIL.replace("\n", " "))
    client = place.connect()
    experiment = place.experiment_id(client)
    runs = client.search_runs([experiment])
    broken = next(run for run in runs if run.info.status == "FAILED")
    parent = next(run for run in runs if run.data.tags["paretune.trial"] == "all")
    with mlflow_server(sweep.runs) as server:
        for name, path in {
            "list": f"#/experiments/{experiment}/runs",
            "sweep": f"#/experiments/{experiment}/runs/{parent.info.run_id}",
            "failed trial": f"#/experiments/{experiment}/runs/{broken.info.run_id}",
            "front": f"#/experiments/{experiment}/runs/{parent.info.run_id}/artifacts/front/front.html",
        }.items():
            page.events.clear()
            page.call("Page.navigate", url="about:blank")
            page.call("Page.navigate", url=f"{server.uri}/{path}")
            time.sleep(8)
            page.picture(pictures / f"mlflow {name}.png", whole=False)
            figures.add(f"hostile, MLflow's {name}: what it runs", len(harm(page)), at_most=0)
            shown = page.run("document.body.innerText.length")
            figures.add(f"hostile, MLflow's {name}: characters shown", shown, at_least=100)


def whole(figures: Figures, folder: Path) -> None:
    """Look at every page and every line."""
    folder = folder / "hostile"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "runs").mkdir(parents=True)
    sweep = hostile_sweep(folder / "runs")
    for words in COMMANDS:
        text = said(folder / "runs", *words)
        figures.add(f"hostile, paretune {words[0]}: raw control characters", len(RAW.findall(text)), at_most=0)
        figures.add(f"hostile, paretune {words[0]}: tracebacks", text.count("Traceback"), at_most=0)
    with browser() as page:
        add_pages(figures, page, sweep)
        add_mlflow(figures, page, sweep, folder)
