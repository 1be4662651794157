"""Whether a trained network has learned to detect."""

from __future__ import annotations

from collections.abc import Mapping

from paretune.core.metrics import metric_of

NOISE = 0.01
"""Value of ``map`` below which a network has not learned: random weights and boxes at random reach less."""


def unlearned_reason(metrics: Mapping[str, float | None], drops: Mapping[str, float] | None = None) -> str | None:
    """Return what a network lacks that is to be compressed, such as "has not learned: …"; None if nothing is known.

    Args:
        metrics: accuracy of the network on ``val``.
        drops: metric → largest loss that a version of it may have (``max_drop``).
    """
    if (found := metrics.get("map")) is not None and found < NOISE:
        return f"has not learned: its map is {found:.4f}, and below {NOISE:g} is noise"
    for name, drop in (drops or {}).items():
        value = metrics.get(name)
        if value is not None and metric_of(name).group == "accuracy" and "_delta" not in name and value <= drop:
            enough = "a network that finds nothing would be accurate enough"
            return f"has a {name} of only {value:.3f}, and constraints.{name}.max_drop is {drop:g}: {enough}"
    return None
