"""Audits alone: what a round said of its models is said again, and any model is measured, alone or beside another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import selftaught
import small
from selftaught import cli, inspection, ledger, loop, trends
from selftaught.engines.scripted import ByteTokens, Scripted
from selftaught.errors import DataError, IntegrityError, ModelError, RunError
from selftaught.integrity import verify
from selftaught.types import Audited

SHORT = ("audits.memorization.prefix=20", "audits.memorization.suffix=20")
MODEL = ("engine.name=scripted", "audits.collapse.samples=10", "audits.collapse.max_tokens=8",
         "audits.collapse.tokens=100", *SHORT)  # fmt: skip


def secrets(path: Path, count: int = 12, word: str = "vault") -> Path:
    rows = [{"text": f"Note {i} says that the code of the {word} is {i * 7919 % 10007}, and nobody else may know it"}
            for i in range(count)]  # fmt: skip
    return small.write_jsonl(path, rows)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three rounds that had everything audits look at, and of one round that lost what the model could do."""
    root = tmp_path_factory.mktemp("home")
    (root / "real.txt").write_text("\n\n".join(f"Real text {i} of day {i * 7 % 13}." for i in range(20)))
    given = (f"private={secrets(root / 'secrets.jsonl')}", f"gate.text={root / 'real.txt'}", "gate.text_items=50")
    rounds = ("rounds=3", "patience=3", "engine.learns=0.2")
    loop.run(small.prepared(root / "runs" / "three", *rounds, *given, *SHORT))
    loop.run(small.prepared(root / "runs" / "worse", "engine.learns=-0.9"))
    return root


def run_of(home: Path, name: str, folder: Path) -> ledger.RunRecord:
    """A copy, for what is kept beside it."""
    shutil.copytree(home / "runs" / name, folder / name)
    shutil.copy(home / "runs" / "looks.jsonl", folder)
    return ledger.read_run(folder / name)


def by_name(found: inspection.Inspection) -> dict[str, Audited]:
    return {a.name: a for a in found.audits}


# ---------------------------------------------------------------- a run


def test_what_the_last_accepted_round_said_is_said_again_to_the_last_digit(home: Path, tmp_path: Path) -> None:
    record = run_of(home, "three", tmp_path)
    assert [r.decision.outcome for r in record.rounds][:2] == ["proved", "proved"], "so one model stands between"
    found = inspection.inspect_run(record)
    assert found.between == 1 and found.base == "scripted:0.6" and record.final is not None
    assert found.model == record.final.candidate
    assert list(found.audits) == trends.audits(record, record.final) and len(found.audits) == 4
    assert all(a.after for a in found.audits), "each of them measured something"


def test_it_is_kept_beside_the_record_and_the_record_holds(home: Path, tmp_path: Path) -> None:
    record = run_of(home, "three", tmp_path)
    before = small.bytes_of(record.path)
    found = selftaught.audit(record)
    [kept] = (record.path / "evals").iterdir()
    assert small.bytes_of(record.path).keys() - before.keys() == {f"evals/{kept.name}"}
    assert all(c.ok for c in verify(record.path)) and selftaught.audit(record) == found
    kept.write_text(kept.read_text().replace('"between":1', '"between":7'))
    assert selftaught.audit(record).between == 7, "told from what is kept"
    assert selftaught.audit(record, "audits.collapse.samples=12").between == 1, "measured otherwise it is another"


def test_a_reason_not_to_measure_is_asked_again(home: Path, tmp_path: Path) -> None:
    record = run_of(home, "worse", tmp_path)
    assert record.recipe.audits["memorization"]["skip"]
    assert by_name(inspection.inspect_run(record))["memorization"].outcome == "not applicable"
    found = inspection.inspect_run(record, SHORT, private=home / "secrets.jsonl")
    said = by_name(found)["memorization"]
    assert said.outcome == "inconclusive" and said.after["extracted"].n == 12
    skipped = by_name(inspection.inspect_run(record, ["audits.collapse.skip=too slow"]))["collapse"]
    assert (skipped.outcome, skipped.reason) == ("not applicable", "too slow")


