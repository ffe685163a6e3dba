"""Whole runs with a judge behind a server: what it settles, what that costs, and what happens when it is not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import papers
import test_selfedit as runs
from selftaught import integrity, loop, summary
from selftaught.config import Recipe, parse_recipe
from selftaught.errors import EndpointError, RecipeError
from selftaught.ledger import RunRecord, read_run
from selftaught.rows import read_rows
from selftaught.store import read_lines
from selftaught.trial import NAME, as_line, read_trials
from selftaught.types import Item, Tried
from serving import FakeServer, serving


def recipe(folder: Path, *overrides: str) -> Recipe:
    """Documents that state half of what is wanted: "co12" where "co12 exactly" is the gold answer."""
    path = papers.write(folder / "documents.json", 40)
    rows = json.loads(path.read_text())
    for row in rows:
        for q in row["questions"]:
            q["answer"] += " exactly"
    path.write_text(json.dumps(rows))
    text = runs.RECIPE.format(path=path).replace("{{", "{").replace("}}", "}")
    few = ("model=scripted:0.6", "tasks.checker=recall", "method.passages=6", "method.edits=2", "method.check=false")
    return parse_recipe(text, "docs", (*few, *overrides))


def judged_by(server: FakeServer, *more: str, name: str = "judge") -> tuple[str, ...]:
    terms = {"url": server.url, "model": "big", "retries": 0, "backoff": 0.01}
    return (*(f"roles.{name}.{k}={v}" for k, v in terms.items()), *more)


PRICES = ("roles.judge.price_prompt=1000", "roles.judge.price_completion=2000")


def run(folder: Path, *overrides: str) -> RunRecord:
    loop.prepare(recipe(folder, *overrides), folder / "run")
    loop.run(folder / "run")
    return read_run(folder / "run")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, int]:
    """The record, and how many requests the judge got."""
    with serving() as server:
        folder = tmp_path_factory.mktemp("judged")
        return run(folder, *judged_by(server, *PRICES)), len(server.asked)


# ---------------------------------------------------------------- there


def test_disputed_answers_are_settled_and_the_facts_say_how_many(judged: tuple[RunRecord, int]) -> None:
    record, _ = judged
    [parent] = [e for e in record.units("evaluation") if (e["facts"]["role"], e["facts"]["suite"]) == ("parent", "dev")]
    assert parent["facts"]["judge"]["answers settled"] > 10
    assert "answers unsettled" not in parent["facts"]["judge"]
    items = read_rows(record.path / parent["place"] / "items.parquet", Item)
    kept = {r.task_id: r for rows in read_trials(record.path / NAME).values() for r in rows if r.answer}
    assert all(r.right == 0.0 for r in kept.values()), "the checker finds half of every answer"
    assert sum(i.score for i in items) > 0, "and the judge says that it is enough"
    trials = [e["facts"]["judge"] for e in record.units("trials")]
    settled = sum(f.get("answers settled", 0) for f in trials)
    assert record.final is not None and record.final.counts["judge: answers settled"] == settled > 0


def test_what_the_judge_gave_out_is_counted_and_paid_for(judged: tuple[RunRecord, int]) -> None:
    record, requests = judged
    counts = [e["facts"].get("judge", {}) for kind in ("evaluation", "trials") for e in record.units(kind)]
    counted = sum(c.get("requests", 0) for c in counts)
    assert counted >= requests > 0, "a reply that is read back counts as one that is given"
    assert sum(c.get("prompt tokens", 0) for c in counts) == 10 * counted
    shown = summary.plain(summary.blocks(record, record.path.parent))
    assert f"The tokens of roles.judge cost {0.02 * counted:.4g} by the prices of the recipe." in shown


def test_an_editor_s_tokens_are_counted_and_paid_for(tmp_path: Path) -> None:
    with serving() as server, serving() as judge:
        priced = judged_by(server, "roles.editor.price_prompt=1000", "gate.controls=[editor]", name="editor")
        record = run(tmp_path, *priced, *judged_by(judge))
        assert len(server.asked) > 10
    [control] = record.units("control")
    assert control["facts"]["editor"]["requests"] == len(server.asked)
    assert control["facts"]["editor"]["prompt tokens"] == 10 * len(server.asked)
    shown = summary.plain(summary.blocks(record, tmp_path))
    assert f"The tokens of roles.editor cost {0.01 * len(server.asked):.4g} by the prices" in shown


def test_without_a_judge_no_fact_names_one(tmp_path: Path) -> None:
    record = run(tmp_path)
    assert not any("judge" in e["facts"] for kind in ("evaluation", "trials") for e in record.units(kind))
    assert "roles.judge" not in summary.plain(summary.blocks(record, tmp_path))


# ---------------------------------------------------------------- not there


def test_a_judge_that_fails_once_is_waited_for_and_the_run_ends_the_same(
    judged: tuple[RunRecord, int], tmp_path: Path
) -> None:
    with serving(*["ok"] * 5, "status 503", "ok") as server:
        loop.prepare(recipe(tmp_path, *judged_by(server, *PRICES, "roles.judge.give_up=1000")), tmp_path / "run")
        with pytest.raises(EndpointError, match=r"The judge gave no reply to 1 of .* the server was busy") as error:
            loop.run(tmp_path / "run")
        assert "selftaught resume" in error.value.hint
        assert read_run(tmp_path / "run").outcome == "paused"
        loop.run(tmp_path / "run")
    record, (other, _) = read_run(tmp_path / "run"), judged
    facts = [[e["facts"] for kind in ("trials", "evaluation") for e in r.units(kind)] for r in (record, other)]
    assert facts[0] == facts[1], "as in a run in which the judge was always there"
    assert all(c.ok for c in integrity.verify(record.path))


def test_a_judge_for_whom_there_is_no_money_pauses_the_run(tmp_path: Path) -> None:
    with serving() as server:
        given = recipe(tmp_path, *judged_by(server, *PRICES, "budget.money=2"))
        loop.prepare(given, tmp_path / "run")
        with pytest.raises(EndpointError, match=r"The judge gave no reply to .* budget.money was spent") as error:
            loop.run(tmp_path / "run")
    assert "more money" in error.value.hint
    assert read_run(tmp_path / "run").outcome == "paused"


# ---------------------------------------------------------------- the plan


@pytest.mark.parametrize("name", ["judge", "editor"])
def test_reload_serves_the_student_alone(name: str, tmp_path: Path) -> None:
    with serving() as server, pytest.raises(RecipeError, match="reload serves the student"):
        loop.plan(recipe(tmp_path, *judged_by(server, f"roles.{name}.reload=true", "train.kind=lora", name=name)))


def test_a_plan_counts_the_passages_of_a_round_and_says_what_it_cannot_count(tmp_path: Path) -> None:
    with serving() as server:
        both = (*judged_by(server), *judged_by(server, name="source"))
        plan = loop.plan(recipe(tmp_path, *both, "method.passages=5", "method.edits=4"))
    assert any(n.startswith("roles.source: up to 20 samples") for n in plan.notes)
    assert any(n.startswith("roles.judge: what it costs is not in this plan") for n in plan.notes)


# ---------------------------------------------------------------- trials.jsonl


def test_verify_misses_answers_that_no_longer_stand_in_the_file(judged: tuple[RunRecord, int], tmp_path: Path) -> None:
    shutil.copytree(judged[0].path.parent, tmp_path / "runs")
    folder = tmp_path / "runs" / "run"
    assert all(c.ok for c in integrity.verify(folder))
    line, *rest = read_lines(folder / NAME)
    rows = [Tried(**row) for row in line["rows"]]
    forged = as_line(line["trial"], [*rows[1:], rows[0]][:1])
    text = [forged, *rest]
    (folder / NAME).write_text("".join(json.dumps(t) + "\n" for t in text))
    [check] = [c for c in integrity.verify(folder) if not c.ok]
    assert (check.name, "do not stand in" in check.detail) == ("trials", True)
    (folder / NAME).write_text(json.dumps(line | {"digest": "0"}) + "\n")
    [check] = [c for c in integrity.verify(folder) if not c.ok]
    assert "line 1: not as it was written" in check.detail
