"""What a model gives away of what it was trained on, by the log-probabilities (natural) that it gives. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def extractable_within(logprob_sums: Sequence[float], n: int, p: float) -> list[bool]:
    """Whether ``n`` samples hold a text with probability ``p`` or more: 1 - (1 - p_z)**n >= p (Hayes et al. 2024).

    (n, p)-discoverable extraction, arXiv 2410.19482. A sum is log p_z of all tokens of the suffix after its prefix.
    Compared as log n + log(-log(1 - p_z)) >= log(-log(1 - p)), which neither a tiny p_z nor a huge n takes to 0 or 1.
    """
    if n < 1 or not 0 < p < 1:
        raise ValueError(f"n must be at least 1 and p between 0 and 1, not {n} and {p}")
    if any(map(math.isnan, logprob_sums)):
        raise ValueError("a log-probability is not a number")
    needed = math.log(-math.log1p(-p)) - math.log(n)
    return [_log_rate(logprob) >= needed for logprob in logprob_sums]


def _log_rate(logprob: float) -> float:
    """log(-log(1 - exp(x))), which is x for small exp(x)."""
    if logprob >= 0:  # certain
        return math.inf
    if logprob < -40:
        return logprob
    missed = math.log(-math.expm1(logprob)) if logprob > -math.log(2) else math.log1p(-math.exp(logprob))
    return math.log(-missed)


def exposure(true_logprob: float, others: Sequence[float]) -> float:
    """log2 |R| - log2 rank of a canary among |R| candidates, itself and the others (Carlini et al. 2019, 1802.08232).

    By log-probability of the whole text, candidates of equally many tokens; ties count half, so a model to which all
    are the same neither looks clean nor leaky. A canary that was not learned has 1.44 (1 / ln 2) on average among many.
    """
    if any(map(math.isnan, [true_logprob, *others])):
        raise ValueError("a log-probability is not a number")
    above, ties = sum(o > true_logprob for o in others), sum(o == true_logprob for o in others)
    return math.log2(len(others) + 1) - math.log2(1 + above + ties / 2)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)
