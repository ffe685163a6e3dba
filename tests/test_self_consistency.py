"""The method: voting, formats, exemplars, written questions, early stop and the controls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import small
from selftaught.config import check
from selftaught.engines.base import Completion
from selftaught.engines.scripted import ByteTokens, Scripted
from selftaught.errors import RecipeError
from selftaught.methods.self_consistency import LmsiOptions, SelfConsistency, decided, majority
from selftaught.store import Store
from selftaught.types import Example, Task

SUM = small.sums(1)[0]
EXEMPLARS = [{"question": "1+1", "rationale": "one and one", "answer": "2"},
             {"question": "2+2", "rationale": "two and two", "answer": "4"}]  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "run") as opened:
        yield opened


def learned(method: SelfConsistency, bench: Any) -> list[Example]:
    """Propose, sample and harvest, as the loop does."""
    groups = bench.generate(list(method.propose(bench)), method.sampling())
    return list(method.harvest(groups, bench))


def prompt_of(example: Example) -> str:
    return ByteTokens(0).decode(example.prompt_ids)


def completion_of(example: Example) -> str:
    return ByteTokens(0).decode(example.completion_ids)


# ---------------------------------------------------------------- voting


def test_the_most_frequent_answer_wins_with_its_share_of_all_samples() -> None:
    vote = majority(small.said(SUM, "3", "4", "4", None))
    assert vote is not None
    assert (vote.answer, vote.share) == ("4", 0.5), "the cut-off path counts among the samples, not among the votes"
    assert [r.index for r in vote.paths] == [1, 2], "every agreeing path"


def test_of_equal_answers_the_one_that_came_first_wins() -> None:
    assert majority(small.said(SUM, "9", "4", "4", "9")).answer == "9"
    assert majority(small.said(SUM, "4", "9", "9", "4")).answer == "4"


def test_a_truncated_path_is_no_vote_even_if_it_shows_a_number(store: Store) -> None:
    assert majority(small.said(SUM, None, None)) is None
    engine = Scripted(Scripted.Options(truncates=1.0))
    bench = small.bench(store, small.tasks(small.sums(5)), engine)
    assert learned(small.method(), bench) == []
    assert bench.counts["questions without a majority"] == 5
    assert bench.counts["samples"] == 40
    assert bench.counts["samples with an answer"] == 0


def test_voted_and_unvoted_questions_add_up(store: Store) -> None:
    bench = small.bench(store, small.tasks(small.sums(30)), model="scripted:0.3")
    kept = learned(small.method(min_share=0.5), bench)
    counts = bench.counts
    assert counts["questions voted"] + counts["questions without a majority"] == 30
    assert 0 < counts["questions voted"] < 30, "a share of one half is met by some and missed by others"
    assert len({e.task_id for e in kept}) == counts["questions voted"]


@pytest.mark.parametrize(("share", "kept"), [(0.5, True), (0.51, False), (0.0, True)])
def test_min_share_is_met_or_the_question_is_left_out(store: Store, share: float, kept: bool) -> None:
    bench = small.bench(store, small.tasks([SUM]))
    groups = [(SUM, small.said(SUM, "4", "4", "5", None))]
    assert bool(list(small.method(min_share=share).harvest(groups, bench))) is kept


def test_every_agreeing_path_is_learned_and_names_its_rollout(store: Store) -> None:
    bench = small.bench(store, small.tasks([SUM]))
    rollouts = small.said(SUM, "4", "5", "4", "4")
    examples = list(small.method().harvest([(SUM, rollouts)], bench))
    assert [e.parents for e in examples] == [(rollouts[i].id,) for i in (0, 2, 3)]
    assert [e.completion_ids for e in examples] == [rollouts[i].completion_ids for i in (0, 2, 3)], "the very ids"
    assert len({e.id for e in examples}) == 3


def test_the_method_never_sees_an_answer(store: Store) -> None:
    bench = small.bench(store, small.tasks(small.sums(4), small.sums(4, "dev", start=50)))
    assert [t.answer for t in bench.tasks] == [None] * 4
    method = small.method(write_questions={"count": 3}, exemplars="self", sample_format="few_shot_cot")
    assert all(t.answer is None for t in method.propose(bench))
    assert bench.labels_read is False


# ---------------------------------------------------------------- controls


def test_control_all_learns_from_every_path_with_an_answer(store: Store) -> None:
    bench = small.bench(store, small.tasks([SUM]))
    rollouts = small.said(SUM, "4", None, "5", "6")
    examples = list(small.method(vote="all", min_share=0.9).harvest([(SUM, rollouts)], bench))
    assert [e.parents[0] for e in examples] == [rollouts[i].id for i in (0, 2, 3)]


def test_control_random_draws_one_answer_by_the_seed(tmp_path: Path) -> None:
    tasks = small.sums(40)
    drawn = []
    for place, seed in (("a", 5), ("b", 5), ("c", 6)):
        with Store(tmp_path / place) as store:
            bench = small.bench(store, small.tasks(tasks), seed=seed)
            groups = [(t, small.said(t, "1", "1", "1", "2")) for t in tasks]
            drawn.append([e.text for e in small.method(vote="random").harvest(groups, bench)])
    assert drawn[0] == drawn[1], "the same seed draws the same"
    assert drawn[0] != drawn[2]
    ones = sum(text == "so 1" for text in drawn[0]) / 3
    assert 10 <= ones <= 30, f"answers are drawn evenly, not by their votes: {ones} of 40"


# ---------------------------------------------------------------- formats


def test_four_formats_with_given_exemplars(store: Store) -> None:
    bench = small.bench(store, small.tasks([SUM]))
    formats = ["few_shot_cot", "few_shot_answer", "zero_shot_cot", "answer_only"]
    method = small.method(exemplars=EXEMPLARS, sample_format="few_shot_cot", formats=formats)
    [asked] = method.propose(bench)
    path = replace(small.said(asked, "10")[0], completion_ids=ByteTokens(0).encode_completion(" ten"), text=" ten")
    examples = list(method.harvest([(asked, [path])], bench))
    shots = "Q: 1+1\nA: {}\nQ: 2+2\nA: {}\n"
    cot, answers = shots.format("one and one", "two and two"), shots.format("The answer is 2.", "The answer is 4.")
    assert [(prompt_of(e), completion_of(e)) for e in examples] == [
        (f"{cot}Q: 10+0\nA:", " ten"),
        (f"{answers}Q: 10+0\nA:", " The answer is 10."),
        ("Q: 10+0\nA: Step by step.", " ten"),
        ("Q: 10+0\nA:", " The answer is 10."),
    ]
    assert examples[0].completion_ids == path.completion_ids, "a sampled path is learned as it was sampled"
    assert all(e.completion_ids[-1] == 257 for e in examples), "every completion ends"


def test_what_is_sampled_is_what_is_trained_on_in_the_same_format(store: Store) -> None:
    system = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "3+4"})
    bench = small.bench(store, small.tasks([Task(system, "7", "number")]))
    for form in ("direct", "zero_shot_cot", "few_shot_cot"):
        method = small.method(exemplars=EXEMPLARS, sample_format=form, formats=[form], samples=4)
        [(asked, rollouts)] = bench.generate(list(method.propose(bench)), method.sampling())
        examples = list(method.harvest([(asked, rollouts)], bench))
        assert {e.prompt_ids for e in examples} == {rollouts[0].prompt_ids}, form
        assert prompt_of(examples[0]).startswith("S: be brief\nQ: "), "a system message stays, and stays first"


def test_an_exemplar_does_not_give_its_own_question_away(store: Store) -> None:
    own = Task(({"role": "user", "content": "2+2"},), checker="number")
    method = small.method(exemplars=EXEMPLARS, sample_format="few_shot_cot", formats=["few_shot_cot"])
    [asked] = method.propose(small.bench(store, small.tasks([own])))
    assert [m["content"] for m in asked.prompt] == ["1+1", "one and one", "2+2"]


def test_an_answer_with_braces_is_text_and_an_answer_text_without_a_place_is_refused(store: Store) -> None:
    bench = small.bench(store, small.tasks([SUM]))
    method = small.method(formats=["answer_only"], answer_text="{answer} {it}")
    [example] = method.harvest([(SUM, small.said(SUM, "{0.__class__}"))], bench)
    assert completion_of(example) == " {0.__class__} {it}"
    with pytest.raises(RecipeError, match="answer_text"):
        check(LmsiOptions, {"answer_text": "the answer"}, "method")
    with pytest.raises(RecipeError, match="formats"):
        check(LmsiOptions, {"formats": []}, "method")


def test_judging_asks_as_sampling_does_but_with_given_exemplars_only() -> None:
    few = small.method(exemplars=EXEMPLARS, sample_format="few_shot_cot").ask(SUM)
    assert [m["content"] for m in few.prompt] == ["1+1", "one and one", "2+2", "two and two", "10+0"]
    assert small.method(sample_format="few_shot_cot", exemplars="self").ask(SUM).form == "cot"
    assert small.method(sample_format="zero_shot_cot").ask(SUM).form == "cot"
    assert small.method().ask(SUM) is SUM


def test_the_model_writes_its_own_exemplars_greedily(store: Store) -> None:
    bench = small.bench(store, small.tasks(small.sums(30)))
    method = small.method(exemplars="self", exemplar_count=3, sample_format="few_shot_cot", formats=["few_shot_cot"])
    asked = list(method.propose(bench))
    turns = [m for m in asked[0].prompt if m["role"] == "assistant"]
    assert bench.counts["exemplars written by the model"] == 3
    assert 2 <= len(turns) <= 3
    assert all("####" in m["content"] for m in turns), "whole rationales"
    assert {t.question for t in asked} == {t.question for t in bench.tasks}


def test_a_model_that_writes_no_exemplar_is_asked_without(store: Store) -> None:
    engine = Scripted(Scripted.Options(answers=False))
    bench = small.bench(store, small.tasks(small.sums(4)), engine)
    method = small.method(exemplars="self", sample_format="few_shot_cot", formats=["few_shot_cot"])
    assert [len(t.prompt) for t in method.propose(bench)] == [1] * 4
    assert learned(method, bench) == []
    assert bench.counts["exemplars written by the model"] == 0


# ---------------------------------------------------------------- written questions


class Repeating(Scripted):
    """Writes the same few questions again and again: two known ones, a held-out one, a new one, and an endless one."""

    class Options(Scripted.Options):
        pass

    def _complete(self, request: Any, seed: int) -> Completion:
        if request.sampling.stop:
            text = (" 10+0\n", " 11+1 \n", " 50+0\n", " 70+7\n", " 5+5+5")[seed % 5]
            ids = tuple(text.encode())
            return Completion(ids, (-0.1,) * len(ids), "stop" if text.endswith("\n") else "length")
        return super()._complete(request, seed)


def test_written_questions_are_new_whole_and_not_held_out(store: Store) -> None:
    engine = Repeating(Repeating.Options())
    bench = small.bench(store, small.tasks(small.sums(5), small.sums(3, "dev", start=50)), engine)
    method = small.method(write_questions={"count": 40, "seeds": 3})
    written = [t for t in method.propose(bench) if t.source == "written"]
    assert [t.question for t in written] == ["70+7"]
    assert bench.counts["questions written by the model"] == 1
    assert bench.counts["written questions that were cut off or not new"] == 39
    assert written[0].answer is None and written[0].group is None


@pytest.mark.parametrize("form", ["direct", "zero_shot_cot", "few_shot_cot"])
def test_written_questions_need_more_confidence_in_every_format(store: Store, form: str) -> None:
    bench = small.bench(store, small.tasks(small.sums(10)), model="scripted:0.7")
    method = small.method(write_questions={"count": 30, "seeds": 3, "min_share": 0.8}, min_share=0.0, formats=[form],
                          sample_format=form, exemplars=EXEMPLARS)  # fmt: skip
    proposed = list(method.propose(bench))
    written = {t.id for t in proposed if t.source == "written"}
    groups = bench.generate(proposed, method.sampling())
    kept = {e.task_id for e in method.harvest(groups, bench)}
    confident = {t.id for t, r in groups if majority(r).share >= 0.8}
    assert kept & written == confident & written, "written questions: only the confident ones"
    assert kept - written == {t.id for t in proposed} - written, "real questions: all of them"
    assert written - kept, "some were dropped, or this shows nothing"


def test_one_question_alone_can_seed_others(store: Store) -> None:
    bench = small.bench(store, small.tasks(small.sums(1)))
    proposed = list(small.method(write_questions={"count": 5}).propose(bench))
    assert len(proposed) == 1 + bench.counts["questions written by the model"]


# ---------------------------------------------------------------- early stop


@pytest.mark.parametrize("min_share", [0.0, 0.4, 0.7])
def test_early_stop_finds_the_full_votes_winner_with_fewer_samples(tmp_path: Path, min_share: float) -> None:
    tasks = small.sums(60)
    winners, samples = [], []
    for early in (0, 3):
        with Store(tmp_path / str(early)) as store:
            bench = small.bench(store, small.tasks(tasks), model="scripted:0.5")
            examples = learned(small.method(samples=13, early_stop=early, min_share=min_share), bench)
            parse = small.CHECKERS["number"].parse
            winners.append({e.task_id: parse(e.text) for e in examples})
            samples.append(bench.counts["samples"])
            saved = bench.counts["samples saved by early stop"]
    assert winners[0] == winners[1], "the same questions with the same answers"
    assert samples[0] == 60 * 13
    assert samples[1] < samples[0] and samples[1] + saved == samples[0]


def test_a_vote_is_decided_when_nothing_can_change_it() -> None:
    assert decided(small.said(SUM, "4", "4", "4"), 2), "two more cannot catch up with three"
    assert not decided(small.said(SUM, "4", "4"), 2), "they can draw level"
    assert not decided(small.said(SUM, None, None), 1)
    assert not decided(small.said(SUM, "4", "4", "4"), 2, needed=0.8), "3 of 5 or 5 of 5: the share is still open"
    assert decided(small.said(SUM, "4", "5", "6"), 2, needed=0.8), "3 of 5 at best: it will be left out"
