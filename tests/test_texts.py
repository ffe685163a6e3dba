"""The text guards: what is measured, that a model that ran away does not pass, and that real text is held out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

import small
from selftaught import gate, integrity, ledger, loop
from selftaught import report as report_page
from selftaught.engines.base import StopToken, never
from selftaught.errors import DataError, IntegrityError, ModelError, Stopped
from selftaught.evaluate import likelihood
from selftaught.texts import read_texts
from selftaught.types import Checkpoint, Report, Task

PARENT = Checkpoint("p", "p")


def report(values: Sequence[float]) -> Report:
    texts = [Task(({"role": "user", "content": f"text {i}"},), form="document") for i in range(len(values))]
    return likelihood("replay", PARENT, texts, [[v, v] for v in values])


def run_of(folder: Path, *overrides: str) -> ledger.RunRecord:
    small.prepared(folder, *overrides)
    loop.run(folder)
    return ledger.read_run(folder)


def test_both_guards_stand_by_default_and_hold_where_nothing_moved(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", "gate.text_items=60")
    rules = {r.name: r for r in record.rounds[0].decision.rules}
    assert list(rules) == ["gain on dev", "guard: sort", "guard: replay", "guard: text", "gain on vault"]
    assert rules["guard: text"].detail.startswith(
        "+0.000 nats per token on 60 texts; a loss of 0.2 nats or more has p ="
    )
    assert (rules["guard: replay"].unit, rules["guard: replay"].before) == ("nats", pytest.approx(-0.1))
    assert record.outcome == "proved" and all(c.ok for c in integrity.verify(record.path))
    replay = record.reports()["parent", "replay"]
    assert 1 < len(replay.items) <= 60 and replay.unit == "nats"
    trained = {e.text for e in small.kept(record)}
    assert replay.items and not trained & {i.question for i in small.items(record, "replay")}, "not what was trained on"


class Runaway(small.Counting):
    """Its candidate finds every text unlikely."""

    def score(
        self, checkpoint: Checkpoint, sequences: Sequence[tuple[int, ...]], *, stop: StopToken = never
    ) -> list[list[float]]:
        fall = 0.0 if checkpoint.model.startswith("scripted:") else 3.0
        return [[-0.1 - fall] * (len(s) - 1) for s in sequences]


def test_a_candidate_that_forgot_what_the_base_wrote_is_rejected_though_it_gained(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run", "gate.text_items=60")
    done = loop.run(folder, engine=Runaway())
    assert done.decision.outcome == "rejected"
    assert done.decision.reason == "did not pass: guard: replay, guard: text"
    assert done.decision.rules[0].passed, "the gain alone would have been accepted"


class LeavesTheNumbers(small.Counting):
    """``broken`` models cannot say how likely a text is."""

    broken = "candidate"

    def score(
        self, checkpoint: Checkpoint, sequences: Sequence[tuple[int, ...]], *, stop: StopToken = never
    ) -> list[list[float]]:
        parent = checkpoint.model.startswith("scripted:")
        value = float("nan") if parent == (self.broken == "parent") else -0.1
        return [[value] * (len(s) - 1) for s in sequences]


@pytest.mark.parametrize("claim", ["accuracy", "loglik"])
def test_a_candidate_whose_likelihoods_left_the_numbers_is_rejected(tmp_path: Path, claim: str) -> None:
    folder = small.prepared(tmp_path / "run", "gate.text_items=60", f"gate.primary.metric={claim}")
    done = loop.run(folder, engine=LeavesTheNumbers())
    assert done.decision.outcome == "rejected" and done.candidate is not None
    assert re.search(r"the probability of \d+ of \d+ texts is not a finite number", done.decision.reason)
    assert all(c.ok for c in integrity.verify(folder))
    assert "not a finite number" in report_page.write_report(folder).read_text()


def test_a_base_whose_likelihoods_left_the_numbers_is_refused(tmp_path: Path) -> None:
    folder, engine = small.prepared(tmp_path / "run", "gate.text_items=60"), LeavesTheNumbers()
    engine.broken = "parent"
    with pytest.raises(ModelError, match="not a finite number"):
        loop.run(folder, engine=engine)


def test_a_loss_of_the_margin_does_not_pass_and_half_of_it_does() -> None:
    before = report([-1.0 - 0.01 * (i % 7) for i in range(200)])
    for fall, passed in ((0.0, True), (0.1, True), (0.199, True), (0.2, False), (0.5, False)):
        after = report([v - fall for v in before.scores])
        assert gate.guard_rule("guard: replay", before, after, 0.2, 0.05).passed == passed, fall


def test_a_few_texts_leave_it_unproven() -> None:
    before, after = report([-1.0] * 4), report([-1.0] * 4)
    right = Report("evaluation", "dev", "p", "dev", {}, (0.0,) * 1000, tuple(map(str, range(1000))), (None,) * 1000)
    better = Report("evaluation", "dev", "c", "dev", {}, (1.0,) * 1000, right.items, right.groups)
    decision = gate.decide(gate.GateConfig(), (right, better), {"replay": (before, after, 0.2)})
    assert decision.outcome == "unproven" and "guard: replay has 4" in decision.reason


def test_a_file_of_real_text_is_the_guard_and_is_held_out(tmp_path: Path) -> None:
    text = tmp_path / "real.txt"
    text.write_text("\n\n".join(f"the {i}th paragraph of a real\ntext that somebody wrote" for i in range(30)))
    record = run_of(tmp_path / "run", "gate.text_items=20", f"gate.text={text}")
    assert record.reports()["parent", "text"].metrics["loglik"].n == 20
    assert record.recipe.gate.text == str(text)
    text.write_text("another text altogether")
    folder = small.prepared(tmp_path / "two", "gate.text_items=20", f"gate.text={text}")
    with pytest.raises(Stopped):
        loop.run(folder, stop=small.after(40))
    text.write_text("and another")
    with pytest.raises(IntegrityError, match="began with another text"):
        loop.run(folder)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"text": "x"}\n{"txt": 1}\n', "line 2: no text"),
        ("b.txt", "\n\n", "holds no text"),
        ("c.txt", None, "cannot be read"),
        ("d.json", '[{"text": "x"}]', "is a .json file, not text"),
        ("e.jsonl", '{"text": "x"}\n{"text": "\\ud800"}\n', "line 2: half of a surrogate pair"),
    ],
)
def test_a_file_that_is_no_text_is_refused_before_the_run(
    tmp_path: Path, name: str, content: str | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=says):
        small.prepared(tmp_path / "run", f"gate.text={tmp_path / name}", "gate.text_items=5")
    assert not (tmp_path / "run").exists()


def test_texts_come_once_each_and_as_many_as_asked(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x y"}\n\n{"text": "x y"}\n{"text": "z"}\n')
    assert [t.question for t in read_texts(str(tmp_path / "a.jsonl"), "gate.text", 9)] == ["x y", "z"]
    assert len(read_texts(str(tmp_path / "a.jsonl"), "gate.text", 1)) == 1 and read_texts(None, "gate.text", 9) == ()


def test_texts_end_where_their_format_says(tmp_path: Path) -> None:
    """A line of JSON may hold other ends of a line; a blank line may hold spaces; a file may begin with a mark."""
    (tmp_path / "a.jsonl").write_text('\ufeff{"text": "x\u2028y\x85"}\n{"text": "z"}\n')
    assert [t.question for t in read_texts(str(tmp_path / "a.jsonl"), "gate.text")] == ["x\u2028y\x85", "z"]
    (tmp_path / "a.txt").write_text("\ufeffone\n \t\ntwo,\ngone on\n\n\n\nthree\n")
    assert [t.question for t in read_texts(str(tmp_path / "a.txt"), "gate.text")] == ["one", "two, gone on", "three"]