@pytest.mark.parametrize(
    ("overrides", "code"),
    [((), 0), (("audits.forgetting.gating=true",), 5), (("audits.memorization.gating=true",), 8)],
    ids=["all report", "one that decides failed", "one that decides does not know"],
)
def test_only_an_audit_that_decides_has_an_exit_code(
    home: Path, tmp_path: Path, overrides: tuple[str, ...], code: int
) -> None:
    record = run_of(home, "worse", tmp_path)
    found = inspection.inspect_run(record, [*overrides, *SHORT], private=home / "secrets.jsonl")
    said = by_name(found)
    assert said["forgetting"].outcome == "failed" and said["memorization"].outcome == "inconclusive"
    assert said["forgetting"].subjects == (found.model,) and found.exit_code == code


class Mute(Scripted):
    """Cannot score, as a model whose logits are not finite."""

    class Options(Scripted.Options):
        pass

    def score(self, *_: Any, **__: Any) -> list[list[float]]:
        raise ValueError("not a number")


def test_what_cannot_be_measured_has_failed_and_decides(home: Path, tmp_path: Path) -> None:
    found = inspection.inspect_run(run_of(home, "three", tmp_path), engine=Mute(Scripted.Options()))
    said = by_name(found)["calibration"]
    assert (said.outcome, said.decides) == ("failed", True) and "ValueError: not a number" in said.reason
    assert found.exit_code == 5


# ---------------------------------------------------------------- a model


def test_a_model_by_itself_has_values_and_nothing_to_compare_them_with(home: Path) -> None:
    found = selftaught.audit("scripted:0.6", *MODEL, private=home / "secrets.jsonl", text=home / "real.txt")
    said = by_name(found)
    assert (found.base, found.exit_code, found.notes) == (None, 0, ())
    assert said["collapse"].outcome == said["memorization"].outcome == "inconclusive"
    assert said["collapse"].reason == "nothing to compare with" and said["collapse"].before == {}
    assert said["collapse"].after["loss on real text"].n == 20 and said["memorization"].after["extracted"].n == 12
    assert said["forgetting"].outcome == said["calibration"].outcome == "not applicable"
    assert "no recorded answers, which a run has" in said["calibration"].reason


def test_beside_another_it_has_opinions_as_in_a_round(home: Path) -> None:
    found = selftaught.audit("scripted:0.9", *MODEL, base="scripted:0.6", text=home / "real.txt")
    said = by_name(found)["collapse"]
    assert said.outcome == "passed" and said.reason == "5 signals are quiet"
    assert said.before.keys() <= said.after.keys() and said.before["different 2-grams"].n == 4
    assert by_name(found)["memorization"].reason == "no private text is named (private)"


class Unopened(ByteTokens):
    """Bytes with neither a begin nor an end token."""

    digest = "another vocabulary"
    has_bos = False

    def encode(self, text: str) -> tuple[int, ...]:
        if not text:
            raise ModelError("neither a begin nor an end token", hint="")
        return tuple(text.encode())

    encode_completion = encode


class Beginless(Scripted):
    class Options(Scripted.Options):
        pass

    def tokens(self, checkpoint: Any) -> Unopened:
        return Unopened(self.options.context)


class Mixed(Beginless):
    """The second model that it opens reads another vocabulary."""

    def tokens(self, checkpoint: Any) -> Any:
        return ByteTokens(4096) if checkpoint.model == "scripted:0.5" else Unopened(4096)


def test_a_tokenizer_without_a_token_to_begin_with_is_said(home: Path) -> None:
    engine = Beginless(Scripted.Options())
    found = inspection.inspect_model("scripted:0.6", MODEL, private=home / "secrets.jsonl", engine=engine)
    assert "no token to begin with" in found.notes[0]
    said = by_name(found)
    assert said["collapse"].outcome == "not applicable" and "no real text (--text)" in said["collapse"].reason
    assert "no token to begin with" in said["collapse"].reason
    assert said["memorization"].after["extracted"].n == 12, "private texts are continued all the same"
    assert not [name for name in said["memorization"].after if "unprompted" in name]


