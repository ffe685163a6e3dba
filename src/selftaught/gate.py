"""Reports in, Decision out. Pure: no files, no models, no clock.

The gain is tested per item (paired): exact McNemar one-sided (McNemar 1947), or a sign-flip test over groups where
items carry one. Guards are tests of non-inferiority with Tango's score statistic (Tango 1998, Stat. Med. 17:891).
"Higher score wins" on 200 items invents nine points in twenty rounds of no change; that is why nothing here compares
two averages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from selftaught.config import GateConfig
from selftaught.errors import IntegrityError
from selftaught.types import Decision, Report, Rule

DISCORDANCE = 0.3  # share of items on which parent and candidate differ, assumed when a holdout is judged in advance
MARGIN = 0.03  # the loss that a guard has to rule out, unless the recipe says another
TEXT_MARGIN = 0.2  # the same on texts, in nats per token: a perplexity a fifth higher
POWER = 0.8  # chance to see a gain that is there
EXACT_POWER = 1000
FLIPS = 20_000


# ---------------------------------------------------------------- tests


def wins_losses(before: Sequence[float], after: Sequence[float]) -> tuple[int, int]:
    """Items the candidate gained and lost."""
    pairs = list(zip(before, after, strict=True))
    return sum(b < a for b, a in pairs), sum(a < b for b, a in pairs)


def mcnemar(wins: int, losses: int) -> float:
    """One-sided exact p-value: P(Bin(wins + losses, 1/2) >= wins). 1.0 when nothing differs."""
    n = wins + losses
    tail = term = math.comb(n, wins)
    for k in range(wins, n):
        term = term * (n - k) // (k + 1)
        tail += term
    return tail / 2**n if n < 1000 else math.exp(math.log(tail) - n * math.log(2))


def sign_flip(before: Sequence[float], after: Sequence[float], groups: Sequence[str | None], seed: int = 0) -> float:
    """One-sided p-value of the summed difference when each group's sign is exchangeable under no change.

    Items without a group are groups of their own. Monte Carlo with ``FLIPS`` draws, the observed one counted.
    """
    totals: dict[str, float] = {}
    for i, (b, a, g) in enumerate(zip(before, after, groups, strict=True)):
        key = f"item {i}" if g is None else f"group {g}"
        totals[key] = totals.get(key, 0.0) + (a - b)
    sums = np.array([v for v in totals.values() if v != 0.0])
    if not len(sums):
        return 1.0
    generator = np.random.Generator(np.random.Philox(seed))
    above = sum(
        int(np.sum((generator.integers(0, 2, (FLIPS // 20, len(sums))) * 2 - 1) @ sums >= sums.sum() - 1e-9))
        for _ in range(20)
    )
    return (above + 1) / (FLIPS + 1)


def tango(wins: int, losses: int, n: int, difference: float) -> float:
    """Tango's score statistic for H0: true paired difference = ``difference`` (candidate minus parent)."""
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


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval for a proportion."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


# ---------------------------------------------------------------- what a holdout can prove


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
    return sum(_pmf(i, n, p) for i in range(k, n + 1))


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


def needed(config: GateConfig, guards: Mapping[str, float]) -> dict[str, int]:
    """Suite -> labelled items with which a true gain of ``config.min_gain`` is *proved* in 80 % of runs.

    Dev, one look at the vault and every guard (suite -> margin) have to pass, so each gets the power whose product is
    80 %.
    """
    each = POWER ** (1 / (2 + len(guards)))
    found = {
        "dev": items_needed(config.min_gain, config.alpha, power_=each),
        "vault": items_needed(config.min_gain, config.alpha / config.looks, power_=each),
    }
    return found | {name: guard_items_needed(m, config.alpha, power_=each) for name, m in guards.items()}


# ---------------------------------------------------------------- decisions


