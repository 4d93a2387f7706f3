"""Choosing among checkpoints that were all measured on the same few images: how sure, and by which rule.

Free of files and of torch: arrays in, arrays out. M candidates (a trial's epoch each) were measured on N images. All
values are such that more is better; whoever minimises turns the sign.

The best of many noisy values is mostly the luckiest. Three things are done about it. A *paired bootstrap* redraws the
images, the same ones for every candidate, so that what makes all of them right or wrong together cancels where they
are compared. *Halving* chooses on one half of the images and reads the value on the other, many times over: what is
read there is free of the luck that the choice picked up. And a *rule* that looks at neighbouring epochs and at other
trials (`smoothing.py`), or at how a choice does on the other half, picks less luck to begin with.
`benchmarks/choosing.py` measures all three against a known truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.choosing import smoothing
from orchestrator.choosing.rules import DEFAULT_RULE, Rule
from orchestrator.choosing.smoothing import ROUNDING

Array: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

LEVEL = 0.95  # of every interval
REDRAWS = 2000  # of the images, for intervals and probabilities
SPLITS = 400  # into halves

_CLEARLY = 2.0  # standard errors of a difference by which an epoch is clearly worse than its trial's best
_STRETCH, _STRETCHES = 1.1, 50

_AT_ONCE = 2**22  # numbers per block of redraws, so that memory does not grow with their number
_REDRAWS_OF_A_PART, _PICKS_OF_SMALLEST = 200, 50  # comparing all with the best, once per part, takes longest


class Sample(Protocol):
    """What the candidates' values were measured on, as far as it can be measured again in thought."""

    @property
    def values(self) -> Array:
        """(M,) as measured."""
        ...

    def redrawn(self, count: int, rng: np.random.Generator) -> Array:
        """(count, M) what other samples of the same size would have given."""
        ...

    def divided(self, count: int, share: float, rng: np.random.Generator) -> tuple[Array, Array]:
        """Two independent readings, (count, M) each: of `share` of this sample, and of the rest of it."""
        ...


