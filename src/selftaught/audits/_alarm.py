"""The collapse alarm: a measure that moved the bad way, in two rounds running, by more than noise and by what counts.

Pure. Noise is known from a reference that is measured at least ``FEWEST`` times, on independent samples of the model
that the run began with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

FEWEST = 4  # values of a reference
RUNNING = 2  # rounds that must agree

Direction = Literal["up", "down"]


@dataclass(frozen=True)
class Signal:
    """``name`` is for people, ``direction`` the bad one, ``effect`` the smallest shift that counts, declared before.

    A ``relative`` effect is a share of the reference's mean: 0.1 is ten percent.
    """

    name: str
    direction: Direction
    effect: float
    relative: bool = True


def beyond(value: float, reference: Sequence[float], direction: Direction, sds: float = 3.0) -> bool:
    """Whether ``value`` lies more than ``sds`` deviations from the reference's mean on the bad side.

    The deviation is that of a new value: s * sqrt(1 + 1/m) of m reference values, for their mean is uncertain too. s is
    not corrected, so the chance is that of Student's t: with nothing changed and three of them, one value is beyond in
    2.9 % of cases with m = 4 and in 1.0 % with 8. Values that are all equal know no noise: then any shift is beyond,
    and the declared effect decides alone. ValueError for fewer than ``FEWEST``, or for what is not a number.
    """
    if len(reference) < FEWEST:
        raise ValueError(f"a reference needs at least {FEWEST} values, not {len(reference)}")
    if math.isnan(value) or not all(map(math.isfinite, reference)):
        raise ValueError(f"{value} against {list(reference)}: not all are numbers")
    return _shift(value, reference, direction) > sds * stdev(reference) * math.sqrt(1 + 1 / len(reference))


def alarm(
    signals: Sequence[Signal],
    references: Mapping[str, Sequence[float]],
    rounds: Sequence[Mapping[str, float]],
    sds: float = 3.0,
) -> list[str]:
    """What was raised, in words: signals that in their last two rounds were beyond noise and their declared effect.

    ``references`` and ``rounds`` (oldest first) have values by the name of the signal. A round in which a signal was
    not measured is passed over; one that was measured once is not raised.
    """
    found = []
    for signal in signals:
        reference = references[signal.name]
        last = [values[signal.name] for values in rounds if signal.name in values][-RUNNING:]
        if len(last) == RUNNING and all(_counts(signal, value, reference, sds) for value in last):
            found.append(_words(signal, last, reference))
    return found


def _shift(value: float, reference: Sequence[float], direction: Direction) -> float:
    return (value - fmean(reference)) * (1 if direction == "up" else -1)


def _counts(signal: Signal, value: float, reference: Sequence[float], sds: float) -> bool:
    least = signal.effect * abs(fmean(reference)) if signal.relative else signal.effect
    return beyond(value, reference, signal.direction, sds) and _shift(value, reference, signal.direction) > least


def _words(signal: Signal, last: Sequence[float], reference: Sequence[float]) -> str:
    mean = fmean(reference)
    least = f"{signal.effect:.3g} of that" if signal.relative else f"{signal.effect:.3g}"
    values = " and ".join(f"{value:.4g}" for value in last)
    return (
        f"{signal.name} went {signal.direction} to {values} in two rounds running, from {mean:.4g} "
        f"(sd {stdev(reference):.2g} of {len(reference)} values); more than {least} counts"
    )
