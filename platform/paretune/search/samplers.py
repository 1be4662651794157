"""Samplers, which propose the next point of a space: rows that make an Optuna sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pydantic import Field

from paretune.core.registry import Registry
from paretune.core.spec import Spec

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

SAMPLERS: Registry[Sampler] = Registry(
    "sampler",
    {
        "gp": "paretune.search.samplers:Gp",
        "tpe": "paretune.search.samplers:Tpe",
        "nsga2": "paretune.search.samplers:Nsga2",
        "random": "paretune.search.samplers:Random",
    },
)


class Sampler(Spec, ABC):
    """Proposes points."""

    @abstractmethod
    def build(self, seed: int) -> BaseSampler:
        """Build the Optuna sampler."""


class Gp(Sampler):
    """Gaussian process with expected hypervolume improvement: the best choice below some 100 trials.

    Daulton et al., Differentiable Expected Hypervolume Improvement, NeurIPS 2020 (arXiv:2006.05078).
    """

    name = "gp"
    startup: int = Field(default=8, ge=1)
    """Random points before the model is used; first points and finished trials count."""

    def build(self, seed: int) -> BaseSampler:
        """Build the Optuna sampler."""
        from optuna.samplers import GPSampler

        return GPSampler(seed=seed, n_startup_trials=self.startup, deterministic_objective=False)


class Tpe(Sampler):
    """Multi-objective tree-structured Parzen estimator; copes best with deeply conditional spaces.

    Ozaki et al., Multiobjective Tree-Structured Parzen Estimator, JAIR 2022.
    """

    name = "tpe"
    startup: int = Field(default=10, ge=1)
    """Random points before the model is used."""

    def build(self, seed: int) -> BaseSampler:
        """Build the Optuna sampler."""
        from optuna.samplers import TPESampler

        return TPESampler(seed=seed, n_startup_trials=self.startup)


class Nsga2(Sampler):
    """Genetic search, for many hundreds of trials. Deb et al., NSGA-II, IEEE TEC 2002."""

    name = "nsga2"
    population: int = Field(default=24, ge=2)
    """Points in one generation."""

    def build(self, seed: int) -> BaseSampler:
        """Build the Optuna sampler."""
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(seed=seed, population_size=self.population)


class Random(Sampler):
    """Points drawn evenly: the control every sampler must beat."""

    name = "random"

    def build(self, seed: int) -> BaseSampler:
        """Build the Optuna sampler."""
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)
