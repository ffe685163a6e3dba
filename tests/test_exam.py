"""Asked after the fact: on a file, and on the third holdout, which is opened once for one candidate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import papers
import selftaught
import small
from selftaught import exam, ledger, loop, tell
from selftaught.bench import heldout
from selftaught.config import parse_recipe
from selftaught.engines.base import Completion, Request
from selftaught.engines.scripted import ByteTokens, Scripted
from selftaught.errors import IntegrityError, RunError
from selftaught.rows import read_rows
from selftaught.setting import contents
from selftaught.tasks.base import sizes, wording
from selftaught.types import Task, digest


def run_of(folder: Path, *overrides: str) -> Path:
    small.prepared(folder, *overrides)
    loop.run(folder)
    return folder


def test_both_models_are_asked_a_file_and_known_questions_are_counted(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run")
    [first, *_] = loop.load_whole(small.recipe()).train
    rows = [*small.sum_rows(200, start=300), {"question": first.question, "answer": first.answer}]
    found = selftaught.examine(folder, small.write_jsonl(tmp_path / "q.jsonl", rows))
    assert (found.n, found.known) == (201, {"train": 1})
    assert found.before[0] < found.after[0] and found.gain[0] == pytest.approx(found.after[0] - found.before[0])
    assert found.gain[1] > 0 and "exact McNemar p =" in found.test
    with pytest.raises(RunError, match="Give a file of labelled questions, or --test"):
        selftaught.examine(folder)


def test_a_claim_tested_by_question_is_put_to_a_file_in_groups_by_group(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", "gate.primary.test=mcnemar")
    rows = [{**row, "group": f"passage {i // 4}"} for i, row in enumerate(small.sum_rows(200, start=300))]
    found = selftaught.examine(folder, small.write_jsonl(tmp_path / "q.jsonl", rows))
    assert "sign-flip over 50 groups" in found.test


def test_a_test_holdout_is_opened_once_for_one_candidate(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", "tasks.test=150")
    found = selftaught.examine(one, test=True)
    assert found.n == 150 and found.after[0] > found.before[0] and found.known == {}
    assert selftaught.examine(one, test=True) == found, "the same candidate is told again"
    for path in (one / "evals").iterdir():
        path.unlink()
    assert selftaught.examine(one, test=True) == found, "lost on the way, it is asked again, and counts once"
    two = run_of(tmp_path / "two", "tasks.test=150", "engine.learns=0.6")
    with pytest.raises(RunError, match="opened for one; a test set is opened once"):
        selftaught.examine(two, test=True)
    assert len(ledger.read_lines(tmp_path / "tests.jsonl")) == 1
    with pytest.raises(RunError, match="has no test holdout"):
        selftaught.examine(run_of(tmp_path / "three"), test=True)


def test_what_was_opened_for_a_file_is_noted_beside_it(tmp_path: Path) -> None:
    path = small.write_jsonl(tmp_path / "data" / "q.jsonl", small.sum_rows(400))
    shares = ("tasks.train=0.3", "tasks.dev=0.2", "tasks.vault=0.3", "tasks.test=0.2")
    folder = run_of(tmp_path / "runs" / "run", "tasks.name=jsonl", f"tasks.path={path}", *shares)
    whole = loop.load_whole(ledger.read_run(folder).recipe)
    suites = [whole.train, whole.dev, whole.vault, whole.test]
    assert [len(s) for s in suites] == [120, 80, 120, 80]
    asked = [wording(t.prompt) for s in suites for t in s]
    assert len(set(asked)) == 400, "no question stands in two of them"
    assert selftaught.examine(folder, test=True).n == 80
    assert (tmp_path / "data" / ".q.jsonl.tests.jsonl").exists()


def test_the_test_holdout_is_held_out_and_changes_no_other_suite(tmp_path: Path) -> None:
    plain, more = loop.load_whole(small.recipe()), loop.load_whole(small.recipe("tasks.test=50"))
    assert (plain.dev, plain.vault, plain.guards) == (more.dev, more.vault, more.guards) and len(more.test) == 50
    folder = small.prepared(tmp_path / "run", "tasks.test=50")
    held = {t.id for t in heldout(loop.load_whole(ledger.read_run(folder).recipe))}
    assert {t.id for t in more.test} <= held


SHARES = ("tasks.train=0.3", "tasks.dev=0.2", "tasks.vault=0.3", "tasks.test=0.2")


def asked(tasks: Sequence[Task], path: Path, form: str = "{}") -> Path:
    """A file with the questions of these tasks, each spelled as ``form`` says."""
    return small.write_jsonl(path, [{"question": form.format(t.question), "answer": t.answer} for t in tasks])


def test_a_file_is_no_way_around_opening_the_test_holdout(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", "tasks.test=50")
    whole = loop.load_whole(ledger.read_run(folder).recipe)
    with pytest.raises(RunError, match="1 of 11 stand in the test holdout of run, which is opened once"):
        selftaught.examine(folder, asked([*whole.dev[:10], whole.test[0]], tmp_path / "t.jsonl", " {}  "))
    assert not (tmp_path / "tests.jsonl").exists() and not (folder / "evals").exists()


def test_questions_are_known_in_any_spacing(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run")
    whole = loop.load_whole(ledger.read_run(folder).recipe)
    tasks = [*whole.train[:3], *whole.dev[:4], *whole.vault[:5]]
    found = selftaught.examine(folder, asked(tasks, tmp_path / "q.jsonl", " {}  "))
    assert found.known == {"train": 3, "dev": 4, "vault": 5}


def test_a_test_holdout_of_edited_data_is_not_the_runs_own(tmp_path: Path) -> None:
    rows = small.sum_rows(400)
    path = small.write_jsonl(tmp_path / "data" / "q.jsonl", rows)
    folder = run_of(tmp_path / "runs" / "run", "tasks.name=jsonl", f"tasks.path={path}", *SHARES)
    small.write_jsonl(path, [*rows, {"question": "one without an answer"}])  # nobody is trained on labelled ones now
    learned = {t.id for t in read_rows(folder / "tasks" / "train.parquet", Task)}
    moved = loop.load_whole(ledger.read_run(folder).recipe)
    assert learned & {t.id for t in (*moved.dev, *moved.vault, *moved.test)}, "what it learned would judge it"
    with pytest.raises(IntegrityError, match="its test holdout is not what it was"):
        selftaught.examine(folder, test=True)
    assert not (tmp_path / "data" / ".q.jsonl.tests.jsonl").exists(), "and it is not spent"
    small.write_jsonl(path, rows)
    assert selftaught.examine(folder, test=True).n == 80


def test_who_is_refused_leaves_nothing_that_refuses_the_first(tmp_path: Path) -> None:
    registry, ids = tmp_path / "tests.jsonl", [f"{i:03d}" for i in range(200)]
    ledger.open_test(registry, ids, "first", "one")
    for other in (ids, ids[100:]):
        with pytest.raises(RunError, match="opened for one; a test set is opened once"):
            ledger.open_test(registry, other, "second", "two")
    ledger.open_test(registry, ids, "first", "one")
    assert [e["candidate"] for e in ledger.read_lines(registry)] == ["first"]
    ledger.open_test(registry, [f"new {i}" for i in range(200)], "second", "two")
    assert len(ledger.read_lines(registry)) == 2


def test_opened_and_killed_before_it_was_asked_it_counts_once(tmp_path: Path) -> None:
    record = ledger.read_run(run_of(tmp_path / "run", "tasks.test=50"))
    assert record.trained is not None
    registry, ids = ledger.tests_registry(record.recipe, record.path), [t.id for t in _test_of(record)]
    ledger.open_test(registry, ids, record.trained["facts"]["digest"], record.name)
    found = selftaught.examine(record, test=True)
    assert found.n == 50 and len(ledger.read_lines(registry)) == 1


def test_a_later_candidate_is_not_told_what_an_earlier_one_answered(tmp_path: Path) -> None:
    record = ledger.read_run(run_of(tmp_path / "run"))
    assert record.trained is not None
    suite = loop.load_whole(record.recipe)
    trained = {**record.trained, "facts": {**record.trained["facts"], "digest": "of a later round"}}
    chain = [trained if e is record.trained else e for e in record.chain]
    assert exam._key(record, suite) != exam._key(replace(record, chain=chain), suite)


def test_a_group_does_not_cross_into_test(tmp_path: Path) -> None:
    rows = [{**row, "group": f"passage {i // 4}"} for i, row in enumerate(small.sum_rows(400))]
    path = small.write_jsonl(tmp_path / "q.jsonl", rows)
    whole = loop.load_whole(small.recipe("tasks.name=jsonl", f"tasks.path={path}", *SHARES))
    groups = [{t.group for t in s} for s in (whole.train, whole.dev, whole.vault, whole.test)]
    assert len(whole.test) == 80 and sum(map(len, groups)) == len(set.union(*groups)) == 100


def test_without_a_test_holdout_a_chain_names_its_questions_as_before() -> None:
    whole = loop.load_whole(small.recipe())
    suites = {"train": whole.train, "dev": whole.dev, "vault": whole.vault, **whole.guards}
    named = {name: [[t.id, t.answer, t.checker, t.group] for t in suite] for name, suite in suites.items()}
    assert contents(whole) == digest(named) and "test" not in sizes(whole)
    assert contents(loop.load_whole(small.recipe("tasks.test=50"))) != contents(whole)


# ---------------------------------------------------------------- adapters

ADAPT = """
name: docs
model: scripted:0.3
seed: 5
method: {name: selfedit, passages: 30, edits: 4, seeds: 1, prompt: "Passage: {text}\\nNotes:", max_tokens: 300,
         title: false, passage: false}
