"""The claim that users doubt first: twenty rounds of nothing prove nothing, and a gain that is there is found.

Both go through the gate and the registry of looks as a run does; only the models are simulated, as their answers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from selftaught import gate, ledger, power
from selftaught.config import GateConfig
from selftaught.types import Decision, Report

CONFIG = GateConfig()
MARGIN = 0.03
RUNS = 200
Scores = np.ndarray
Suites = dict[str, Scores]  # "dev", "vault", "guard" -> 1.0 where the answer is right


def report(scores: Scores) -> Report:
    items = tuple(f"q{i}" for i in range(len(scores)))
    return Report("evaluation", "suite", "d", "dev", {}, tuple(scores.tolist()), items, (None,) * len(items))


def judge(before: Suites, after: Suites, registry: Path, name: str) -> Decision:
    """The gate on one candidate, in the order of a round: dev and guard; if accepted, a look at the vault."""
    decision = gate.decide(
        CONFIG,
        (report(before["dev"]), report(after["dev"])),
        {"guard": (report(before["guard"]), report(after["guard"]), MARGIN)},
    )
    if decision.outcome != "accepted":
        return decision
    look = ledger.spend_look(registry, ["vault"], name, "run")
    return gate.prove(decision, CONFIG, report(before["vault"]), report(after["vault"]), look)


def look_at_once(before: Suites, after: Suites, registry: Path, name: str) -> Decision:
    """The worst case for the vault: every candidate gets there, so every look is used."""
    look = ledger.spend_look(registry, ["vault"], name, "run")
    return gate.prove(Decision("accepted", (), ""), CONFIG, report(before["vault"]), report(after["vault"]), look)


def answers(rng: np.random.Generator, ability: Suites) -> Suites:
    """One model's answers: to each question right with the chance that any of these models has there."""
    return {name: (rng.random(len(p)) < p).astype(float) for name, p in ability.items()}


@pytest.mark.parametrize("gate_", [judge, look_at_once])
def test_twenty_rounds_of_no_change_promote_nothing_more_often_than_alpha(
    tmp_path: Path, gate_: Callable[[Suites, Suites, Path, str], Decision]
) -> None:
    """Scorecard row 23. Candidates are the parent with fresh luck (they differ on about a tenth of the questions)."""
    sizes = {"dev": 1000, "vault": 2000, "guard": 1000}
    rng = np.random.default_rng(23)
    false, accepted, inflation = 0, 0, []
    for run in range(RUNS):
        ability = {name: np.where(rng.random(n) < 0.2, 0.5, rng.random(n) < 0.7) for name, n in sizes.items()}
        registry = tmp_path / f"{run}.jsonl"
        parent = answers(rng, ability)
        outcomes = []
        for turn in range(20):
            candidate = answers(rng, ability)
            outcomes.append(gate_(parent, candidate, registry, f"{turn}").outcome)
            if outcomes[-1] in ("accepted", "proved"):
                parent = candidate
        false += "proved" in outcomes
        accepted += sum(o in ("accepted", "proved") for o in outcomes)
        inflation.append(parent["vault"].mean() - ability["vault"].mean())
    assert false <= 18, f"{false} of {RUNS} runs proved a gain that is not there"
    assert accepted > RUNS / 4, "else the vault would not have been tried"
    assert np.mean(inflation) <= 0.01, "what is reported is not what luck adds"


@pytest.mark.parametrize("discordance", [0.1, 0.27])
def test_a_true_gain_of_five_points_is_proved_with_the_items_that_a_plan_asks_for(
    tmp_path: Path, discordance: float
) -> None:
    """Scorecard row 24. On the guard as many answers change as on the rest, but none is lost on balance."""
    sizes = power.needed(CONFIG, {"guard": MARGIN})
    rng = np.random.default_rng(24)
    proved = 0
    for run in range(RUNS):
        before, after = {}, {}
        for name, n in sizes.items():
            gain = 0.0 if name == "guard" else 0.05
            change = rng.choice([1, -1, 0], n, p=[(discordance + gain) / 2, (discordance - gain) / 2, 1 - discordance])
            right = (rng.random(n) < 0.6).astype(float)
            before[name] = np.where(change == 0, right, change < 0).astype(float)
            after[name] = np.where(change == 0, right, change > 0).astype(float)
        proved += judge(before, after, tmp_path / f"{run}.jsonl", "candidate").outcome == "proved"
    assert proved >= 0.8 * RUNS, f"{proved} of {RUNS} with {sizes}"
