"""People by file: the run waits, verdicts let it go on, and nothing is sampled twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import selftaught
import small
from selftaught import integrity, ledger, loop, mishaps, people
from selftaught.errors import DataError, IntegrityError, RunError, Waiting
from selftaught.rows import read_rows
from selftaught.store import Store, read_lines
from selftaught.types import Example, Question, Verdict

SAMPLE = ("review.who=sample", "review.size=10")


def waiting(folder: Path, engine: Any = None) -> Waiting:
    with pytest.raises(Waiting) as found:
        loop.run(folder, engine=engine)
    assert ledger.read_run(folder).outcome == "waiting"
    return found.value


def answer(folder: Path, decide: Callable[[dict[str, Any]], dict[str, Any]], by: str = "ana") -> people.Imported:
    """Fill in the newest queue by a script, as a person would, and import it."""
    queue = Path(people.queue(folder).files[-1])
    rows = [row | decide(row) for row in map(json.loads, queue.read_text().splitlines())]
    return people.import_verdicts(folder, small.write_jsonl(folder.parent / "filled.jsonl", rows), by)


def yes(row: dict[str, Any]) -> dict[str, Any]:
    return {"ok": True}


def test_two_rounds_with_a_sample_reviewed_wait_and_go_on_without_sampling_again(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run", *SAMPLE, "rounds=2", "model=scripted:0.45", "engine.learns=0.3",
                            "method.min_share=0")  # fmt: skip
    engine = small.Counting(small.Counting.Options(learns=0.3))
    first = waiting(folder, engine)
    assert (first.missing, first.exit_code) == (10, 10)
    sampled = list(engine.calls)
    assert sampled == [40 * 8, 20], "the questions, and replay"
    assert waiting(folder, engine).missing == 10 and engine.calls == sampled, "asked again, nothing is sampled again"
    assert answer(folder, yes).missing == 0
    second = waiting(folder, engine)
    assert second.queue != first.queue and "round-001" in second.queue
    assert engine.calls[len(sampled) :].count(40 * 8) == 1, "the second round's samples, once"
    before = len(engine.calls)
    answer(folder, yes, by="ben")
    done = loop.run(folder, engine=engine)
    assert 40 * 8 not in engine.calls[before:] and 20 not in engine.calls[before:], "only judged, not sampled"
    record = ledger.read_run(folder)
    assert len(record.rounds) == 2 and done.labels.selection, "people's verdicts are on record as labels"
    assert [e["facts"]["by"] for e in record.units("answers")] == [["human:ana"], ["human:ben"]]
    assert all(c.ok for c in integrity.verify(folder)), integrity.verify(folder)


def test_what_people_reject_is_not_learned_and_what_they_edit_is(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run", "review.who=all", "tasks.train=4", "train.replay=0")
    waiting(folder)
    bad, edited = "", ""

    def decide(row: dict[str, Any]) -> dict[str, Any]:
        nonlocal bad, edited
        bad = bad or row["subject"]
        if row["subject"] == bad:
            return {"ok": False, "reason": "no working"}
        if not edited:
            edited = row["subject"]
            return {"ok": True, "value": " so 1+1=2\n#### 2"}
        return {"ok": True}

    answer(folder, decide)
    loop.run(folder)
    record = ledger.read_run(folder)
    [unit] = record.units("reviewed")
    kept, rejected = (read_rows(folder / unit["place"] / f"{n}.parquet", Example) for n in ("kept", "rejected"))
    assert bad not in {e.id for e in kept} and bad in {e.id for e in rejected}
    assert [e.text for e in kept if edited in e.parents] == [" so 1+1=2\n#### 2"]
    verdicts = read_rows(folder / unit["place"] / "verdicts.parquet", Verdict)
    assert [(v.by, v.reason) for v in verdicts] == [("human:ana", "no working")]
    counts = record.rounds[0].counts
    assert counts["made"] == counts["kept"] + counts["rejected"]
    assert (counts["rejected by people"], counts["edited by people"]) == (1, 1)
    assert record.labels.training, "an edit is a label"


def test_a_sample_with_too_many_rejected_refuses_the_batch(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run", *SAMPLE)
    waiting(folder)
    answer(folder, lambda row: {"ok": row["subject"] < "8"})
    done = loop.run(folder)
    assert done.decision.outcome == "rejected"
    assert done.decision.reason.startswith("people rejected ") and "more than 10%" in done.decision.reason
    assert ledger.read_run(folder).kept is None, "nothing was trained"


def test_silence_is_not_consent(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run", *SAMPLE)
    waiting(folder)
    taken = answer(folder, lambda row: {"ok": True} if row["subject"] < "4" else {})
    assert taken.undecided > 0 and taken.missing == taken.undecided
    assert waiting(folder).missing == taken.missing


def test_the_first_verdict_counts_and_the_second_is_kept_apart(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run", *SAMPLE)
    waiting(folder)
    assert answer(folder, yes).taken == 10
    assert answer(folder, yes).same == 10, "the same file twice"
    late = answer(folder, lambda row: {"ok": False}, by="ben")
    assert (late.taken, late.late) == (0, 10)
    assert len(list((folder / "inbox" / "late").iterdir())) == 10
    assert loop.run(folder).counts["rejected by people"] == 0


def test_a_verdict_on_something_else_is_not_taken(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run", *SAMPLE)
    waiting(folder)
    rows = [{"subject": "0123456789abcdef", "ok": True}]
    found = people.import_verdicts(folder, small.write_jsonl(tmp_path / "f.jsonl", rows), "ana")
    assert (found.unknown, found.missing) == (1, 10)
    assert not (folder / "inbox").exists()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1: not a verdict"),
        ('{"ok": true}', "line 1: not a verdict"),
        ('{"subject": "../../etc/passwd", "ok": true}', "is not an id"),
        ('{"subject": "0123456789abcdef", "ok": "yes"}', "true or false"),
        ('{"subject": "0123456789abcdef", "ok": true, "value": 3}', "is text"),
    ],
)
def test_what_is_no_verdict_is_refused_by_line(tmp_path: Path, line: str, says: str) -> None:
    folder = small.prepared(tmp_path / "run", *SAMPLE)
    (tmp_path / "f.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=says):
        people.import_verdicts(folder, tmp_path / "f.jsonl", "ana")


def test_a_name_that_is_none_and_an_inbox_file_that_is_none_are_refused(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run", *SAMPLE)
    waiting(folder)
    with pytest.raises(RunError, match="is not a name"):
        answer(folder, yes, by="")
    answer(folder, yes)
    next((folder / "inbox").iterdir()).write_text('{"subject": "x"}')
    with pytest.raises(IntegrityError, match="is not a verdict: it names another subject"):
        loop.run(folder)


def test_the_command_shows_the_queue_takes_verdicts_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small.prepared(tmp_path / "runs" / "run", *SAMPLE)
    assert mishaps.guarded(lambda: bool(loop.run(folder))) == 10
    said = capsys.readouterr().err
    assert "waiting for 10 answers to" in said
    with pytest.raises(Waiting) as error:
        selftaught.resume(folder)
    assert any("selftaught review" in note for note in error.value.__notes__)
    found = selftaught.review(folder)
    assert len(found.questions) == 10 and found.questions[0].text
    rows = [json.loads(line) | {"ok": True} for line in found.files[0].read_text().splitlines()]
    taken = selftaught.import_verdicts(folder, small.write_jsonl(tmp_path / "f.jsonl", rows), "ana")
    assert (taken.taken, taken.missing) == (10, 0)
    assert selftaught.resume(folder).outcome == "proved"


def test_a_method_that_asks_waits_and_gets_the_answers_as_labels(tmp_path: Path) -> None:
    tasks = small.sums(3)
    with Store(tmp_path / "run") as store:
        bench = small.bench(store, small.tasks(tasks))
        with pytest.raises(Waiting) as error:
            bench.ask(tasks, "the least certain")
        assert error.value.missing == 3
        rows = [json.loads(line) | {"value": "42"} for line in Path(error.value.queue).read_text().splitlines()]
        assert rows[0]["why"] == "the least certain"
    people.import_verdicts(tmp_path / "run", small.write_jsonl(tmp_path / "f.jsonl", rows), "ana")
    with Store(tmp_path / "run") as store:
        bench = small.bench(store, small.tasks(tasks))
        assert [v.value for v in bench.ask(tasks, "the least certain")] == ["42"] * 3
        assert bench.labels_read
    with Store(tmp_path / "run") as store, pytest.raises(IntegrityError, match="held-out"):
        small.bench(store, small.tasks(small.sums(3), dev=tasks)).ask(tasks)


def test_verdicts_are_taken_whole_and_once_from_the_inbox(tmp_path: Path) -> None:
    asked = [Question("0123456789abcdef", "review", "q", "t")]
    with Store(tmp_path / "run") as store:
        with pytest.raises(Waiting):
            people.ask(store, "round-000/review", asked)
        rows = [{"subject": "0123456789abcdef", "ok": True}]
        people.import_verdicts(tmp_path / "run", small.write_jsonl(tmp_path / "f.jsonl", rows), "ana")
        [verdict] = people.ask(store, "round-000/review", asked)
        assert (verdict.by, verdict.ok) == ("human:ana", True)
        (tmp_path / "run" / "inbox" / "0123456789abcdef.json").unlink()
        assert people.ask(store, "round-000/review", asked) == [verdict], "what was taken is the record"
    assert [e["kind"] for e in read_lines(tmp_path / "run" / "chain.jsonl")] == ["asked", "answers"]
