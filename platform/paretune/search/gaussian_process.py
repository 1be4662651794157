"""Gaussian process regression in numpy: a Matérn 5/2 kernel with one length for each column.

Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006. The prior of the lengths grows with the number of
columns: Hvarfner et al., Vanilla Bayesian Optimization Performs Great in High Dimensions, ICML 2024 (arXiv:2402.02229).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Floats = NDArray[np.float64]
ROOT = math.sqrt(5.0)
LENGTH = math.sqrt(2.0) - 3.0
"""Logarithm of the likeliest length in its prior, for one column."""
LENGTH_SPREAD = math.sqrt(3.0)
"""Standard deviation of the logarithm of a length in its prior."""
NOISE = (math.log(0.02), 1.0)
"""Mean and standard deviation of the logarithm of the noise variance in its prior; the values have variance 1."""
SCALE = (0.0, 0.5)
"""Mean and standard deviation of the logarithm of the signal variance in its prior."""
JITTER = 1e-6
LIMIT = 12.0
"""Largest absolute value of a logarithm of a parameter."""


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted regression; ``fitted`` makes it."""

    x: Floats
    """(N, D) inputs."""
    parameters: Floats
    """(D + 2,) logarithms: inverse squared lengths, signal variance, noise variance."""
    factor: Floats
    """(N, N) lower Cholesky factor of the covariance of the observations."""
    weights: Floats
    """(N,) covariance⁻¹ · observations."""
    noise: Floats
    """(N,) known variance of the noise of each observation, beside the noise that all of them share."""

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Return mean and standard deviation (M,) of the function without noise, at inputs (M, D)."""
        lengths, scale = np.exp(self.parameters[:-2] / 2), math.exp(self.parameters[-2])
        covariance = scale * _matern(_squared_distances(x * lengths, self.x * lengths))
        mean = covariance @ self.weights
        explained = (solve_triangular(self.factor, covariance.T, lower=True) ** 2).sum(axis=0)
        return mean, np.sqrt(np.maximum(scale - explained, 1e-12))

    def with_observations(self, x: Floats) -> GaussianProcess:
        """Return the process with further inputs at which its own mean was observed, for trials that are running."""
        if not len(x):
            return self
        mean, _ = self.predict(x)
        known = self.factor @ (self.factor.T @ self.weights)
        noise = np.concatenate([self.noise, np.zeros(len(x))])
        return conditioned(np.concatenate([self.x, x]), np.concatenate([known, mean]), self.parameters, noise)


def fitted(
    x: Floats,
    y: Floats,
    active: float,
    start: Floats | None = None,
    iterations: int = 40,
    noise: Floats | None = None,
) -> GaussianProcess:
    """Fit the process to observations by the maximum of the posterior of its parameters.

    Args:
        x: (N, D) inputs, each column from 0 to 1.
        y: (N,) observations with mean 0 and variance 1.
        active: number of columns in which two inputs typically differ.
        start: parameters to start from, of an earlier fit; None takes the mean of the prior.
        iterations: most steps of the optimizer.
        noise: (N,) known variance of the noise of each observation, such as of a measurement with an interval; the
            noise that all observations share is fitted and added. None is 0.
    """
    count, columns = x.shape
    own = np.zeros(count) if noise is None else noise
    if start is not None and not iterations:
        return conditioned(x, y, start, own)
    length = -2 * (LENGTH + math.log(max(active, 1.0)) / 2)
    prior = np.array([*[length] * columns, SCALE[0], NOISE[0]])
    spread = np.array([*[2 * LENGTH_SPREAD] * columns, SCALE[1], NOISE[1]])
    upper = np.triu_indices(count, 1)
    squares = ((x[upper[0]] - x[upper[1]]) ** 2).T.copy()

    def loss(parameters: Floats) -> tuple[float, Floats]:
        inverse, scale, shared = np.exp(parameters[:-2]), math.exp(parameters[-2]), math.exp(parameters[-1])
        distance = np.sqrt(inverse @ squares)
        decay = np.exp(-ROOT * distance)
        pairs = (1 + ROOT * distance + 5 / 3 * distance**2) * decay
        kernel = np.eye(count)
        kernel[upper] = pairs
        kernel[upper[1], upper[0]] = pairs
        try:
            factor = cholesky(scale * kernel + np.diag(shared + JITTER + own), lower=True)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(parameters)
        inverted = cho_solve((factor, True), np.eye(count))
        weights = inverted @ y
        outer = (inverted - np.outer(weights, weights)) / 2
        slope = 2 * outer[upper] * scale * (-5 / 6) * (1 + ROOT * distance) * decay
        gradient = np.array(
            [*(inverse * (squares @ slope)), scale * float((outer * kernel).sum()), shared * float(np.trace(outer))]
        )
        off = (parameters - prior) / spread
        value = float(y @ weights) / 2 + float(np.log(np.diag(factor)).sum()) + float(off @ off) / 2
        return value, gradient + off / spread

    first = prior if start is None or len(start) != len(prior) else start
    bounds = [(-LIMIT, LIMIT)] * len(prior)
    found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations})
    return conditioned(x, y, np.asarray(found.x, np.float64), own)


def conditioned(x: Floats, y: Floats, parameters: Floats, noise: Floats) -> GaussianProcess:
    """Return the process of given parameters after observations.

    Args:
        x: (N, D) inputs.
        y: (N,) observations.
        parameters: (D + 2,) as ``GaussianProcess.parameters``.
        noise: (N,) known variance of the noise of each observation.
    """
    lengths, scale, shared = np.exp(parameters[:-2] / 2), math.exp(parameters[-2]), math.exp(parameters[-1])
    kernel = scale * _matern(_squared_distances(x * lengths, x * lengths))
    factor = cholesky(kernel + np.diag(shared + JITTER + noise), lower=True)
    return GaussianProcess(x, parameters, factor, cho_solve((factor, True), y), noise)


def _squared_distances(one: Floats, other: Floats) -> Floats:
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None, :] - 2 * one @ other.T
    distances: Floats = np.maximum(squares, 0.0)
    return distances


def _matern(squares: Floats) -> Floats:
    distance = ROOT * np.sqrt(squares)
    values: Floats = (1 + distance + distance**2 / 3) * np.exp(-distance)
    return values
