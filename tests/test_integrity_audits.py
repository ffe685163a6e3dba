"""What audits said is held against their own reports, and the decision against what they said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import small
from selftaught import ledger, loop, trends
from selftaught.store import file_digest
from selftaught.types import canonical
from test_integrity import remade, wrong


def faults(folder: Path) -> dict[str, str]:
    """What is wrong besides the journal, which quotes heads of the chain as it was."""
    return {name: said for name, said in wrong(folder).items() if name != "journal"}


GATING = "audits.forgetting.gating=true"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of rounds, and one that an audit of the gate rejected."""
    root = tmp_path_factory.mktemp("home")
    loop.run(small.prepared(root / "three", "rounds=3", "patience=3", "engine.learns=0.2"))
    assert loop.run(small.prepared(root / "worse", "engine.learns=-0.9", GATING)).decision.outcome == "rejected"
    return root


@pytest.fixture
def runs(home: Path, tmp_path: Path) -> Path:
    shutil.copytree(home, tmp_path / "runs")
    return tmp_path / "runs"


def forged(name: str, change: Callable[[dict[str, Any]], None], place: str = "round-000") -> Callable[[dict], None]:
    """Changes the facts of one audit of a round."""

    def forge(entry: dict[str, Any]) -> None:
        if entry["kind"] == "audit" and entry["place"] == f"{place}/audits/{name}":
            change(entry["facts"])

    return forge


def test_honest_records_pass(runs: Path) -> None:
    assert wrong(runs / "three") == {} and wrong(runs / "worse") == {}


def test_a_failure_forged_to_a_pass_is_named_and_so_is_the_decision(runs: Path) -> None:
    remade(runs / "worse", forged("forgetting", lambda facts: facts.update(outcome="passed", subjects=[])))
    found = faults(runs / "worse")
    assert "round 0: forgetting is recorded as passed; its reports say failed" in found["audits"]
    assert (
        "round 0 decided by audit: forgetting not passed; its audits decide by audit: forgetting passed"
        in found["audits"]
    )
    assert "decision" in found


def test_a_pass_of_a_later_round_forged_to_a_failure_is_named(runs: Path) -> None:
    change = forged("collapse", lambda facts: facts.update(outcome="failed"), "round-002")
    remade(runs / "three", change)
    assert faults(runs / "three") == {"audits": "round 2: collapse is recorded as failed; its reports say passed"}


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts.update(reason="all is well"),
        lambda facts: facts.update(subjects=["0" * 64]),
        lambda facts: facts["after"]["dev"].update(value=0.99),
        lambda facts: facts["before"].pop("dev"),
    ],
    ids=["reason", "subjects", "a figure", "a measure"],
)
def test_whatever_else_was_changed_is_named(runs: Path, change: Callable[[dict[str, Any]], None]) -> None:
    remade(runs / "three", forged("forgetting", change, "round-001"))
    assert faults(runs / "three") == {"audits": "round 1: what forgetting recorded is not what its reports say"}


def test_figures_that_another_machine_rounds_otherwise_are_the_same(runs: Path) -> None:
    def shift(facts: dict[str, Any]) -> None:
        facts["after"]["dev"]["low"] *= 1 + 1e-13

    remade(runs / "three", forged("forgetting", shift, "round-001"))
    assert faults(runs / "three") == {}


def test_a_report_of_an_audit_made_anew_does_not_say_what_was_said(runs: Path) -> None:
    path = runs / "three" / "round-000" / "audits" / "measured" / "forgetting" / "report.json"
    data = json.loads(path.read_text())
    data["scores"] = [0.0] * len(data["scores"])
    path.write_bytes(canonical(data) + b"\n")

    def forge(entry: dict[str, Any]) -> None:
        if entry.get("place") == "round-000/audits/measured/forgetting":
            entry["files"]["report.json"] = file_digest(path)

    remade(runs / "three", forge)
    assert "round 0: forgetting is recorded as passed; its reports say failed" in faults(runs / "three")["audits"]


def test_an_audit_that_was_taken_out_is_missed(runs: Path) -> None:
    def forge(entry: dict[str, Any]) -> None:
        if entry.get("place") == "round-001/audits/collapse":
            entry["kind"] = "texts"

    remade(runs / "three", forge)
    assert faults(runs / "three") == {"audits": "round 1 has no audit collapse"}


def test_an_audit_of_the_gate_that_was_taken_out_is_missed_though_no_round_has_it(runs: Path) -> None:
    def forge(entry: dict[str, Any]) -> None:
        if entry["kind"] == "audit":
            entry["kind"] = "texts"

    remade(runs / "worse", forge)
    found = faults(runs / "worse")["audits"]
    assert "round 0 has no audit forgetting" in found and "collapse" not in found


def test_a_rule_taken_out_of_the_decision_is_named(runs: Path) -> None:
    def forge(entry: dict[str, Any]) -> None:
        if entry["kind"] == "round":
            decision = entry["round"]["decision"]
            decision["rules"] = [r for r in decision["rules"] if not r["name"].startswith("audit")]

    remade(runs / "worse", forge)
    said = "round 0 decided by no audit; its audits decide by audit: forgetting not passed"
    assert said in faults(runs / "worse")["audits"]


def test_a_report_that_is_gone_is_named(runs: Path) -> None:
    def forge(entry: dict[str, Any]) -> None:
        if entry.get("place") == "audits/calibration":
            entry["kind"] = "texts"

    remade(runs / "worse", forge)
    assert "round 0 has no reports for what calibration said" in faults(runs / "worse")["audits"]


def test_what_could_not_be_measured_decides_and_the_record_holds(tmp_path: Path) -> None:
    private = small.write_jsonl(tmp_path / "private.jsonl", [{"text": "nobody may know of this"}])
    folder = small.prepared(tmp_path / "run", f"private={private}")
    private.unlink()
    assert loop.run(folder).decision.outcome == "rejected" and wrong(folder) == {}
    record = ledger.read_run(folder)
    [said] = [a for a in trends.audits(record, record.final) if a.name == "memorization"]
    assert said.decides and said.reason.startswith("it could not be measured")
    remade(folder, forged("memorization", lambda facts: facts.update(decides=False)))
    assert "round 0: what memorization recorded is not what its reports say" in wrong(folder)["audits"]


def test_a_candidate_that_is_an_earlier_one_passes(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run", "rounds=2", "patience=2", "engine.learns=0")
    loop.run(folder)
    assert wrong(folder) == {}


def test_an_audit_of_another_version_is_not_asked(runs: Path) -> None:
    remade(runs / "three", forged("forgetting", lambda facts: facts.update(version=0, reason="as it was then")))
    assert faults(runs / "three") == {}
