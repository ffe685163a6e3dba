"""What a holdout can prove before anything is asked: power of the gate's tests, smallest gains, items needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from statistics import NormalDist

from selftaught.config import GateConfig
from selftaught.paired import FEWEST

DISCORDANCE = 0.3  # share of items on which parent and candidate differ, assumed when a holdout is judged in advance
POWER = 0.8  # chance to see a gain that is there
EXACT_POWER = 1000


@lru_cache(maxsize=4096)
def critical_wins(n: int, alpha: float) -> int:
    """Fewest wins among ``n`` differing items that McNemar calls significant (n + 1: none is enough)."""
    tail, term, total = 0, 1, 2**n
    limit = int(alpha * 2**64) * total >> 64
    for wins in range(n, -1, -1):
        tail += term
        if tail > limit:
            return wins + 1
        term = term * wins // (n - wins + 1)
    return 0


def power(n: int, gain: float, alpha: float, discordance: float = DISCORDANCE) -> float:
    """Chance that McNemar at ``alpha`` sees a true ``gain`` on ``n`` items of which ``discordance`` differ.

    Exact up to ``EXACT_POWER`` differing items, beyond that the normal approximation (within half a percent there).
    """
    discordance = min(1.0, max(discordance, gain))
    if n * discordance > EXACT_POWER:
        reach = n * gain - 1 - NormalDist().inv_cdf(1 - alpha) * math.sqrt(n * discordance)
        return NormalDist().cdf(reach / max(math.sqrt(n * (discordance - gain * gain)), 1e-9))
    spread = 5 * math.sqrt(n * discordance * (1 - discordance)) + 1
    differing = range(max(0, int(n * discordance - spread)), min(n, int(n * discordance + spread)) + 1)
    win = (discordance + gain) / (2 * discordance)
    return sum(_pmf(m, n, discordance) * _tail(critical_wins(m, alpha), m, win) for m in differing)


def _pmf(k: int, n: int, p: float) -> float:
    if p in (0.0, 1.0):
        return float(k == n * p)
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))


def _tail(k: int, n: int, p: float) -> float:
    """Chance of at least ``k`` of ``n``, summed from ``k`` away from the mean until what is added no longer counts."""
    if k > n:
        return 0.0
    if k <= n * p:
        return 1 - _tail(n - k + 1, n, 1 - p)
    total = term = _pmf(k, n, p)
    while k < n and term > 1e-17 * total:
        term *= (n - k) / (k + 1) * p / (1 - p)
        k, total = k + 1, total + term
    return total


@lru_cache(maxsize=1024)
def smallest_gain(n: int, alpha: float, discordance: float = DISCORDANCE, power_: float = POWER) -> float | None:
    """The smallest true gain (0..1) that ``n`` labelled items show with 80 % power at ``alpha``, if any."""
    if n == 0 or power(n, 1.0, alpha, discordance) < power_:
        return None
    low, high = 0.0, 1.0
    while high - low > 5e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if power(n, middle, alpha, discordance) >= power_ else (middle, high)
    return high


def by_bootstrap(gain: float | None, n: int, discordance: float = DISCORDANCE) -> float | None:
    """The smallest gain that ``n`` units show by a bootstrap, which sees none until FEWEST of them differ."""
    if gain is None or n < FEWEST:
        return None
    return gain if n * discordance >= FEWEST else max(gain, FEWEST / n)


@lru_cache(maxsize=1024)
def items_needed(gain: float, alpha: float, discordance: float = DISCORDANCE, power_: float = POWER) -> int:
    """Labelled items for 80 % power to show ``gain`` at ``alpha``."""
    low, high = 1, 2
    while power(high, gain, alpha, discordance) < power_:
        low, high = high, high * 2
    while high - low > max(1, high // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, gain, alpha, discordance) >= power_ else (middle, high)
    return high


def guard_items_needed(margin: float, alpha: float, discordance: float = DISCORDANCE, power_: float = POWER) -> int:
    """Labelled items for 80 % power to rule out a loss of ``margin`` when nothing was lost (normal approximation)."""
    z = NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(power_)
    return max(guard_items(margin, alpha), math.ceil(discordance * (z / margin) ** 2))


def guard_items(margin: float, alpha: float) -> int:
    """Fewest items, or groups of one size, on which a guard passes when nothing changed (Tango's statistic at 0, 0)."""
    z = NormalDist().inv_cdf(1 - alpha)
    return math.ceil(z * z * (1 - margin) / margin)


def fewest_units(alpha: float) -> int:
    """Fewest units with which a sign-flip test can reach ``alpha``: all of them have to point one way."""
    return math.ceil(-math.log2(alpha))


def items_for(config: GateConfig, alpha: float, power_: float = POWER) -> int:
    """Items on which a true gain of ``gate.min_gain`` in right answers is seen at ``alpha``."""
    fewest = math.ceil(FEWEST / DISCORDANCE) if config.primary.test == "bootstrap" else 0
    return max(fewest, items_needed(config.min_gain, alpha, power_=power_))


def units_for_spread(gain: float, alpha: float, spread: float, power_: float = POWER) -> int:
    """Units for 80 % power to show a mean ``gain`` where unit means differ by ``spread`` (sd; normal approximation)."""
    z = NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(power_)
    return max(fewest_units(alpha), math.ceil((z * spread / gain) ** 2))


def needed(config: GateConfig, guards: Mapping[str, float]) -> dict[str, int]:
    """Suite -> labelled items with which a true gain of ``config.min_gain`` is *proved* in 80 % of runs.

    Dev, one look at the vault and every guard (suite -> margin) have to pass, so each gets the power whose product is
    80 %. Of dev and vault this can be said for right answers alone: how much a graded score differs from item to item
    is not known before (the decision says it).
    """
    each = POWER ** (1 / (2 + len(guards)))
    found = {}
    if config.primary.per_question and (margin := config.primary.margin) is not None:
        found["dev"] = guard_items_needed(margin, config.alpha, power_=each)
        found["vault"] = guard_items_needed(margin, config.alpha / config.looks, power_=each)
    elif config.primary.per_question:
        found["dev"] = items_for(config, config.alpha, each)
        found["vault"] = items_for(config, config.alpha / config.looks, each)
    return found | {name: guard_items_needed(m, config.alpha, power_=each) for name, m in guards.items()}
