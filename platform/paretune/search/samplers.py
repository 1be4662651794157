"""Samplers, which propose the next point of a space: rows that make an Optuna sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pydantic import Field

from paretune.core.registry import Registry
from paretune.core.spec import Spec

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from paretune.search.space import Space

SAMPLERS: Registry[Sampler] = Registry(
    "sampler",
    {
        "gp": "paretune.search.samplers:Gp",
        "conditional": "paretune.search.samplers:Conditional",
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

    def build_for(self, space: Space, seed: int) -> BaseSampler:  # noqa: ARG002 - for overriding
        """Build the Optuna sampler for a space; most samplers learn the parameters from the trials."""
        return self.build(seed)


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


class Conditional(Sampler):
    """Gaussian processes over the whole conditional space, also the parameters inside options.

    Hypervolume improvement as for ``gp``, times the probability that the constraints are met and the trial succeeds.
    Emmerich et al., CEC 2011; Hvarfner et al., ICML 2024 (arXiv:2402.02229).
    """

    name = "conditional"
    startup: int = Field(default=8, ge=2)
    """Random points before the model is used; first points and finished trials count."""

    def build(self, seed: int) -> BaseSampler:  # noqa: ARG002 - of the base class
        """Raise an error: without the space there is nothing to model.

        Raises:
            TypeError: always.
        """
        raise TypeError("the sampler `conditional` is built for a space: call build_for")

    def build_for(self, space: Space, seed: int) -> BaseSampler:
        """Build the Optuna sampler."""
        from paretune.search.conditional_sampler import ConditionalSampler

        return ConditionalSampler(space, seed, self.startup)


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
