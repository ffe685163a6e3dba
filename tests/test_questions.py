"""Documents that came without questions: a model writes them once, and they are held out as any others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import papers
import small
from selftaught import exam, loop, questions, summary
from selftaught.config import Recipe, parse_recipe
from selftaught.engines.scripted import Scripted
from selftaught.errors import EndpointError, IntegrityError, ModelError, RecipeError, RunError, Stopped
from selftaught.integrity import verify
from selftaught.ledger import GOOD, RunRecord, read_run
from selftaught.rows import read_rows
from selftaught.types import Document, Rollout, Task
from serving import serving

SELFEDIT = """
name: docs
model: scripted:0.3
seed: 5
method: {name: selfedit, passages: 40, edits: 4, seeds: 2, prompt: "Passage: {text}\\nNotes:", max_tokens: 300,
         title: false, passage: false, book: "{text} {question}"}
tasks: {name: passages, path: PATH, checker: exact, train: 0.4, dev: 0.3, vault: 0.3}
train: {epochs: 1}
gate: {primary: {protocol: adapt}, text_items: 0}
engine: {name: scripted}
"""
PRETRAINING = """
name: docs
model: scripted:0.5
seed: 5
method: {name: continued_pretraining, edits: 4, prompt: "Passage: {text}\\nNotes:", max_tokens: 300}
tasks: {name: passages, path: PATH, checker: exact, hold: questions}
train: {epochs: 1}
gate: {text_items: 0}
engine: {name: scripted}
"""


def recipe(folder: Path, *overrides: str, text: str = PRETRAINING, documents: int = 40) -> Recipe:
    path = papers.write_texts(folder / "texts", documents)
    return parse_recipe(text.replace("PATH", str(path)), "docs", overrides)


def run(folder: Path, *overrides: str, **how: Any) -> RunRecord:
    loop.prepare(recipe(folder, *overrides, **how), folder / "run")
    loop.run(folder / "run")
    return read_run(folder / "run")


def suites(record: RunRecord) -> dict[str, list[Task]]:
    folder = record.path / record.units("tasks")[0]["place"]
    return {name: read_rows(folder / f"{name}.parquet", Task) for name in ("train", "dev", "vault")}


def documents(record: RunRecord) -> dict[str, Document]:
    folder = record.path / record.units("tasks")[0]["place"]
    return {d.id: d for d in read_rows(folder / "documents.parquet", Document)}


class Asked(Scripted):
    """The scripted engine, counting the documents that it was asked to write questions about."""

    class Options(Scripted.Options):
        pass

    def __init__(self, options: Scripted.Options | None = None) -> None:
        super().__init__(options or Scripted.Options())
        self.asked: list[str] = []

    def generate(self, requests: Sequence[Any], **how: Any) -> Any:
        said = [self.tokens(r.checkpoint).decode(r.prompt_ids) for r in requests]
        self.asked += [text for text in said if "different questions about a passage" in text]
        yield from super().generate(requests, **how)


# ---------------------------------------------------------------- what it is for


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return run(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return run(tmp_path_factory.mktemp("edited"), text=SELFEDIT, documents=100)


def test_what_documents_say_is_learned_and_proved_on_written_questions(pretrained: RunRecord) -> None:
    assert pretrained.outcome == "proved", pretrained.final
    asked = suites(pretrained)
    assert not asked["train"] and len(asked["dev"]) + len(asked["vault"]) == 160, "four statements in each of 40"
    learned = documents(pretrained)
    assert {d.split for d in learned.values()} == {"train"}
    for task in (*asked["dev"], *asked["vault"]):
        document = learned[task.group or ""]
        assert task.question.startswith(f"Topic: {document.title}\nWhat is the ")
        assert task.answer and task.answer in document.text
        assert task.source == "written by the model that learns"


def test_an_editor_is_rewarded_and_judged_by_written_questions(edited: RunRecord) -> None:
    assert edited.outcome in GOOD, edited.final
    found = {
        role: report.metrics["accuracy"].value for (role, suite), report in edited.reports().items() if suite == "dev"
    }
    assert found["candidate"] > found["parent"] + 0.05
    splits = {name: d.split for name, d in documents(edited).items()}
    for name, tasks in suites(edited).items():
        assert tasks and {splits[t.group or ""] for t in tasks} == {name}, "a question goes where its document is"
    assert edited.labels.training, "a written answer is a label as any other"


def test_whoever_writes_what_is_learned_sees_no_question(edited: RunRecord) -> None:
    wordings = {t.question.splitlines()[-1] for some in suites(edited).values() for t in some}
    rows = read_rows(edited.path / edited.units("rollouts")[1]["place"] / "rows.parquet", Rollout)
    prompts = {Scripted(Scripted.Options()).tokens(None).decode(r.prompt_ids) for r in rows}  # type: ignore[arg-type]
    assert prompts and all("Notes:" in p for p in prompts)
    assert not [w for w in wordings for p in prompts if w in p]


def test_an_edit_that_asks_what_is_asked_is_rejected(tmp_path: Path) -> None:
    asking = r'method.prompt="Write 4 different questions about a passage <<<\n{text}\n>>>"'
    record = run(tmp_path, asking, "method.passage=false", documents=12)
    assert record.outcome == "nothing to train on"
    [unit] = record.units("examples")
    from selftaught.types import Verdict

    said = read_rows(record.path / unit["place"] / "verdicts.parquet", Verdict)
    assert said and all("a line of it is a held-out question" in v.reason for v in said)


# ---------------------------------------------------------------- the record says whose they are


def test_the_record_counts_them_and_says_who_wrote_them(pretrained: RunRecord, tmp_path: Path) -> None:
    [unit] = pretrained.units("questions")
    assert (unit["facts"]["documents"], unit["facts"]["with questions"], unit["facts"]["questions"]) == (40, 40, 160)
    note = (
        "160 questions about 40 of 40 documents that had none, and their answers, were written by the model that"
        " learns: a claim on them is one about agreement with that writer"
    )
    assert (
        note in pretrained.facts("tasks")["notes"]
        and "40 documents without questions" in pretrained.facts("tasks")["notes"]
    )
    other = run(tmp_path, "roles.labeller=scripted:1.0", "questions.per_document=2", documents=12)
    notes = other.facts("tasks")["notes"]
    assert any("24 questions about 12 of 12" in n and "written by another model, scripted:1.0" in n for n in notes)
    assert other.facts("questions")["used"]["labeller: samples"] == 12
    assert "labeller" in other.facts("tasks")["roles"]


def test_the_record_holds_together(pretrained: RunRecord) -> None:
    assert not [c for c in verify(pretrained.path) if not c.ok]


def test_a_test_holdout_is_opened_on_the_questions_that_were_written(tmp_path: Path) -> None:
    record = run(tmp_path, "tasks.train=0.2", "tasks.dev=0.3", "tasks.vault=0.3", "tasks.test=0.2")
    found = exam.examine(record, test=True)
    assert found.n == record.facts("tasks")["counts"]["test"] > 0 and found.after[0] > found.before[0]


# ---------------------------------------------------------------- before, and again


def test_a_plan_says_who_will_write_and_asks_nobody(tmp_path: Path) -> None:
    engine = Asked()
    notes = loop.plan(recipe(tmp_path), engine).notes
    assert any("40 documents have no questions (dev: " in n and "written by the model that learns" in n for n in notes)
    plan = loop.plan(recipe(tmp_path, "questions.per_document=0"), engine)
    assert any("nobody writes any" in n for n in plan.notes)
    assert engine.asked == []
    assert plan.provable == {}, "nobody knows before there are questions"


def test_a_killed_run_asks_nothing_twice(tmp_path: Path) -> None:
    one = recipe(tmp_path, documents=20)
    for name in ("a", "b"):
        loop.prepare(one, tmp_path / name / "run")
    loop.run(tmp_path / "a" / "run")
    engine = Asked()
    for calls in (1, 3, 15, 25, 30, 45, 5, 60):
        with pytest.raises(Stopped):
            loop.run(tmp_path / "b" / "run", stop=small.after(calls), engine=engine)
        if read_run(tmp_path / "b" / "run").units("rollouts"):
            break
    written = len(engine.asked)
    loop.run(tmp_path / "b" / "run", engine=engine)
    assert len(engine.asked) == written >= 20, "what is on record is not asked again"
    assert small.bytes_of(tmp_path / "a" / "run") == small.bytes_of(tmp_path / "b" / "run")


def test_other_documents_are_another_beginning(tmp_path: Path) -> None:
    loop.prepare(recipe(tmp_path, documents=12), tmp_path / "run")
    with pytest.raises(Stopped):
        loop.run(tmp_path / "run", stop=small.after(40))
    assert read_run(tmp_path / "run").units("tasks")
    (tmp_path / "texts" / "thing0.txt").write_text("The colour of thing0 is no more.")
    engine = Asked()
    with pytest.raises(IntegrityError, match="began with another documents"):
        loop.run(tmp_path / "run", engine=engine)
    assert engine.asked == []


def test_a_server_that_dies_pauses_the_run_and_is_asked_nothing_twice(tmp_path: Path) -> None:
    with serving(*["ok"] * 3, "hang", *["ok"] * 3, then="reset") as server:
        terms = {"url": server.url, "model": "big", "backoff": 0.01, "deadline": 4, "retries": 1, "give_up": 2,
                 "concurrency": 1, "price_completion": 1000}  # fmt: skip
        labeller = [f"roles.labeller.{name}={value}" for name, value in terms.items()]
        loop.prepare(recipe(tmp_path, *labeller, documents=12), tmp_path / "run")
        with pytest.raises(EndpointError):
            loop.run(tmp_path / "run")
        assert read_run(tmp_path / "run").outcome == "paused" and server.answered == 6
        server.then = "ok"
        loop.run(tmp_path / "run")
        assert server.answered == 12, "what was answered is kept"
    record = read_run(tmp_path / "run")
    assert record.facts("questions")["questions"] == 48
    said = summary.author(record)
    assert said.startswith(
        f"Questions about documents, with their answers, were written by another model, big at {server.url}"
    )
    assert said.endswith("Its tokens cost 0.06 by the prices of the recipe.")


# ---------------------------------------------------------------- questions that are there


def mixed(folder: Path, *overrides: str) -> Recipe:
    """20 documents with questions and 6 without."""
    rows = json.loads(papers.write(folder / "documents.json", 26).read_text())
    for row in rows[20:]:
        del row["questions"]
    (folder / "documents.json").write_text(json.dumps(rows))
    return parse_recipe(SELFEDIT.replace("PATH", str(folder / "documents.json")), "docs", overrides)


def test_beside_given_questions_written_ones_reward_and_never_judge(tmp_path: Path) -> None:
    loop.prepare(mixed(tmp_path), tmp_path / "run")
    loop.run(tmp_path / "run")
    record = read_run(tmp_path / "run")
    asked = suites(record)
    assert len([t for t in asked["train"] if t.source.startswith("written by")]) == 24
    assert not [t for t in (*asked["dev"], *asked["vault"]) if t.source.startswith("written by")]
    held = loop.load_whole(mixed(tmp_path, "tasks.hold=questions"))
    assert held.unasked == (), "where questions are held out, only those that came judge"


def test_a_writer_of_nothing_does_no_harm_where_there_are_others(tmp_path: Path) -> None:
    loop.prepare(mixed(tmp_path, "roles.labeller=scripted:0"), tmp_path / "run")
    loop.run(tmp_path / "run")
    notes = read_run(tmp_path / "run").facts("tasks")["notes"]
    assert any("0 questions about 0 of 6 documents" in n for n in notes)


def test_a_written_answer_must_be_right_by_the_checker_also_where_questions_have_several(tmp_path: Path) -> None:
    when = {"question": "When?", "answers": ["1610", "1611"]}
    rows = [{"title": "Tea", "context": "It came in 1610 or 1611.", "qas": [when]},
            {"title": "Rhine", "context": "The Rhine has 1233 km and ends in Holland."}]  # fmt: skip
    path = tmp_path / "q.json"
    path.write_text(json.dumps(rows))
    given = parse_recipe(PRETRAINING.replace("PATH", str(path)).replace("exact", "number"), "docs",
                         ["tasks.hold=documents", "tasks.train=1", "tasks.dev=0", "tasks.vault=0"])  # fmt: skip
    whole = loop.load_whole(given)
    assert whole.checkers["number"].score is not None and len(whole.unasked) == 1
    pairs = [("How long is it?", "1233"), ("Where does it end?", "Holland")]
    kept, dropped = questions._finished(whole, [pairs], "written by nobody")
    assert [t.answer for t in kept] == ["1233"]
    assert dropped == {"the checker number does not take its answer": 1}


# ---------------------------------------------------------------- bad input


def test_a_model_that_writes_none_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    loop.prepare(recipe(tmp_path, "model=scripted:0", documents=12), tmp_path / "run")
    for _ in range(2):
        with pytest.raises(
            ModelError, match="usable questions about 0 of 12 documents, written by the model that"
        ) as no:
            loop.run(tmp_path / "run")
    assert "roles.labeller" in no.value.hint and '"questions": [{"question"' in no.value.hint
    assert not read_run(tmp_path / "run").units("candidate")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tasks.hold=documents", "held-out questions are about none that is learned"),
        ("gate.primary.metric=score", "is the mean of what your own function returns"),
    ],
)
def test_a_claim_that_cannot_be_put_is_refused_before_anybody_writes(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        loop.plan(recipe(tmp_path, override))


def test_a_labeller_with_nothing_to_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nothing for it to write"):
        loop.plan(recipe(tmp_path, "roles.labeller=scripted:1.0", "questions.per_document=0"))
    with pytest.raises(RecipeError, match="nothing for it to write"):
        loop.plan(small.recipe("roles.labeller=scripted:1.0"))


def test_the_same_question_about_two_documents_is_none(tmp_path: Path) -> None:
    for name, text in {"a": "The colour of tea is green.", "b": "The colour of tea is black. The price of b is low.",
                       "c": "The price of c is high."}.items():  # fmt: skip
        (tmp_path / f"{name}.txt").write_text(text)
    found = parse_recipe(PRETRAINING.replace("PATH", str(tmp_path)), "docs", ["tasks.topic=false"])
    loop.prepare(found, tmp_path / "run")
    loop.run(tmp_path / "run")
    facts = read_run(tmp_path / "run").facts("questions")
    assert facts["questions"] == 2 and facts["dropped"] == {"another document is asked the same": 2}


def test_of_a_reply_that_is_cut_off_the_last_line_does_not_count(tmp_path: Path) -> None:
    record = run(tmp_path, "questions.max_tokens=96", documents=12)
    facts = record.facts("questions")
    assert facts["with questions"] == 12 and facts["questions"] < 48
    found = documents(record)
    asked = [t for some in suites(record).values() for t in some]
    assert all(f" is {t.answer}." in found[t.group or ""].text for t in asked), "no half of an answer"


def test_nothing_was_written_for_a_run_without_such_documents(tmp_path: Path) -> None:
    small.prepared(tmp_path / "run")
    with pytest.raises(RunError):
        exam.examine(read_run(tmp_path / "run"), test=True)
    whole = loop.load_whole(small.recipe())
    assert questions.recorded(whole, read_run(tmp_path / "run")) is whole
