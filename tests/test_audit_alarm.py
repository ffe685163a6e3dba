"""The collapse alarm: what raises it, and what does not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from selftaught.audits._alarm import Signal, alarm, beyond

STEADY = [9.0, 10.0, 11.0, 10.0]  # mean 10, sd 0.816, of a new value 0.913: three are 2.739
UP = Signal("loss on rare words", "up", 0.1)
DOWN = Signal("different 2-grams", "down", 0.1)


# ---------------------------------------------------------------- noise


def test_beyond_is_three_deviations_of_a_new_value() -> None:
    assert beyond(12.74, STEADY, "up") and not beyond(12.73, STEADY, "up")
    assert beyond(7.26, STEADY, "down") and not beyond(7.27, STEADY, "down")
    assert not beyond(7.0, STEADY, "up") and not beyond(13.0, STEADY, "down"), "the good way is no alarm"
    assert beyond(11.0, STEADY, "up", sds=1.0) and not beyond(10.9, STEADY, "up", sds=1.0)


def test_more_reference_values_narrow_it() -> None:
    assert beyond(12.7, STEADY * 4, "up") and not beyond(12.7, STEADY, "up")


def test_values_without_noise_leave_it_to_the_effect() -> None:
    assert beyond(10.001, [10.0] * 4, "up") and not beyond(10.0, [10.0] * 4, "up")
    raised = {value: bool(alarm([UP], {UP.name: [10.0] * 4}, rounds(UP, value, value))) for value in (10.5, 11, 11.5)}
    assert raised == {10.5: False, 11: False, 11.5: True}, "more than the effect"


@pytest.mark.parametrize(("m", "chance"), [(4, 0.0288), (8, 0.00997)])
def test_the_chance_of_a_false_one_is_students(m: int, chance: float) -> None:
    draw = np.random.Generator(np.random.Philox(m))
    drawn = draw.normal(5.0, 2.0, (40_000, m + 1)).tolist()
    share = sum(beyond(value, reference, "up") for value, *reference in drawn) / len(drawn)
    assert share == pytest.approx(chance, abs=4 * math.sqrt(chance / len(drawn)))


def test_that_chance_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    assert stats.t.sf(3, 3) == pytest.approx(0.0288, abs=5e-5) and stats.t.sf(3, 7) == pytest.approx(0.00997, abs=5e-5)


def test_a_reference_needs_four_numbers() -> None:
    with pytest.raises(ValueError, match="at least 4 values, not 3"):
        beyond(1.0, STEADY[:3], "up")
    for value, reference in ((math.nan, STEADY), (1.0, [*STEADY, math.nan]), (1.0, [*STEADY, math.inf])):
        with pytest.raises(ValueError, match="not all are numbers"):
            beyond(value, reference, "up")
    assert beyond(math.inf, STEADY, "up"), "a loss that left the numbers is a loss"


# ---------------------------------------------------------------- rounds


def rounds(signal: Signal, *values: float) -> list[dict[str, float]]:
    return [{signal.name: value} for value in values]


@pytest.mark.parametrize(
    ("values", "raised"),
    [
        ([13.0, 13.0], True),
        ([10.0, 13.0, 14.0], True),
        ([13.0], False),
        ([10.0, 13.0], False),
        ([13.0, 13.0, 10.0], False),
        ([13.0, 10.0, 13.0], False),
        ([7.0, 7.0], False),
        ([], False),
    ],
)
def test_two_rounds_running_raise_it(values: list[float], raised: bool) -> None:
    assert bool(alarm([UP], {UP.name: STEADY}, rounds(UP, *values))) == raised


def test_both_noise_and_effect_must_be_passed_in_both_rounds() -> None:
    large, absolute = Signal(UP.name, "up", 0.5), Signal(UP.name, "up", 3.5, relative=False)
    for signal, values, raised in [
        (large, (14.0, 14.0), False),  # beyond noise, below half as much again
        (large, (15.5, 14.9), False),
        (large, (15.5, 15.1), True),
        (absolute, (13.4, 13.6), False),
        (absolute, (13.6, 13.6), True),
        (UP, (12.0, 12.0), False),  # a fifth more, but within noise
    ]:
        assert bool(alarm([signal], {UP.name: STEADY}, rounds(UP, *values))) == raised, (signal, values)


def test_how_many_deviations_is_the_callers() -> None:
    sides = {sds: bool(alarm([UP], {UP.name: STEADY}, rounds(UP, 12.0, 12.0), sds)) for sds in (2.0, 3.0)}
    assert sides == {2.0: True, 3.0: False}
    assert not alarm([UP], {UP.name: STEADY}, rounds(UP, 13.0, 13.0), sds=4.0)


def test_an_effect_is_a_share_of_the_size_of_a_mean_below_0() -> None:
    signal = Signal("log-probability", "down", 0.5)
    reference = {signal.name: [-9.0, -10.0, -11.0, -10.0]}
    assert not alarm([signal], reference, rounds(signal, -14.0, -14.0))
    assert alarm([signal], reference, rounds(signal, -15.5, -15.5))


def test_a_round_without_a_measurement_is_passed_over() -> None:
    assert alarm([UP], {UP.name: STEADY}, [{UP.name: 13.0}, {}, {UP.name: 13.0}])
    assert not alarm([UP], {UP.name: STEADY}, [{}, {UP.name: 13.0}, {}])


def test_it_says_what_with_the_numbers() -> None:
    references = {UP.name: STEADY, DOWN.name: [100.0, 101.0, 99.0, 100.0]}
    last: list[dict[str, Any]] = [{UP.name: 13.25, DOWN.name: 80.0}, {UP.name: 14.0, DOWN.name: 99.5}]
    assert alarm([UP, DOWN], references, last) == [
        "loss on rare words went up to 13.25 and 14 in two rounds running, from 10 (sd 0.82 of 4 values); "
        "more than 0.1 of that counts"
    ]
    both = alarm([UP, DOWN], references, [last[0], last[0]])
    assert len(both) == 2 and both[1].startswith("different 2-grams went down to 80 and 80")
    assert "more than 3.5 counts" in alarm([Signal(UP.name, "up", 3.5, False)], references, rounds(UP, 14.0, 14.0))[0]


def test_a_signal_without_a_reference_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        alarm([UP], {}, rounds(UP, 13.0, 13.0))