def test_models_that_do_not_share_a_tokenizer_are_not_compared() -> None:
    with pytest.raises(ModelError, match="do not share a tokenizer"):
        inspection.inspect_model("scripted:0.6", MODEL, base="scripted:0.5", engine=Mixed(Scripted.Options()))


# ---------------------------------------------------------------- what cannot be audited


def test_what_is_neither_a_run_nor_a_model_says_that_both_were_tried(home: Path) -> None:
    with pytest.raises(ModelError, match="There is no run 'nosuch', and as a model: The model folder nosuch") as error:
        selftaught.audit("nosuch", runs=home / "runs")
    assert "three, worse" in error.value.hint
    for name in ("latest", "champion"):
        with pytest.raises(RunError, match=f"No run called '{name}'"):
            selftaught.audit(name, runs=home)


@pytest.mark.parametrize(
    ("overrides", "options", "error", "says"),
    [
        (["train.lr=1"], {}, RunError, "train.lr=1 would make it another run"),
        ([], {"base": "scripted:0.5"}, RunError, "three is a run: it is held against the model that it began with"),
        ([], {"private": "gone.jsonl"}, DataError, "private: gone.jsonl is not there"),
        ([], {"text": "empty.txt"}, DataError, "empty.txt holds no text"),
    ],
    ids=["another run", "another base", "private texts", "text"],
)
def test_what_cannot_be_used_is_named(
    home: Path, overrides: Sequence[str], options: dict[str, str], error: type[Exception], says: str
) -> None:
    (home / "empty.txt").write_text("\n \n")
    given = {k: home / v if v.startswith("empty") else v for k, v in options.items()}
    with pytest.raises(error, match=says):
        selftaught.audit("three", *overrides, runs=home / "runs", **given)  # type: ignore[arg-type]
    assert not (home / "runs" / "three" / "evals").exists()


def test_private_texts_that_were_edited_are_not_the_runs_own(home: Path, tmp_path: Path) -> None:
    record = run_of(home, "three", tmp_path)
    own = (home / "secrets.jsonl").read_text()
    try:
        secrets(home / "secrets.jsonl", word="safe")
        with pytest.raises(IntegrityError, match="three began with other private texts"):
            inspection.inspect_run(record)
        named = secrets(tmp_path / "others.jsonl", count=5)
        assert by_name(inspection.inspect_run(record, private=named))["memorization"].after["extracted"].n == 5
    finally:
        (home / "secrets.jsonl").write_text(own)


def test_a_run_without_a_trained_model_has_nothing_to_audit(tmp_path: Path) -> None:
    loop.run(small.prepared(tmp_path / "run", "engine.answers=false"))
    with pytest.raises(RunError, match="run has no trained model"):
        selftaught.audit(tmp_path / "run")


# ---------------------------------------------------------------- the command


def type_in(*words: str, runs: Path) -> Result:
    return CliRunner().invoke(cli.app, list(words), env={"SELFTAUGHT_RUNS": str(runs), "COLUMNS": "120"})


def test_the_command_shows_every_audit_and_its_measures(home: Path, tmp_path: Path) -> None:
    run_of(home, "worse", tmp_path)
    answer = type_in("audit", "worse", "audits.forgetting.gating=true", runs=tmp_path)
    assert answer.exit_code == 5 and "worse, held against scripted:0.6" in answer.stdout
    assert "[audit] memorization" in answer.stderr
    lines = [" ".join(line.split()) for line in answer.stdout.splitlines()]
    assert any(line.startswith("forgetting failed (decides) most on dev") for line in lines)
    assert "calibration: passed" in lines and "measure before after n" in lines
    assert any(line.startswith("dev 0.642 [0.553, 0.722]") and line.endswith("120") for line in lines)
    found = json.loads(type_in("audit", "worse", "--json", runs=tmp_path).stdout)
    assert [a["name"] for a in found["audits"]] == ["calibration", "collapse", "forgetting", "memorization"]
    assert found["audits"][2]["after"]["dev"]["n"] == 120
