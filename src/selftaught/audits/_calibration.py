"""Whether a confidence means what it says: of answers given with 0.8, eight in ten should be right. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEWEST = 10  # units, below which a bootstrap knows too little
CHUNK = 2**22  # numbers drawn at a time


@dataclass(frozen=True)
class Bin:
    """One row of a reliability plot: the mean of its confidences, the share that is right, and how many there are."""

    confidence: float
    right: float
    count: int


def bins(confidence: Sequence[float], right: Sequence[float], bins: int = 15) -> list[Bin]:
    """``bins`` bins of equal mass, from the lowest confidence up (Nguyen & O'Connor 2015, arXiv 1508.05154).

    Equal confidences are never parted: all of them go to the bin in which their middle falls. So the order of the
    answers decides nothing, and with many ties bins are uneven and fewer.
    """
    said, true, place = _placed(confidence, right, bins)
    counts = np.bincount(place)
    rows = zip(np.bincount(place, said) / counts, np.bincount(place, true) / counts, counts, strict=True)
    return [Bin(float(c), float(r), int(n)) for c, r, n in rows]


def ece(confidence: Sequence[float], right: Sequence[float], bins: int = 15) -> float:
    """Expected calibration error: mean |confidence - share right| over the bins, by their counts (Naeini et al. 2015).

    Chance makes it greater than 0 on few answers, however well calibrated the model is: see ``ece_debiased``.
    """
    said, true, place = _placed(confidence, right, bins)
    return float(np.abs(np.bincount(place, said - true)).sum() / len(said))


def brier(confidence: Sequence[float], right: Sequence[float]) -> float:
    """Mean squared distance of confidence and outcome (Brier 1950)."""
    said, true, _ = _placed(confidence, right, 1)
    return float(np.mean((said - true) ** 2))


def ece_debiased(
    confidence: Sequence[float], right: Sequence[float], seed: int, bins: int = 15, draws: int = 1000
) -> float:
    """The error that would show as the ``ece`` seen, on so many answers; 0 where chance alone shows as much.

    Chance is ``draws`` in which calibration is perfect: every answer is right with the probability that was said of it,
    independently, and falls into the bin that it has now (consistency resampling, Bröcker & Smith 2007). To it the
    gaps seen are added, all shrunk by one factor: that with which the mean error of the draws is the one seen.
    (Merely to subtract the mean of the draws would halve an error of 0.15 on 300 answers, to which chance adds little.)
    """
    said, true, place = _placed(confidence, right, bins)
    order = np.argsort(place, kind="stable")
    sorted_, firsts = said[order], np.searchsorted(place[order], np.arange(place.max() + 1))
    generator = np.random.Generator(np.random.Philox(seed))
    chance = np.empty((draws, len(firsts)))
    for start, size in _chunks(draws, len(said)):
        off = sorted_ - (generator.random((size, len(said))) < sorted_)
        chance[start : start + size] = np.add.reduceat(off, firsts, axis=1) / len(said)
    now = np.bincount(place, said - true) / len(said)
    low, high, seen = 0.0, 1.0, float(np.abs(now).sum())
    for _ in range(40):
        factor = (low + high) / 2
        above = float(np.mean(np.abs(factor * now + chance).sum(axis=1))) > seen
        low, high = (low, factor) if above else (factor, high)
    return low * seen


def ece_interval(
    confidence: Sequence[float],
    right: Sequence[float],
    groups: Sequence[str | None],
    seed: int,
    bins: int = 15,
    draws: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """An interval of the true ``ece`` by bootstrap: groups, and items without one, are drawn; bins stay as they are.

    Quantiles of ``ece`` in resamples will not do: chance adds to the estimate and adds again to them, so that they miss
    a calibrated model's 0. The lower end is the estimate less the quantile of the distance, summed over bins, between
    resample and sample, which by the triangle inequality is the most that chance can add: cautious. The upper end adds
    the quantile of ``ece`` above its mean. With fewer than ``FEWEST`` units nothing is known: 0 to 1.
    """
    said, true, place = _placed(confidence, right, bins)
    unit = _units(groups, len(said))
    units, kinds = int(unit.max()) + 1, int(place.max()) + 1
    if units < FEWEST:
        return 0.0, 1.0
    off = np.bincount(unit * kinds + place, said - true, units * kinds).reshape(units, kinds)
    sizes = np.bincount(unit).astype(np.float64)
    now = off.sum(axis=0) / len(said)
    generator = np.random.Generator(np.random.Philox(seed))
    again = np.empty((draws, kinds))
    for start, size in _chunks(draws, units):
        taken = generator.multinomial(units, np.full(units, 1 / units), size).astype(np.float64)
        again[start : start + size] = taken @ off / (taken @ sizes)[:, None]
    errors, distances = np.abs(again).sum(axis=1), np.abs(again - now).sum(axis=1)
    estimate, high = float(np.abs(now).sum()), 0.5 + level / 2
    less, more = np.quantile(distances, high), np.quantile(errors, high) - errors.mean()
    return max(0.0, estimate - float(less)), min(1.0, estimate + float(more))


def _placed(confidence: Sequence[float], right: Sequence[float], bins: int) -> tuple[Floats, Floats, Ints]:
    """Both as arrays, and the bin of each answer; bins without any have no number."""
    said, true = (np.asarray(values, dtype=np.float64) for values in (confidence, right))
    if said.shape != true.shape or not len(said) or bins < 1:
        raise ValueError(f"{len(true)} answers with {len(said)} confidences do not make {bins} bins")
    if not (np.all((said >= 0) & (said <= 1)) and np.all((true >= 0) & (true <= 1))):
        raise ValueError("confidences and outcomes lie between 0 and 1")
    _, level, counts = np.unique(said, return_inverse=True, return_counts=True)
    twice = 2 * np.cumsum(counts) - counts  # of the answers up to the middle of each level, in whole numbers
    return said, true, np.unique((twice * bins // (2 * len(said)))[level], return_inverse=True)[1]


def _units(groups: Sequence[str | None], n: int) -> Ints:
    """The number of each item's group; an item without one has its own."""
    if len(groups) != n:
        raise ValueError(f"{n} answers have {len(groups)} groups")
    numbers: dict[tuple[str | None, int], int] = {}
    return np.array([numbers.setdefault((g, -1 if g is not None else i), len(numbers)) for i, g in enumerate(groups)])


def _chunks(draws: int, width: int) -> list[tuple[int, int]]:
    """(first, how many) of draws that are made at a time."""
    size = max(1, CHUNK // width)
    return [(start, min(size, draws - start)) for start in range(0, draws, size)]
