"""Reports in, Decision out. Pure: no files, no models, no clock.

The gain is tested per item, paired, as the recipe's claim says (``gate.primary``); guards are tests of non-inferiority.
The tests are in paired.py, what a holdout can prove is in power.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from selftaught import paired, power
from selftaught.config import GateConfig, PrimaryConfig
from selftaught.errors import IntegrityError, RecipeError
from selftaught.paired import Groups, grouped, units
from selftaught.types import Audited, Decision, Report, Rule

MARGIN = 0.03  # the loss that a guard has to rule out, unless the recipe says another
TEXT_MARGIN = 0.2  # the same on texts, in nats per token: a perplexity a fifth higher

Pair = tuple[Report, Report]  # the parent's and the candidate's, on the same items


# ---------------------------------------------------------------- the claim


def test_of(claim: PrimaryConfig, groups: Groups) -> str:
    """The test that a claim is put to: its own, or for ``auto`` McNemar's for single items that are right or wrong.

    Raises RecipeError for McNemar's on items in groups, which it would count as independent.
    """
    if claim.test == "mcnemar" and grouped(groups):
        raise RecipeError(
            "gate.primary.test=mcnemar counts every question as independent, but these carry groups.",
            hint="Take sign_flip or bootstrap, or leave gate.primary.test at auto.",
        )
    if claim.test != "auto":
        return claim.test
    return "mcnemar" if claim.metric == "accuracy" and not grouped(groups) else "sign_flip"


def smallest_p(test: str) -> float:
    """The smallest p-value that a test can give on any number of items."""
    return {"mcnemar": 0.0, "sign_flip": 1 / (paired.FLIPS + 1), "bootstrap": 1 / (paired.DRAWS + 1)}[test]


def gain_rule(name: str, before: Report, after: Report, alpha: float, claim: PrimaryConfig | None = None) -> Rule:
    """The primary claim on one holdout: the candidate does better on the same items."""
    claim = claim or PrimaryConfig()
    worse, better = _towards(claim, before, after)
    wins, losses = paired.wins_losses(worse.scores, better.scores)
    p, test = _p_value(test_of(claim, before.groups), worse, better)
    counts = f"{wins} won, {losses} lost of {len(before.scores)}"
    if before.unit != "share":
        found = paired.gain(before, after)
        counts = f"{found.value:+.3g} [{found.low:+.3g}, {found.high:+.3g}] {before.unit}, {counts}"
    detail = f"{counts}; {test} p = {p:.2g}, must be at most {alpha:.3g}"
    return Rule(name, _mean(before), _mean(after), p <= alpha, detail, before.unit)


def _p_value(test: str, worse: Report, better: Report) -> tuple[float, str]:
    """(one-sided p-value, the test in words)."""
    if test == "mcnemar":
        return paired.mcnemar(*paired.wins_losses(worse.scores, better.scores)), "exact McNemar"
    what = "groups" if grouped(worse.groups) else "items"
    function = {"sign_flip": paired.sign_flip, "bootstrap": paired.bootstrap}[test]
    differ = paired.differing(worse.scores, better.scores, worse.groups)
    if test == "bootstrap" and differ < paired.FEWEST:
        what += f" ({differ} differ, it needs {paired.FEWEST})"
    return function(worse.scores, better.scores, worse.groups), (
        f"{test.replace('_', '-')} over {units(worse.groups)} {what}"
    )


def _towards(claim: PrimaryConfig, before: Report, after: Report) -> Pair:
    """The pair in the order in which a larger score is better; reports on other items are refused, not compared."""
    _same_items(before, after)
    return (before, after) if claim.direction == "up" else (after, before)


def _same_items(before: Report, after: Report) -> None:
    if before.items != after.items:
        raise IntegrityError(
            f"The {before.name!r} reports of parent and candidate are not about the same questions, so they cannot be"
            " compared.",
            hint="The record was edited or damaged. Restore it from a copy, or start a new run.",
        )


# ---------------------------------------------------------------- guards


def guard_rule(name: str, before: Report, after: Report, margin: float, alpha: float) -> Rule:
    """Non-inferiority: a loss of ``margin`` or more is rejected at ``alpha``."""
    _same_items(before, after)
    p, detail = _no_loss(before, after, margin)
    return Rule(name, _mean(before), _mean(after), p <= alpha, f"{detail}, must be at most {alpha:.3g}", before.unit)


def claim_rule(holdout: str, before: Report, after: Report, alpha: float, claim: PrimaryConfig) -> Rule:
    """What ``gate.primary`` claims, on one holdout: a gain, or with a ``margin`` that no more than that is lost."""
    if claim.margin is None:
        return gain_rule(f"gain on {holdout}", before, after, alpha, claim)
    p, detail = _no_loss(*_towards(claim, before, after), claim.margin)
    detail += f", must be at most {alpha:.3g}"
    if claim.per_question and claim.direction == "up" and (had := _mean(before) or 0.0) <= claim.margin:
        p, detail = 1.0, f"{100 * had:.1f} % right before is no more than the margin: there was nothing to lose"
    return Rule(f"no loss on {holdout}", _mean(before), _mean(after), p <= alpha, detail, before.unit)


def _no_loss(worse: Report, better: Report, margin: float) -> tuple[float, str]:
    """(p-value of a loss of ``margin``, in words): Tango's statistic on single items that are right or wrong, a test
    over groups where they carry one (paired.no_loss), and a sign-flip test of scores and of texts, in their unit.
    """
    wins, losses = paired.wins_losses(worse.scores, better.scores)
    n = len(worse.scores)
    if worse.unit != "share":
        p = paired.sign_flip(worse.scores, [b + margin for b in better.scores], worse.groups)
        change = sum(better.scores) / n - sum(worse.scores) / n
        unit, items = ("nats", "nats per token on {n} texts") if worse.unit == "nats" else ("", "on {n} items")
        said = f"{change:+.3f} {items.format(n=n)}; a loss of {margin:g} {unit}".rstrip() + f" or more has p = {p:.2g}"
        return p, said
    if grouped(worse.groups):
        p = paired.no_loss(worse.scores, better.scores, worse.groups, margin)
    else:
        p = 1 - NormalDist().cdf(paired.tango(wins, losses, n, -margin)) if n else 1.0
    return p, f"{wins} won, {losses} lost of {n}; a loss of {100 * margin:g} points or more has p = {p:.2g}"


def _mean(report: Report) -> float | None:
    return float(np.mean(report.scores)) if report.scores else None


# ---------------------------------------------------------------- decisions


def decide(
    config: GateConfig,
    primary: Pair | None,
    guards: Mapping[str, tuple[Report, Report, float]],
    audits: Sequence[Audited] = (),
    tries: int = 1,
) -> Decision:
    """The dev gate: accepted, rejected, or unproven when the labelled items are too few to know.

    ``primary`` and ``guards`` hold (parent's report, candidate's report[, margin]). ``tries``: how many checkpoints the
    candidate was the best of on dev; each has its share of alpha there (Bonferroni).
    """
    guard_rules = [guard_rule(f"guard: {n}", b, a, m, config.alpha) for n, (b, a, m) in guards.items()]
    audit_rules = [_audit_rule(a) for a in audits if a.decides]
    unknown = {f"audit: {a.name}": a.reason for a in audits if a.decides and a.outcome == "inconclusive"}
    if primary is None or not primary[0].scores:
        short = _short_guards(guard_rules, config, guards) | unknown
        return _without_labels([*guard_rules, *audit_rules], short)
    gain = claim_rule("dev", *primary, config.alpha / tries, config.primary)
    rules = (gain, *guard_rules, *audit_rules)
    failed = _failed(rules)
    if not failed:
        what = "the gain on dev is significant" if config.primary.margin is None else "a loss on dev is ruled out"
        return Decision("accepted", rules, f"{what} and every guard held")
    short = _short_guards(guard_rules, config, guards)
    if not gain.passed and (said := _short_of_claim(config, *_towards(config.primary, *primary), config.alpha / tries)):
        short[gain.name] = said
    if set(short) | set(unknown) == set(failed):
        said = "; ".join(f"{name} has {what}" for name, what in short.items())
        few = [f"too few labelled items to know: {said}"] if said else []
        still = [f"{name} is inconclusive: {why}" for name, why in unknown.items()]
        return Decision("unproven", rules, "; ".join([*few, *still]))
    return Decision("rejected", rules, "did not pass: " + ", ".join(failed))


def _audit_rule(audited: Audited) -> Rule:
    """An audit's opinion as a line of the decision; too little to know is no pass."""
    passed = audited.outcome in ("passed", "not applicable")
    return Rule(f"audit: {audited.name}", None, None, passed, f"{audited.outcome}: {audited.reason}")


