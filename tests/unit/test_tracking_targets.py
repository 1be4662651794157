"""The log of a sweep for two targets: the figures of each, written once and not changed by a second time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paretune.results.sweep_folder import Sweep
from paretune.tracking.log_names import log_name
from paretune.tracking.mlflow_client import database_uri
from paretune.tracking.target_log import target_values
from paretune.workflows.sweep_log_worker import SweepLog
from tests_support_records import compared
from tests_support_targets import on_both, records_on_both, two_target_sweep

LATENCY, SIZE, VOLUME = map(log_name, ("latency_ms", "front_size", "hypervolume"))


def logged(runs: Path) -> dict[str, Any]:
    """Return name of a run → its metrics with their histories, its tags of fronts, its files."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=database_uri(runs))
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    found = {}
    for run in client.search_runs(ids):
        histories = {
            name: sorted(
                (one.step, one.timestamp, one.value) for one in client.get_metric_history(run.info.run_id, name)
            )
            for name in run.data.metrics
        }
        fronts = {name: text for name, text in run.data.tags.items() if name.startswith("paretune.front")}
        files = sorted(file.path for file in client.list_artifacts(run.info.run_id))
        found[run.data.tags["paretune.trial"]] = (dict(run.data.metrics), histories, fronts, files)
    return found


@pytest.mark.slow
def test_the_log_has_the_figures_of_every_target(tmp_path: Path) -> None:
    sweep = two_target_sweep(tmp_path, records_on_both())
    log = SweepLog(sweep)
    log.start()
    log.update(draw=True)
    log.wait()
    first = logged(tmp_path)
    metrics, _, fronts, _ = first["3"]
    assert (metrics[LATENCY], metrics[f"two/{LATENCY}"]) == (pytest.approx(3.0), pytest.approx(1.0))
    assert metrics[f"two/{log_name('memory_mib_peak')}"] == 100.0
    assert f"two/{log_name('map')}" not in metrics
    assert fronts == {"paretune.front": "true", "paretune.front.one": "false", "paretune.front.two": "true"}
    assert f"two/{LATENCY}" not in first["6"][0]
    assert LATENCY not in first["5"][0]
    whole, _, _, files = first["all"]
    assert (whole[SIZE], whole[f"two/{SIZE}"]) == (4.0, 4.0)
    assert whole[f"two/{VOLUME}"] != whole[VOLUME]
    assert {"front", "front-two"} <= set(files)
    again = SweepLog(Sweep(sweep.runs, sweep.name))
    again.start()
    again.update(draw=True)
    again.wait()
    assert logged(tmp_path) == first
    told = {**compared(records_on_both(), {0: 2.25, 1: 1.0, 3: 0.5}), "reference_ms": 3.0}
    sweep.on("two").comparison.write_text(json.dumps(told))
    again.finish()
    last = logged(tmp_path)["3"][0]
    assert last[f"two/{LATENCY}"] == pytest.approx(1.5)
    assert last[LATENCY] == pytest.approx(3.0)
    assert last[f"two/{log_name('speedup_vs_onnxruntime')}"] == pytest.approx(2.0)


def test_what_the_log_gets_of_a_target_is_what_was_measured_on_it() -> None:
    values = target_values({**on_both(2, 0.5, 2.0, 2.5).targets["two"]["metrics"], "map": 0.5})
    assert values == {"latency_ms": 2.5, "network_ms": 2.5, "latency_ms_p50": 2.5, "memory_mib_peak": 100.0}
