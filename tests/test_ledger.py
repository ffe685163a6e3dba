"""What happened is computed from the chain; a look at a vault is spent once, whoever looks."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import small
from selftaught import ledger, loop, types
from selftaught.errors import IntegrityError, RunError
from selftaught.ledger import RunRecord, read_run, spend_look
from selftaught.rows import write_report
from selftaught.store import Store, read_lines, write_file
from selftaught.types import Decision, Labels, Metric, Outcome, Report, Round, Rule

RECIPE = b"method: {name: self_consistency}\ntasks: {name: world_sums}\n"
LOOKER = """
import sys
from pathlib import Path
from selftaught.ledger import spend_look
sys.stdin.readline()
print(spend_look(Path(sys.argv[1]), ["vault"], sys.argv[2], "run"))
"""


def round_of(outcome: Outcome, index: int = 0, labels: Labels | None = None) -> Round:
    decision = Decision(outcome, (Rule("gain on dev", 0.5, None, False, "why"),), "reason")
    return Round(index, "p", "c", decision, {"kept": 3}, labels or Labels(), "self_consistency", {"vault": 1})


def run_with(folder: Path, *rounds: Round, events: tuple[str, ...] = ()) -> RunRecord:
    write_file(folder / "recipe.yaml", RECIPE)
    with Store(folder) as store:
        for event in events:
            store.journal(event)
        for each in rounds:
            ledger.record(store, each)
    return read_run(folder)


# ---------------------------------------------------------------- the record


def test_a_round_comes_back_as_it_was_recorded(tmp_path: Path) -> None:
    done = round_of("accepted", labels=Labels(gate=True))
    record = run_with(tmp_path / "mine", done)
    assert record.rounds == [done]
    assert (record.name, record.recipe.method.name) == ("mine", "self_consistency")


@pytest.mark.parametrize("outcome", types.OUTCOMES)
def test_the_outcome_is_the_last_rounds(tmp_path: Path, outcome: Outcome) -> None:
    record = run_with(tmp_path, round_of("rejected"), round_of(outcome, 1), events=("started", "broken", "resumed"))
    assert record.outcome == outcome, "whatever went wrong on the way"


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ((), "stopped"),
        (("started",), "stopped"),
        (("started", "stage", "stopped"), "stopped"),
        (("started", "broken"), "broken"),
        (("started", "paused"), "paused"),
        (("started", "broken", "resumed", "stage", "stopped"), "stopped"),
        (("started", "broken", "resumed"), "stopped"),
    ],
)
def test_before_a_round_the_outcome_is_how_the_last_attempt_ended(
    tmp_path: Path, events: tuple[str, ...], outcome: str
) -> None:
    assert run_with(tmp_path, events=events).outcome == outcome


def test_a_run_that_is_being_worked_on_is_running(tmp_path: Path) -> None:
    run_with(tmp_path, round_of("rejected"))
    with Store(tmp_path):
        assert read_run(tmp_path).outcome == "running"
    assert read_run(tmp_path).outcome == "rejected"


def test_a_run_is_read_while_it_is_written(tmp_path: Path) -> None:
    run_with(tmp_path, events=("started",))
    with Store(tmp_path) as store:
        ledger.record(store, round_of("accepted"))
        assert len(read_run(tmp_path).rounds) == 1
        store.journal("finished")
    assert [e["event"] for e in read_run(tmp_path).journal] == ["started", "finished"]


def test_labels_used_in_any_round_were_used(tmp_path: Path) -> None:
    used = run_with(
        tmp_path, round_of("rejected", 0, Labels(selection=True)), round_of("accepted", 1, Labels(gate=True))
    )
    assert used.labels == Labels(training=False, selection=True, gate=True)


def test_a_run_without_a_round_used_none(tmp_path: Path) -> None:
    assert run_with(tmp_path).labels == Labels()


def test_units_facts_and_reports_are_found(tmp_path: Path) -> None:
    metrics = {"accuracy": Metric(0.5, 2, 0.1, 0.9)}
    report = Report("evaluation", "questions", "d", "dev", metrics, (1.0, 0.0), ("a", "b"), (None, None))
    write_file(tmp_path / "recipe.yaml", RECIPE)
    with Store(tmp_path) as store:
        for role in ("parent", "candidate"):
            store.unit("evaluation", role, f"round-000/{role}", partial(_evaluation, role, report))
    record = read_run(tmp_path)
    assert [u["facts"]["role"] for u in record.units("evaluation")] == ["parent", "candidate"]
    assert record.facts("evaluation") == {"role": "candidate", "suite": "dev"}
    assert (record.facts("absent"), record.kept) == ({}, None)
    assert record.reports() == {("parent", "dev"): report, ("candidate", "dev"): report}


def _evaluation(role: str, report: Report, folder: Path) -> dict[str, Any]:
    write_report(folder / "report.json", report)
    return {"role": role, "suite": "dev"}


def test_a_changed_candidate_is_named(tmp_path: Path) -> None:
    def weights(folder: Path) -> dict[str, Any]:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights").write_bytes(b"1")
        return {"kind_folder": "adapter"}

    write_file(tmp_path / "recipe.yaml", RECIPE)
    with Store(tmp_path) as store:
        store.unit("candidate", 1, "round-000/candidate", weights)
    record = read_run(tmp_path)
    assert record.kept == tmp_path / "round-000" / "candidate" / "adapter"
    record.check_candidate()
    (record.kept / "weights").write_bytes(b"2")
    with pytest.raises(IntegrityError, match=r"candidate/adapter/weights is not what was recorded"):
        record.check_candidate()


def test_every_outcome_has_its_exit_code() -> None:
    assert set(ledger.EXIT_CODES) == set(types.OUTCOMES)
    assert {o for o, code in ledger.EXIT_CODES.items() if code == 0} == set(ledger.GOOD)
    bad = [code for code in ledger.EXIT_CODES.values() if code]
    assert len(set(bad)) == len(bad) and not {2, 6, 7} & set(bad), "2, 6 and 7 belong to errors.py"


def test_one_damaged_run_hides_no_other(tmp_path: Path) -> None:
    run_with(tmp_path / "good", round_of("accepted"))
    run_with(tmp_path / "bad", round_of("accepted"))
    (tmp_path / "bad" / "chain.jsonl").write_text("{}\n")
    assert [r.name for r in ledger.read_runs(tmp_path)] == ["good"]
    with pytest.raises(IntegrityError, match="entry 0: the chain does not hold together"):
        read_run(tmp_path / "bad")


def test_what_was_edited_after_the_fact_is_not_read_as_the_record(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run")
    loop.run(folder)
    report = folder / "round-000" / "evaluate" / "parent-vault" / "report.json"
    recipe, chain = folder / "recipe.yaml", folder / "chain.jsonl"
    for path, edited, said in (
        (report, report.read_bytes().replace(b"1.0", b"0.0", 1), "parent-vault/report.json is not what was recorded"),
        (recipe, recipe.read_bytes().replace(b"alpha: 0.05", b"alpha: 0.01"), "began with another recipe"),
        (chain, b"".join(chain.read_bytes().splitlines(keepends=True)[:-1]), "entries that the journal quotes"),
    ):
        whole = path.read_bytes()
        path.write_bytes(edited)
        with pytest.raises(IntegrityError, match=said):
            read_run(folder).reports()
        path.write_bytes(whole)
    assert read_run(folder).reports()


# ---------------------------------------------------------------- looks at a vault


def test_looks_are_counted_over_every_run_on_the_vault(tmp_path: Path) -> None:
    registry = tmp_path / "beside" / "looks.jsonl"
    assert [spend_look(registry, ["v"], c, run) for c, run in [("a", "r1"), ("b", "r1"), ("c", "r2")]] == [1, 2, 3]
    assert spend_look(registry, ["another vault"], "a", "r1") == 1


def test_the_same_candidate_is_not_charged_twice(tmp_path: Path) -> None:
    registry = tmp_path / "looks.jsonl"
    looks = [spend_look(registry, ["v"], c, "r") for c in ("a", "b", "a", "b", "c", "a")]
    assert looks == [1, 2, 1, 2, 3, 1]
    assert [e["look"] for e in read_lines(registry)] == [1, 2, 3]


def test_a_row_more_or_another_split_does_not_make_a_new_vault(tmp_path: Path) -> None:
    registry, generator = tmp_path / "looks.jsonl", random.Random(9)
    questions = [f"{generator.getrandbits(64):016x}" for _ in range(3000)]
    vault = questions[:1000]
    assert spend_look(registry, vault, "a", "r") == 1
    assert spend_look(registry, [*vault[:-3], *questions[1000:1005]], "b", "r") == 2, "a few rows changed"
    assert spend_look(registry, generator.sample(questions, 1000), "c", "r") == 3, "a split that shares a third"
    assert spend_look(registry, questions[1000:2000], "d", "r") < 4, "hardly shared with the first, but with the others"
    assert spend_look(registry, [f"{generator.getrandbits(64):016x}" for _ in range(1000)], "e", "r") == 1, "all new"


def test_more_looks_later_buy_no_more_alpha(tmp_path: Path) -> None:
    registry = tmp_path / "looks.jsonl"
    third, hundredth = 0.05 / 3, 0.05 / 100
    assert [spend_look(registry, ["v"], c, "r", share=third) for c in "abc"] == [1, 2, 3]
    assert spend_look(registry, ["v"], "d", "r", share=hundredth) == 101
    assert spend_look(tmp_path / "other", ["v"], "a", "r", share=hundredth) == 1
    assert spend_look(tmp_path / "other", ["v"], "b", "r", share=third) == 3 - 1, "a small look uses up a large one"


def test_the_same_candidate_on_more_of_the_vault_is_another_look(tmp_path: Path) -> None:
    registry = tmp_path / "looks.jsonl"
    assert [spend_look(registry, ["v"], "a", "r", asked=half) for half in ("half", "whole", "half")] == [1, 2, 1]


def test_a_registry_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "looks.jsonl.lock").mkdir()
    with pytest.raises(RunError, match=r"looks.jsonl, which cannot be written: Is a directory"):
        spend_look(tmp_path / "looks.jsonl", ["v"], "a", "r")


def test_a_torn_look_is_taken_again(tmp_path: Path) -> None:
    registry = tmp_path / "looks.jsonl"
    spend_look(registry, ["v"], "a", "r")
    with registry.open("ab") as file:
        file.write(b'{"vault":"v","candi')
    assert spend_look(registry, ["v"], "b", "r") == 2
    assert [e["candidate"] for e in read_lines(registry)] == ["a", "b"]


def test_a_line_that_is_no_look_is_named(tmp_path: Path) -> None:
    registry = tmp_path / "looks.jsonl"
    registry.write_text(json.dumps({"vault": "v"}) + "\n")
    with pytest.raises(IntegrityError, match=r"looks.jsonl, line 1: not a look"):
        spend_look(registry, ["v"], "a", "r")


def test_processes_that_look_at_once_get_looks_of_their_own(tmp_path: Path) -> None:
    registry, names = tmp_path / "looks.jsonl", [f"candidate {i}" for i in range(6)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    lookers = [
        subprocess.Popen(
            [sys.executable, "-c", LOOKER, str(registry), name],
            text=True,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name in names
    ]
    for looker in lookers:
        assert looker.stdin is not None
        looker.stdin.write("go\n")
        looker.stdin.flush()
    looks = [int(looker.communicate()[0]) for looker in lookers]
    assert sorted(looks) == [1, 2, 3, 4, 5, 6]
    assert [spend_look(registry, ["vault"], name, "again") for name in names] == looks, "and keep them"


# ---------------------------------------------------------------- finding runs


def some_runs(root: Path) -> None:
    for age, name in enumerate(["old", "mid", "new"]):
        write_file(root / name / "recipe.yaml", b"")
        os.utime(root / name / "recipe.yaml", (1000 + age, 1000 + age))


def test_a_run_is_found_by_name_path_and_latest(tmp_path: Path) -> None:
    some_runs(tmp_path)
    assert [p.name for p in ledger.list_runs(tmp_path)] == ["old", "mid", "new"]
    assert ledger.find_run("mid", tmp_path) == tmp_path / "mid"
    assert ledger.find_run(str(tmp_path / "old"), Path("elsewhere")) == tmp_path / "old"
    assert ledger.find_run("latest", tmp_path) == tmp_path / "new"


def test_a_run_that_is_not_there_gets_the_names_that_are(tmp_path: Path) -> None:
    some_runs(tmp_path)
    with pytest.raises(RunError, match=r"No run called 'nwe' here.\n  Runs in .*: old, mid, new\. Start one with"):
        ledger.find_run("nwe", tmp_path)
    with pytest.raises(RunError, match="none yet"):
        ledger.find_run("latest", tmp_path / "empty")
