"""What noisy learning curves truly look like: each epoch's value given those of all epochs of all trials.

Measured values y (M,) are f + noise. The noise's covariance is known, since the same images stand behind all values;
the truth f is taken for a Gaussian process,

    f = mean + common(epoch) + trial + own(trial, epoch) + jump(trial, epoch),

with a curve that all trials share, how far trials lie apart, each trial's own curve about the shared one, and what
changes from epoch to epoch with no memory. How large each part is, and how many epochs a curve takes to turn, is
estimated by restricted maximum likelihood under wide priors (empirical Bayes). E[f | y] = W y is then linear in y, and
the candidate with the largest expectation is the choice that gives away least, as far as the model holds.

A curve's steep beginning is not of this kind, and is no candidate: what lies far below the top is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

ROUNDING = 1e-9  # of the largest value: what lies nearer together is equal, sums being rounded
_WITHIN_REACH = 7  # standard errors below the top, as a mean over neighbours, from where on an epoch is left alone
_NEIGHBOURS = 3  # on each side, in that mean
_FITTED = 200  # epochs at most that the sizes of the parts are estimated from; the time grows with the cube
_LAGS = 12  # epochs from which on the noise of two epochs of one trial is as alike as it gets
_EVALUATIONS = 180
# Of the logarithms of: what lies between trials, in own curves, in jumps, in the common curve (as multiples of the
# noise's variance), and of the epochs to a turn, as a multiple of a quarter of the longest curve.
_PRIOR_MEAN = np.array([0.0, -1.0, -2.0, -1.0, 0.0])
_PRIOR_SPREAD = np.array([2.0, 2.0, 2.0, 2.0, 1.0])


def expectation(values: Array, errors: Array, trial: Ints, epoch: Ints) -> Array:
    """W (M, M), rows adding up to 1, such that W @ values are the expected true values, more being better.

    `errors` (R, M): by how much other samples of the same size would have differed. Where there is no noise but that of
    rounding W is the identity.
    """
    W = np.eye(len(values))
    spread = errors.std(axis=0)
    if spread.max() <= ROUNDING * np.abs(values).max():
        return W
    around = _mean_of_neighbours(values, trial, epoch)
    near = around >= around.max() - _WITHIN_REACH * np.sqrt(np.square(spread).mean())
    near[values.argmax()] = True
    rows = np.flatnonzero(near)
    noise = _noise(errors[:, rows], trial[rows], epoch[rows])
    model = _Model(trial[rows], epoch[rows], float(np.diag(noise).mean()), max(1.0, float(epoch.max()) / 4))
    some = _spread_over_trials(trial[rows])
    sizes = model.take(some).fit(values[rows][some], noise[np.ix_(some, some)])
    W[np.ix_(rows, rows)] = model.expectation(sizes, noise)
    return W


@dataclass(frozen=True)
class _Model:
    """The truth's covariance at these epochs of these trials, but for the sizes of its parts."""

    trial: Ints
    epoch: Ints
    unit: float  # a variance: the noise's
    turn: float  # epochs

    def take(self, rows: Ints) -> _Model:
        return _Model(self.trial[rows], self.epoch[rows], self.unit, self.turn)

    def covariance(self, sizes: Array) -> Array:
        apart, own, jump, common = self.unit * np.exp(sizes[:4])
        same = self.trial[:, None] == self.trial
        lag = (self.epoch[:, None] - self.epoch) / (self.turn * np.exp(sizes[4]))
        alike = np.exp(-np.square(lag) / 2)
        covariance: Array = common * alike + same * (apart + own * alike) + jump * np.eye(len(lag))
        return covariance

    def fit(self, values: Array, noise: Array) -> Array:
        """The likeliest sizes."""
        from scipy.optimize import minimize  # a fifth of a second, for those who have evidence

        both = np.stack([values, np.ones(len(values))], axis=1)

        def loss(sizes: Array) -> float:
            try:
                root = np.linalg.cholesky(self.covariance(sizes) + noise)
            except np.linalg.LinAlgError:
                return np.inf
            of_values, of_mean = np.linalg.solve(root, both).T
            weight = of_mean @ of_mean
            misfit = of_values @ of_values - (of_values @ of_mean) ** 2 / weight
            prior = np.square((sizes - _PRIOR_MEAN) / _PRIOR_SPREAD).sum()
            return float(np.log(np.diag(root)).sum() + (np.log(weight) + misfit + prior) / 2)

        options = {"maxfev": _EVALUATIONS, "xatol": 0.1, "fatol": 0.05}
        sizes: Array = minimize(loss, _PRIOR_MEAN, method="Nelder-Mead", options=options).x
        return sizes

    def expectation(self, sizes: Array, noise: Array) -> Array:
        """W of `expectation`; the mean is what generalised least squares makes of the values."""
        covariance = self.covariance(sizes)
        M = len(covariance)
        precision = np.linalg.inv(covariance + noise)
        mean = precision.sum(axis=0) / precision.sum()
        W: Array = covariance @ precision @ (np.eye(M) - mean) + mean  # `mean` is a row: the same in each
        return W


def _noise(errors: Array, trial: Ints, epoch: Ints) -> Array:
    """The noise's covariance (M, M): each value's own variance, correlations by kind of pair.

    So many correlations from so few images would be noise themselves. Their mean over all pairs of trials, and over all
    pairs of epochs of one trial that lie equally far apart, is not.
    """
    spread = np.maximum(errors.std(axis=0), 1e-3 * errors.std())
    scaled = (errors - errors.mean(axis=0)) / spread
    measured = scaled.T @ scaled / len(scaled)
    lag = np.minimum(np.abs(epoch[:, None] - epoch), _LAGS)
    kind = np.where(trial[:, None] == trial, lag, _LAGS + 1)
    count = np.bincount(kind.ravel(), minlength=_LAGS + 2)
    alike = np.bincount(kind.ravel(), measured.ravel(), _LAGS + 2) / np.maximum(count, 1)
    correlation = alike[kind]
    np.fill_diagonal(correlation, 1.0)
    noise = correlation * np.outer(spread, spread)
    try:
        np.linalg.cholesky(noise)
    except np.linalg.LinAlgError:  # means of correlations need not be correlations of anything
        roots, vectors = np.linalg.eigh(noise)
        noise = (vectors * np.maximum(roots, 1e-6 * roots.max())) @ vectors.T
    covariance: Array = noise
    return covariance


def _spread_over_trials(trial: Ints) -> Ints:
    """Rows of whole trials, `_FITTED` at most where there are several: as many good ones as bad ones."""
    trials, counts = np.unique(trial, return_counts=True)
    fitting = max(1, int(_FITTED / counts.mean()))
    chosen = trials[np.unique(np.linspace(0, len(trials) - 1, min(fitting, len(trials))).astype(int))]
    return np.flatnonzero(np.isin(trial, chosen))


def _mean_of_neighbours(values: Array, trial: Ints, epoch: Ints) -> Array:
    near = np.maximum(0, 1 - np.abs(epoch[:, None] - epoch) / (_NEIGHBOURS + 1))
    weights = np.where(trial[:, None] == trial, near, 0.0)
    around: Array = weights @ values / weights.sum(axis=1)
    return around
