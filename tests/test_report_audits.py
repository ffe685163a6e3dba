"""The report's section on audits: opinions, numbers, and every measure drawn over the rounds."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import small
from fake_runs import make_run
from selftaught import ledger, loop, report, trends
from selftaught.types import Audited, Metric
from test_report import HOSTILE, Page


def ran(folder: Path, *overrides: str) -> ledger.RunRecord:
    loop.run(small.prepared(folder, *overrides))
    return ledger.read_run(folder)


def section(record: ledger.RunRecord) -> str:
    page = report.drawn(report.contents(record))
    assert Page(page).tags and '<a href="#audits">' in page
    found = re.search(r'<section id="audits">.*?</section>', page, re.S)
    assert found is not None
    return found[0]


def drawing(found: str, title: str) -> str:
    return next(s for s in re.findall(r"<svg.*?</svg>", found, re.S) if f">{title}, by round<" in s)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> ledger.RunRecord:
    """Two rounds that were accepted, and one that was not; one audit decides."""
    given = ("rounds=3", "patience=3", "engine.learns=0.2", "audits.collapse.gating=true")
    record = ran(tmp_path_factory.mktemp("runs") / "three", *given)
    assert [r.decision.outcome in ledger.GOOD for r in record.rounds] == [True, True, False]
    return record


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a page has besides audits."""
    return report.contents(ledger.read_run(make_run(tmp_path_factory.mktemp("fake"))))


def test_every_audit_says_its_outcome_its_reason_and_whether_it_decides(three: ledger.RunRecord) -> None:
    text = Page(section(three)).text
    for audit in trends.audits(three, three.final):
        how = {"passed": "✓ passed", "failed": "✗ failed"}.get(audit.outcome, audit.outcome)
        kind = "decides" if audit.name == "collapse" else "reports"
        assert f"{audit.name} version {audit.version} {how} {kind} {audit.reason}." in text
    assert "The same outcome in all 3 rounds." in text and "By round: passed (1), inconclusive (2)" in text


def test_every_measure_stands_with_its_interval_and_its_number(three: ledger.RunRecord) -> None:
    text = Page(section(three)).text
    [forgetting] = [a for a in trends.audits(three, three.final) if a.name == "forgetting"]
    before, after = forgetting.before["dev"], forgetting.after["dev"]
    shown = [f"{m.value:.3g} {m.low:.3g} to {m.high:.3g}" for m in (before, after)]
    assert f"dev {shown[0]} {shown[1]} 120" in text and "candidate of round 2 n" in text
    lost = forgetting.after["dev: forgotten"]
    ends = " to ".join(f"{v:.3g}".replace("-", "−") for v in (lost.low, lost.high))
    assert lost.value < 0 and f"dev: forgotten – −{-lost.value:.3g} {ends} 120" in text


def test_every_measure_is_drawn_over_the_rounds_with_its_base(three: ledger.RunRecord) -> None:
    found = section(three)
    drawn = [c for curves in trends.curves(three).values() for c in curves]
    assert found.count("<svg") == len(drawn) > 20
    dev = drawing(found, "dev")
    assert dev.count('class="basis"') == dev.count('class="trend"') == dev.count('<g class="parent">') == 1
    assert dev.count('<g class="candidate">') == 2 and dev.count('<g class="refused">') == 1
    assert dev.count('class="bar"') == 4 and "round 3, not accepted: 0.8, 95 % interval" in dev
    [points] = re.findall(r'class="trend" points="(.*?)"', dev)
    assert len(points.split()) == 3, "base, round 1, round 2"
    assert re.findall(r'text-anchor="middle">(\w+)<', dev) == ["base", "1", "2", "3"]
    assert 'class="basis"' not in drawing(found, "dev: forgotten"), "which the base has not"


def test_one_round_is_dots_without_a_line(tmp_path: Path) -> None:
    found = section(ran(tmp_path / "run"))
    assert 'class="trend"' not in found and "joins the accepted models" not in found
    dev = drawing(found, "dev")
    assert dev.count("<circle") == 2 and 'class="basis"' in dev
    assert "not applicable reports no private text is named (private)." in Page(found).text


def test_points_lie_where_their_values_are(empty: dict[str, Any]) -> None:
    points = tuple(trends.Point(r, Metric(v, 9, v, v), True) for r, v in ((1, 0.0), (2, 1.0)))
    curve = trends.Curve("x", Metric(0.5, 9, 0.5, 0.5), points, 2, trends.axis(0.0, 1.0, 2))
    [svg] = re.findall(r"<svg.*?</svg>", of_curve(empty, curve), re.S)
    assert re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg) == [
        ("78.0", "57.0"),
        ("134.0", "104.0"),
        ("190.0", "10.0"),
    ]
    assert re.findall(r'points="(.*?) "', svg) == ["78.0,57.0 134.0,104.0 190.0,10.0"]


def test_the_labels_of_many_rounds_are_thinned(empty: dict[str, Any]) -> None:
    points = tuple(trends.Point(r, Metric(r, 9, r, r), True) for r in range(1, 101))
    curve = trends.Curve("x", None, points, 100, trends.axis(0.0, 100.0, 3))
    assert 6 < len(re.findall(r'text-anchor="middle">', of_curve(empty, curve))) < 10


def of_curve(empty: dict[str, Any], curve: trends.Curve) -> str:
    """The section of a page whose only curve this is."""
    audit = Audited("collapse", 1, "passed", "", False, (), {}, {"x": Metric(0.0, 9, 0.0, 0.0)})
    sheet = trends.Sheet(audit, 1, trends.in_order(audit), [(1, "passed")], [curve])
    return "".join(re.findall(r'<section id="audits">.*?</section>', report.drawn(empty | {"audits": [sheet]}), re.S))


def test_a_run_from_before_there_were_audits_has_no_such_section(empty: dict[str, Any]) -> None:
    page = report.drawn(empty)
    assert "audits" not in re.findall(r'<section id="(\w+)">', page) and 'href="#audits"' not in page


def test_what_an_error_said_is_text(three: ledger.RunRecord) -> None:
    shown = report.contents(three)
    [first, *rest] = shown["audits"]
    shown["audits"] = [replace(first, audit=replace(first.audit, reason=f"it broke: {HOSTILE}")), *rest]
    page = report.drawn(shown)
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page and "\u202e" not in page


def test_a_trained_model_that_did_not_change_is_no_unfinished_run(three: ledger.RunRecord) -> None:
    done = three.rounds[2]
    same = replace(done, decision=replace(done.decision, outcome="no change", rules=(), reason="it hardly differs"))
    text = Page(report.drawn(report.contents(three) | {"round": same})).text
    assert "No change The trained model hardly differs from its parent" in text and "Unfinished" not in text
