"""The vote-collapse alarm: what sets it off, what does not, and that it stops a round before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import small
from selftaught import loop
from selftaught.collapse import Signals, alarm, signals
from selftaught.engines.base import Completion, Request
from selftaught.types import Rollout, Task

HEALTHY = Signals(questions=100, agreement=0.7, one_answer=0.05, answer="7", length=20.0)


def voted(answers: Sequence[Sequence[str]], length: int = 5) -> list[tuple[Task, list[Rollout]]]:
    rows = [(task, small.said(task, *said)) for task, said in zip(small.sums(len(answers)), answers, strict=True)]
    return [(t, [replace(r, completion_ids=(1,) * length) for r in rs]) for t, rs in rows]


def test_signals_are_counted_over_voted_questions() -> None:
    found = signals(voted([["1", "1", "2"]] * 10 + [["3", "3", "3"]] * 20, length=7))
    assert found == Signals(30, round((10 * 2 / 3 + 20) / 30, 6), round(20 / 30, 6), "3", 7.0)


def test_few_questions_say_nothing() -> None:
    assert signals(voted([["1", "1"]] * 19)) is None
    assert alarm(None, HEALTHY) == ""


def test_one_sign_alone_may_be_honest() -> None:
    assert alarm(replace(HEALTHY, agreement=1.0), HEALTHY) == "", "an easy set"
    assert alarm(replace(HEALTHY, one_answer=0.6), HEALTHY) == "", "a yes-or-no set"
    assert alarm(replace(HEALTHY, length=9.0), HEALTHY) == "", "shorter answers"


def test_two_signs_together_or_an_extreme_one_are_told_with_their_numbers() -> None:
    assert alarm(replace(HEALTHY, agreement=0.99, one_answer=0.6), None) == (
        "the samples agree to 99%; '7' is the majority on 60% of 100 questions"
    )
    assert "'7' is the majority on 95%" in alarm(replace(HEALTHY, one_answer=0.95), None)
    assert alarm(replace(HEALTHY, length=5.0), HEALTHY) == "samples have 25% of the first round's length"
    assert alarm(replace(HEALTHY, agreement=1.0, length=9.0), HEALTHY).count(";") == 1


class Constant(small.Counting):
    """Answers 7 to everything."""

    def _complete(self, request: Request, seed: int) -> Completion:
        text = " 7=7\n#### 7"
        return Completion((*text.encode(), 257), (-0.1,) * (len(text) + 1), "stop")


def test_a_model_that_says_the_same_to_everything_trains_nothing(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run")
    done = loop.run(folder, engine=Constant())
    assert done.decision.outcome == "rejected"
    assert done.decision.reason == (
        "the votes have collapsed: the samples agree to 100%; '7' is the majority on 100% of 40 questions"
    )
    assert not (folder / "round-000" / "candidate").exists(), "nothing was trained"
    assert done.counts["made"] == done.counts["kept"] + done.counts["rejected"] > 0, "and what was made is on record"