def gain_rule(name: str, before: Report, after: Report, alpha: float) -> Rule:
    """The primary claim on one holdout: the candidate answers more of the same items right."""
    wins, losses = _paired(before, after)
    if grouped(before):
        p, test = sign_flip(before.scores, after.scores, before.groups), f"sign-flip over {units(before.groups)} groups"
    else:
        p, test = mcnemar(wins, losses), "exact McNemar"
    detail = f"{wins} won, {losses} lost of {len(before.scores)}; {test} p = {p:.2g}, must be at most {alpha:.3g}"
    return Rule(name, _mean(before), _mean(after), p <= alpha, detail)


def guard_rule(name: str, before: Report, after: Report, margin: float, alpha: float) -> Rule:
    """Non-inferiority: a loss of ``margin`` or more is rejected at ``alpha``.

    Tango's statistic on items; where items carry a group, a sign-flip test of whether the groups lost ``margin``.
    """
    wins, losses = _paired(before, after)
    n = len(before.scores)
    if before.unit == "nats":
        return _text_rule(name, before, after, margin, alpha)
    if grouped(before):
        p = sign_flip(before.scores, [a + margin for a in after.scores], before.groups)
    else:
        p = 1 - NormalDist().cdf(tango(wins, losses, n, -margin)) if n else 1.0
    detail = (
        f"{wins} won, {losses} lost of {n}; a loss of {100 * margin:g} points or more has p = {p:.2g}, "
        f"must be at most {alpha:.3g}"
    )
    return Rule(name, _mean(before), _mean(after), p <= alpha, detail)


def _text_rule(name: str, before: Report, after: Report, margin: float, alpha: float) -> Rule:
    """The same for log-likelihoods of texts: a sign-flip test of whether they fell by ``margin`` nats per token."""
    n = len(before.scores)
    p = sign_flip(before.scores, [a + margin for a in after.scores], before.groups)
    change = _mean_of(after.scores) - _mean_of(before.scores)
    detail = (
        f"{change:+.3f} nats per token on {n} texts; a loss of {margin:g} nats or more "
        f"has p = {p:.2g}, must be at most {alpha:.3g}"
    )
    return Rule(name, _mean(before), _mean(after), p <= alpha, detail, "nats")