def _short_of_claim(config: GateConfig, worse: Report, better: Report, alpha: float) -> str:
    """What dev has and what it needs, where it has too few items to know; "" where it is worse or knows there is none.

    Even few items can show that the true gain is smaller than the one looked for: by its 95 % interval. Where no loss
    is claimed, worse is a loss of the margin.
    """
    found, margin = paired.gain(worse, better), config.primary.margin
    have, need = units(worse.groups), _units_needed(config, worse, better, alpha)
    if margin is not None:
        return f"{have} {_unit(worse)} and needs {need}" if found.value > -margin and have < need else ""
    differ = paired.differing(worse.scores, better.scores, worse.groups)
    if test_of(config.primary, worse.groups) == "bootstrap" and differ < paired.FEWEST and found.value >= 0:
        return f"{differ} {_unit(worse)} that differ and a bootstrap needs {paired.FEWEST}"
    if found.value < 0 or found.high < config.min_gain or have >= need:
        return ""
    return f"{have} {_unit(worse)} and needs {need}"


def _units_needed(config: GateConfig, worse: Report, better: Report, alpha: float) -> int:
    """For 80 % power to show a gain of ``min_gain``, or to rule a loss of the margin out where nothing was lost."""
    margin = config.primary.margin
    if config.primary.per_question:
        return power.items_for(config, alpha) if margin is None else power.guard_items_needed(margin, alpha)
    sums, sizes = paired.by_unit(worse.scores, better.scores, worse.groups)
    spread = float(np.std(sums / sizes, ddof=1)) if len(sums) > 1 else 0.0
    least = power.guard_items(margin, alpha) if margin is not None and worse.unit == "share" else 0
    return max(least, power.units_for_spread(config.min_gain if margin is None else margin, alpha, spread))


