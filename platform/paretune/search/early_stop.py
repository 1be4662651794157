"""Decisions to stop a trial before its training, from the latency that its network will have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from paretune.search.latency_scale import SCALED
from paretune.search.pareto_front import FrontRules
from paretune.storage.trial_record import Record

MARGIN = 0.10
"""Share by which an expected latency must exceed what it is compared with: the decoding and the quick timing of an
untrained network are known to some percent only."""
AS_GOOD = 0.005
"""Loss of quality against the best version so far that counts as none: accuracy on a few hundred pictures is known to
about a point."""
LEAST = 8
"""Complete trials from the space before one is stopped as slower than another: with fewer the best accuracy so far says
little."""


def may_stop(records: Sequence[Record], ceilings: Mapping[str, float]) -> bool:
    """Return whether ``stop_reason`` can stop anything yet.

    Args:
        records: of the sweep so far.
        ceilings: metric → largest allowed value.
    """
    return any(metric in ceilings for metric in SCALED) or _searched(records) >= LEAST


def stop_reason(
    expected: Mapping[str, float], records: Sequence[Record], rules: FrontRules, ceilings: Mapping[str, float]
) -> str | None:
    """Return why a trial cannot pay, or None if it may.

    Args:
        expected: ``latency_ms`` and ``network_ms`` of the version, in milliseconds; either may be missing.
        records: of the sweep so far, on one scale.
        rules: of the sweep's front.
        ceilings: metric → largest allowed value.
    """
    for metric in SCALED:
        least = expected.get(metric, math.nan) / (1 + MARGIN)
        if metric in ceilings and least > ceilings[metric]:
            return f"expected {metric} {expected[metric]:.3g} is over the limit of {ceilings[metric]:.3g}"
    cost, quality = rules.cost, rules.quality
    complete = [record for record in records if record.state == "complete"]
    if cost.metric not in SCALED or cost.metric not in expected or quality.metric == cost.metric:
        return None
    if _searched(records) < LEAST:
        return None
    gains = {record.number: quality.gain(record.metrics) for record in complete}
    best = max((gain for gain in gains.values() if math.isfinite(gain)), default=math.nan)
    limit = expected[cost.metric] / (1 + MARGIN)
    faster = [
        record
        for record in complete
        if record.metrics.get(cost.metric, math.inf) < limit
        and gains[record.number] >= best - AS_GOOD
        and rules.feasible(record)
    ]
    if not faster:
        return None
    record = min(faster, key=lambda record: record.metrics[cost.metric])
    return (
        f"expected {cost.metric} {expected[cost.metric]:.3g}, and trial {record.number} needs "
        f"{record.metrics[cost.metric]:.3g} with {quality.metric} {record.metrics[quality.metric]:.3f}, "
        "which is as good as any so far"
    )


def _searched(records: Sequence[Record]) -> int:
    """Return the number of complete trials besides the baselines."""
    return sum(record.state == "complete" and record.origin != "baseline" for record in records)
