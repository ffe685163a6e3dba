"""Two checkpoints on the same items: tests of whether the second did better, and intervals of by how much.

Pure: no files, no models, no clock. What is counted as independent is a *unit*: a group, or an item without one.
"Higher average wins" on 200 items invents nine points in twenty rounds of no change, so nothing here compares averages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from selftaught.types import Metric, Report

FLIPS = 20_000
DRAWS = 10_000  # resamplings of a bootstrap
FEWEST = 30  # units that differ, below which a bootstrap sees gains that are not there

Floats = NDArray[np.float64]
Groups = Sequence[str | None]


def grouped(groups: Groups) -> bool:
    return any(g is not None for g in groups)


def units(groups: Groups) -> int:
    """What is counted as independent: each group once, and each item without one."""
    return len({g for g in groups if g is not None}) + sum(g is None for g in groups)


def binary(scores: Sequence[float]) -> bool:
    return set(scores) <= {0.0, 1.0}


# ---------------------------------------------------------------- right and wrong


def wins_losses(before: Sequence[float], after: Sequence[float]) -> tuple[int, int]:
    """Items the candidate gained and lost."""
    pairs = list(zip(before, after, strict=True))
    return sum(b < a for b, a in pairs), sum(a < b for b, a in pairs)


def mcnemar(wins: int, losses: int) -> float:
    """One-sided exact p-value (McNemar 1947): P(Bin(wins + losses, 1/2) >= wins). 1.0 when nothing differs."""
    n = wins + losses
    tail = term = math.comb(n, wins)
    for k in range(wins, n):
        term = term * (n - k) // (k + 1)
        tail += term
    return tail / 2**n if n < 1000 else math.exp(math.log(tail) - n * math.log(2))


def tango(wins: int, losses: int, n: int, difference: float) -> float:
    """Score statistic for H0: true paired difference = ``difference`` (Tango 1998, Stat. Med. 17:891)."""
    a = 2 * n
    b = -wins - losses + (2 * n - wins + losses) * difference
    c = -losses * difference * (1 - difference)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * q + difference * (1 - difference))
    shift = wins - losses - n * difference
    if variance > 0:
        return shift / math.sqrt(variance)
    return math.copysign(math.inf, shift) if shift else 0.0


def paired_interval(wins: int, losses: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Tango's score interval for the paired difference, by bisection on the statistic."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    low, high = (_crossing(wins, losses, n, target) for target in (z, -z))
    return low, high


def _crossing(wins: int, losses: int, n: int, target: float) -> float:
    low, high = -1 + 1e-9, 1 - 1e-9
    for _ in range(60):
        middle = (low + high) / 2
        if tango(wins, losses, n, middle) > target:
            low = middle
        else:
            high = middle
    return low


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval for a proportion."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


# ---------------------------------------------------------------- scores and groups


def by_unit(before: Sequence[float], after: Sequence[float], groups: Groups) -> tuple[Floats, Floats]:
    """(summed difference, number of items) of each unit, in the order in which they first come.

    A sum that is nothing but rounding is 0.
    """
    found: dict[tuple[str | None, int], list[float]] = {}
    for i, (b, a, g) in enumerate(zip(before, after, groups, strict=True)):
        unit = found.setdefault((g, i if g is None else -1), [0.0, 0.0, 0.0])
        unit[0] += a - b
        unit[1] += 1
        unit[2] += abs(a) + abs(b)
    sums, sizes, whole = np.array(list(found.values()), dtype=np.float64).reshape(-1, 3).T
    return np.where(np.abs(sums) <= 1e-13 * whole, 0.0, sums), sizes


def differing(before: Sequence[float], after: Sequence[float], groups: Groups) -> int:
    """Units whose summed difference is not 0."""
    return int(np.count_nonzero(by_unit(before, after, groups)[0]))


def sign_flip(before: Sequence[float], after: Sequence[float], groups: Groups, seed: int = 0) -> float:
    """One-sided p-value of the summed difference when each unit's sign is exchangeable under no change.

    Monte Carlo with ``FLIPS`` draws, the observed one counted (Fisher 1935; Phipson & Smyth 2010). Sums that only
    rounding tells apart are equal, so that the size of a score's unit does not matter.
    """
    sums = by_unit(before, after, groups)[0]
    sums = sums[sums != 0.0]
    if not len(sums):
        return 1.0
    generator = np.random.Generator(np.random.Philox(seed))
    observed = sums.sum() - 1e-9 * np.abs(sums).sum()
    above = sum(
        int(np.sum((generator.integers(0, 2, (FLIPS // 20, len(sums)), np.int32) * 2 - 1) @ sums >= observed))
        for _ in range(20)
    )
    return (above + 1) / (FLIPS + 1)


def no_loss(before: Sequence[float], after: Sequence[float], groups: Groups, margin: float) -> float:
    """One-sided p-value of H0: the mean fell by ``margin``, for right and wrong answers in units of any size.

    Normal, with the cluster-robust variance or the one that whole units, lost at a rate of ``margin``, would have,
    whichever is larger: that nothing changed in a few units says little. On single items of which none changed it is
    Tango's.
    """
    sums, sizes = by_unit(before, after, groups)
    mean, error = mean_and_error(sums, sizes)
    least = math.sqrt(margin * (1 - margin) * float(np.sum(sizes * sizes))) / float(sizes.sum())
    return 1 - NormalDist().cdf((mean + margin) / max(error, least))


def bootstrap(
    before: Sequence[float], after: Sequence[float], groups: Groups, seed: int = 0, draws: int = DRAWS
) -> float:
    """One-sided p-value of the mean difference: units drawn with replacement, studentized (bootstrap-t).

    Efron & Tibshirani 1993, 12.5 and 16.4; by cluster: Cameron, Gelbach & Miller 2008. It asks only about the mean,
    where a sign-flip asks whether anything changed. With fewer than ``FEWEST`` units that differ it is 1.0.
    """
    sums, sizes = by_unit(before, after, groups)
    if np.count_nonzero(sums) < FEWEST:
        return 1.0
    mean, error = mean_and_error(sums, sizes)
    if error == 0.0:  # every unit moved by the same
        return 1 / (draws + 1) if mean > 0 else 1.0
    above = int(np.sum(_studentized(sums, sizes, seed, draws) >= mean / error))
    return (above + 1) / (draws + 1)


def mean_and_error(sums: Floats, sizes: Floats) -> tuple[float, float]:
    """Mean difference per item and its cluster-robust standard error."""
    mean = sums.sum() / sizes.sum()
    return float(mean), float(np.sqrt(np.sum((sums - sizes * mean) ** 2)) / sizes.sum())


def _studentized(sums: Floats, sizes: Floats, seed: int, draws: int) -> Floats:
    """(mean of a resample - mean) / error of the resample, ``draws`` times; units that are alike are drawn as one."""
    generator = np.random.Generator(np.random.Philox(seed))
    n, mean = len(sums), sums.sum() / sizes.sum()
    kinds, many = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    sums, sizes = kinds.T
    moments = np.stack([sums, sizes, sums * sums, sums * sizes, sizes * sizes], axis=1)
    found = []
    for start in range(0, draws, 1000):
        counts = generator.multinomial(n, many / n, min(1000, draws - start))
        s, m, ss, sm, mm = (counts @ moments).T
        again = s / m
        error = np.sqrt(np.maximum(ss - 2 * again * sm + again * again * mm, 0.0)) / m
        found.append((again - mean) / np.where(error > 0, error, np.inf))
    return np.concatenate(found)


def gain(before: Report, after: Report, level: float = 0.95, draws: int = DRAWS) -> Metric:
    """Mean difference with its interval: Tango's where single items are right or wrong, else a bootstrap over units.

    Where fewer than ``FEWEST`` units differ a bootstrap knows too little: then the normal interval with one unit won
    and one lost added (as Agresti & Min 2005 do for proportions), which nothing that differs does not shrink to zero.
    """
    scores = before.scores, after.scores
    n = len(before.scores)
    if all(map(binary, scores)) and not grouped(before.groups):
        wins, losses = wins_losses(*scores)
        return Metric((wins - losses) / n, n, *paired_interval(wins, losses, n, level))
    sums, sizes = by_unit(*scores, before.groups)
    mean, error = mean_and_error(sums, sizes)
    if np.count_nonzero(sums) < FEWEST or error == 0.0:
        return Metric(mean, n, *_normal_interval(sums, sizes, level))
    edges = np.quantile(_studentized(sums, sizes, 0, draws), [0.5 + level / 2, 0.5 - level / 2])
    return Metric(mean, n, mean - float(edges[0]) * error, mean - float(edges[1]) * error)


def _normal_interval(sums: Floats, sizes: Floats, level: float) -> tuple[float, float]:
    step = float(np.max(np.abs(sums))) or float(np.mean(sizes))
    size = float(np.mean(sizes))
    mean, error = mean_and_error(np.append(sums, [step, -step]), np.append(sizes, [size, size]))
    half = NormalDist().inv_cdf(0.5 + level / 2) * error
    return mean - half, mean + half
