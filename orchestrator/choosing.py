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
from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from orchestrator import smoothing

Array: TypeAlias = NDArray[np.float64]
Rule = Literal["max", "corrected", "smoothed", "smallest"]
RULES: tuple[Rule, ...] = get_args(Rule)
DEFAULT_RULE: Rule = "smoothed"

LEVEL = 0.95  # of every interval
REDRAWS = 2000  # of the images, for intervals and probabilities
SPLITS = 400  # into halves

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
class Candidates:
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
    probability: Array  # (M,) that the candidate is truly the best; they add up to 1
    indistinguishable: NDArray[np.bool_]  # (M,) the set that holds the truly best with probability LEVEL
    smoothed: Array  # (M,) expected true values, given the neighbouring epochs and the other trials
    chosen: int
    corrected: float  # the chosen one's value without the luck that choosing it picked up
    corrected_low: float
    corrected_high: float


class Judge:
    """Measures the candidates again in thought, once; then judges by any rule.

    The same candidates and seed give the same verdicts.
    """

    def __init__(self, candidates: Candidates, *, seed: int = 0, redraws: int = REDRAWS, splits: int = SPLITS) -> None:
        rng = np.random.default_rng(seed)
        sample = candidates.sample
        self._candidates = candidates
        self._values = sample.values
        self._redrawn = sample.redrawn(redraws, rng)
        self._halves = sample.divided(splits, 1 / 2, rng)
        self._quarters = sample.divided(splits, 1 / 4, rng)
        self._low, self._high = intervals(self._values, self._redrawn)
        self._together = indistinguishable(self._values, self._redrawn)
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
            probability=probability_of_best(self._redrawn),
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
            worth = self._worth_of_trial()
            return _argmax(smoothed, may & (worth == worth[may].max()))
        if rule == "smallest":
            return _smallest(candidates, smoothed, self._together)
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
            _smallest(self._candidates, smooth, indistinguishable(row, row + errors))
            for row, smooth in zip(first[:_PICKS_OF_SMALLEST], smoothed, strict=False)
        ]
        return np.array(picks)

    def _worth_of_trial(self) -> Array:
        """(M,) what the candidate's trial is worth: the epoch that one half of the images picks, read on the other."""
        candidates, hidden = self._candidates, np.where(self._candidates.may, 0.0, -np.inf)
        first, second = self._halves
        seen = first @ self._kernel.T + hidden
        worth = np.full(len(candidates.trial), -np.inf)
        for trial in np.unique(candidates.trial[candidates.may]):
            of_trial = np.flatnonzero(candidates.trial == trial)
            picks = of_trial[seen[:, of_trial].argmax(axis=1)]
            worth[of_trial] = second[np.arange(len(picks)), picks].mean()
        return worth


def intervals(values: Array, redrawn: Array, level: float = LEVEL) -> tuple[Array, Array]:
    """Percentile intervals, (M,) each, around the values (M,), from what other samples would give (R, M)."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(redrawn, [tail, 100 - tail], axis=0)
    return np.minimum(low, values), np.maximum(high, values)


def probability_of_best(redrawn: Array) -> Array:
    """(M,) how often each is the best of a redrawn sample (R, M); equals share."""
    best = redrawn == redrawn.max(axis=1, keepdims=True)
    shares: Array = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    return shares


def indistinguishable(values: Array, redrawn: Array, level: float = LEVEL) -> NDArray[np.bool_]:
    """(M,) which candidates are not shown to be worse than the best measured one.

    Hsu's multiple comparison with the best, with one-sided critical values from the paired redraws: the differences to
    the leader are studentised, and the largest of them in each redraw gives the value that all have to stay below.
    """
    leader = int(values.argmax())
    behind = values[leader] - values
    errors = redrawn[:, [leader]] - redrawn - behind
    spread = errors.std(axis=0)
    known = spread > 0
    critical = np.quantile((errors[:, known] / spread[known]).max(axis=1), level) if known.any() else 0.0
    together: NDArray[np.bool_] = behind <= critical * spread
    return together


def _smallest(candidates: Candidates, smoothed: Array, together: NDArray[np.bool_]) -> int:
    if candidates.size is None:
        raise ValueError("the rule `smallest` needs the models' sizes")
    among = candidates.may & together
    among = among if among.any() else candidates.may
    return _argmax(smoothed, among & (candidates.size == candidates.size[among].min()))


def _argmax(values: Array, among: NDArray[np.bool_]) -> int:
    return int(np.where(among, values, -np.inf).argmax())


def normal_interval(value: float, standard_error: float, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a value with a known standard error."""
    half = NormalDist().inv_cdf((1 + level) / 2) * standard_error
    return value - half, value + half
