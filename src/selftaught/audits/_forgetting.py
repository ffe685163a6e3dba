"""What a model could do before and cannot now. Pure; a score is of one item in one round, higher is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = Sequence[float]


@dataclass(frozen=True)
class Forgotten:
    """``items``: the mean loss of an item against its best round. ``suite``: the loss of the mean against its best.

    ``items`` is biased upwards by noise in the answers, and more with every round: of items that are right by chance
    half of the time, a quarter is "forgotten" after one round, and nearly half after many, though nothing changed.
    ``suite`` takes a best round too, of means that vary far less; it does not see losses that others' gains hide. So
    read both, and judge by a paired test against one round that was named before.
    """

    items: float
    suite: float


def forgotten(history: Sequence[Scores], now: Scores) -> Forgotten:
    """Best score of an earlier round less the score now (Chaudhry et al. 2018, arXiv 1801.10112), of items and suite.

    ``history``: rounds, each with the scores of the same items in the same order. Negative where all of the past was
    worse. ValueError without a round or an item.
    """
    past, present = _checked(history, now)
    return Forgotten(float(np.mean(past.max(axis=0) - present)), float(past.mean(axis=1).max() - present.mean()))


def backward_transfer(history: Sequence[Scores], now: Scores, learned: Sequence[int]) -> float:
    """Mean score now less that in the round in which each item was learned (Lopez-Paz & Ranzato 2017, 1706.08840).

    ``learned[i]`` is item i's row of ``history``, right after it was learned. Negative is forgetting; no best is
    taken, so noise adds no bias.
    """
    past, present = _checked(history, now)
    rows = np.asarray(learned, dtype=np.int64)
    if rows.shape != present.shape or rows.min() < 0 or rows.max() >= len(past):
        raise ValueError(f"every item needs the round, from 0 to {len(past) - 1}, in which it was learned")
    return float(np.mean(present - past[rows, np.arange(len(present))]))


def _checked(history: Sequence[Scores], now: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not len(history) or not len(now) or any(len(scores) != len(now) for scores in history):
        raise ValueError(f"{[len(scores) for scores in history]} scores in the past, {len(now)} now: they must match")
    past, present = np.asarray(history, dtype=np.float64), np.asarray(now, dtype=np.float64)
    if np.isnan(past).any() or np.isnan(present).any():
        raise ValueError("a score is not a number")
    return past, present
