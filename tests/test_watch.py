"""A watched folder: what starts a run, what it begins with, and what ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

import selftaught
import small
from selftaught import ledger
from selftaught.config import Recipe
from selftaught.errors import DataError, RecipeError, Stopped
from selftaught.store import read_lines


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    small.write_jsonl(tmp_path / "held.jsonl", small.sum_rows(300, start=900))
    return tmp_path / "in"


def recipe(tmp_path: Path, *overrides: str) -> Recipe:
    held = tmp_path / "held.jsonl"
    return small.recipe("tasks.name=jsonl", "tasks.path=none.jsonl", f"tasks.holdout={held}", "engine.learns=0.3",
                        "model=scripted:0.45", "method.min_share=0", *overrides)  # fmt: skip


def watch(tmp_path: Path, *overrides: str) -> list[ledger.RunRecord]:
    return selftaught.watch(tmp_path / "in", recipe(tmp_path, *overrides), once=True, runs=tmp_path / "runs")


def arrive(tmp_path: Path, name: str, start: int, count: int = 30) -> None:
    small.write_jsonl(tmp_path / "in" / name, small.sum_rows(count, labelled=0, start=start))


def test_new_questions_start_a_run_and_the_next_begins_with_its_model(tmp_path: Path, inbox: Path) -> None:
    arrive(tmp_path, "a.jsonl", 11)
    [first] = watch(tmp_path)
    assert first.outcome == "proved", first.rounds[0].decision.reason
    assert watch(tmp_path) == [], "nothing new"
    arrive(tmp_path, "b.jsonl", 11, 45)
    assert watch(tmp_path) == [], "15 of them are new"
    arrive(tmp_path, "c.jsonl", 500)
    [second] = watch(tmp_path)
    assert second.recipe.model == str(first.kept) and second.rounds[0].parent != first.rounds[0].parent
    assert second.facts("tasks")["counts"]["train"] == 45
    assert [e["run"] for e in read_lines(inbox / ".watched.jsonl")] == ["small-watch-1", "small-watch-2"]
    assert second.facts("tasks")["vault"] == first.facts("tasks")["vault"], "one vault, whose looks are counted"


def test_the_envelope_ends_it(tmp_path: Path, inbox: Path) -> None:
    arrive(tmp_path, "a.jsonl", 11)
    assert len(watch(tmp_path, "watch.runs=1")) == 1
    arrive(tmp_path, "b.jsonl", 500)
    assert watch(tmp_path, "watch.runs=1") == []
    assert watch(tmp_path, "watch.looks=1") == [], "the look is spent"
    assert len(watch(tmp_path)) == 1


def test_a_watch_that_was_stopped_goes_on_with_its_run(tmp_path: Path, inbox: Path) -> None:
    arrive(tmp_path, "a.jsonl", 11)
    with pytest.raises(Stopped):
        selftaught.watch(inbox, recipe(tmp_path), once=True, runs=tmp_path / "runs", stop=small.after(20))
    [record] = watch(tmp_path)
    assert record.name == "small-watch-1" and record.outcome == "proved"
    assert len(read_lines(inbox / ".watched.jsonl")) == 1


def test_it_waits_until_a_file_has_come_whole_and_stops_when_asked(tmp_path: Path, inbox: Path) -> None:
    arrive(tmp_path, "a.jsonl", 11)
    with pytest.raises(Stopped):
        selftaught.watch(inbox, recipe(tmp_path, "watch.seconds=0.3"), runs=tmp_path / "runs",
                         stop=(inbox / ".watched.jsonl").exists)  # fmt: skip
    assert read_lines(inbox / ".watched.jsonl")[0]["run"] == "small-watch-1", "the second glance took it"


def test_what_cannot_be_watched_is_said(tmp_path: Path, inbox: Path) -> None:
    with pytest.raises(RecipeError, match="needs labelled questions of its own"):
        selftaught.watch(inbox, small.recipe(), once=True, runs=tmp_path / "runs")
    with pytest.raises(RecipeError, match="is not a folder"):
        selftaught.watch(tmp_path / "nowhere", recipe(tmp_path), once=True, runs=tmp_path / "runs")
    (inbox / "a.jsonl").write_text('{"question": "1+1"}\n{"quest')
    with pytest.raises(DataError, match=r"a\.jsonl"):
        watch(tmp_path)
