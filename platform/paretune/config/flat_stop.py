"""The rule that ends a search whose front no longer improves."""

from __future__ import annotations

from pydantic import Field

from paretune.core.spec import Spec


class FlatStop(Spec):
    """The search ends when the last trials raised the hypervolume of the front by less than a share of it."""

    trials: int = Field(default=8, ge=1, le=100_000)
    """Number of last trials, failed ones included."""
    gain: float = Field(default=0.01, gt=0, le=1)
    """Smallest share of the present hypervolume by which these trials have to raise it."""
