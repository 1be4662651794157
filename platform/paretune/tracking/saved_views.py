"""The experiment's page in MLflow's UI: a saved view with the front as a chart, and links to every sweep.

MLflow 3 keeps saved views as tags of the experiment. The format is its own and not documented, so the
views are written only where it is known, and a log without them is complete.
"""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paretune.core.spec import fingerprint
from paretune.search.pareto_front import Objective
from paretune.tracking.mlflow_client import NOTE, ON_FRONT, PARENT, SWEEP, TRIAL, run_page

if TYPE_CHECKING:
    from mlflow import MlflowClient

VIEW = "mlflow.sharedViewState."
HEADING = "**Paretune**"
"""First words of the experiment's description; one that begins otherwise is somebody's own and stays."""
KNOWN_MAJOR = 3
MOST_VIEWS = 30
"""Sweeps that have a view; MLflow shows at most 50."""


def offer_view(
    client: MlflowClient, experiment_id: str, sweep: str, run_id: str, objectives: Sequence[Objective]
) -> None:
    """Add a sweep's view to the experiment's *Views* menu and list the sweeps in its description.

    Of several sweeps of one name the one that asked last has the view.
    """
    from mlflow.exceptions import MlflowException

    if server_major(client.tracking_uri) != KNOWN_MAJOR:
        return
    with contextlib.suppress(MlflowException, OSError):  # a view less is no loss: the runs themselves are logged
        experiment = client.get_experiment(experiment_id)
        sweeps = client.search_runs(
            [experiment_id], f"tags.`{TRIAL}` = 'all'", order_by=["attributes.start_time DESC"], max_results=MOST_VIEWS
        )
        started = next((run.info.start_time for run in sweeps if run.info.run_id == run_id), 0)
        state = view_state(sweep, run_id, objectives, started)
        client.set_experiment_tag(experiment_id, VIEW + view_key(sweep), state)
        kept = {VIEW + view_key(run.data.tags[SWEEP]) for run in sweeps} | {VIEW + view_key(sweep)}
        for key in experiment.tags:
            if key.startswith(f"{VIEW}paretune-") and key not in kept:
                client.delete_experiment_tag(experiment_id, key)
        if experiment.tags.get(NOTE, HEADING).startswith(HEADING):
            named = [(run.data.tags[SWEEP], run.info.run_id) for run in sweeps]
            client.set_experiment_tag(experiment_id, NOTE, description(experiment_id, named))


def server_major(uri: str) -> int | None:
    """Return the major version of what draws the pages; None if it cannot be known."""
    import mlflow

    version = mlflow.__version__
    if uri.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/version", timeout=5) as answer:  # noqa: S310 - http(s) only
                version = answer.read(100).decode()
        except OSError:
            return None
    major = version.strip().split(".")[0]
    return int(major) if major.isdecimal() else None


def view_key(sweep: str) -> str:
    """Return the id of a sweep's view."""
    return f"paretune-{fingerprint('view', sweep)}"


def view_state(sweep: str, run_id: str, objectives: Sequence[Objective], created: int) -> str:
    """Return a saved view: the sweep's front as scatter chart and parallel coordinates.

    Args:
        sweep: its name.
        run_id: of the sweep's run, below which its trials are.
        objectives: the first to minimize is the horizontal axis.
        created: milliseconds since 1970.
    """
    x, y = (
        next((o.metric for o in objectives if o.direction == d), objectives[0].metric) for d in ("minimize", "maximize")
    )
    common = {"metricSectionId": "front", "deleted": False, "isGenerated": False, "runsCountToCompare": 500}
    scatter = {
        **common,
        "uuid": "scatter",
        "type": "SCATTER",
        "displayName": f"{y} against {x}",
        "xaxis": {"key": x, "type": "METRIC"},
        "yaxis": {"key": y, "type": "METRIC"},
    }
    parallel = {
        **common,
        "uuid": "parallel",
        "type": "PARALLEL",
        "displayName": "recipes of the front",
        "showAllRuns": False,
        "selectedParams": ["input_size", "runtime"],
        "selectedMetrics": list(dict.fromkeys([x, y, "size_mib"])),
    }
    state: dict[str, Any] = {
        "searchFilter": f"tags.`{PARENT}` = '{run_id}' and tags.`{ON_FRONT}` = 'true'",
        "orderByKey": f"metrics.`{x}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "runsHiddenMode": "SHOW_ALL",  # the default draws the first ten runs only
        "selectedColumns": [
            "tags.`paretune.recipe`",
            *(f"metrics.`{name}`" for name in dict.fromkeys([y, x, "map50", "size_mib"])),
        ],
        "isAccordionReordered": True,
        "compareRunSections": [
            {"uuid": "front", "name": "Pareto front", "display": True, "isReordered": True, "isGenerated": False}
        ],
        "compareRunCharts": [scatter, parallel],
    }
    body = {"name": f"front of {sweep}", "createdAt": created, "updatedAt": created, "state": json.dumps(state)}
    return json.dumps(body)


def description(experiment_id: str, sweeps: Sequence[tuple[str, str]]) -> str:
    """Return the experiment's description: links to each sweep's front, newest first.

    Args:
        experiment_id: of the experiment.
        sweeps: name and run id of each.
    """
    rows = [HEADING, ""]
    for name, run_id in sweeps:
        chart = f"#/experiments/{experiment_id}/runs?viewStateShareKey={view_key(name)}&compareRunsMode=CHART"
        rows.append(f"- {name}: [front]({run_page(experiment_id, run_id)}), [its runs as a chart]({chart})")
    return "\n".join(rows)
