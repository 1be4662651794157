"""A sweep that never ran: records as a sweep writes them, for the tests of what is made from records."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from paretune.config.job import Job
from paretune.core.spec import flat
from paretune.results.sweep_folder import Sweep
from paretune.search.pareto_front import FrontRules, Objective, front_object
from paretune.storage.trial_record import Record, write_record

OBJECTIVES = (Objective("map", "maximize"), Objective("latency_ms", "minimize"))
FLOOR = 0.72
"""Smallest map50 that the sweep allows."""


def feasible(record: Record) -> bool:
    return record.metrics.get("map50", 0.0) >= FLOOR


def judge(objectives: Sequence[Objective] = OBJECTIVES, allowed: Callable[[Record], bool] = feasible) -> FrontRules:
    return FrontRules(objectives, allowed, ("map50",))


def recipe(size: int | str, *steps: dict[str, Any], runtime: str = "onnxruntime") -> dict[str, Any]:
    return {"input_size": size, "steps": list(steps), "runtime": {runtime: {}}}


def prune(ratio: float, importance: str = "l1") -> dict[str, Any]:
    return {"prune": {"ratio": ratio, "importance": importance, "round_to": 8}}


def finetune(epochs: int) -> dict[str, Any]:
    return {"finetune": {"epochs": epochs, "lr_factor": 0.5}}


INT8 = {"quantize": {"scheme": "int8", "images": 64}}


def complete(number: int, what: dict[str, Any], quality: float, latency: float, **more: Any) -> Record:
    metrics = {
        "map": quality,
        "map50": min(1.0, quality * 1.62),
        "precision": 0.81,
        "recall": 0.74,
        "f1": 0.773,
        "latency_ms": latency,
        "network_ms": latency * 0.8,
        "latency_ms_p50": latency,
        "latency_ms_p90": latency * 1.12,
        "network_ms_p50": latency * 0.8,
        "size_mib": 3.5 * latency / 9,
        "coded_mib": 3.2 * latency / 9,
        "params": 910_000.0 * latency / 9,
        "flops": 3.1e8 * latency / 9,
    }
    return Record(
        number=number,
        state="complete",
        recipe=what,
        params={"input_size": str(what["input_size"]), "runtime": next(iter(what["runtime"]))}
        | flat({name: fields for step in what["steps"] for name, fields in step.items()}),
        metrics=metrics | more.pop("metrics", {}),
        reasons={"latency_ms_p99": "662 samples are needed, there are 300"},
        notes=(),
        failure=None,
        artefact=more.pop("artefact", f"trials/{number:04d}/artefact"),
        origin=more.pop("origin", "baseline" if number < 2 else ("enqueued" if number < 6 else "sampled")),
        started=1_790_000_000.0 + 40 * number,
        seconds={"finetune": 25.0, "evaluate": 4.0, "measure": 6.0},
        facts={"threads": 1},
        **more,
    )


def fake_records() -> list[Record]:
    """Fourteen trials: both baselines, a front of five, dominated, infeasible and failed ones."""
    rows = [
        complete(0, recipe(160, runtime="eager"), 0.512, 9.1),
        complete(1, recipe(160), 0.512, 4.3),
        complete(2, recipe(160, INT8), 0.503, 3.1),
        complete(3, recipe(160, prune(0.3), finetune(6)), 0.517, 3.4),
        complete(4, recipe(160, prune(0.5), finetune(8)), 0.498, 2.6),
        complete(5, recipe(128, prune(0.3), finetune(8), INT8), 0.47, 1.7),
        complete(6, recipe(160, prune(0.45, "l2"), finetune(4), INT8), 0.482, 2.2),
        complete(7, recipe(160, prune(0.2), finetune(3)), 0.495, 3.9),
        complete(8, recipe(128, prune(0.55), finetune(8), INT8), 0.449, 1.25),
        complete(9, recipe(128, prune(0.6, "l2"), finetune(3), INT8), 0.31, 1.1),
        complete(11, recipe(128), 0.462, 2.9),
        complete(12, recipe("160x128", prune(0.4), finetune(7), INT8), 0.479, 1.95),
        complete(13, recipe(128, prune(0.35), finetune(5)), 0.468, 2.05),
    ]
    broken = Record.failed(
        10,
        recipe(128, prune(0.6), finetune(8), INT8),
        {"input_size": "128", "prune.ratio": 0.6},
        "sampled",
        "RuntimeError: calibration saw <no> images & gave up",
        started=1_790_000_400.0,
        seconds={"prune": 1.5},
    )
    return sorted([*rows, broken], key=lambda record: record.number)


def write_sweep(folder: Path, records: list[Record]) -> None:
    """Write records with artefacts and samples beside them, as trials do."""
    for record in records:
        write_record(folder, record)
        if record.artefact is not None:
            (folder / record.artefact).mkdir(parents=True, exist_ok=True)
            (folder / record.artefact / "model.onnx").write_bytes(b"onnx" * 10)
            (folder / record.artefact / "artefact.json").write_text("{}")
            (folder / "trials" / f"{record.number:04d}" / "samples.npz").write_bytes(b"samples")
        else:
            (folder / "trials" / f"{record.number:04d}" / "failure.txt").write_text("Traceback …")


def front_of(records: list[Record], name: str = "demo") -> dict[str, Any]:
    return front_object(name, "laptop", records, judge())


def comparison() -> dict[str, Any]:
    """Speed-ups as versions before duets have kept them."""
    trials = {}
    for record in fake_records():
        if record.state == "complete":
            rows = {}
            for name, base in (("eager", 9.1), ("onnxruntime", 4.3)):
                gain = base / record.metrics["latency_ms"]
                verdict = "tied" if abs(gain - 1) < 0.03 else ("faster" if gain > 1 else "slower")
                low, high = (1.0, 1.0) if gain == 1 else (gain * 0.97, gain * 1.04)
                rows[name] = {"speedup": gain, "low": low, "high": high, "verdict": verdict}
                rows[name]["network_speedup"] = gain
            trials[str(record.number)] = rows
    return {"mode": "clean", "images": 100, "trials": trials}


def changed(record: Record, **fields: Any) -> Record:
    return dataclasses.replace(record, **fields)


def compared(
    records: Sequence[Record], ratios: Mapping[int, float], *, ties: Sequence[tuple[int, int]] = ()
) -> dict[str, Any]:
    """A comparison as ``finalists.compare_front`` returns it: trial → its latency as a share of trial 1's."""
    tied = {frozenset(pair) for pair in ties}

    def verdict(one: int, other: int) -> str:
        if frozenset((one, other)) in tied:
            return "tied"
        return "faster" if ratios[one] < ratios[other] else "slower"

    bases = {0: "eager", 1: "onnxruntime"}
    return {
        "mode": "clean",
        "notes": [],
        "images": 100,
        "rounds": 4,
        "reference": 1,
        "reference_ms": 4.0,
        "reference_network_ms": 3.2,
        "calm": True,
        "seen": sorted(record.number for record in records),
        "left_out": {},
        "trials": {
            str(one): {
                name: {
                    "speedup": ratios[base] / ratio,
                    "low": ratios[base] / ratio * (1 if base == one else 0.98),
                    "high": ratios[base] / ratio * (1 if base == one else 1.02),
                    "verdict": "tied" if base == one else verdict(one, base),
                    "network_speedup": ratios[base] / ratio,
                }
                for base, name in bases.items()
                if base in ratios
            }
            for one, ratio in ratios.items()
        },
        "latencies": {
            str(one): {
                **{f"{part}ratio": ratio for part in ("", "network_")},
                **{f"{part}low": ratio * (1 if one == 1 else 0.98) for part in ("", "network_")},
                **{f"{part}high": ratio * (1 if one == 1 else 1.02) for part in ("", "network_")},
                "unstable": False,
            }
            for one, ratio in ratios.items()
        },
        "verdicts": {str(a): {str(b): verdict(a, b) for b in ratios if b != a} for a in ratios},
        "test": None,
        "no_test": "the data has no split test",
        "ended": 1_790_001_000.0,
    }


def finished_sweep(runs: Path, job: Mapping[str, Any]) -> Sweep:
    """A finished sweep called demo with the invented records, made as a new one is."""
    made = Sweep(runs, "demo")
    made.folder.mkdir()
    facts = {"paretune": "0", "name": "demo", "created": 5.0, "job": Job.model_validate(job).tree(), "promises": []}
    (made.folder / "sweep.json").write_text(json.dumps(facts))
    write_sweep(made.folder, fake_records())
    made.mark_finished()
    return made


class NoLatency:
    """In place of a measurement: what is not asked for here."""

    reasons: dict[str, str] = {}  # noqa: RUF012 - never changed
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = {  # noqa: RUF012
        "ratio": 1.0,
        "low": 1.0,
        "high": 1.0,
        "network_ratio": 1.0,
        "network_low": 1.0,
        "network_high": 1.0,
        "reference_ms": 2.0,
        "reference_network_ms": 1.0,
        "calm": True,
    }
    latency = SimpleNamespace(facts={})

    def metrics(self) -> dict[str, float]:
        return {}

    def save_samples(self, file: Path) -> None:
        pass


def no_latency(*_: Any, **__: Any) -> Any:
    return NoLatency()
