"""Audits as part of the gate: what passes, what is unproven, what is rejected."""

from __future__ import annotations

from pathlib import Path

import small
import test_auditing as runs
from selftaught.types import Verdict


def test_an_audit_that_passes_is_a_line_of_the_decision_where_the_recipe_says_so(tmp_path: Path) -> None:
    record = runs.run_of(tmp_path / "run", "audits.forgetting.gating=true")
    assert record.outcome == "proved"
    assert list(runs.rules(record)) == ["gain on dev", "guard: sort", "audit: forgetting", "gain on vault"]
    rule = runs.rules(record)["audit: forgetting"]
    assert (rule.passed, rule.before, rule.after) == (True, None, None)
    assert rule.detail == f"passed: {runs.audited(record)['forgetting']['reason']}"


def test_an_inconclusive_audit_of_the_gate_leaves_a_round_unproven(tmp_path: Path) -> None:
    record = runs.run_of(tmp_path / "run", *runs.WINDOWS, "audits.memorization.gating=true", runs.secrets(tmp_path))
    assert record.final is not None and record.outcome == "unproven"
    why = runs.audited(record)["memorization"]["reason"]
    assert why.endswith("2 texts, and 133 are needed to know")
    assert record.final.decision.reason == f"audit: memorization is inconclusive: {why}"
    worse = runs.run_of(tmp_path / "worse", *runs.WINDOWS, "audits.memorization.gating=true", runs.secrets(tmp_path),
                   "engine.learns=-0.5")  # fmt: skip
    assert worse.outcome == "rejected", "what is known decides"


def test_private_text_that_was_learned_fails_and_the_filter_keeps_it_from_being_learned(tmp_path: Path) -> None:
    learned = next(e.text for e in small.kept(runs.run_of(tmp_path / "one")) if e.own and len(e.text) > 12)
    given = (runs.secrets(tmp_path, [learned]), "audits.memorization={prefix: 2, suffix: 2, span: 12, gating: true}")
    record = runs.run_of(tmp_path / "two", *given, "curate.private_span=0")
    assert record.outcome == "rejected" and record.final is not None
    assert record.final.decision.reason == "did not pass: audit: memorization"
    assert runs.audited(record)["memorization"]["reason"].endswith("of the texts learned hold 12 tokens in a row of a"
                                                              " private text")  # fmt: skip
    kept = runs.run_of(tmp_path / "three", *given, "curate.private_span=12")
    verdicts = small.read_rows(kept.path / "round-000/examples/verdicts.parquet", Verdict)
    assert {v.reason for v in verdicts if v.by == "filter:private"} == {
        "12 tokens in a row of it stand in a private text"
    }
    assert "of the texts learned" not in runs.audited(kept)["memorization"]["reason"]
    assert runs.audited(kept)["memorization"]["after"]["longest private span in what was learned"]["value"] < 12
