"""Trials: throw-away adapters on the bench, judged unseen, never run twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

import papers
from selftaught.bench import RunBench
from selftaught.config import TrialConfig
from selftaught.engines.base import TrialJob, Trialled, never
from selftaught.engines.scripted import Scripted
from selftaught.errors import IntegrityError, Stopped
from selftaught.methods.base import Trial
from selftaught.methods.selfedit import Selfedit
from selftaught.rows import read_rows
from selftaught.store import Store, read_lines
from selftaught.tasks.base import TaskSet
from selftaught.trial import LOST, NAME, NO_ROOM, Tryer, as_line, read_trials, tuning
from selftaught.types import Checkpoint, Task, Tried, Verdict
from selftaught.view import Silent

CONFIG = TrialConfig(epochs=3, batch=2)
METHOD = Selfedit(Selfedit.Options(title=False))


class Counting(Scripted):
    """The scripted engine, counting the adapters that were really trained; it stops after ``lasts`` of them."""

    class Options(Scripted.Options):
        pass

    def __init__(self, lasts: int = 10**9, **options: Any) -> None:
        super().__init__(Scripted.Options.model_validate(options))
        self.jobs: list[TrialJob] = []
        self.lasts = lasts

    def trials(self, jobs: Sequence[TrialJob], **how: Any) -> Iterator[tuple[int, Trialled]]:
        for index, done in super().trials(jobs, **how):
            if len(self.jobs) >= self.lasts:
                raise Stopped
            self.jobs.append(jobs[index])
            yield index, done


def bench(store: Store, source: TaskSet, engine: Scripted) -> RunBench:
    parent = engine.open("scripted:0.2")
    tryer = Tryer(engine, engine.tokens(parent), METHOD, source, CONFIG, 7, store.folder / NAME)
    return RunBench(store, engine, parent, source, 7, "round-000", Silent(), never, tryer=tryer)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "run") as opened:
        yield opened


def questions_of(source: TaskSet, name: str) -> tuple[Task, ...]:
    return tuple(replace(t, answer=None) for t in source.train if t.group == name)


def every(source: TaskSet, place: RunBench, seeds: int = 2) -> list[Trial]:
    """The passage, and the passage with its statements, of every document that may be learned from."""
    return [
        Trial(METHOD.lessons(edit, d, place.tokens), questions_of(source, d.id), k)
        for d in map(source.documents.get, place.documents)
        if d is not None
        for edit in ("", "\n".join(d.oracle))
        for k in range(seeds)
    ]


def mean(rows: Sequence[tuple[Tried, ...]]) -> float:
    return sum(r.right for some in rows for r in some) / sum(map(len, rows))


# ---------------------------------------------------------------- what is learnt shows


def test_an_adapter_is_judged_by_answers_that_the_method_never_sees(store: Store) -> None:
    source = papers.world(train=20)
    place = bench(store, source, Counting())
    rows = place.trials(every(source, place))
    base = place.trials([Trial((), questions_of(source, name)) for name in place.documents])
    passage, both = mean(rows[0::4] + rows[1::4]), mean(rows[2::4] + rows[3::4])
    assert mean(base) == 0.0 < passage < both, "more statements, more that is learnt"
    assert all(t.answer is None for t in place.tasks)
    assert place.labels_read, "gold answers judged here"
    right = [r for some in rows for r in some if r.right]
    assert {r.answer for r in right} <= {t.answer for t in source.train}
    assert min(r.loglik for r in right) > max(r.loglik for some in base for r in some)


def test_held_out_documents_are_none_of_a_methods(store: Store) -> None:
    source = papers.world(train=2, dev=3, vault=3)
    place = bench(store, source, Counting())
    assert set(place.documents) == {"thing0", "thing1"}
    assert source.documents["thing0"].oracle
    assert not any(d.oracle for d in place.documents.values()), "which are answers in other words"
    with pytest.raises(IntegrityError, match="held-out question"):
        place.trials([Trial((), source.dev[:1])])


def test_a_question_with_an_answer_of_the_methods_own_is_no_label(store: Store) -> None:
    source = papers.world(train=2)
    place = bench(store, source, Counting())
    own = Task(({"role": "user", "content": "What is the name of thing0?"},), "Bob", "exact", group="thing0")
    [[row]] = place.trials([Trial((), (own,))])
    assert (row.right, row.answer) == (0.0, "unknown")
    assert not place.labels_read


# ---------------------------------------------------------------- once, and the same again


def test_a_finished_trial_is_never_run_again(tmp_path: Path) -> None:
    source, total = papers.world(train=6), 24
    folder = tmp_path / "run"
    straight = Counting()
    with Store(tmp_path / "straight") as store:
        expected = bench(store, source, straight).trials(every(source, bench(store, source, straight)))
        whole = store.head
    ran = 0
    for lasts in (5, 1, 0, 7, 100):
        engine = Counting(lasts)
        with Store(folder) as store:
            place = bench(store, source, engine)
            try:
                found = place.trials(every(source, place))
            except Stopped:
                assert lasts < 100
            ran += len(engine.jobs)
            head = store.head
    assert ran == total == len(straight.jobs), "what was finished before a stop is read back"
    assert found == expected
    assert head == whole, "the chain is that of a run without a stop"


def test_a_trial_that_stands_twice_is_run_once(store: Store) -> None:
    source = papers.world(train=1)
    engine = Counting()
    place = bench(store, source, engine)
    first, second = place.trials([Trial((), questions_of(source, "thing0"))] * 2)
    assert first == second
    assert len(engine.jobs) == 1, "the base answers once per passage"


def test_a_torn_line_is_run_again_and_a_foreign_one_refused(store: Store) -> None:
    source = papers.world(train=1)
    trial = [Trial((), questions_of(source, "thing0"))]
    path = store.folder / NAME
    bench(store, source, Counting()).trials(trial)
    path.write_bytes(path.read_bytes()[:-5])
    engine = Counting()
    bench(store, source, engine)._tryer.run(engine.open("scripted:0.2"), trial)  # type: ignore[union-attr]
    assert len(engine.jobs) == 1
    path.write_text(json.dumps({"trial": "x", "rows": [{"what": 1}]}) + "\n")
    with pytest.raises(IntegrityError, match=r"trials.jsonl, line 1: not a trial"):
        bench(store, source, Counting())


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    lines = read_lines(path)
    change(lines[0])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def all_right(line: dict[str, Any]) -> None:
    for row in line["rows"]:
        row["right"] = 1.0


@pytest.mark.parametrize("change", [all_right, lambda line: line["rows"].pop(), lambda line: line.pop("digest")])
def test_a_line_that_was_changed_is_refused(store: Store, change: Callable[[dict[str, Any]], object]) -> None:
    source = papers.world(train=1)
    bench(store, source, Counting()).trials([Trial((), questions_of(source, "thing0"))])
    edited(store.folder / NAME, change)
    with pytest.raises(IntegrityError, match="line 1: not as it was written") as error:
        bench(store, source, Counting())
    assert "tried again" in error.value.hint


def test_a_line_with_answers_to_other_questions_is_refused(store: Store) -> None:
    source = papers.world(train=1)
    trial = Trial((), questions_of(source, "thing0"))
    bench(store, source, Counting()).trials([trial])
    [(key, rows)] = read_trials(store.folder / NAME).items()
    (store.folder / NAME).write_text(json.dumps(as_line(key, rows[:1])) + "\n")
    place = bench(store, source, Counting())
    with pytest.raises(IntegrityError, match="other questions than it was asked"):
        place._tryer.run(place._parent, [trial])  # type: ignore[union-attr]


# ---------------------------------------------------------------- what goes wrong


def test_an_adapter_that_leaves_the_numbers_costs_nobody_else(store: Store, tmp_path: Path) -> None:
    source = papers.world(train=8)
    place = bench(store, source, Counting(astray=0.3))
    rows = place.trials(every(source, place))
    with Store(tmp_path / "sound") as other:
        sound = bench(other, source, Counting()).trials(every(source, place))
    lost = [some for some in rows if some[0].error]
    assert 0 < len(lost) < len(rows)
    assert all((r.right, r.loglik, r.text) == (0.0, LOST, "") and "numbers" in str(r.error) for s in lost for r in s)
    assert [a for a in rows if not a[0].error] == [b for a, b in zip(rows, sound, strict=True) if not a[0].error]


def test_a_question_without_room_is_wrong_and_says_why(store: Store) -> None:
    source = papers.world(train=2)
    place = bench(store, source, Counting(context=40))
    long = Task(({"role": "user", "content": "What is the price of thing0? " * 5},), "x", "exact", group="thing0")
    short = Task(({"role": "user", "content": "What is the age?"},), "old", "exact", group="thing0")
    [[one, other]] = place.trials([Trial((), (long, short))])
    assert (one.error, one.right, one.loglik) == (NO_ROOM, 0.0, LOST)
    assert other.error is None


# ---------------------------------------------------------------- the plan of an adapter


def test_every_epoch_holds_every_text_once_in_an_order_of_its_own() -> None:
    source = papers.world(train=1)
    document = source.documents["thing0"]
    examples = METHOD.lessons("\n".join(document.oracle), document, Scripted(Scripted.Options()).tokens(_parent()))
    job = tuning(_parent(), Trial(examples, ()), CONFIG, seed=3)
    steps = -(-len(examples) // 2)
    assert len(job.batches) == 3 * steps
    epochs = [[*chain(*job.batches[i : i + steps])] for i in range(0, 3 * steps, steps)]
    assert all(sorted(e) == list(range(len(examples))) for e in epochs)
    assert len({tuple(e) for e in epochs}) > 1
    assert (job.kind, job.lora_rank, job.lora_targets) == ("lora", 32, ("q_proj", "v_proj"))


def test_adapters_of_one_seed_begin_alike_and_of_two_seeds_not() -> None:
    source = papers.world(train=2)
    tokens = Scripted(Scripted.Options()).tokens(_parent())
    lessons = [METHOD.lessons("", d, tokens) for d in source.documents.values()]
    one, other, third = (
        tuning(_parent(), Trial(lessons[i], (), k), CONFIG, seed=3) for i, k in ((0, 0), (1, 0), (0, 1))
    )
    assert one.seed == other.seed != third.seed


def _parent() -> Checkpoint:
    return Checkpoint("parent", "scripted:0.2")


# ---------------------------------------------------------------- the record


def test_what_a_method_found_is_in_the_chain(store: Store) -> None:
    from selftaught.types import Metric

    place = bench(store, papers.world(train=1), Counting())
    place.record("rewards", {"reliability": Metric(0.5, 10, 0.4, 0.6)}, [Verdict("r1", "reward:accuracy", True)])
    [entry] = [e for e in store.chain if e["kind"] == "findings"]
    assert entry["facts"] == {"name": "rewards", "reliability": 0.5}
    assert read_rows(store.folder / entry["place"] / "verdicts.parquet", Verdict)[0].subject == "r1"
