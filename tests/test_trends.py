"""What audits said, round by round, and their measures as curves over the rounds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import small
from selftaught import cli, ledger, loop, summary, trends
from selftaught.types import Audited, Metric


def ran(folder: Path, *overrides: str) -> ledger.RunRecord:
    loop.run(small.prepared(folder, *overrides))
    return ledger.read_run(folder)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> ledger.RunRecord:
    """Two rounds that were accepted, and one that was not."""
    record = ran(tmp_path_factory.mktemp("runs") / "three", "rounds=3", "patience=3", "engine.learns=0.2")
    assert [r.decision.outcome in ledger.GOOD for r in record.rounds] == [True, True, False]
    return record


def test_every_round_has_what_its_audits_said(three: ledger.RunRecord) -> None:
    for done in three.rounds:
        said = {a.name: a for a in trends.audits(three, done)}
        assert [*said] == ["calibration", "collapse", "forgetting", "memorization"]
        assert said["memorization"].outcome == "not applicable" and said["collapse"].outcome == "passed"
        assert (
            said["forgetting"].after["dev"].value == three.reports(done)["candidate", "dev"].metrics["accuracy"].value
        )
    assert trends.audits(three, None) == []


def test_a_candidate_that_is_an_earlier_one_has_what_was_said_of_that(tmp_path: Path) -> None:
    record = ran(tmp_path / "run", "rounds=2", "patience=2", "engine.learns=0")
    first, second = record.rounds
    assert first.candidate == second.candidate and not record.units("audit", second)
    assert trends.audits(record, second) == trends.audits(record, first) != []


def test_a_round_without_a_candidate_has_no_audit(tmp_path: Path) -> None:
    record = ran(tmp_path / "run", "engine.answers=false")
    assert trends.audits(record, record.final) == [] and trends.curves(record) == {}
    assert "Audits" not in [b.title for b in summary.blocks(record, tmp_path)]


def test_a_curve_begins_with_the_base_and_marks_what_was_not_accepted(three: ledger.RunRecord) -> None:
    [dev] = [c for c in trends.curves(three)["forgetting"] if c.name == "dev"]
    shares = [three.reports(r)["candidate", "dev"].metrics["accuracy"].value for r in three.rounds]
    assert [(p.round, p.metric.value, p.accepted) for p in dev.points] == [
        (1, shares[0], True),
        (2, shares[1], True),
        (3, shares[2], False),
    ]
    base = three.reports(three.rounds[0])["parent", "dev"].metrics["accuracy"].value
    assert dev.base is not None and dev.base.value == base
    assert dev.line == [(0, base), (1, shares[0]), (2, shares[1])], "the line goes through accepted models alone"
    low, high = min(p.metric.low for p in dev.points), max(p.metric.high for p in dev.points)
    assert dev.y.low <= min(low, dev.base.low) and dev.y.high >= high


def test_what_only_later_rounds_have_is_a_curve_without_a_base(three: ledger.RunRecord) -> None:
    taught = {c.name: c for c in trends.curves(three)["forgetting"] if c.name.startswith("taught in")}
    assert [p.round for p in taught["taught in round-001"].points] == [2, 3]
    assert taught["taught in round-001"].base is None and taught["taught in round-001"].line == []
    assert len(taught["taught in round-000"].line) == 2


def test_one_round_is_two_dots_and_no_line(tmp_path: Path) -> None:
    [dev] = [c for c in trends.curves(ran(tmp_path / "run"))["forgetting"] if c.name == "dev"]
    assert dev.base is not None and len(dev.points) == 1 and dev.line == []


def test_the_main_measures_come_first() -> None:
    one = Metric(0.5, 3, 0.5, 0.5)
    audit = Audited(
        "calibration", 1, "passed", "", False, (), {"right": one, "Brier score": one}, {"a": one, "right": one}
    )
    assert trends.in_order(audit) == [("right", one, one), ("Brier score", one, None), ("a", None, one)]
    assert trends.main(audit) == [("right", one, one)]
    other = replace(audit, name="forgetting", after={"a": one, "right": one, "Brier score": one})
    assert trends.main(other) == [("Brier score", one, one), ("right", one, one)], "what both models have"


def test_show_has_a_block_of_audits_and_json_has_all_of_them(three: ledger.RunRecord) -> None:
    [block] = [b for b in summary.blocks(three, three.path.parent) if b.title == "Audits"]
    final = trends.audits(three, three.final)
    assert block.rows == tuple((a.name, a.outcome, a.reason) for a in final)
    answer = CliRunner().invoke(cli.app, ["show", "three", "--json", "--runs", str(three.path.parent)])
    said = json.loads(answer.stdout)["audits"]
    assert [(a["round"], a["name"]) for a in said] == [
        (r, n) for r in (1, 2, 3) for n in ("calibration", "collapse", "forgetting", "memorization")
    ]
    assert said[6]["after"]["dev"]["n"] == 120 and said[5]["before"]["entropy"]["n"] == 4


def test_an_audit_that_decides_says_so_in_its_line() -> None:
    audit = Audited("collapse", 1, "failed", "alarm\x1b[31m", True)
    assert trends.line(audit)[:2] == ("collapse", "failed (decides)") and "\x1b" not in trends.line(audit)[2]