@dataclass(frozen=True)
class Images:
    """A metric that follows from the mean over images of what each image says.

    `features` (N, M, D): for accuracy, whether the image was classified rightly (D = 1). `metric` maps their means
    (..., M, D) to values (..., M).
    """

    features: NDArray[np.floating]
    metric: Callable[[Array], Array]

    @property
    def values(self) -> Array:
        whole: Array = self._measure(np.full((1, len(self.features)), 1 / len(self.features)))[0]
        return whole

    def redrawn(self, count: int, rng: np.random.Generator) -> Array:
        N = len(self.features)
        return self._measure(rng.multinomial(N, np.full(N, 1 / N), size=count) / N)

    def divided(self, count: int, share: float, rng: np.random.Generator) -> tuple[Array, Array]:
        N = len(self.features)
        part = max(1, int(share * N))
        first = rng.permuted(np.tile(np.arange(N) < part, (count, 1)), axis=1)
        return self._measure(first / part), self._measure(~first / (N - part))

    def _measure(self, weights: Array) -> Array:
        """Weights (R, N) of the images -> values (R, M)."""
        N, M, D = self.features.shape
        flat = self.features.reshape(N, M * D)
        at_once = max(1, _AT_ONCE // (M * D))
        blocks = [weights[start : start + at_once] @ flat for start in range(0, len(weights), at_once)]
        return np.concatenate([self.metric(block.reshape(-1, M, D)) for block in blocks])


@dataclass(frozen=True)
class Normals:
    """Values of which only standard errors are known, independent of one another, as of FIDs of different images.

    Adding noise of its own variance to a normal value, and subtracting the same noise, gives two independent values of
    twice the variance: what two halves of the images would give (Rasines & Young 2023). So with other shares.
    """

    measured: Array  # (M,)
    standard_errors: Array  # (M,)

    @property
    def values(self) -> Array:
        return self.measured

    def redrawn(self, count: int, rng: np.random.Generator) -> Array:
        return self.measured + self.standard_errors * rng.standard_normal((count, len(self.measured)))

    def divided(self, count: int, share: float, rng: np.random.Generator) -> tuple[Array, Array]:
        noise = self.standard_errors * rng.standard_normal((count, len(self.measured)))
        factor = np.sqrt(1 / share - 1)
        return self.measured + factor * noise, self.measured - noise / factor


@dataclass(frozen=True)
class Contenders:
    """What can be chosen: the epochs of several trials."""

    sample: Sample
    trial: NDArray[np.int64]  # (M,) which trial
    epoch: NDArray[np.int64]  # (M,) which of its epochs
    size: Array | None = None  # (M,) of the model, for the rule `smallest`
    allowed: NDArray[np.bool_] | None = None  # (M,) which may be chosen; the others are evidence all the same

    @property
    def may(self) -> NDArray[np.bool_]:
        return np.ones(len(self.trial), bool) if self.allowed is None else self.allowed


@dataclass(frozen=True)
class Verdict:
    """What can be said of each candidate, and of the choice."""

    values: Array  # (M,)
    low: Array  # (M,) of the interval
    high: Array  # (M,)
    probability: Array  # (M,) that its trial is truly the best, with the trial's best epoch; they add up to 1
    indistinguishable: NDArray[np.bool_]  # (M,) whether its trial is in the set that holds the truly best one
    smoothed: Array  # (M,) expected true values, given the neighbouring epochs and the other trials
    chosen: int
    corrected: float  # the chosen one's value without the luck that choosing it picked up
    corrected_low: float
    corrected_high: float


class Judge:
    """Measures the candidates again in thought, once; then judges by any rule.

    The same candidates and seed give the same verdicts.
    """

    def __init__(self, candidates: Contenders, *, seed: int = 0, redraws: int = REDRAWS, splits: int = SPLITS) -> None:
        rng = np.random.default_rng(seed)
        sample = candidates.sample
        self._candidates = candidates
        self._values = sample.values
        self._redrawn = sample.redrawn(redraws, rng)
        self._halves = sample.divided(splits, 1 / 2, rng)
        self._quarters = sample.divided(splits, 1 / 4, rng)
        self._low, self._high = intervals(self._values, self._redrawn)
        self._together, self._probability = standing(self._values, self._redrawn, candidates.trial)
        errors = self._redrawn - self._redrawn.mean(axis=0)
        self._kernel = smoothing.expectation(self._values, errors, candidates.trial, candidates.epoch)

    def verdict(self, rule: Rule = DEFAULT_RULE) -> Verdict:
        """Choose by `rule`, and say how sure that is."""
        smoothed = self._kernel @ self._values
        chosen = self.choose(rule)
        luck = self._luck(rule)
        return Verdict(
            values=self._values,
            low=self._low,
            high=self._high,
            probability=self._probability,
            indistinguishable=self._together,
            smoothed=smoothed,
            chosen=chosen,
            corrected=float(self._values[chosen]) - luck,
            corrected_low=float(self._low[chosen]) - luck,
            corrected_high=float(self._high[chosen]) - luck,
        )

    def choose(self, rule: Rule = DEFAULT_RULE) -> int:
        """The candidate that `rule` picks among those allowed; of equals the first.

        `max`: the best measured one. `smoothed`: the best expected true value (`smoothing.py`). `corrected`: the trial
        whose epochs, each picked on one half of the images, do best on the other, and of it the best smoothed epoch.
        `smallest`: the smallest model that is not shown to be worse than the best, and of equal ones the best smoothed.
        """
        candidates, may = self._candidates, self._candidates.may
        smoothed = self._kernel @ self._values
        if rule == "max":
            return _argmax(self._values, may)
        if rule == "corrected":
            value = self._value_of_trial()
            return _argmax(smoothed, may & (value >= value[may].max() - _rounding(self._values)))
        if rule == "smallest":
            return _smallest(candidates, smoothed, self._values, self._redrawn)
        return _argmax(smoothed, may)

    def _luck(self, rule: Rule) -> float:
        """How much better than it is the rule's choice looks to whoever chose it.

        Measured for halves and for quarters of the images: chosen there, read on the rest. What it is for the whole
        follows as the next term of the series that quarter and half begin: it falls with the root of the number of
        images where luck alone decides, and with the number itself where the best stands out.
        """
        lucks = []
        for share, (first, second) in ((1 / 2, self._halves), (1 / 4, self._quarters)):
            picks = self._picks(rule, first, share)
            rows = np.arange(len(picks))
            lucks.append(max(0.0, float((first[rows, picks] - second[rows, picks]).mean())))
        half, quarter = lucks
        return half * float(np.clip(half / quarter, 1 / 2, np.sqrt(1 / 2))) if quarter > 0 else 0.0

    def _picks(self, rule: Rule, first: Array, share: float) -> NDArray[np.int64]:
        """(S,) what the rule picks from each row of `first` (S, M), measured on a share of the images.

        What it would learn of the sample's structure (how wide to smooth, how values vary together) it is told: that
        favours no candidate. `corrected`, which would have to halve the halves, picks as `smoothed` does.
        """
        hidden = np.where(self._candidates.may, 0.0, -np.inf)
        if rule == "max":
            return np.asarray(np.argmax(first + hidden, axis=1), dtype=np.int64)
        smoothed = first @ self._kernel.T
        if rule != "smallest":
            return np.asarray(np.argmax(smoothed + hidden, axis=1), dtype=np.int64)
        errors = np.sqrt(1 / share) * (self._redrawn - self._values)[:_REDRAWS_OF_A_PART]
        picks = [
            _smallest(self._candidates, smooth, row, row + errors)
            for row, smooth in zip(first[:_PICKS_OF_SMALLEST], smoothed, strict=False)
        ]
        return np.array(picks)

    def _value_of_trial(self) -> Array:
        """(M,) the value of the candidate's trial: the epoch that one half of the images picks, read on the other."""
        candidates, hidden = self._candidates, np.where(self._candidates.may, 0.0, -np.inf)
        first, second = self._halves
        seen = first @ self._kernel.T + hidden
        value = np.full(len(candidates.trial), -np.inf)
        for trial in np.unique(candidates.trial[candidates.may]):
            of_trial = np.flatnonzero(candidates.trial == trial)
            picks = of_trial[seen[:, of_trial].argmax(axis=1)]
            value[of_trial] = second[np.arange(len(picks)), picks].mean()
        return value


def intervals(values: Array, redrawn: Array, level: float = LEVEL) -> tuple[Array, Array]:
    """Percentile intervals, (M,) each, around the values (M,), from what other samples would give (R, M)."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(redrawn, [tail, 100 - tail], axis=0)
    return np.minimum(low, values), np.maximum(high, values)


def probability_of_best(redrawn: Array) -> Array:
    """(M,) how often each is the best of a redrawn sample (R, M); equals share."""
    best = redrawn >= redrawn.max(axis=1, keepdims=True) - _rounding(redrawn)
    shares: Array = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    return shares


def indistinguishable(
    values: Array, redrawn: Array, trial: Ints | None = None, level: float = LEVEL
) -> NDArray[np.bool_]:
    """(M,) which candidates are of trials that are not shown to be worse than the one with the best measured value.

    The set misses the truly best trial in 1 - `level` of all cases. A trial stands with its best epoch; without `trial`
    each candidate is a trial. See `_not_worse`.
    """
    return standing(values, redrawn, trial, level)[0]


def standing(
    values: Array, redrawn: Array, trial: Ints | None = None, level: float = LEVEL
) -> tuple[NDArray[np.bool_], Array]:
    """Which trials are in the set that holds the best one, (M,), and how probably each is that, (M,), adding up to 1.

    The probability stands with the trial's best epoch. It is how often the trial is the best one of a redrawn sample
    whose errors are so much larger than the sample's as the set's critical value is than that of a single comparison:
    the best of many looks surer of itself than it is. So both say the same. What is left out of the set is the best
    with a probability of 1 - `level` at most, all of it together; and one trial has `level` only where it is alone.
    """
    names, index = np.unique(np.arange(len(values)) if trial is None else trial, return_inverse=True)
    best = np.array([_argmax(values, index == one) for one in range(len(names))])
    top = values[best]
    together, critical = _not_worse(values, redrawn, index, best, level)
    errors = redrawn[:, best] - top
    stretch = max(1.0, critical / NormalDist().inv_cdf(level))
    shares = probability_of_best(top + stretch * errors)
    for _ in range(_STRETCHES):  # a few redrawn values are no normal distribution
        if together.sum() == 1 or shares.max() < level:
            break
        stretch *= _STRETCH
        shares = probability_of_best(top + stretch * errors)
    for share in np.unique(shares[~together])[::-1]:
        if shares[together].sum() >= level - ROUNDING:
            break
        together |= shares >= share - ROUNDING
    probability = np.zeros(len(values))
    probability[best] = shares
    return together[index], probability


def _not_worse(values: Array, redrawn: Array, index: Ints, best: Ints, level: float) -> tuple[NDArray[np.bool_], float]:
    """(T,) which trials are not shown to be worse than the leader, and the critical value that decided.

    Hsu's multiple comparison with the best: each trial's distance to the leader, in units of what it would be by chance
    in paired redraws, against the largest that such distances are by chance. Trials that are farther are left out, and
    the rest compared among themselves, until none is (Romano & Wolf 2005). The leader's epoch was picked for being
    high: by chance its error is the largest of its epochs', those apart that are clearly worse (Andrews & Soares 2010).
    Where several lead with equal values, what one of them is not shown to be better than is in.
    """
    rounding = _rounding(values)
    errors = redrawn - values
    top, own = values[best], errors[:, best]
    together, critical = np.zeros(len(best), bool), 0.0
    for leader in _different(redrawn[:, best], np.flatnonzero(top >= top.max() - rounding), rounding):
        epochs = np.flatnonzero(index == leader)
        behind = top[leader] - values[epochs]
        reach = _CLEARLY * (own[:, [leader]] - errors[:, epochs]).std(axis=0)
        luck = (errors[:, epochs] - np.maximum(0.0, behind - reach)).max(axis=1)
        behind = top[leader] - top
        spread = (own[:, [leader]] - own).std(axis=0)
        near, value = _step_down(behind, luck[:, None] - own, spread, level, rounding)
        together |= near
        critical = max(critical, value)
    return together, critical


def _step_down(
    behind: Array, errors: Array, spread: Array, level: float, rounding: float
) -> tuple[NDArray[np.bool_], float]:
    """Which are not farther `behind` (T,) than by chance, by `errors` (R, T), and the last critical value."""
    known = spread > rounding
    together: NDArray[np.bool_] = known | (behind <= rounding)
    unit = np.where(known, spread, 1.0)
    far, errors = behind / unit, errors / unit
    critical = 0.0
    while (rows := np.flatnonzero(together & known)).size:
        critical = float(np.quantile(errors[:, rows].max(axis=1), level))
        worse = rows[far[rows] > critical + ROUNDING]
        if not worse.size:
            break
        together[worse] = False
    return together, critical


def _different(redrawn: Array, rows: Ints, rounding: float) -> list[int]:
    """The first of each kind among `rows`, of those that are equal in all redraws."""
    found: list[int] = []
    for row in rows.tolist():
        if not any((np.abs(redrawn[:, row] - redrawn[:, kept]) <= rounding).all() for kept in found):
            found.append(row)
    return found


def _rounding(values: Array) -> float:
    return ROUNDING * float(np.abs(values).max(initial=0.0))


def _smallest(candidates: Contenders, smoothed: Array, values: Array, redrawn: Array) -> int:
    """The smallest model of an epoch, and of a trial, that is not shown to be worse than the best."""
    if candidates.size is None:
        raise ValueError("the rule `smallest` needs the models' sizes")
    among = candidates.may & indistinguishable(values, redrawn)
    among &= indistinguishable(values, redrawn, candidates.trial)
    among = among if among.any() else candidates.may
    return _argmax(smoothed, among & (candidates.size == candidates.size[among].min()))


def _argmax(values: Array, among: NDArray[np.bool_]) -> int:
    """The first of those that are the best but for rounding."""
    return int((among & (values >= values[among].max() - _rounding(values[among]))).argmax())
