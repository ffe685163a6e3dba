"""Several rounds in one run: what each begins with, when the run ends, and that a resumed one is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

import small
from selftaught import integrity, ledger, loop
from selftaught.round import questions_of

ROUNDS = ("rounds=3", "model=scripted:0.45", "engine.learns=0.3", "method.min_share=0", "gate.looks=3")


def run_of(folder: Path, *overrides: str) -> ledger.RunRecord:
    small.prepared(folder, *overrides)
    loop.run(folder)
    return ledger.read_run(folder)


def test_an_accepted_candidate_is_the_next_parent(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", *ROUNDS)
    first, second = record.rounds[:2]
    assert first.decision.outcome == "proved", first.decision.reason
    assert second.parent == first.candidate
    assert (record.path / "round-001" / "rollouts").is_dir(), "it was sampled from the new parent"
    before = record.reports(second)
    assert before["parent", "dev"].subject == first.candidate
    assert before["parent", "sort"].subject == first.parent, "a guard is held against where the run began"
    assert all(c.ok for c in integrity.verify(record.path)), integrity.verify(record.path)


def test_what_says_what_came_of_a_run_is_its_last_accepted_round(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", *ROUNDS, "rounds=8")
    outcomes = [r.decision.outcome for r in record.rounds]
    assert outcomes[-1] not in ledger.GOOD and outcomes[-2] in ledger.GOOD, (
        f"it ends with the first idle one: {outcomes}"
    )
    last = [r for r in record.rounds if r.decision.outcome in ledger.GOOD][-1]
    assert record.final == last == loop.run(record.path)
    assert record.outcome == last.decision.outcome
    assert record.kept is not None and f"round-{last.index:03d}" in str(record.kept)
    assert loop.ask(record.path, "17+25"), "and it can be asked"


def test_patience_goes_on_from_the_same_parent_with_fresh_samples(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", "rounds=4", "patience=3", "engine.learns=-0.5")
    assert [r.decision.outcome for r in record.rounds] == ["rejected"] * 3
    assert {r.parent for r in record.rounds} == {record.facts("tasks")["model"]}
    assert len({r.candidate for r in record.rounds}) == 3, "each round learned from samples of its own"
    assert record.outcome == "rejected"


def test_small_gains_are_proved_against_the_last_proved_model(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", *ROUNDS, "gate.looks=1", "tasks.vault=40", "engine.learns=0.15", "patience=2")
    assert record.rounds[0].decision.outcome in ("accepted", "rejected"), record.rounds[0].decision.reason
    base = record.facts("tasks")["model"]
    for done in record.rounds:
        found = record.reports(done)
        if ("parent", "vault") in found:
            assert found["parent", "vault"].subject == base, "nothing was proved before it"


@pytest.mark.parametrize("start", ["parent", "base"])
def test_a_run_of_rounds_stopped_again_and_again_is_the_same(tmp_path: Path, start: str) -> None:
    overrides = (*ROUNDS, f"train.start={start}", "tasks.train=20")
    whole = run_of(tmp_path / "a" / "run", *overrides)
    assert len(whole.rounds) > 1
    folder = small.prepared(tmp_path / "b" / "run", *overrides)
    small.run_in_pieces(folder, (10, 30, 60, 120, 150, 200, 130, 140, 300))
    assert small.bytes_of(folder) == small.bytes_of(whole.path)


def test_from_the_base_the_examples_of_accepted_rounds_accumulate(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", *ROUNDS, "train.start=base", "train.replay=0")
    steps = [e["facts"]["tokens"] for e in record.units("candidate")]
    assert record.rounds[0].decision.outcome in ledger.GOOD
    assert steps[1] > 1.5 * steps[0], "the second round learned its own examples and the first's"


def test_replay_comes_from_the_base_and_is_sampled_once(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", *ROUNDS)
    base = record.facts("tasks")["model"]
    replays = [e for e in record.units("rollouts") if e["facts"]["samples"] == 20]
    assert len(replays) == 1 and replays[0]["place"].startswith("round-000/"), base
    assert all(r.counts["kept replay"] > 0 for r in record.rounds)


def test_rounds_take_the_next_questions_and_begin_again() -> None:
    train = small.sums(5)
    assert questions_of(train, None, 3) == train
    assert [t.question for t in questions_of(train, 2, 2)] == [train[4].question, train[0].question]
