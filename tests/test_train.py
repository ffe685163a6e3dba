"""The plan of an update: every example once per epoch, replay at its share, steps within their tokens, by the seed."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest

from selftaught.config import TrainConfig
from selftaught.errors import RecipeError
from selftaught.train import make_job, packed, plan
from selftaught.types import Checkpoint, Example, digest

PARENT = Checkpoint("p", "model")
SOURCES = ("own", "replay", "real")


def examples(count: int, length: int = 20, source: str = "own") -> list[Example]:
    return [Example((1,) * (length // 2), (i,) * (length - length // 2), "x", source=source) for i in range(count)]


def mixed(own: int, **others: int) -> list[Example]:
    return [*examples(own), *(e for source, count in others.items() for e in examples(count, source=source))]


def config(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"lr": 1e-3, "kind": "full", "batch_tokens": 100, "epochs": 1} | changes)


def used(batches: list[list[int]]) -> Counter[int]:
    return Counter(chain.from_iterable(batches))


def test_every_example_stands_once_in_every_epoch() -> None:
    batches = plan(examples(23), config(epochs=2), seed=1)
    assert used(batches) == Counter(dict.fromkeys(range(23), 2))
    epoch = len(batches) // 2
    assert used(batches[:epoch]) == used(batches[epoch:])
    assert batches[:epoch] != batches[epoch:], "in another order"


def test_a_step_holds_no_more_than_its_tokens_unless_one_example_does() -> None:
    some = [*examples(9, 30), *examples(1, 250)]
    for batch in plan(some, config(), seed=1):
        tokens = sum(len(some[i].prompt_ids) + len(some[i].completion_ids) for i in batch)
        assert tokens <= 100 or batch == [9], f"{tokens} tokens in {batch}"


@pytest.mark.parametrize(("epochs", "share"), [(0.5, 0.5), (1.5, 1.5), (0.25, 0.25), (2.0, 2.0)])
def test_epochs_may_be_fractions(epochs: float, share: float) -> None:
    whole = len(plan(examples(100), config(), seed=1))
    assert len(plan(examples(100), config(epochs=epochs), seed=1)) == round(share * whole)


def test_the_smallest_fraction_is_one_step() -> None:
    assert len(plan(examples(3), config(epochs=0.01), seed=1)) == 1


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_steps_are_exact(steps: int) -> None:
    batches = plan(mixed(12, replay=5), config(steps=steps, replay=0.3), seed=1)
    assert len(batches) == steps
    assert all(batches)


@pytest.mark.parametrize(("share", "wanted"), [(0.25, 20), (0.5, 60), (0.8, 240)])
def test_replay_takes_its_share_and_is_used_evenly(share: float, wanted: int) -> None:
    counts = used(plan(mixed(60, replay=30), config(replay=share), seed=1))
    replayed = {i: n for i, n in counts.items() if i >= 60}
    assert sum(replayed.values()) == wanted, f"{wanted} of {60 + wanted} are replay"
    assert max(replayed.values()) - min([*replayed.values(), *([0] if len(replayed) < 30 else [])]) <= 1
    assert all(counts[i] == 1 for i in range(60))


@pytest.mark.parametrize(("replay", "real", "counts"), [
    (0.25, 0.25, (60, 30, 30)), (0.0, 0.1, (60, 0, 7)), (0.2, 0.3, (60, 24, 36)), (0.5, 0.4, (60, 300, 240)),
])  # fmt: skip
def test_two_sorts_take_their_shares_of_the_whole(replay: float, real: float, counts: tuple[int, int, int]) -> None:
    some, settings = mixed(60, replay=30, real=20), config(replay=replay, real="a.txt", real_share=real, epochs=2)
    epochs = used(plan(some, settings, seed=1))
    found = Counter({source: sum(n for i, n in epochs.items() if some[i].source == source) for source in SOURCES})
    assert tuple(found[source] for source in SOURCES) == tuple(2 * n for n in counts)
    assert found["real"] == pytest.approx(real * found.total(), abs=1)
    real_counts = [epochs[i] for i in range(90, 110)]
    assert max(real_counts) - min(real_counts) <= 2, "evenly: at most one draw apart in either epoch"


@pytest.mark.parametrize(("there", "replayed", "real"), [({"real": 20}, 0, 15), ({"replay": 30}, 20, 0), ({}, 0, 0)])
def test_the_share_of_a_sort_of_which_there_is_nothing_goes_to_the_others(
    there: dict[str, int], replayed: int, real: int
) -> None:
    some = mixed(60, **there)
    counts = used(plan(some, config(replay=0.25, real="a.txt", real_share=0.2), seed=1))
    by_source = Counter(some[i].source for i in counts.elements())
    assert (by_source["own"], by_source["replay"], by_source["real"]) == (60, replayed, real)


def test_without_real_text_a_plan_is_what_it_always_was() -> None:
    """Committed records go on with the same batches."""
    batches = plan(mixed(50, replay=9), config(replay=0.3, epochs=1.5), seed=7)
    assert digest(batches).startswith("9357e01f00656129")


def test_replay_alone_takes_the_place_of_the_examples() -> None:
    counts = used(plan(mixed(60, replay=30), config(replay=1), seed=1))
    assert sum(counts.values()) == 60, "as many as there are examples: the same tokens for the control"
    assert min(counts) == 60, "and no example among them"


@pytest.mark.parametrize("changes", [{"replay": 1}, {"replay": 1, "steps": 5}, {"steps": 5}, {}])
def test_nothing_to_learn_from_is_an_empty_plan(changes: dict[str, object]) -> None:
    made = examples(4) if "replay" in changes else []
    assert plan(made, config(**changes), seed=1) == []


def test_without_replay_texts_the_examples_are_trained_on_alone() -> None:
    assert used(plan(examples(10), config(replay=0.5), seed=1)) == Counter(range(10))


def test_the_plan_is_the_seeds_alone() -> None:
    same = [plan(mixed(50, replay=9), config(replay=0.2), seed=s) for s in (3, 3, 2**31 - 1)]
    assert same[0] == same[1] != same[2]


def test_a_job_is_the_whole_update_as_data() -> None:
    some = mixed(40, replay=10)
    job = make_job(PARENT, some, config(replay=0.2, warmup=0.1), 7)
    assert job.examples == tuple(some)
    assert max(map(max, job.batches)) < 50
    assert job.warmup_steps == round(0.1 * len(job.batches))
    assert (job.kind, job.lr, job.parent) == ("full", 1e-3, PARENT)
    assert job == make_job(PARENT, some, config(replay=0.2, warmup=0.1), 7)


@pytest.mark.parametrize("unsettled", [{"lr": "auto"}, {"kind": "auto"}])
def test_an_unsettled_recipe_is_refused(unsettled: dict[str, str]) -> None:
    with pytest.raises(RecipeError, match="still auto"):
        make_job(PARENT, examples(1), config(**unsettled), 7)


# ---------------------------------------------------------------- packing


def text(number: int, length: int, source: str = "own", **more: object) -> Example:
    """Unprompted: a begin token, ``length`` tokens, the last one its end."""
    ids = (*[number] * (length - 1), 2)
    return Example((1,), ids, f"text {number}", f"t{number}", source=source, **more)  # type: ignore[arg-type]


def test_texts_are_joined_to_rows_of_at_most_so_many_tokens_and_none_is_lost() -> None:
    some = [text(i, 3 + i % 5) for i in range(10, 40)]
    rows = packed(some, 20, seed=1)
    lengths = [len(r.prompt_ids) + len(r.completion_ids) for r in rows]
    assert max(lengths) <= 20 and sum(lengths) == sum(1 + len(e.completion_ids) for e in some)
    by_id = {e.id: e for e in some}
    assert Counter(p for r in rows for p in r.parents) == Counter(by_id.keys())
    for row in rows:
        parts = [by_id[p] for p in row.parents]
        whole = tuple(i for e in parts for i in (*e.prompt_ids, *e.completion_ids))
        assert (*row.prompt_ids, *row.completion_ids) == whole, "each begins as it did alone, after the last one's end"
        assert row.text == "\n".join(e.text for e in parts) and row.task_id == ""
    assert [r.parents for r in rows] != [r.parents for r in packed(some, 20, seed=2)], "in an order drawn by the seed"
    assert rows == packed(some, 20, seed=1)


def test_a_row_is_full_when_the_next_text_would_not_fit() -> None:
    some = [text(i, 4) for i in range(10, 17)]
    assert [len(r.parents) for r in packed(some, 15, seed=1)] == [3, 3, 1], "five tokens each"
    assert [len(r.parents) for r in packed(some, 14, seed=1)] == [2, 2, 2, 1]
    assert [len(r.parents) for r in packed([*some, text(9, 30)], 4, seed=1)] == [1] * 8, "one too long stays alone"


def test_sorts_are_not_joined_and_what_answers_a_prompt_stays_as_it_is() -> None:
    answers = [Example((1, 5), (6, 2), "answer", "q"), text(8, 4, weight=-1.0), text(9, 4, loss="other")]
    texts = [text(i, 4, source) for i, source in enumerate(("own", "replay", "own", "real", "replay", "real"), 10)]
    rows = packed([*texts[:3], *answers, *texts[3:]], 100, seed=1)
    assert rows[:3] == answers
    assert {(r.source, len(r.parents), r.own) for r in rows[3:]} == {
        ("own", 2, True), ("replay", 2, False), ("real", 2, False),
    }  # fmt: skip


def test_without_packing_every_example_stays_what_it_is() -> None:
    some = [text(i, 4) for i in range(10, 15)]
    assert packed(some, 0, seed=1) == some and packed([], 50, seed=1) == []
