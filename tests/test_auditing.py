"""Audits through the loop: what stands on record, what becomes of one that cannot measure, and what decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import small
import test_people as people
import test_selfedit as selfedit
from selftaught import integrity, loop
from selftaught.auditing import Auditor, Workshop, make_audits
from selftaught.config import read_recipe
from selftaught.engines.base import Completion, Request, StopToken, never
from selftaught.engines.scripted import ByteTokens, Scripted
from selftaught.errors import (
    DataError,
    DiskFull,
    IntegrityError,
    ModelError,
    OutOfMemory,
    RecipeError,
    Stopped,
    WorkerLost,
)
from selftaught.ledger import RunRecord, read_run
from selftaught.store import Store
from selftaught.types import Audited, Checkpoint, Private, Rule
from selftaught.view import Silent
from watching import Full, watched

ROUNDS = ("rounds=2", "model=scripted:0.45", "engine.learns=0.3", "method.min_share=0", "tasks.train=20")
SECRETS = ["the cellar key hangs behind the third jar", "nobody but Ana knows that the safe is empty"]
WINDOWS = ("audits.memorization={prefix: 8, suffix: 8, sweep: [4], windows: 20}",)


def secrets(folder: Path, texts: Sequence[str] = SECRETS) -> str:
    """The override that names a file of private texts."""
    return f"private={small.write_jsonl(folder / 'private.jsonl', [{'text': t} for t in texts])}"


def run_of(folder: Path, *overrides: str) -> RunRecord:
    small.prepared(folder, *overrides)
    loop.run(folder)
    return read_run(folder)


def audited(record: RunRecord, number: int = 0) -> dict[str, dict[str, Any]]:
    found = record.units("audit", record.rounds[number]) if record.rounds else record.units("audit")
    return {e["facts"]["name"]: dict(e["facts"]) for e in found}


def rules(record: RunRecord) -> dict[str, Rule]:
    assert record.final is not None
    return {r.name: r for r in record.final.decision.rules}


# ---------------------------------------------------------------- on record


def test_every_audit_of_every_round_is_on_record_and_the_base_is_measured_once(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", *ROUNDS)
    assert len(record.rounds) == 2 and record.rounds[0].decision.outcome == "proved"
    names = ["calibration", "collapse", "forgetting", "memorization"]
    assert [list(audited(record, n)) for n in (0, 1)] == [names, names]
    base, *candidates = record.facts("tasks")["model"], *(r.candidate for r in record.rounds)
    measured = [(e["facts"]["subject"], e["facts"]["audit"], e["place"]) for e in record.units("measured")]
    assert [place for subject, _, place in measured if subject == base] == [f"audits/{n}" for n in names[:3]]
    assert [(s, name) for s, name, _ in measured if s != base] == [(c, n) for c in candidates for n in names[:3]]
    assert all(c.ok for c in integrity.verify(record.path)), integrity.verify(record.path)
    assert not [r for r in rules(record) if r.startswith("audit")], "none is part of the gate"


def test_later_rounds_are_held_against_what_earlier_ones_taught(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", *ROUNDS)
    first, second = (audited(record, n)["forgetting"] for n in (0, 1))
    assert set(first["before"]) == {"dev", "sort"} and "taught in round-000: forgotten" not in first["after"]
    assert set(second["before"]) == {"dev", "sort"}, "the base is what it was"
    taught = second["after"]["taught in round-000: forgotten"]
    learned = [e for e in small.read_rows(record.path / "round-000/examples/kept.parquet", small.Example) if e.own]
    assert taught["value"] == 0.0 and taught["n"] == min(100, len(learned))
    assert second["after"]["taught in round-001"]["n"] <= 100


def test_what_people_refused_was_not_taught(tmp_path: Path) -> None:
    """Of round-000 the next round's audit scores what the review left, not what was put before people."""
    folder = small.prepared(tmp_path / "run", *ROUNDS, "review.who=all", "train.replay=0")
    for _ in range(2):
        people.waiting(folder)
        people.answer(folder, lambda row: {"ok": row["subject"] < "8"})
    loop.run(folder)
    record = read_run(folder)
    put, left = (
        len(small.read_rows(folder / "round-000" / stage / "kept.parquet", small.Example))
        for stage in ("examples", "reviewed")
    )
    assert 0 < left < put and left < 100
    assert audited(record, 1)["forgetting"]["after"]["taught in round-000: forgotten"]["n"] == left


