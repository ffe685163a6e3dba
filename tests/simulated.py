"""Simulated models, as their answers alone, through the gate and the registry of looks as a run does.

Used by the tests that bound what comes out, and by benchmarks/studies/gate.py, which prints it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from selftaught import gate, ledger, paired, power
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


Gate = Callable[[Suites, Suites, Path, str], Decision]


def rounds_of_no_change(gate_: Gate, folder: Path) -> tuple[int, int, float]:
    """(runs that proved a gain, rounds accepted, how much luck adds on the vault) of RUNS runs of twenty rounds.

    Candidates are the parent with fresh luck: they differ on about a tenth of the questions.
    """
    sizes = {"dev": 1000, "vault": 2000, "guard": 1000}
    rng = np.random.default_rng(23)
    false, accepted, inflation = 0, 0, []
    for run in range(RUNS):
        ability = {name: np.where(rng.random(n) < 0.2, 0.5, rng.random(n) < 0.7) for name, n in sizes.items()}
        parent = answers(rng, ability)
        outcomes = []
        for turn in range(20):
            candidate = answers(rng, ability)
            outcomes.append(gate_(parent, candidate, folder / f"{run}.jsonl", f"{turn}").outcome)
            if outcomes[-1] in ("accepted", "proved"):
                parent = candidate
        false += "proved" in outcomes
        accepted += sum(o in ("accepted", "proved") for o in outcomes)
        inflation.append(parent["vault"].mean() - ability["vault"].mean())
    return false, accepted, float(np.mean(inflation))


def true_gains(discordance: float, folder: Path) -> tuple[int, dict[str, int]]:
    """(runs of RUNS that proved a true gain of five points, the items that a plan asks for).

    On the guard as many answers change as on the rest, but none is lost on balance.
    """
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
        proved += judge(before, after, folder / f"{run}.jsonl", "candidate").outcome == "proved"
    return proved, sizes


# ---------------------------------------------------------------- scores that did not change on average

Draws = list[tuple[list[float], list[str | None]]]  # differences, and the group of each


def right_and_wrong(count: int, n: int, differ: float) -> Draws:
    """Answers to ``n`` questions of which a share ``differ`` changed, as many won as lost but for luck."""
    generator = np.random.default_rng(7)
    cells = generator.multinomial(n, [differ / 2, differ / 2, 1 - differ], size=count)
    return [([1.0] * wins + [-1.0] * losses + [0.0] * same, [None] * n) for wins, losses, same in cells]


def skewed(count: int, clusters: int, sign: int) -> Draws:
    """Scores in groups of 1 to 11: with ``sign`` -1 most groups got a little better and a few much worse, with 1 the
    other way round."""
    generator, found = np.random.default_rng(8), []
    for _ in range(count):
        sizes = generator.integers(1, 12, clusters)
        shifts = sign * (generator.exponential(0.6, clusters) - 0.6)
        differences = [s + e for s, n in zip(shifts, sizes, strict=True) for e in generator.normal(0, 0.2, n)]
        names: list[str | None] = [f"g{i}" for i, n in enumerate(sizes) for _ in range(n)]
        found.append((differences, names))
    return found


def p_values(test: str, draws: Draws) -> Scores:
    """``test`` ("sign_flip" or "bootstrap", the latter of 1,000 resamples) on each of ``draws``."""
    if test == "bootstrap":
        return np.array([paired.bootstrap([0.0] * len(d), d, g, draws=1000) for d, g in draws])
    return np.array([paired.sign_flip([0.0] * len(d), d, g) for d, g in draws])