tasks: {name: passages, path: PATH, topic: false, train: 0.4, dev: 0.2, vault: 0.2, test: 0.2}
train: {epochs: 1}
gate: {primary: {protocol: adapt}, text_items: 0}
roles: {judge: "scripted:0.9"}
engine: {name: scripted}
"""


class Agreeing(Scripted):
    """Says yes to whoever asks whether an answer is right."""

    class Options(Scripted.Options):
        pass

    def _complete(self, request: Request, seed: int, mind: Any = None) -> Completion:
        if "Decide whether an answer" not in ByteTokens(0).decode(request.prompt_ids):
            return super()._complete(request, seed, mind)
        ids = ByteTokens(0).encode_completion(" yes")
        return Completion(ids, (-0.1,) * len(ids), "stop")


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> ledger.RunRecord:
    """A run on answers of which documents say a third: the checker calls that wrong, and its judge right."""
    folder = tmp_path_factory.mktemp("adapted")
    rows = [
        {"title": d.title, "context": d.text,
         "questions": [{"question": t.question, "answer": f"{t.answer} more words"} for t in asked]}
        for d, asked in map(papers.document, range(60))
    ]  # fmt: skip
    (folder / "q.json").write_text(json.dumps(rows))
    recipe = parse_recipe(ADAPT.replace("PATH", str(folder / "q.json")), "docs")
    loop.prepare(recipe, folder / "run", engine=Agreeing(Scripted.Options()))
    loop.run(folder / "run", engine=Agreeing(Scripted.Options()))
    return ledger.read_run(folder / "run")


def test_a_test_holdout_is_judged_by_the_judge_of_dev_and_vault(adapted: ledger.RunRecord) -> None:
    dev = adapted.reports()["candidate", "dev"].metrics["accuracy"].value
    assert dev > 0, "without a judge nothing is right there"
    found = exam.examine(adapted, test=True, engine=Agreeing(Scripted.Options()))
    assert found.after[0] > found.before[0] > 0 and found.note == ""


def test_a_file_put_to_a_run_about_adapters_is_asked_directly_and_that_is_said(
    adapted: ledger.RunRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(40)]
    path = small.write_jsonl(tmp_path / "q.jsonl", rows)
    found = exam.examine(adapted, path)
    assert "asked directly, without an adapter" in found.note
    assert exam.examine(adapted, path) == found, "told again from what is kept"
    tell.exam(found)
    assert f"\n  {found.note}\n" in capsys.readouterr().out
    tell.exam(replace(found, note=""))
    said = capsys.readouterr().out
    assert "directly" not in said and "\n\n" not in said


def _test_of(record: ledger.RunRecord) -> tuple[Task, ...]:
    return loop.load_whole(record.recipe).test
