"""A sweep for two targets that never ran, and figures for both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from paretune.config.job import Job
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_record import Record
from tests_support_records import complete, recipe, write_sweep

JOB: dict[str, Any] = {
    "dataset": {"shapes": {"train": 8, "val": 4, "size": "64x48"}},
    "detector": {"yolo": {"variant": "nano"}},
    "input_size": 160,
    "space": "space.yaml",
    "targets": {"one": {"threads": 1}, "two": {"threads": 2}},
}
SPACE = "{input_size: {choices: [128, 160]}, steps: [{prune: {ratio: {low: 0.1, high: 0.5}}}], runtime: onnxruntime}"


def duet(share: float, reference_ms: float) -> dict[str, Any]:
    """Facts of a duet with trial 1, whose latency is ``reference_ms``."""
    ratios = {f"{part}{end}": share for part in ("", "network_") for end in ("ratio", "low", "high")}
    return {**ratios, "reference": 1, "reference_ms": reference_ms, "reference_network_ms": reference_ms, "calm": True}


def figures(latency: float, share: float, reference_ms: float) -> dict[str, Any]:
    """A target's part of a record."""
    metrics = {"latency_ms": latency, "network_ms": latency, "latency_ms_p50": latency, "memory_mib_peak": 100.0}
    return {"metrics": metrics, "reasons": {}, "facts": {"threads": 1, "duet": duet(share, reference_ms)}}


def on_both(number: int, quality: float, one: float | None, two: float | None, **more: Any) -> Record:
    """A complete record with its latency on two targets in ms; None on a target that cannot run it."""
    unable = {"metrics": {}, "reasons": {"latency_ms": "cannot run it"}, "facts": {}}
    parts = {
        name: unable if latency is None else figures(latency, latency / reference, reference)
        for name, latency, reference in (("one", one, 4.0), ("two", two, 3.0))
    }
    runtime = "eager" if number == 0 else "onnxruntime"
    record = complete(number, recipe(128 + 32 * (number % 3), runtime=runtime), quality, 1.0, **more)
    shared = {name: value for name, value in record.metrics.items() if not name.startswith(("latency", "network"))}
    first = parts["one"]
    metrics, reasons = {**shared, **first["metrics"]}, {**record.reasons, **first["reasons"]}
    return replace(record, metrics=metrics, reasons=reasons, facts={**first["facts"], "left_out": []}, targets=parts)


def two_target_sweep(runs: Path, records: list[Record], job: Mapping[str, Any] = JOB, name: str = "both") -> Sweep:
    """A sweep with records on disk."""
    made = Sweep(runs, name)
    made.folder.mkdir()
    facts = {"paretune": "0", "name": name, "created": 5.0, "job": Job.model_validate(job).tree(), "promises": []}
    (made.folder / "sweep.json").write_text(json.dumps(facts))
    (made.folder / "space.yaml").write_text(SPACE)
    write_sweep(made.folder, records)
    return made


def records_on_both() -> list[Record]:
    """Baselines, versions that are fast on one of the targets, and two that one of them cannot run."""
    return [
        on_both(0, 0.50, 9.0, 7.0),
        on_both(1, 0.50, 4.0, 3.0),
        on_both(2, 0.49, 2.0, 2.5),
        on_both(3, 0.48, 3.0, 1.0),
        on_both(4, 0.47, 1.5, 2.8),
        on_both(5, 0.46, None, 0.5),
        on_both(6, 0.45, 0.8, None),
        on_both(7, 0.44, 3.5, 2.9),
    ]
