"""The bench: units, memory, seeds, and held-out questions that no method may touch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import small
from selftaught.bench import CHUNK_SAMPLES
from selftaught.engines.scripted import Scripted
from selftaught.errors import IntegrityError
from selftaught.rollout import rollout
from selftaught.store import Store
from selftaught.tasks._split import apart
from selftaught.tasks.base import NO_CHECKER
from selftaught.types import Sampling, Task

SAMPLING = Sampling(4, 0.8, max_tokens=64)
DEV = small.sums(3, "dev", start=50)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "run") as opened:
        yield opened


def asked(question: str, *before: dict[str, str], form: str = "chat") -> Task:
    return Task((*before, {"role": "user", "content": question}), checker="number", form=form)


# ---------------------------------------------------------------- held out


@pytest.mark.parametrize(
    "task",
    [
        DEV[0],
        replace(DEV[0], form="cot"),
        asked("  50+0 "),
        asked("50+0", {"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}, form="plain"),
        Task(
            (
                {"role": "user", "content": "50+0"},
                {"role": "assistant", "content": "50"},
                {"role": "user", "content": "1+1"},
            ),
            checker="number",
        ),
    ],
    ids=["as it is", "in another form", "with other spaces", "behind an example", "as an example"],
)
def test_a_held_out_question_is_refused_however_it_is_put(store: Store, task: Task) -> None:
    engine = small.Counting()
    bench = small.bench(store, small.tasks(small.sums(3), DEV), engine)
    with pytest.raises(IntegrityError, match=r"held-out question: '(50\+0|  50\+0 |1\+1)'"):
        bench.generate([*bench.tasks, task], SAMPLING)
    assert engine.calls == [], "nothing was sampled, not even of the others"


def test_guard_questions_are_held_out_too(store: Store) -> None:
    guard = small.sums(2, "guard", start=80)
    bench = small.bench(store, small.tasks(small.sums(3), sort=guard))
    with pytest.raises(IntegrityError, match="held-out"):
        bench.generate([guard[1]], SAMPLING)


def test_a_question_that_only_begins_alike_is_no_held_out_one(store: Store) -> None:
    bench = small.bench(store, small.tasks(small.sums(3), DEV))
    [(_, rollouts)] = bench.generate([asked("50+0+1")], SAMPLING)
    assert len(rollouts) == 4


def test_what_is_left_to_train_on_may_be_sampled(store: Store) -> None:
    """The split and the bench agree on what shows a held-out question: else a run breaks and blames the method."""
    turns = [("user", "50+0"), ("assistant", "50"), ("user", "1+1")]
    longer = Task(tuple({"role": r, "content": c} for r, c in turns), checker="number")
    kept, dropped = apart([longer, *small.sums(3)], DEV)
    assert dropped == 1
    bench = small.bench(store, small.tasks(list(kept), DEV))
    assert len(bench.generate(bench.tasks, SAMPLING)) == 3


def test_fresh_questions_are_new_and_stand_once(store: Store) -> None:
    bench = small.bench(store, small.tasks(small.sums(3), DEV))
    words = ["10+0", "11 +1", "50+0", "7+7", "7+7 ", "8+8"]
    assert [t.question for t in bench.fresh([asked(w) for w in words])] == ["11 +1", "7+7", "8+8"]
    assert bench.fresh([]) == []


# ---------------------------------------------------------------- units and memory


def test_a_call_is_cut_into_units_of_about_so_many_samples(store: Store) -> None:
    engine = small.Counting()
    bench = small.bench(store, small.tasks(small.sums(50)), engine)
    n = CHUNK_SAMPLES // 20
    groups = bench.generate(bench.tasks, Sampling(n, 0.8, max_tokens=32))
    assert engine.calls == [20 * n, 20 * n, 10 * n]
    assert [t.id for t, _ in groups] == [t.id for t in bench.tasks]
    assert all([r.index for r in rollouts] == list(range(n)) for _, rollouts in groups)
    assert [e["place"] for e in store.chain] == [f"round-000/rollouts/00-{i:03d}" for i in range(3)]
    assert sum(e["facts"]["samples"] for e in store.chain) == 50 * n


def test_a_second_run_replays_every_call_from_the_store(tmp_path: Path) -> None:
    source = small.tasks(small.sums(6))
    results, calls, chains = [], [], []
    for _ in range(2):
        engine = small.Counting()
        with Store(tmp_path / "run") as store:
            bench = small.bench(store, source, engine)
            first = bench.generate(bench.tasks, SAMPLING)
            results.append((first, bench.generate(bench.tasks[:2], SAMPLING, first=4)))
            chains.append(list(store.chain))
        calls.append(engine.calls)
    assert calls == [[24, 8], []], "the second time, the engine is not asked"
    assert results[0] == results[1]
    assert chains[0] == chains[1]


def test_samples_do_not_depend_on_what_is_asked_beside_them(store: Store, tmp_path: Path) -> None:
    whole = small.bench(store, small.tasks(small.sums(8)))
    together = {t.id: [r.text for r in rs] for t, rs in whole.generate(whole.tasks, SAMPLING)}
    with Store(tmp_path / "other") as other:
        bench = small.bench(other, small.tasks(small.sums(8)))
        for task in reversed(bench.tasks):
            [(_, head)] = bench.generate([task], replace(SAMPLING, n=1))
            [(_, tail)] = bench.generate([task], replace(SAMPLING, n=3), first=1)
            assert [r.text for r in (*head, *tail)] == together[task.id]
            assert [r.index for r in (*head, *tail)] == [0, 1, 2, 3]


def test_another_run_seed_draws_other_samples(tmp_path: Path) -> None:
    texts = []
    for seed in (5, 2**31 - 1):
        with Store(tmp_path / str(seed)) as store:
            bench = small.bench(store, small.tasks(small.sums(8)), seed=seed)
            groups = bench.generate(bench.tasks, SAMPLING)
            texts.append([r.text for _, rs in groups for r in rs])
            assert all(0 <= r.seed < 2**63 for _, rs in groups for r in rs)
    assert texts[0] != texts[1]


def test_a_task_that_stands_twice_makes_one_group(store: Store) -> None:
    engine = small.Counting()
    bench = small.bench(store, small.tasks(small.sums(2)), engine)
    groups = bench.generate([bench.tasks[0], bench.tasks[1], bench.tasks[0]], SAMPLING)
    assert [(t.id, len(r)) for t, r in groups] == [(t.id, 4) for t in bench.tasks]
    assert engine.calls == [8]


def test_nothing_asked_is_nothing_sampled(store: Store) -> None:
    bench = small.bench(store, small.tasks(small.sums(1)))
    assert bench.generate([], SAMPLING) == []
    assert store.chain == []


def test_a_prompt_longer_than_the_context_fails_alone_and_loses_no_row(store: Store) -> None:
    engine = Scripted(Scripted.Options(context=40))
    bench = small.bench(store, small.tasks(small.sums(2)), engine)
    groups = bench.generate([bench.tasks[0], asked("+".join(["12"] * 20)), bench.tasks[1]], SAMPLING)
    assert [[r.error for r in rs] for _, rs in groups][1] == ["prompt longer than the context"] * 4
    assert [r.index for r in groups[1][1]] == [0, 1, 2, 3]
    assert all(r.prompt_ids for _, rs in groups for r in rs)


def test_one_task_of_very_many_samples_is_cut_into_units_and_sampled_the_same(store: Store) -> None:
    """As for text that nobody asked for: one prompt, twenty thousand samples."""
    tasks = [Task((), checker="", source="alone"), asked("1+2")]
    some = Sampling(CHUNK_SAMPLES + 2, 0.8, max_tokens=4)
    engine = small.Counting()
    bench = small.bench(store, small.tasks(small.sums(3)), engine)
    groups = bench.generate(tasks, some)
    assert [t for t, _ in groups] == tasks
    assert [e["place"].rpartition("/")[2] for e in store.chain] == ["00-000", "00-001", "00-002"]
    assert engine.calls == [CHUNK_SAMPLES, CHUNK_SAMPLES, 4], "a task a unit, and what is left of both"
    assert all([r.index for r in rows] == list(range(CHUNK_SAMPLES + 2)) for _, rows in groups)
    checkers = {**small.CHECKERS, "": NO_CHECKER}
    whole = rollout(engine, engine.open("scripted:0.6"), bench.tokens, tasks, some, checkers, run_seed=5)
    assert [r for _, rows in groups for r in rows] == whole, "as in one piece"
    assert small.bench(store, small.tasks(small.sums(3)), small.Counting()).generate(tasks, some) == groups
    assert len(store.chain) == 3, "read back"
