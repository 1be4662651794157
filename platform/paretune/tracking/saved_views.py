"""Saved views of MLflow's page of runs: the trials of one sweep, as a table of few columns and as charts.

MLflow keeps a view in a tag of the experiment, in a form of its own that other versions may change: without a known
version nothing is written.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

from paretune.tracking.mlflow_client import ON_FRONT, PARENT
from paretune.tracking.trial_values import QUALITY

TAG = "mlflow.sharedViewState."
"""Beginning of the tag of a view; its key follows."""
KNOWN = ((3, 10), (4, 0))
"""First MLflow whose page reads such a view, and the first that is not known."""
MOST = 20
"""Views of sweeps in one experiment; MLflow's page lists 40."""
COLUMNS = ("size", "prune", "finetune", "precision", "runtime")
"""Params that are columns of the table and axes of the chart."""

RUN_NAME = "attributes.`Run Name`"
"""Column of the names of runs."""
NAME_WIDTH, WIDTH = 320, 90
"""Widths of that column and of the others, in pixels."""


def known_version(version: str) -> bool:
    """Return whether this MLflow's page reads views as they are written here."""
    words = version.split(".")
    if len(words) < 2 or not (words[0].isdecimal() and words[1].isdecimal()):
        return False
    return KNOWN[0] <= (int(words[0]), int(words[1])) < KNOWN[1]


def view_key(run_id: str, target: str) -> str:
    """Return the key of the view of a sweep's run and one target."""
    return f"paretune{run_id[:12]}{base64.b32encode(target.encode()).decode().rstrip('=').lower()}"


def view_value(name: str, made: int, run_id: str, metrics: Sequence[str]) -> str:
    """Return a view as MLflow keeps it.

    Args:
        name: of the view.
        made: time in milliseconds since 1970.
        run_id: id of the sweep's run.
        metrics: metrics of the table by their names in the log; the first is the vertical axis of the chart, the
            second the horizontal one.
    """
    text = json.dumps(_state(name, run_id, metrics), separators=(",", ":"))
    packed = base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    return json.dumps({"name": name, "createdAt": made, "updatedAt": made, "state": f"deflate;{packed}"})


def _state(name: str, run_id: str, metrics: Sequence[str]) -> dict[str, Any]:
    """Return the state of the page: filter, order, columns and charts."""
    quality, cost = metrics[0], metrics[min(1, len(metrics) - 1)]
    columns = [*(f"params.`{param}`" for param in COLUMNS), *(f"metrics.`{metric}`" for metric in metrics)]
    tags = [f"tags.`{ON_FRONT}`", f"tags.`{QUALITY}`"]
    order = [*columns[len(COLUMNS) :], *columns[: len(COLUMNS)], *tags]
    section = "paretune-front"
    common = {"metricSectionId": section, "deleted": False, "isGenerated": False}
    return {
        "searchFilter": f"tags.`{PARENT}` = '{run_id}'",
        "orderByKey": f"metrics.`{cost}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*columns, *tags],
        "columnOrder": [RUN_NAME, *order],
        "columnWidths": {RUN_NAME: NAME_WIDTH, **dict.fromkeys(order, WIDTH)},
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        "groupBy": None,
        "compareRunSections": [
            {
                "uuid": section,
                "name": name,
                "display": True,
                "isReordered": True,
                "deleted": False,
                "isGenerated": False,
                "columns": 1,
                "cardHeight": 460,
            }
        ],
        "compareRunCharts": [
            {
                **common,
                "type": "SCATTER",
                "uuid": "paretune-scatter",
                "displayName": f"{quality} against {cost}",
                "runsCountToCompare": 10_000,
                "xaxis": {"key": cost, "type": "METRIC"},
                "yaxis": {"key": quality, "type": "METRIC"},
            },
            {
                **common,
                "type": "PARALLEL",
                "uuid": "paretune-parallel",
                "displayName": "Compression settings",
                "runsCountToCompare": 10_000,
                "showAllRuns": True,
                "selectedParams": list(COLUMNS),
                "selectedMetrics": [quality, cost],
            },
        ],
        "isAccordionReordered": True,
    }
