"""Checkpoints of one update judged on dev, the best of which is the candidate; and candidates that changed nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

import small
from selftaught import integrity, ledger, loop
from selftaught.engines.base import Progress, StopToken, Tuned, TuneJob, never, quiet
from selftaught.engines.scripted import ByteTokens, skill_of
from selftaught.errors import Stopped
from selftaught.ledger import RunRecord, read_run
from selftaught.types import Checkpoint, Example

FOUR = ("train.checkpoints=4", "train.batch_tokens=200", "engine.learns=0.9")


def run_of(folder: Path, *overrides: str, engine: small.Counting | None = None) -> RunRecord:
    small.prepared(folder, *overrides)
    loop.run(folder, engine=engine)
    return read_run(folder)


class Peaks(small.Counting):
    """Its update is best at the second of four saves, and worse than its parent at the end."""

    skills = (0.7, 0.97, 0.8, 0.2)

    def tune(self, job: TuneJob, out: Path, *, stop: StopToken = never, progress: Progress = quiet) -> Tuned:
        for step, skill in zip(job.saves, self.skills, strict=True):
            (out / str(step)).mkdir()
            (out / str(step) / "scripted.json").write_text(f'{{"facts": {{}}, "skill": {skill}}}')
        return Tuned((1.0,) * len(job.batches), 5)


def chosen(record: RunRecord) -> tuple[int, int]:
    facts = record.facts("candidate")
    return facts["checkpoint"], facts["checkpoints"]


def test_the_best_on_dev_is_the_candidate(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", *FOUR, engine=Peaks())
    assert chosen(record) == (2, 4) and record.outcome == "proved"
    steps = [s["step"] for s in record.facts("checkpoints")["saved"]]
    last = record.facts("checkpoints")["steps"]
    assert steps == [last // 4, last // 2, last * 3 // 4, last], "at equal distances, and the end"
    assert record.kept is not None and record.final is not None
    assert skill_of(Checkpoint("c", str(record.kept))) == 0.97
    saved = record.facts("checkpoints")["saved"][1]
    assert record.facts("candidate")["digest"] == saved["digest"] == record.final.candidate
    judged = [(e["facts"]["role"], e["facts"]["suite"]) for e in record.units("evaluation")]
    assert judged[:4] == [(f"checkpoint-{i}", "dev") for i in range(1, 5)]
    assert ("candidate", "dev") not in judged, "what the second answered is not asked again"
    assert record.reports()["candidate", "dev"].subject == record.final.candidate
    assert all(c.ok for c in integrity.verify(record.path)), [c for c in integrity.verify(record.path) if not c.ok]


def test_dev_is_tested_at_a_share_of_alpha_and_the_vault_as_ever(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", *FOUR, "gate.alpha=0.04", engine=Peaks())
    assert record.final is not None
    details = {r.name: r.detail for r in record.final.decision.rules}
    assert details["gain on dev"].endswith("must be at most 0.01"), "0.04 over four"
    assert details["gain on vault"].endswith("must be at most 0.0133"), "0.04 over three looks"
    assert "a loss of 3 points or more" in details["guard: sort"] and details["guard: sort"].endswith("at most 0.04")


def test_where_less_is_better_the_lowest_is_chosen(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", *FOUR, "gate.primary.direction=down", engine=Peaks())
    assert chosen(record) == (4, 4)


def test_of_equals_the_first_is_chosen(tmp_path: Path) -> None:
    engine = Peaks()
    engine.skills = (0.6, 0.9, 0.9, 0.9)
    assert chosen(run_of(tmp_path / "run", *FOUR, engine=engine)) == (2, 4)


def test_without_a_dev_question_the_last_one_is_taken(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", *FOUR, "tasks.dev=0", engine=Peaks())
    assert chosen(record) == (4, 4)
    assert not [e for e in record.units("evaluation") if e["facts"]["role"].startswith("checkpoint")]


def test_there_are_no_more_checkpoints_than_steps(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", "train.checkpoints=9", "train.steps=3")
    assert [s["step"] for s in record.facts("checkpoints")["saved"]] == [1, 2, 3]
    assert chosen(record)[1] == 3


def test_each_save_of_the_fake_engine_holds_what_was_learned_by_then(tmp_path: Path) -> None:
    engine, tokens = small.Counting(small.Counting.Options(learns=1.0)), ByteTokens(99)
    prompt = tokens.encode("Q: 1+1\nA:")
    right, wrong = (Example(prompt, tokens.encode_completion(f" 1+1\n#### {n}"), "") for n in (2, 3))
    plan = TuneJob(
        engine.open("scripted:0.5"), (right, wrong), [[0], [1]], "full", 1, 0, 1, 1, 0, 1, 1, 1, saves=(1, 2)
    )
    engine.tune(plan, tmp_path)
    skills = [skill_of(Checkpoint("c", str(tmp_path / name))) for name in ("1", "2")]
    assert skills == [1.0, 0.5] and sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


def test_stopped_after_every_piece_it_chooses_the_same(tmp_path: Path) -> None:
    overrides = (*FOUR, "model=scripted:0.45", "method.min_share=0", "tasks.train=20")
    whole = run_of(tmp_path / "a" / "run", *overrides)
    assert chosen(whole)[1] == 4
    folder = small.prepared(tmp_path / "b" / "run", *overrides)
    while True:
        try:
            loop.run(folder, stop=small.one_more(folder))
            break
        except Stopped:
            continue
    assert small.bytes_of(folder) == small.bytes_of(whole.path)


class OneIsBroken(Peaks):
    """The third save cannot say how likely a text is."""

    def score(
        self, checkpoint: Checkpoint, sequences: Sequence[tuple[int, ...]], *, stop: StopToken = never
    ) -> list[list[float]]:
        value = float("nan") if skill_of(checkpoint) == 0.8 else -0.1
        return [[value] * (len(s) - 1) for s in sequences]


def test_a_checkpoint_that_left_the_numbers_is_not_blamed_on_the_parent(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", *FOUR, "gate.primary.metric=loglik", engine=OneIsBroken())
    assert record.final is not None and record.outcome == "rejected"
    assert "is not a finite number" in record.final.decision.reason


# ---------------------------------------------------------------- no change


class Shifts(small.Counting):
    """Its candidates give every token so many nats less than their parents."""

    by = 0.0

    def score(
        self, checkpoint: Checkpoint, sequences: Sequence[tuple[int, ...]], *, stop: StopToken = never
    ) -> list[list[float]]:
        fall = 0.0 if checkpoint.model.startswith("scripted:") else self.by
        return [[-0.1 - fall * (-1) ** i for i in range(len(s) - 1)] for s in sequences]


@pytest.mark.parametrize(("by", "outcome"), [(0.0, "no change"), (0.049, "no change"), (0.05, "proved")])
def test_a_candidate_that_differs_by_less_than_was_asked_is_no_other_model(
    tmp_path: Path, by: float, outcome: str
) -> None:
    engine = Shifts()
    engine.by = by
    record = run_of(tmp_path / "run", "train.min_change=0.05", "gate.text_items=20", engine=engine)
    assert record.final is not None and record.outcome == outcome
    facts = record.facts("change")
    assert facts["nats"] == pytest.approx(by) and facts["tokens"] > 100, "up and down do not cancel"
    if outcome == "no change":
        assert record.final.decision.reason == (
            f"it differs from its parent by {by:.2g} nats per token on {facts['texts']} texts, and at least 0.05 was"
            " asked (train.min_change)"
        )
        assert record.final.decision.rules == () and not record.units("evaluation") and not record.units("audit")
        assert record.outcome not in ledger.GOOD and ledger.EXIT_CODES["no change"] == 11
    assert all(c.ok for c in integrity.verify(record.path))


def test_without_a_limit_nothing_is_measured(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", "gate.text_items=20", engine=Shifts())
    assert record.outcome == "proved" and not record.units("change")


def test_change_that_is_no_number_is_a_rejection(tmp_path: Path) -> None:
    engine = Shifts()
    engine.by = float("nan")
    record = run_of(tmp_path / "run", "train.min_change=0.05", "gate.text_items=20", engine=engine)
    assert record.final is not None and record.outcome == "rejected"
    assert record.final.decision.reason == "The candidate's probabilities of texts are not finite numbers"