def _mean_of(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def grouped(report: Report) -> bool:
    return any(g is not None for g in report.groups)


def units(groups: Sequence[str | None]) -> int:
    """What is counted as independent: each group once, and each item without one."""
    return len({g for g in groups if g is not None}) + sum(g is None for g in groups)


def _paired(before: Report, after: Report) -> tuple[int, int]:
    """Wins and losses of two reports on the same items in the same order; anything else is refused, not compared."""
    if before.items != after.items:
        raise IntegrityError(
            f"The {before.name!r} reports of parent and candidate are not about the same questions, so they cannot be"
            " compared.",
            hint="The record was edited or damaged. Restore it from a copy, or start a new run.",
        )
    return wins_losses(before.scores, after.scores)


def _mean(report: Report) -> float | None:
    return float(np.mean(report.scores)) if report.scores else None


def decide(
    config: GateConfig,
    primary: tuple[Report, Report] | None,
    guards: Mapping[str, tuple[Report, Report, float]],
) -> Decision:
    """The dev gate: accepted, rejected, or unproven when the labelled items are too few to know.

    ``primary`` and ``guards`` hold (parent's report, candidate's report[, margin]).
    """
    guard_rules = [guard_rule(f"guard: {n}", b, a, m, config.alpha) for n, (b, a, m) in guards.items()]
    if primary is None or not primary[0].scores:
        return _without_labels(guard_rules, _short_of_items(guard_rules, config, guards))
    gain = gain_rule("gain on dev", *primary, config.alpha)
    rules = (gain, *guard_rules)
    failed = _failed(rules)
    if not failed:
        return Decision("accepted", rules, "the gain on dev is significant and every guard held")
    short = _short_of_items(guard_rules, config, guards)
    if not (gain.passed or _worse(gain) or _ruled_out(primary, config.min_gain)):
        have, need = units(primary[0].groups), _items_for(config)
        short |= {gain.name: f"{have} {_unit(primary[0])} and needs {need}"} if have < need else {}
    if set(short) == set(failed):
        said = "; ".join(f"{name} has {what}" for name, what in short.items())
        return Decision("unproven", rules, f"too few labelled items to know: {said}")
    return Decision("rejected", rules, "did not pass: " + ", ".join(failed))


def _short_of_items(
    rules: Sequence[Rule], config: GateConfig, guards: Mapping[str, tuple[Report, Report, float]]
) -> dict[str, str]:
    """Rule -> what it has and what it needs, of the guards that did not pass and could not, had nothing changed."""
    short = {}
    for rule, (before, _, margin) in zip(rules, guards.values(), strict=True):
        have = units(before.groups)
        few = grouped(before) or before.unit == "nats"
        need = _groups_for(config.alpha) if few else guard_items(margin, config.alpha)
        if not rule.passed and not _worse(rule) and have < need:
            short[rule.name] = f"{have} {_unit(before)} and needs {need}"
    return short


def _unit(report: Report) -> str:
    return "groups" if grouped(report) else "labelled items"


def _groups_for(alpha: float) -> int:
    """Fewest groups with which a sign-flip test can reach ``alpha``: all of them have to point one way."""
    return math.ceil(-math.log2(alpha))


def _ruled_out(primary: tuple[Report, Report], gain: float) -> bool:
    """Whether even so few items show that the true gain is smaller than the one looked for (95 % paired interval).

    The interval counts items as independent, so items in groups rule nothing out.
    """
    wins, losses = _paired(*primary)
    return not grouped(primary[0]) and paired_interval(wins, losses, len(primary[0].scores))[1] < gain


def _items_for(config: GateConfig) -> int:
    """Items on which a true gain of ``min_gain`` is seen with 80 % power."""
    return items_needed(config.min_gain, config.alpha)


def guard_items(margin: float, alpha: float) -> int:
    """Fewest items on which a guard passes when nothing changed at all (Tango's statistic at 0 won, 0 lost)."""
    z = NormalDist().inv_cdf(1 - alpha)
    return math.ceil(z * z * (1 - margin) / margin)


def _failed(rules: Sequence[Rule]) -> list[str]:
    return [r.name for r in rules if not r.passed]


def _without_labels(guards: Sequence[Rule], short: Mapping[str, str]) -> Decision:
    """No labelled question can show a gain; a guard can still show a loss."""
    reason = "no labelled questions on dev: nothing can show a gain"
    if failed := [name for name in _failed(guards) if name not in short]:
        return Decision("rejected", tuple(guards), f"{reason}, and did not pass: " + ", ".join(failed))
    return Decision("unproven", tuple(guards), reason)


def _worse(rule: Rule) -> bool:
    return rule.after is not None and rule.before is not None and rule.after < rule.before


def prove(decision: Decision, config: GateConfig, before: Report, after: Report, look: int) -> Decision:
    """One look at the vault, at alpha / K. ``look`` counts from 1; past K the vault is used up and proves nothing."""
    if look > config.looks:
        rule = Rule("gain on vault", None, None, False, f"all {config.looks} looks at this vault are spent")
        return replace(
            decision,
            rules=(*decision.rules, rule),
            reason=decision.reason + "; the vault's looks are spent, so it is not proved",
        )
    rule = gain_rule("gain on vault", before, after, config.alpha / config.looks)
    rules = (*decision.rules, replace(rule, detail=f"look {look} of {config.looks} on this vault; {rule.detail}"))
    if rule.passed:
        return Decision("proved", rules, "the gain holds on vault questions that decided nothing before")
    return replace(decision, rules=rules, reason=decision.reason + "; the vault does not confirm it")
