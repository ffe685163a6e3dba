"""The claim that users doubt first: twenty rounds of nothing prove nothing, and a gain that is there is found.

Both go through the gate and the registry of looks as a run does; only the models are simulated, as their answers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from simulated import RUNS, Gate, judge, look_at_once, rounds_of_no_change, true_gains


@pytest.mark.parametrize("gate_", [judge, look_at_once])
def test_twenty_rounds_of_no_change_promote_nothing_more_often_than_alpha(tmp_path: Path, gate_: Gate) -> None:
    """Scorecard row 23."""
    false, accepted, inflation = rounds_of_no_change(gate_, tmp_path)
    assert false <= 18, f"{false} of {RUNS} runs proved a gain that is not there"
    assert accepted > RUNS / 4, "else the vault would not have been tried"
    assert inflation <= 0.01, "what is reported is not what luck adds"


@pytest.mark.parametrize("discordance", [0.1, 0.27])
def test_a_true_gain_of_five_points_is_proved_with_the_items_that_a_plan_asks_for(
    tmp_path: Path, discordance: float
) -> None:
    """Scorecard row 24."""
    proved, sizes = true_gains(discordance, tmp_path)
    assert proved >= 0.8 * RUNS, f"{proved} of {RUNS} with {sizes}"
