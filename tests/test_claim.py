"""Runs whose recipe claims something else than more right answers, from the plan to the report."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

import selftaught
import small
from selftaught import export, figures, integrity, ledger, loop, report, summary, tell
from selftaught.engines.base import StopToken, never
from selftaught.engines.scripted import skill_of
from selftaught.errors import ModelError, RecipeError
from selftaught.rows import read_rows
from selftaught.types import Checkpoint, Item
from small import prepared, recipe

CLOSE = '''
import re

def closeness(completions, answer, **row):
    """1 for the answer, less the farther off; a cost is how far off it is."""
    return [1 / (1 + off(c, a)) for c, a in zip(completions, answer)]

def cost(completions, answer, **row):
    return [min(50.0, off(c, a)) for c, a in zip(completions, answer)]

def small_cost(completions, answer, **row):
    return [1e-5 * c for c in cost(completions, answer)]

def off(text, answer):
    found = re.findall(r"-?[0-9]+", text)
    return abs(int(found[-1]) - int(answer)) if found else 50.0
'''


def questions(folder: Path, count: int = 400, grouped: bool = False) -> Path:
    """A file of sums with answers, of which dev and vault are cut."""
    path = folder / "sums.jsonl"
    group = ', "group": "g{}"'
    rows = (
        f'{{"question": "{i} + {i + 7}", "answer": "{2 * i + 7}"{group.format(i // 4) if grouped else ""}}}'
        for i in range(10, 10 + count)
    )
    path.write_text("\n".join(rows))
    return path


class Sure(small.Counting):
    """It finds a text as likely as it is right, some texts a little more than others."""

    def score(
        self, checkpoint: Checkpoint, sequences: Sequence[tuple[int, ...]], *, stop: StopToken = never
    ) -> list[list[float]]:
        each = math.log(skill_of(checkpoint))
        return [[each * (0.9 + (sum(s) % 20) / 100)] * (len(s) - 1) for s in sequences]


def judged(folder: Path, *overrides: str) -> ledger.RunRecord:
    run = prepared(folder / "claim-1", *overrides)
    loop.run(run, engine=Sure(Sure.Options(learns=0.9)))
    return ledger.read_run(run)


def mine(folder: Path, function: str, *overrides: str, grouped: bool = False) -> ledger.RunRecord:
    (folder / "close.py").write_text(CLOSE)
    file = questions(folder, grouped=grouped)
    own = (f"tasks.path={file}", f"tasks.checker={folder / 'close.py'}:{function}", "tasks.dev=0.3", "tasks.vault=0.3")
    return judged(folder, *own, *overrides)


@pytest.mark.parametrize("test", ["auto", "bootstrap"])
def test_a_score_of_ones_own_is_proved_recorded_and_drawn(tmp_path: Path, test: str) -> None:
    record = mine(tmp_path, "closeness", "gate.primary.metric=score", f"gate.primary.test={test}")
    assert record.outcome == "proved", record.final
    rules = {r.name: r for r in record.final.decision.rules}
    assert {r.unit for n, r in rules.items() if n.startswith("gain")} == {"score"}
    assert ("bootstrap" if test == "bootstrap" else "sign-flip") + " over 120 items" in rules["gain on dev"].detail
    units = {(e["facts"]["role"], e["facts"]["suite"]): e for e in record.units("evaluation")}
    rows = read_rows(record.path / units["candidate", "vault"]["place"] / "items.parquet", Item)
    assert rules["gain on vault"].after == pytest.approx(sum(r.score for r in rows) / len(rows))
    assert any(0 < r.score < 1 for r in rows), "graded, not right or wrong"
    assert all(c.ok for c in integrity.verify(record.path))
    (shown,) = [b for b in summary.blocks(record, tmp_path) if b.title.startswith("Before and after")]
    assert re.fullmatch(r"\+0\.\d{3} \[\+0\.\d{3}, \+0\.\d{3}\]", shown.rows[0][4])
    page = report.write_report(record.path).read_text()
    assert (
        "<b>Score</b>" in page
        and "✓ right" not in page
        and "the score goes up on dev and vault, by a one-sided test" in page
    )


def test_a_cost_that_falls_is_a_gain_and_over_groups_it_is_tested_by_group(tmp_path: Path) -> None:
    record = mine(tmp_path, "cost", "gate.primary.metric=score", "gate.primary.direction=down", grouped=True)
    rule = record.final.decision.rules[0]
    assert record.outcome == "proved" and rule.after < rule.before
    assert re.search(r"sign-flip over \d+ groups", rule.detail)
    assert "less is better here" in report.write_report(record.path).read_text()


def test_a_file_is_judged_by_the_runs_function_or_by_what_is_right(tmp_path: Path) -> None:
    record = mine(tmp_path, "cost", "gate.primary.metric=score", "gate.primary.direction=down")
    file = small.write_jsonl(tmp_path / "q.jsonl", small.sum_rows(200, start=700))
    found = selftaught.examine(record, file)
    assert found.unit == "score" and found.down and found.gain[2] < 0 and "sign-flip over 200 items" in found.test
    assert float(found.test.rpartition("p = ")[2]) < 0.01
    right = selftaught.examine(record, file, checker="number")
    assert right.unit == "share" and not right.down and right.gain[1] > 0 and "exact McNemar" in right.test


def test_that_less_is_better_is_said_wherever_a_cost_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = mine(tmp_path, "cost", "gate.primary.metric=score", "gate.primary.direction=down")
    assert "less is better on dev and vault" in summary.plain(summary.blocks(record, tmp_path))
    assert "The claim, made before the run: the score goes down on dev and vault." in export.card(record)
    tell.exam(selftaught.examine(record, small.write_jsonl(tmp_path / "q.jsonl", small.sum_rows(200, start=700))))
    assert re.search(r"  change  -\d.*\(less is better\)", capsys.readouterr().out)


def test_where_fewer_right_answers_are_claimed_the_report_still_says_who_was_right(tmp_path: Path) -> None:
    run = prepared(tmp_path / "claim-1", "gate.primary.direction=down", "gate.guards=[]", "engine.learns=-0.9")
    loop.run(run)
    record = ledger.read_run(run)
    assert record.outcome == "proved"
    page = report.write_report(run).read_text()
    won = re.findall(r'<span class="yes">gained</span></p>\n(.*?)</article>', page, re.DOTALL)
    assert won and all(re.search("<b>parent.*✓ right.*<b>candidate.*✗ wrong", pair, re.DOTALL) for pair in won)


def test_a_score_of_any_size_is_shown_in_figures_that_say_something(tmp_path: Path) -> None:
    record = mine(tmp_path, "small_cost", "gate.primary.metric=score", "gate.primary.direction=down")
    assert record.outcome == "proved"
    (shown,) = [b for b in summary.blocks(record, tmp_path) if b.title.startswith("Before and after")]
    assert re.fullmatch(r"\d\.?\d*e-05 \[.*e-0[56]\]", shown.rows[0][2]), shown.rows[0]
    page = report.write_report(record.path).read_text()
    hero = re.findall('<div class="hero">.*?</div>\n</div>', page, re.DOTALL)[0]
    assert "e-05" in hero and "0.000" not in hero and "0.000 " not in export.card(record)
    assert figures.decimals(0.0) == "0.000" and figures.decimals(12.5, "+") == "+12.500"


def test_a_cost_that_falls_is_no_gain_where_more_was_claimed(tmp_path: Path) -> None:
    assert mine(tmp_path, "cost", "gate.primary.metric=score").outcome == "rejected"


def test_the_likelihood_of_gold_answers_is_read_and_nothing_sampled(tmp_path: Path) -> None:
    record = judged(tmp_path, "gate.primary.metric=loglik")
    assert record.outcome == "proved"
    rule = record.final.decision.rules[0]
    assert rule.unit == "nats" and rule.before < rule.after < 0 and " nats, 120 won" in rule.detail
    files = {e["facts"]["suite"]: set(e["files"]) for e in record.units("evaluation")}
    assert files["dev"] == {"items.parquet", "report.json"} and "rows.parquet" in files["sort"]
    page = report.write_report(record.path).read_text()
    assert "Gold answers, nats per token" in page and "There are no two sets of answers" in page
    titles = [b.title for b in summary.blocks(record, tmp_path)]
    assert "Before and after, with 95 % intervals" in titles


def test_a_plan_of_a_graded_claim_promises_no_number(tmp_path: Path) -> None:
    found = loop.plan(recipe("gate.primary.metric=loglik"))
    assert found.provable == {} and list(found.needed) == ["guard sort"]
    assert any("depends on how much it differs from question to question" in note for note in found.notes)


def test_a_plan_says_that_a_bootstrap_needs_units_that_differ(tmp_path: Path) -> None:
    """On 40 questions McNemar could show 22 points; of 30 that have to differ a bootstrap asks for 75."""
    few = ("tasks.dev=40", "tasks.vault=25", "gate.primary.test=bootstrap")
    assert loop.plan(recipe(*few)).provable == {"dev": 0.75, "vault": None}
    assert loop.plan(recipe(*few[:2])).provable["dev"] < 0.3


def test_what_a_claim_needs_is_asked_for_before_anything_is_sampled(tmp_path: Path) -> None:
    file = questions(tmp_path, grouped=True)
    with pytest.raises(RecipeError, match="these carry groups"):
        loop.plan(recipe(f"tasks.path={file}", "gate.primary.test=mcnemar"))


def test_a_score_without_a_function_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"tasks\.checker names none"):
        loop.plan(recipe("gate.primary.metric=score"))


@pytest.mark.parametrize("suite", ["path", "guard"])
def test_a_function_that_fails_says_so_before_anything_is_sampled(tmp_path: Path, suite: str) -> None:
    (tmp_path / "close.py").write_text("def nothing(completions, **row):\n    return [float('nan')]\n")
    checker = "checker" if suite == "path" else "guard_checker"
    guard = f"tasks.guard={small.write_jsonl(tmp_path / 'g.jsonl', small.sort_rows(40))}"
    own = (f"tasks.path={questions(tmp_path)}", guard, f"tasks.{checker}={tmp_path / 'close.py'}:nothing")
    with pytest.raises(RecipeError, match=rf"{'sums' if suite == 'path' else 'g'}.jsonl:\d+: ValueError: the score"):
        loop.plan(recipe(*own))


def test_a_gold_answer_that_does_not_fit_says_so_before_anything_is_sampled(tmp_path: Path) -> None:
    rows = [*small.sum_rows(300), {"question": "What is 1+1?", "answer": "2" * 50}]
    file = small.write_jsonl(tmp_path / "q.jsonl", rows)
    own = (f"tasks.path={file}", "tasks.train=0.4", "tasks.dev=0.2", "tasks.vault=0.2", "tasks.test=0.2")
    small_model = (*own, "engine.context=60", "tasks.checker=exact")
    assert loop.plan(recipe(*small_model)).sizes["dev"]
    with pytest.raises(ModelError, match=r"takes 7\d tokens of a context of 60: 'What is 1\+1\?'"):
        loop.plan(recipe(*small_model, "gate.primary.metric=loglik", "seed=1"))


def test_a_record_of_another_claim_does_not_verify(tmp_path: Path) -> None:
    record = mine(tmp_path, "cost", "gate.primary.metric=score", "gate.primary.direction=down")
    primary = record.recipe.gate.primary.model_copy(update={"direction": "up"})
    changed = record.recipe.gate.model_copy(update={"primary": primary})
    again = integrity.decide_again(record, record.final)
    assert again == record.final.decision
    other = ledger.read_run(record.path)
    object.__setattr__(other, "recipe", record.recipe.model_copy(update={"gate": changed}))
    assert integrity.decide_again(other, other.final).outcome == "rejected"


def test_an_alpha_that_a_test_by_chance_cannot_reach_is_refused(tmp_path: Path) -> None:
    tiny = ("gate.alpha=2e-4", "gate.looks=3")
    with pytest.raises(RecipeError, match="The test bootstrap is made by chance"):
        loop.plan(recipe(*tiny, "gate.primary.test=bootstrap"))
    assert loop.plan(recipe(*tiny, "gate.primary.test=sign_flip")).sizes["dev"] == 120, "it reaches 0.00005"
    assert loop.plan(recipe("gate.alpha=1e-9")).sizes["dev"] == 120, "McNemar is exact"
