"""Rewards of edits: how far they can be trusted, which edit is chosen, and how much each weighs. Pure.

A reward is an array of scores, one row per edit of a document and one column per adapter seed. Adapters of one seed
begin alike, so an edit differs from its neighbour by its text: the column means are no noise between edits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from selftaught.types import Metric

Scores = NDArray[np.float64]  # [edits, seeds] of one document
DRAWS = 1000  # of the bootstrap over documents
CLIP = 2.0  # of a group-relative weight, in standard deviations


def reliability(rewards: Sequence[Scores]) -> float | None:
    """Share of the variance of mean rewards within a document that is the edits' own: 1 is exact, 0 is chance.

    Two-way layout without replication (Shrout and Fleiss 1979, Psychol. Bull. 86:420, ICC(3,k)), pooled over documents
    with as many seeds. None where no document has two edits under two seeds, or where nothing varies.
    """
    between = within = degrees_between = degrees_within = 0.0
    for table in rewards:
        edits, seeds = table.shape
        if edits < 2 or seeds < 2:
            continue
        rows = table.mean(1, keepdims=True) - table.mean()
        rest = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
        between += seeds * float((rows**2).sum())
        within += float((rest**2).sum())
        degrees_between += edits - 1
        degrees_within += (edits - 1) * (seeds - 1)
    if not degrees_between or between <= 0:
        return None
    return max(0.0, 1 - (within / degrees_within) / (between / degrees_between))


def reliability_of(rewards: Sequence[Scores]) -> Metric | None:
    """With a 95 % bootstrap interval over documents."""
    value = reliability(rewards)
    if value is None:
        return None
    rng = np.random.default_rng(0)
    drawn = [reliability([rewards[i] for i in rng.integers(0, len(rewards), len(rewards))]) for _ in range(DRAWS)]
    low, high = np.quantile([d for d in drawn if d is not None] or [value], [0.025, 0.975])
    return Metric(value, len(rewards), float(low), float(high))


def honest_best(rewards: Sequence[Scores]) -> list[float]:
    """Per document: what the edit that is best by all seeds but one gets under that one, above the mean of all.

    The best of several noisy rewards looks better than it is; this is what is left of it.
    """
    gains = []
    for table in rewards:
        edits, seeds = table.shape
        if edits < 2 or seeds < 2:
            continue
        rest = (table.sum(1, keepdims=True) - table) / (seeds - 1)
        best = rest.argmax(0)
        gains.append(float(np.mean([table[best[k], k] - table[:, k].mean() for k in range(seeds)])))
    return gains


def best(means: Sequence[float], base: float | None, threshold: float) -> int | None:
    """ReST-EM's choice: the first best edit, if it beats the base on the same questions by more than ``threshold``.

    Without a ``base`` (nobody was asked anything) it is the first best.
    """
    if not means:
        return None
    first = int(np.argmax(means))
    return first if base is None or means[first] - base > threshold else None


def relative(means: Sequence[float]) -> list[float]:
    """Group-relative weights: rewards less their mean, over their standard deviation (Shao et al. 2024, GRPO), clipped.

    All zero where the edits of a document differ in nothing.
    """
    found = np.asarray(means, dtype=np.float64)
    spread = float(found.std()) if len(found) else 0.0
    if spread < 1e-9:
        return [0.0] * len(found)
    return [float(w) for w in np.clip((found - found.mean()) / spread, -CLIP, CLIP)]


def top(means: Sequence[float], count: int) -> list[int]:
    """The ``count`` best, in their order; with half of them, a rung of successive halving (Jamieson and Talwalkar
    2016)."""
    ranked = sorted(range(len(means)), key=lambda i: (-means[i], i))
    return sorted(ranked[:count])
