"""Asked after the fact: on a file, and on the third holdout, which is opened once for one candidate."""

from __future__ import annotations

from pathlib import Path

import pytest

import selftaught
import small
from selftaught import ledger, loop
from selftaught.bench import heldout
from selftaught.errors import RunError
from selftaught.tasks.base import wording


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