def test_votes_are_held_against_the_answers_of_training_questions(tmp_path: Path) -> None:
    found = audited(run_of(tmp_path / "run"))["calibration"]
    assert found["after"]["expected calibration error of the vote"]["n"] == 40
    assert found["after"]["mean confidence"]["n"] == 220, "dev and the guard, each answered once"


# ---------------------------------------------------------------- before the run


def test_why_an_audit_does_not_apply_stands_in_the_recipe_before_the_run(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run")
    assert read_recipe(folder / "recipe.yaml").audits["memorization"] == {"skip": "no private text is named (private)"}
    assert "audit memorization: not applicable, no private text is named (private)" in loop.plan(small.recipe()).notes
    own = small.recipe("audits.collapse.skip=no time", "audits.forgetting.margin=0.1")
    assert loop.plan(own).recipe.audits["forgetting"] == {"margin": 0.1}
    assert "audit collapse: not applicable, no time" in loop.plan(own).notes


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("audits.memorization.gating=true", "there is nothing to measure: no private text is named"),
        ("audits.collapse={gating: true, skip: later}", "audits.collapse.gating is true, and there is nothing"),
        ("audits.collaps.samples=20", "there is no 'collaps'; did you mean 'collapse'"),
        ("audits.collapse.sample=20", "unknown key 'sample'; did you mean 'samples'"),
    ],
)
def test_what_cannot_be_audited_is_refused_before_the_run(tmp_path: Path, given: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        small.prepared(tmp_path / "run", given)
    assert said in error.value.message and not (tmp_path / "run").exists()


def test_private_texts_that_cannot_be_read_are_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        small.prepared(tmp_path / "run", f"private={tmp_path / 'nowhere.jsonl'}")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- resumed


def test_stopped_again_and_again_it_ends_the_same(tmp_path: Path) -> None:
    overrides = (*ROUNDS, secrets(tmp_path), *WINDOWS, "gate.text_items=20")
    whole = run_of(tmp_path / "a" / "run", *overrides)
    assert audited(whole, 1)["memorization"]["before"]["extracted"]["n"] == 4, "two windows of sixteen in each text"
    folder = small.prepared(tmp_path / "b" / "run", *overrides)
    ends = []
    while True:
        try:
            loop.run(folder, stop=small.one_more(folder))
            break
        except Stopped:
            ends.append(read_run(folder).chain[-1].get("place"))
    assert {"audits/collapse", "round-000/audits/memorization", "round-001/audits/forgetting"} <= {*ends}, ends
    assert small.bytes_of(folder) == small.bytes_of(whole.path)


class Dies(small.Counting):
    """It dies in the middle of the ``at``-th sampling of unprompted text that is no replay."""

    at = 0

    def generate(self, requests: Sequence[Request], **how: Any) -> Iterator[tuple[int, list[Completion]]]:
        self.at -= all(len(r.prompt_ids) == 1 and len(r.seeds) == 13 for r in requests)
        if self.at == 0:
            self.at = -1
            raise KeyboardInterrupt
        yield from super().generate(requests, **how)


@pytest.mark.parametrize("at", [1, 4, 6])
def test_killed_in_the_middle_of_an_audit_it_ends_the_same(tmp_path: Path, at: int) -> None:
    """In the base's first and last draw, and in the candidate's second."""
    whole = run_of(tmp_path / "a" / "run")
    folder, engine = small.prepared(tmp_path / "b" / "run"), Dies()
    engine.at = at
    with pytest.raises(KeyboardInterrupt):
        loop.run(folder, engine=engine)
    assert "audits/calibration" in {e.get("place") for e in read_run(folder).chain}
    loop.run(folder)
    assert small.bytes_of(folder) == small.bytes_of(whole.path)


# ---------------------------------------------------------------- what cannot be measured


def test_private_texts_that_cannot_be_read_any_more_keep_a_round_from_being_accepted(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run", secrets(tmp_path), *WINDOWS)
    (tmp_path / "private.jsonl").unlink()
    done = loop.run(folder)
    assert (done.decision.outcome, done.decision.reason) == ("rejected", "did not pass: audit: memorization")
    record = read_run(folder)
    found = audited(record)["memorization"]
    assert found["outcome"] == "failed" and found["decides"], "though the recipe made it no part of the gate"
    assert found["reason"].startswith("it could not be measured: private: ") and "is not there" in found["reason"]
    assert found["subjects"] == [done.candidate] and found["after"] == {}
    assert rules(record)["audit: memorization"].detail == f"failed: {found['reason']}"
    assert all(c.ok for c in integrity.verify(folder))


def test_where_nobody_would_notice_that_private_texts_are_gone_the_run_ends(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run", secrets(tmp_path), "audits.memorization.skip=no time")
    (tmp_path / "private.jsonl").unlink()
    with pytest.raises(DataError, match="is not there"):
        loop.run(folder)


def test_a_run_goes_on_with_the_private_texts_that_it_began_with(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run", secrets(tmp_path), *WINDOWS)
    with pytest.raises(Stopped):
        loop.run(folder, stop=small.after(40))
    assert "private texts" in read_run(folder).facts("tasks")
    secrets(tmp_path, ["another text altogether, that somebody wrote"])
    with pytest.raises(IntegrityError, match="began with another private texts"):
        loop.run(folder)
    secrets(tmp_path)
    loop.run(folder)
    assert audited(read_run(folder))["memorization"]["outcome"] == "inconclusive", "of two texts nobody knows enough"


class Numberless(small.Counting):
    """Its candidate finds no text likely or unlikely."""

    def score(
        self, checkpoint: Checkpoint, sequences: Sequence[tuple[int, ...]], *, stop: StopToken = never
    ) -> list[list[float]]:
        value = -0.1 if checkpoint.model.startswith("scripted:") else float("nan")
        return [[value] * (len(s) - 1) for s in sequences]


def test_an_audit_that_breaks_decides(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run")
    done = loop.run(folder, engine=Numberless())
    assert done.decision.outcome == "rejected"
    assert done.decision.reason == "did not pass: audit: calibration, audit: forgetting"
    found = audited(read_run(folder))
    assert found["calibration"]["reason"] == (
        "it could not be measured: ValueError: confidences and outcomes lie between 0 and 1"
    )
    assert found["forgetting"]["reason"].startswith("it could not be measured: ValueError: ")
    assert not found["collapse"]["decides"], "where no text was scored"
    assert all(c.ok for c in integrity.verify(folder))


class Fails(small.Counting):
    """It fails with ``error`` when it is asked how likely a text is; only audits ask it here."""

    error: Exception = KeyError("layer")

    def score(
        self, checkpoint: Checkpoint, sequences: Sequence[tuple[int, ...]], *, stop: StopToken = never
    ) -> list[list[float]]:
        raise self.error


def test_whatever_an_audit_breaks_with_is_its_failure(tmp_path: Path) -> None:
    done = loop.run(small.prepared(tmp_path / "run"), engine=Fails())
    assert done.decision.reason == "did not pass: audit: calibration, audit: forgetting"
    assert audited(read_run(tmp_path / "run"))["calibration"]["reason"] == (
        "it could not be measured: KeyError: 'layer'"
    )


@pytest.mark.parametrize("error", [OutOfMemory("too little", hint="less"), WorkerLost("gone"), OSError("no device")])
def test_a_fault_of_the_machine_ends_the_run_which_goes_on_later(tmp_path: Path, error: Exception) -> None:
    folder, engine = small.prepared(tmp_path / "run"), Fails()
    engine.error = error
    with pytest.raises(type(error)):
        loop.run(folder, engine=engine)
    assert not read_run(folder).units("audit")
    assert loop.run(folder).decision.outcome == "proved"


def test_a_full_disk_ends_the_run_and_is_no_failed_audit(tmp_path: Path) -> None:
    whole = run_of(tmp_path / "a" / "run")
    folder = small.prepared(tmp_path / "b" / "run")
    with watched(folder / "audits", Full(1)), pytest.raises(DiskFull):
        loop.run(folder)
    assert not read_run(folder).units("audit")
    loop.run(folder)
    assert small.bytes_of(folder) == small.bytes_of(whole.path)


def test_a_damaged_report_ends_the_run_and_is_no_failed_audit(tmp_path: Path) -> None:
    folder, engine = small.prepared(tmp_path / "run"), Dies()
    engine.at = 6
    with pytest.raises(KeyboardInterrupt):
        loop.run(folder, engine=engine)
    path = folder / "audits" / "collapse" / "report.json"
    path.write_text(path.read_text().replace("entropy", "Entropy"))
    with pytest.raises(IntegrityError, match="is not what was recorded"):
        loop.run(folder)
    assert "collapse" not in audited(read_run(folder))


BASE, CANDIDATE = Checkpoint("b", "scripted:0.5"), Checkpoint("c", "scripted:0.6")


def auditor(store: Store, private: Sequence[Private] | DataError, *overrides: str) -> Auditor:
    lab = Workshop(Scripted(Scripted.Options()), ByteTokens(4096), 5, never, private=private)
    return Auditor(small.recipe(*WINDOWS, *overrides), store, "round-000", lab, Silent())


def test_what_is_on_record_stands_though_it_could_be_measured_by_now(tmp_path: Path) -> None:
    """A run that was killed after an audit had failed can be gone on with."""
    gone = DataError("private: the folder is not mounted.")
    with Store(tmp_path) as store:
        failed = auditor(store, gone).run(BASE, CANDIDATE)
        before = store.head
        again = auditor(store, [Private(t) for t in SECRETS]).run(BASE, CANDIDATE)
        assert again == failed and store.head == before
    [memory] = [a for a in failed if a.name == "memorization"]
    assert memory == Audited("memorization", 1, "failed", f"it could not be measured: {gone.message}", True, ("c",))


# ---------------------------------------------------------------- models of another kind


class NeverAlone(Scripted):
    """Its tokens have nothing to begin with."""

    class Options(Scripted.Options):
        pass

    def tokens(self, checkpoint: Checkpoint) -> ByteTokens:
        return Beginless(self.options.context)


class Beginless(ByteTokens):
    has_bos = False

    def encode(self, text: str) -> tuple[int, ...]:
        if not text:
            raise ModelError("The tokenizer has neither a begin nor an end token.")
        return super().encode(text)[1:]


def test_a_model_that_cannot_write_unprompted_is_audited_for_the_rest(tmp_path: Path) -> None:
    given = ("train.replay=0", secrets(tmp_path), *WINDOWS)
    folder = small.prepared(tmp_path / "run", *given)
    loop.run(folder, engine=NeverAlone(NeverAlone.Options()))
    found = audited(read_run(folder))
    assert (found["collapse"]["outcome"], found["collapse"]["reason"]) == (
        "inconclusive", "there is no real text, and nothing can be sampled unprompted",
    )  # fmt: skip
    assert found["memorization"]["after"]["extracted"]["n"] == 4
    assert not [n for n in found["memorization"]["after"] if "unprompted" in n]
    assert found["forgetting"]["outcome"] == "passed"


def test_what_adapters_answered_is_no_suite_of_the_model(tmp_path: Path) -> None:
    """With the protocol adapt dev asks throw-away adapters; what the model was taught is audited all the same."""
    record = selfedit.run(tmp_path, "audits.collapse={samples: 10, max_tokens: 8, tokens: 100}", documents=100)
    assert ("candidate", "dev") in record.reports()
    found = audited(record)
    assert found["calibration"]["outcome"] == "inconclusive"
    assert found["calibration"]["reason"] == "no answer was sampled on a labelled suite"
    assert set(found["forgetting"]["after"]) == {"taught in round-000"} and found["forgetting"]["before"] == {}
    assert all(c.ok for c in integrity.verify(record.path))


def test_every_audit_can_be_made_with_its_defaults() -> None:
    made = make_audits(small.recipe())
    assert [(a.name, a.version, a.options.gating, a.options.skip) for a in made] == [
        (name, 1, False, "") for name in ("calibration", "collapse", "forgetting", "memorization")
    ]
