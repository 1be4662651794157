"""Points that fill the space evenly."""

from __future__ import annotations

from typing import Any, ClassVar

from paretune.search.samplers import Sampler


class Sobol(Sampler):
    """Quasi-Monte Carlo: a scrambled Sobol sequence."""

    name: ClassVar[str] = "sobol"

    def build(self, seed: int) -> Any:
        """Build Optuna's sampler."""
        import warnings

        from optuna.samplers import QMCSampler

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is marked as experimental
            return QMCSampler(seed=seed, warn_independent_sampling=False)
