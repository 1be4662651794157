"""Rules that choose one version of a front, and the bundle of the chosen one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.errors import UserError

if TYPE_CHECKING:
    from paretune.results.pick import PickRule


@dataclass(frozen=True)
class Bundle:
    """One version of a front, copied into a folder of its own."""

    folder: Path
    """An artefact, with the reason of its choice in ``bundle.json``."""
    facts: Mapping[str, Any]
    """Contents of ``bundle.json``: sweep, trial, rule, figures and intervals."""
    text: str
    """The point, why it was chosen, and its neighbours on the front."""

    def __fspath__(self) -> str:
        """Return the folder's path, so that a bundle stands for its folder."""
        return str(self.folder)


def rule_of(
    *,
    max_latency: str | float | None = None,
    max_drop: float | None = None,
    min: str | Mapping[str, float] | None = None,  # noqa: A002 - as the option --min
    knee: bool = False,
) -> PickRule:
    """Return the rule that the arguments of `Front.pick` name.

    Raises:
        UserError: several rules, or a limit that is not valid.
    """
    from paretune.results.pick import PickRule, lower_bound, milliseconds

    given = {"max_latency": max_latency, "max_drop": max_drop, "min": min, "knee": knee or None}
    if len(named := [name for name, value in given.items() if value is not None]) > 1:
        raise UserError(f"{' and '.join(named)}: one rule chooses a point; give one of them")
    if max_latency is not None:
        return PickRule(
            "max_latency", milliseconds(max_latency if isinstance(max_latency, str) else f"{max_latency}ms")
        )
    if max_drop is not None:
        if not (math.isfinite(max_drop) and max_drop >= 0):
            raise UserError(f"--max-drop {max_drop:g}: expected a number from 0, such as 0.01")
        return PickRule("max_drop", max_drop)
    if isinstance(min, str):
        return lower_bound(min)
    if min is not None:
        if len(min) != 1:
            raise UserError(f"min: expected one metric, such as {{'map50': 0.7}}; got {dict(min)}")
        ((metric, value),) = min.items()
        return lower_bound(f"{metric}={value}")
    return PickRule("knee" if knee else "recommended")
