"""Whether a published front is the right one: sweeps measured beside busy processes, against a long interleaved run.

Three sweeps of the quickstart's detector run while busy processes come and go on all cores, their comparisons at the
end too. Then, on a quiet machine, all artefacts of each sweep are compared once more for long. Both fronts must hold
the same trials, but for such as the long run cannot tell apart, and every place that tells a front must tell this one.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml
from duet import FOLDER, measured_images, neighbours, trained
from figures import ROOT, Figures, paretune, parser_of
from mlflow import MlflowClient

from paretune.profiling.latency.compare import Comparison, compare
from paretune.profiling.latency.shared_images import saved_images
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_record import read_records

RUNS = FOLDER / "published"
SPACE: dict[str, Any] = {
    "input_size": {"choices": ["128x96", "160x128", "192x144", "224x160", "256x192"]},
    "steps": [
        {"name": "slim", "choices": {"none": None, "pruned": {"prune": {"ratio": 0.3, "round_to": 8}}}},
        {"name": "precision", "choices": {"fp32": None, "int8": {"quantize": {"images": 32}}}},
    ],
    "runtime": {"choices": ["onnxruntime", "openvino"]},
}


def main() -> int:
    """Sweep three times beside others, and judge each published front by a long quiet run."""
    parser = parser_of(__doc__)
    parser.add_argument("--sweeps", type=int, default=3, help="how many sweeps")
    parser.add_argument("--trials", type=int, default=12, help="trials of each, the baselines included")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of the long run")
    given = parser.parse_args()
    source, figures = trained(), Figures("published")
    shutil.rmtree(RUNS, ignore_errors=True)
    RUNS.mkdir(parents=True)
    (RUNS / "space.yaml").write_text(yaml.safe_dump(SPACE))
    right = one_story = 0
    for number in range(given.sweeps):
        sweep = swept(number, source, given.trials)
        published = json.loads(paretune("front", sweep.name, "--runs", str(sweep.runs), "--json").stdout)
        wrong = differences(sweep, published, given.rounds)
        stories = told_otherwise(sweep, published)
        print(f"sweep {number}: {[p['trial'] for p in published['front']]}; wrong: {wrong}; {stories}", flush=True)
        right += not wrong
        one_story += not stories
        figures.more[sweep.name] = {"front": published, "wrong": wrong, "stories": stories}
    figures.add(f"published fronts of {given.sweeps} that are the long run's, ties apart", right, at_least=given.sweeps)
    title = f"fronts of {given.sweeps} that table, page, CSV, JSON and MLflow tell alike"
    figures.add(title, one_story, at_least=given.sweeps)
    return figures.end(as_json=given.json)


def swept(number: int, source: Path, trials: int) -> Sweep:
    """Run a sweep beside busy processes that come and go."""
    name = f"beside-{number}"
    sets = {"output": RUNS, "baseline": source, "space": RUNS / "space.yaml", "search.trials": trials}
    sets |= {
        "search.earlier": "none",
        "search.seed": number,
        "search.sampler": "random",
        "constraints": "{}",
        "measuring.energy_seconds": 0,
    }
    words = [word for field, value in sets.items() for word in ("--set", f"{field}={value}")]
    with neighbours(number):
        paretune("sweep", str(ROOT / "jobs/quickstart.yaml"), "--name", name, *words)
    return Sweep(RUNS, name)


def differences(sweep: Sweep, published: Mapping[str, Any], rounds: int) -> list[str]:
    """Return how the published front differs from that of a long interleaved run of all artefacts, ties apart."""
    done = [record for record in read_records(sweep.folder) if record.artefact is not None]
    numbers = [record.number for record in done]
    with saved_images(measured_images()) as images:
        folders = [sweep.folder / str(record.artefact) for record in done]
        truth = compare(folders, images, sweep.job.target, rounds=rounds)
    quality = {record.number: record.metrics["map"] for record in done}
    wanted, found = front_of(truth, numbers, quality), [point["trial"] for point in published["front"]]
    wrong = []
    for trial in set(wanted) ^ set(found):
        rivals = found if trial in wanted else wanted
        as_good = [other for other in rivals if quality[other] >= quality[trial]]
        if not any(verdict(truth, numbers, trial, other) == "tied" for other in as_good):
            wrong.append(f"trial {trial} is {'missing' if trial in wanted else 'too much'}")
    for place, one in enumerate(found):
        wrong += [
            f"trial {one} stands before {other}"
            for other in found[place + 1 :]
            if verdict(truth, numbers, one, other) == "slower"
        ]
    return wrong


def front_of(truth: Comparison, numbers: list[int], quality: Mapping[int, float]) -> list[int]:
    """Return the front by its definition: no other is at least as accurate and as fast, and better in one of them."""
    cost = {number: truth.ratio(index).ratio for index, number in enumerate(numbers)}
    return [
        one
        for one in numbers
        if not any(
            quality[o] >= quality[one] and cost[o] <= cost[one] and (quality[o], cost[o]) != (quality[one], cost[one])
            for o in numbers
        )
    ]


def verdict(truth: Comparison, numbers: list[int], one: int, other: int) -> str:
    return truth.ratio(numbers.index(one), numbers.index(other)).verdict


class Rows(HTMLParser):
    """The trials of the page's table, in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.trials: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "tr" and "data-trial" in given and given.get("class") != "base":
            self.trials.append(int(given["data-trial"] or -1))


def told_otherwise(sweep: Sweep, published: Mapping[str, Any]) -> list[str]:
    """Return the places that tell another front than ``front --json``."""
    wanted = [point["trial"] for point in published["front"]]
    latency = {point["trial"]: point["metrics"]["latency_ms"] for point in published["front"]}
    places = {
        "page": Rows((sweep.folder / "front/front.html").read_text()).trials,
        "table": in_table(paretune("front", sweep.name, "--runs", str(sweep.runs)).stdout, published),
        "front.json": [p["trial"] for p in json.loads((sweep.folder / "front/front.json").read_text())["front"]],
    }
    with (sweep.folder / "front/front.csv").open() as file:
        places["front.csv"] = [int(row["trial"]) for row in csv.DictReader(file)]
    client = MlflowClient(tracking_uri=f"sqlite:///{sweep.runs / 'mlflow.db'}")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(ids, "tags.`paretune.front` = 'true'", max_results=1000)
    mine = [run for run in runs if run.data.tags["paretune.sweep"] == sweep.name]
    mine.sort(key=lambda run: run.data.metrics["latency/ms"])
    places["MLflow"] = [int(run.data.tags["paretune.trial"]) for run in mine]
    logged = {int(run.data.tags["paretune.trial"]): run.data.metrics["latency/ms"] for run in mine}
    wrong = [f"{place}: {told}" for place, told in places.items() if told != wanted]
    return wrong + [
        f"MLflow: trial {n}: {logged.get(n)} ms, not {ms}" for n, ms in latency.items() if logged.get(n) != ms
    ]


def in_table(text: str, published: Mapping[str, Any]) -> list[int]:
    """Return the trials of the printed table, without the baseline's row under it."""
    head = [line[:6].strip() for line in text.splitlines()]
    numbers = [int(word) for word in head if word.isdecimal()]
    return numbers[: len(published["front"])]


if __name__ == "__main__":
    sys.exit(main())