def _short_guards(
    rules: Sequence[Rule], config: GateConfig, guards: Mapping[str, tuple[Report, Report, float]]
) -> dict[str, str]:
    """Rule -> what it has and what it needs, of the guards that did not pass and could not, had nothing changed."""
    short = {}
    for rule, (before, after, margin) in zip(rules, guards.values(), strict=True):
        have = units(before.groups)
        text = before.unit == "nats"
        need = power.fewest_units(config.alpha) if text else power.guard_items(margin, config.alpha)
        worse = sum(after.scores) < sum(before.scores)
        if not rule.passed and not worse and have < need:
            short[rule.name] = f"{have} {_unit(before)} and needs {need}"
    return short


def _unit(report: Report) -> str:
    return "groups" if grouped(report.groups) else "labelled items"


def _failed(rules: Sequence[Rule]) -> list[str]:
    return [r.name for r in rules if not r.passed]


def _without_labels(guards: Sequence[Rule], short: Mapping[str, str]) -> Decision:
    """No labelled question can show a gain; a guard can still show a loss."""
    reason = "no labelled questions on dev: nothing can show a gain"
    if failed := [name for name in _failed(guards) if name not in short]:
        return Decision("rejected", tuple(guards), f"{reason}, and did not pass: " + ", ".join(failed))
    return Decision("unproven", tuple(guards), reason)


def prove(decision: Decision, config: GateConfig, before: Report, after: Report, look: int) -> Decision:
    """One look at the vault, at alpha / K. ``look`` counts from 1; past K the vault is used up and proves nothing."""
    if look > config.looks:
        name = "gain on vault" if config.primary.margin is None else "no loss on vault"
        rule = Rule(name, None, None, False, f"all {config.looks} looks at this vault are spent")
        return replace(
            decision,
            rules=(*decision.rules, rule),
            reason=decision.reason + "; the vault's looks are spent, so it is not proved",
        )
    rule = claim_rule("vault", before, after, config.alpha / config.looks, config.primary)
    rules = (*decision.rules, replace(rule, detail=f"look {look} of {config.looks} on this vault; {rule.detail}"))
    if rule.passed:
        what = "the gain holds" if config.primary.margin is None else "a loss is ruled out"
        return Decision("proved", rules, f"{what} on vault questions that decided nothing before")
    return replace(decision, rules=rules, reason=decision.reason + "; the vault does not confirm it")
