"""An exported model: the recorded bytes, a card that tells the truth, and nothing given away unasked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import selftaught
import small
from selftaught import cli, ledger, loop
from selftaught.errors import IntegrityError, RunError
from selftaught.export import export
from selftaught.ledger import RunRecord
from selftaught.rows import read_rows
from selftaught.store import Store, write_file
from selftaught.types import Example


def run_of(folder: Path, *overrides: str) -> RunRecord:
    small.prepared(folder, *overrides)
    loop.run(folder)
    return ledger.read_run(folder)


def test_an_exported_model_has_the_recorded_bytes_and_a_card_with_its_proof(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run")
    out = export(record, tmp_path / "deep" / "model")
    assert record.kept is not None
    assert (out / "scripted.json").read_bytes() == (record.kept / "scripted.json").read_bytes()
    card = (out / "README.md").read_text()
    assert "Outcome: **proved**" in card and "gain on vault" in card and "Labels were used for: gate." in card
    assert record.rounds[0].parent in card and record.chain[-1]["hash"] in card and "seed: 5" in card
    assert sorted(p.name for p in out.parent.iterdir()) == ["model"], "nothing is left beside it"


def test_a_card_says_what_every_audit_said_with_its_main_figures(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", "audits.collapse.gating=true")
    lines = (export(record, tmp_path / "model") / "README.md").read_text().splitlines()
    said = {name: next(line for line in lines if line.startswith(f"- Audit `{name}`"))
            for name in ("calibration", "collapse", "forgetting", "memorization")}  # fmt: skip
    assert "(version 1, it decides): **passed** (4 signals are quiet" in said["collapse"]
    assert ": different 2-grams 41.8 [39.7, 43.8] → 41.5 [33.7, 49.3]." in said["collapse"]
    assert "it reports): **inconclusive** (error 0.600 before" in said["calibration"]
    assert said["forgetting"].endswith(
        ": dev 0.642 [0.553, 0.722] → 0.8 [0.72, 0.862]; sort 1 [0.963, 1] → 1 [0.963, 1]."
    )
    assert said["memorization"].endswith("**not applicable** (no private text is named (private)).")


def test_an_unproven_model_is_exported_with_a_warning_and_a_rejected_one_only_when_asked(tmp_path: Path) -> None:
    unproven = run_of(tmp_path / "unproven", "tasks.dev=8")
    assert "Nobody knows whether" in (export(unproven, tmp_path / "a") / "README.md").read_text()
    rejected = run_of(tmp_path / "rejected", "engine.learns=-0.5")
    with pytest.raises(RunError, match="no better than the parent"):
        export(rejected, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert "The gate rejected" in (export(rejected, tmp_path / "b", anyway=True) / "README.md").read_text()


def test_what_cannot_be_exported_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    nothing = run_of(tmp_path / "nothing", "engine.answers=false")
    with pytest.raises(RunError, match="has no judged model"):
        export(nothing, tmp_path / "a")
    record = run_of(tmp_path / "run")
    (tmp_path / "there").mkdir()
    with pytest.raises(RunError, match="is there already"):
        export(record, tmp_path / "there")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        export(record, tmp_path / "file" / "model")
    assert record.kept is not None
    (record.kept / "scripted.json").write_text('{"skill": 1.0}')
    with pytest.raises(IntegrityError, match="is not what was recorded"):
        export(record, tmp_path / "edited")
    assert not (tmp_path / "edited").exists()


def test_the_examples_are_given_away_with_their_card(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "runs" / "one")
    loop.run(folder)
    out = selftaught.export_data(folder, tmp_path / "data")
    assert {p.name for p in out.iterdir()} == {"kept.parquet", "rejected.parquet", "verdicts.parquet", "README.md"}
    record = ledger.read_run(folder)
    assert len(read_rows(out / "kept.parquet", Example)) == record.rounds[0].counts["kept"]
    card = (out / "README.md").read_text()
    assert "It is synthetic" in card and record.chain[-1]["hash"] in card and "config_name: kept" in card
    with pytest.raises(RunError, match="is there already"):
        selftaught.export_data(folder, out)


def private_run(folder: Path, *overrides: str) -> RunRecord:
    texts = small.write_jsonl(folder.parent / "private.jsonl", [{"text": "nobody may know of this"}])
    return run_of(folder, f"private={texts}", *overrides)


def test_whoever_publishes_a_model_that_read_private_texts_is_warned_of_its_parent(tmp_path: Path) -> None:
    said = (
        "Publish this model or the one that it began with, never both, and no other candidate or checkpoint of the run"
    )
    for name, record in (
        ("with", private_run(tmp_path / "a" / "with")),
        ("without", run_of(tmp_path / "a" / "without")),
    ):
        words = ["export", name, str(tmp_path / name), "--runs", str(record.path.parent)]
        answer = CliRunner().invoke(cli.app, words)
        card = (tmp_path / name / "README.md").read_text()
        assert answer.stdout == f"{tmp_path / name}\n" and answer.exit_code == 0
        assert (said in card) == (said in answer.stderr) == (name == "with"), name
    assert CliRunner().invoke(cli.app, [*words[:1], "with", str(tmp_path / "data"), "--data", *words[3:]]).stderr == ""


def test_other_checkpoints_of_an_update_are_never_exported(tmp_path: Path) -> None:
    folder = private_run(tmp_path / "run").path
    with Store(folder) as store:

        def make(out: Path) -> dict[str, Any]:
            for step in (1, 2):
                write_file(out / "model" / str(step) / "scripted.json", b"{}")
            return {"saved": [], "kind_folder": "model"}

        store.unit("checkpoints", 0, "round-000/checkpoints", make)
    export(ledger.read_run(folder), tmp_path / "model")
    selftaught.export_data(folder, tmp_path / "data")
    assert {p.name for p in (tmp_path / "model").rglob("*")} == {"README.md", "scripted.json"}
    assert (tmp_path / "model" / "scripted.json").read_text() != "{}"
    assert {p.name for p in (tmp_path / "data").rglob("*")} == {
        "README.md",
        "kept.parquet",
        "rejected.parquet",
        "verdicts.parquet",
    }


@pytest.mark.parametrize("write", [selftaught.export_model, selftaught.export_data])
def test_a_card_says_that_real_text_stands_beside_the_models_own(
    tmp_path: Path, write: Callable[[Path, Path], Path]
) -> None:
    (tmp_path / "real.txt").write_text("somebody wrote this\n\nand somebody else wrote that\n")
    record = run_of(tmp_path / "one" / "run", f"train.real={tmp_path / 'real.txt'}")
    card = (write(record.path, tmp_path / "out") / "README.md").read_text()
    digest = record.facts("tasks")["real text"]
    said = "**Real text stands beside it**: 2 pieces (source `real`) of the 2 texts of `train.real`, digest"
    assert f"{said} `{digest}`." in " ".join(card.split())
    without = run_of(tmp_path / "two" / "run")
    assert "Real text" not in (write(without.path, tmp_path / "without") / "README.md").read_text()
