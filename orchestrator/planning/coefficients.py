"""Coefficients of a sum of positive terms, fitted to measured times and to rules of thumb.

A time is the sum of features times positive coefficients. The logarithms of the coefficients have a
normal prior around the rules of thumb, and a measured time scatters log-normally around the sum. So
a measurement moves the coefficients that dominate it most, and times unlike the measured ones
remain uncertain.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Prior standard deviations of the logarithms: of the device's speed, common to all coefficients,
# and of each coefficient.
_COMMON_SPREAD = 0.5
_OWN_SPREAD = 1.0
_PRIOR_WEIGHT = 2.0  # the prior of the scale of the errors counts as this many measurements
_ITERATIONS = 50
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Coefficients:
    """Fitted coefficients of n features.

    values: `(n,)`, positive. covariance: `(n, n)`, of their logarithms. error_scale: how much
    larger the errors are than the fit expects, by the errors of each measurement under a fit to the
    others.
    """

    values: Array
    covariance: Array
    error_scale: float = 1.0

    @staticmethod
    def prior(thumb: Array) -> "Coefficients":
        """Return the rules of thumb `thumb`, `(n,)`, with the prior's covariance."""
        count = len(thumb)
        covariance = np.full((count, count), _COMMON_SPREAD**2) + _OWN_SPREAD**2 * np.eye(count)
        return Coefficients(thumb, covariance)

    @staticmethod
    def fit(features: Array, seconds: Array, thumb: Array, noise: Array) -> "Coefficients":
        """Return the most probable coefficients.

        features: `(m, n)`. seconds: `(m,)`, measured. thumb: `(n,)`, rules of thumb. noise: `(m,)`,
        standard deviations of log(measured time / sum).
        """
        prior = np.linalg.inv(Coefficients.prior(thumb).covariance)
        scaled, target = features * thumb, np.log(seconds)
        logs = np.zeros(len(thumb))

        def shares_and_errors(logs: Array) -> tuple[Array, Array]:
            terms = scaled * np.exp(logs)
            total = terms.sum(axis=1)
            return terms / total[:, None], (target - np.log(total)) / noise

        def badness(logs: Array) -> float:
            errors = shares_and_errors(logs)[1]
            return float(errors @ errors + logs @ prior @ logs)

        for _ in range(_ITERATIONS):  # Gauss-Newton with backtracking
            shares, errors = shares_and_errors(logs)
            jacobian = shares / noise[:, None]
            gradient = jacobian.T @ errors - prior @ logs
            change = np.linalg.solve(jacobian.T @ jacobian + prior, gradient)
            before = badness(logs)
            while badness(logs + change) > before and np.abs(change).max() > _TOLERANCE:
                change = change / 2
            logs = logs + change
            if np.abs(change).max() < _TOLERANCE:
                break
        shares, errors = shares_and_errors(logs)
        jacobian = shares / noise[:, None]
        covariance = np.linalg.inv(jacobian.T @ jacobian + prior)
        return Coefficients(thumb * np.exp(logs), covariance, _scale(jacobian, errors, covariance))

    def seconds(self, features: Array) -> float:
        """Return the sum for the features `(n,)`."""
        return float(features @ self.values)

    def spread(self, features: Array) -> float:
        """Return the standard deviation of the logarithm of `seconds(features)`."""
        terms = features * self.values
        shares = terms / terms.sum()
        return math.sqrt(shares @ self.covariance @ shares)


def _scale(jacobian: Array, errors: Array, covariance: Array) -> float:
    """Return `Coefficients.error_scale`; jacobian and errors are divided by the noise."""
    total, weight = _PRIOR_WEIGHT, _PRIOR_WEIGHT
    if len(errors) > 1:  # a single one has nothing to differ from
        # To first order, error and spread under a fit to the others follow from the leverage.
        leverage = np.einsum("mi,ij,mj->m", jacobian, covariance, jacobian)
        total += float(np.sum(errors**2 / (1 - leverage)))
        weight += len(errors)
    return math.sqrt(total / weight)
