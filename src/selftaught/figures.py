"""Figures as a person reads them: shares as percent and points, everything else in its unit."""

from __future__ import annotations

from selftaught.config import PrimaryConfig
from selftaught.types import Metric

BEHIND = {"nats": " nats", "score": ""}
CLAIMED = {
    "accuracy": "the share of right answers",
    "score": "the score",
    "loglik": "the log-probability of the gold answers",
}


def claim(primary: PrimaryConfig) -> str:
    """What ``gate.primary`` says is better, as a sentence goes on with it."""
    whose = " of adapters that learnt an edit of the document" if primary.protocol == "adapt" else ""
    if primary.margin is not None:
        lost = f"{100 * primary.margin:g} points" if primary.metric == "accuracy" else f"{primary.margin:g}"
        return f"{CLAIMED[primary.metric]}{whose} gets worse by less than {lost} on dev and vault"
    return f"{CLAIMED[primary.metric]}{whose} goes {primary.direction} on dev and vault"


def decimals(value: float, sign: str = "") -> str:
    """Three decimals; or three digits where a score is so small, or so large, that those would say nothing.

    ``sign`` "+" writes the plus as well.
    """
    plain = abs(value) < 1e-12 or 0.01 <= abs(value) < 1e6
    return format(value, f"{sign}.3{'f' if plain else 'g'}")


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def measure(value: float | None, unit: str) -> str:
    return percent(value) if unit == "share" or value is None else decimals(value) + BEHIND[unit]


def interval(metric: Metric | None, unit: str = "share") -> str:
    if metric is None:
        return "–"
    low, high = (f"{100 * v:.1f}" if unit == "share" else decimals(v) for v in (metric.low, metric.high))
    return f"{measure(metric.value, unit)} [{low}, {high}]"


def change(value: float, unit: str) -> str:
    return f"{100 * value:+.1f} points" if unit == "share" else decimals(value, "+") + BEHIND[unit]


def changed(metric: Metric | None, unit: str = "share") -> str:
    if metric is None:
        return "–"
    low, high = (f"{100 * v:+.1f}" if unit == "share" else decimals(v, "+") for v in (metric.low, metric.high))
    return f"{change(metric.value, unit)} [{low}, {high}]"


def plain(value: float) -> str:
    """A figure of no declared unit, in about three digits; what is nothing but rounding is 0."""
    if abs(value) < 1e-9:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spanned(metric: Metric | None) -> str:
    """``plain`` with its interval, where it has one."""
    if metric is None:
        return "–"
    ends = f" [{plain(metric.low)}, {plain(metric.high)}]" if metric.low < metric.high else ""
    return plain(metric.value) + ends
