"""Data of front pages of any size, of sweeps that never ran."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from paretune.results.page_data import SweepState, TargetResults, page_data
from paretune.search.hypervolume_series import hypervolume_series, series_tree
from paretune.search.pareto_front import front_object
from paretune.storage.trial_record import Record
from tests_support_records import FLOOR, changed, comparison, complete, fake_records, finetune, judge, prune, recipe

WEBP = "data:image/webp;base64,UklGRhwAAABXRUJQVlA4TA8AAAAvAAAAAAcQ/Y/+ByKi/wEA"
"""A picture of one pixel."""


def invented_pictures(numbers: Sequence[int], picture: str = WEBP) -> dict[int, dict[str, Any]]:
    """Return three pictures of each trial, the first of which all of them share."""
    box = [10, 10, 60, 40, "cat"]
    return {
        number: {
            "confidence": 0.4,
            "images": [
                {"image": name, "wrong": 2, "missed": 1, "width": 200, "height": 100, "objects": 1, "detected": 60}
                | {"truth": [box], "found": [[*box, 0.75], [5, 5, 9, 9, "<b>rare</b>", 0.5]], "picture": picture}
                for name in ("shared.jpg", f"{number}-1.jpg", f"{number}-2.jpg")
            ],
        }
        for number in numbers
    }


def target_results(records: Sequence[Record], name: str = "laptop", **more: Any) -> TargetResults:
    """Return the results of invented records on one target."""
    rules = judge()
    broken = {r.number: {"map50": FLOOR - r.metrics["map50"]} for r in records if "map50" in r.metrics}
    front = front_object("demo", name, records, rules, more.get("comparison"))
    front["hypervolume_series"] = series_tree(hypervolume_series(records, rules, more.get("comparison")))
    more = {"floors": {"map50": FLOOR}, "violations": broken} | more
    return TargetResults(name, "cpu, 1 thread", records, front, **more)


def invented_page(name: str = "demo", **more: Any) -> dict[str, Any]:
    """Return the data of the page of the invented sweep."""
    records = [detailed(record) for record in fake_records()]
    results = target_results(records, comparison=comparison())
    about = {"dataset": "shapes", "budget": "14 trials", "constraints": f"map50 at least {FLOOR}"}
    state = SweepState(name, 1_790_000_000.0, more.pop("finished", True), planned=14, about=about, clock_seconds=300.0)
    more = {"importance": IMPORTANCE, "advice": ADVICE, "pictures": invented_pictures([8, 0, 1, 5])} | more
    return page_data(state, [results], written=1_790_001_000.0, **more)


IMPORTANCE = [
    {
        "knob": knob,
        "active": 12,
        "shares": {"front": share, "map": 1 - share, "latency_ms": share},
        "above_chance": {"front": share > 0.2, "map": True, "latency_ms": False},
        "reason": None,
    }
    for knob, share in (("prune.ratio", 0.7), ("finetune.epochs", 0.2), ("input_size", 0.1))
]
IMPORTANCE += [{"knob": "lr", "active": 2, "shares": None, "above_chance": None, "reason": "active in 2 trials"}]
ADVICE = [
    {"knob": "runtime: openvino", "predicted": 2.0, "trial": 3, "against": 0, "speedup": 1.5, "low": 1.4, "high": 1.6}
    | {"helped": True, "reason": None, "verdict": "faster"},
    {"knob": "prune", "predicted": 1.25, "trial": None, "against": 0, "speedup": None, "low": None, "high": None}
    | {"helped": None, "reason": "its recipe was not tried", "verdict": None},
]


def detailed(record: Record) -> Record:
    """Return a complete record with intervals, precision by class and the images with the most mistakes."""
    if record.state != "complete":
        return record
    metrics, number = record.metrics, record.number
    latency, change = metrics["latency_ms"], metrics["map"] - 0.512
    ends = {"latency_ms_low": latency * 0.97, "latency_ms_high": latency * 1.03}
    ends |= {"map_delta_low": change - 0.01, "map_delta": change, "map_delta_high": change + 0.01}
    ends |= {"map_small": metrics["map"] * 0.6, "map_medium": metrics["map"], "map_large": metrics["map"] * 1.2}
    classes = {"cat": metrics["map"] + 0.1, "dog": metrics["map"] - 0.1, "<b>rare</b>": None}
    worst = [{"image": f"{number}-{place}.jpg", "wrong": 4 - place, "missed": place} for place in range(3)]
    return changed(
        record, metrics={**metrics, **ends}, facts={**record.facts, "classes": classes, "worst_images": worst}
    )


def simulated_records(count: int) -> list[Record]:
    """Return both baselines and so many trials in all, a tenth of which failed."""
    source, records = random.Random(0), [detailed(record) for record in fake_records()[:2]]
    int8 = {"quantize": {"scheme": "int8", "images": 64}}
    for number in range(2, count):
        ratio = source.uniform(0, 0.8)
        steps = [prune(round(ratio, 3), source.choice(["l1", "l2"])), finetune(source.choice([2, 4, 8, 16]))]
        steps += [int8] if source.random() < 0.5 else []
        what = recipe(source.choice([96, 128, 160]), *steps, runtime=source.choice(["onnxruntime", "openvino"]))
        latency = (1.2 - ratio) * source.uniform(1.0, 6.0) * (0.7 if len(steps) > 2 else 1.0)
        quality = 0.30 + 0.08 * latency**0.6 - 0.1 * ratio**4 + source.gauss(0, 0.02)
        if source.random() < 0.1:
            why = f"RuntimeError: node {number % 7} is not supported"
            records.append(Record.failed(number, what, {}, "sampled", why, started=1_790_000_000.0 + 40 * number))
        else:
            records.append(detailed(complete(number, what, min(0.6, max(0.05, quality)), latency)))
    return records


def simulated_page(count: int) -> dict[str, Any]:
    """Return the data of a page with so many trials."""
    state = SweepState("simulated", 1_790_000_000.0, finished=True, planned=count, about={"dataset": "none"})
    results = target_results(simulated_records(count), violations={}, floors={"map": 0.35})
    pictures = invented_pictures([0, 1, *(one["trial"] for one in results.front["front"])], WEBP + "A" * 9000)
    return page_data(state, [results], written=1_790_900_000.0, importance=IMPORTANCE, pictures=pictures)
