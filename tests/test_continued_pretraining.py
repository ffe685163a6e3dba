"""Continued pretraining on documents and edits of them: what was learned is asked without the documents."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import papers
import small
from selftaught import loop
from selftaught.config import CurateConfig, Member, Recipe, parse_recipe
from selftaught.curate import curate
from selftaught.engines.scripted import ByteTokens, Scripted
from selftaught.errors import RecipeError
from selftaught.filters.base import Context
from selftaught.ledger import RunRecord, read_run
from selftaught.load import make
from selftaught.rows import read_rows
from selftaught.tasks.base import TaskSet
from selftaught.types import Document, Example, Task, Verdict

RECIPE = """
name: docs
model: scripted:0.5
seed: 5
method: {name: continued_pretraining, edits: 4, prompt: "Passage: {text}\\nNotes:", max_tokens: 300}
tasks: {name: passages, path: PATH, checker: exact, topic: false, hold: questions}
train: {epochs: 1}
gate: {text_items: 0}
engine: {name: scripted}
"""
TEA = Document(
    "tea", "Tea is made of leaves. It was first drunk in China, and it came to Europe by ship in 1610.", "Tea"
)


def recipe(folder: Path, *overrides: str, documents: int = 60) -> Recipe:
    path = papers.write(folder / "documents.json", documents)
    return parse_recipe(RECIPE.replace("PATH", str(path)), "docs", overrides)


def run(folder: Path, *overrides: str, documents: int = 60) -> RunRecord:
    loop.prepare(recipe(folder, *overrides, documents=documents), folder / "run")
    loop.run(folder / "run")
    return read_run(folder / "run")


def accuracy(record: RunRecord, suite: str = "dev") -> tuple[float, float]:
    found = record.reports()
    before, after = (found[role, suite].metrics["accuracy"].value for role in ("parent", "candidate"))
    return before, after


def documents(record: RunRecord) -> list[Document]:
    return read_rows(record.path / record.units("tasks")[0]["place"] / "documents.parquet", Document)


# ---------------------------------------------------------------- what it is for


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return run(tmp_path_factory.mktemp("docs"))


def test_a_model_comes_to_know_documents_and_that_is_proved(record: RunRecord) -> None:
    assert record.outcome == "proved", record.final
    before, after = accuracy(record)
    assert before == 0.0, "nobody told it"
    assert after > 0.8, "a statement in a passage and in half of four edits"
    assert not record.labels.training, "no answer was read for training"
    assert record.labels.gate


def test_every_document_is_learned_and_no_question_is_trained_on(record: RunRecord) -> None:
    found = documents(record)
    assert {d.split for d in found} == {"train"} and len(found) == 60
    kept = small.kept(record)
    assert {e.task_id for e in kept} == {d.id for d in found}
    counts = record.facts("tasks")["counts"]
    assert counts["train"] == 0 and counts["dev"] + counts["vault"] == 240
    groups = {suite: {i.group for i in small.items(record, suite)} for suite in ("dev", "vault")}
    assert not groups["dev"] & groups["vault"], "questions about a document stay together"


def test_a_whole_edit_is_a_text_behind_its_title_and_nothing_is_prompted(record: RunRecord) -> None:
    titles = {d.id: d.title for d in documents(record)}
    kept = small.kept(record)
    assert all(e.text.startswith(f"{titles[e.task_id]}\n") for e in kept)
    assert {e.prompt_ids for e in kept} == {ByteTokens(0).encode("")}
    assert max(e.text.count("The ") for e in kept if e.parents) == 4, "four statements in one edit"
    assert Counter(not e.parents for e in kept)[True] == 60, "every passage once"


def test_passages_alone_teach_less(tmp_path: Path, record: RunRecord) -> None:
    alone = run(tmp_path, "method.edits=0")
    assert alone.units("rollouts") == [], "nothing is sampled"
    assert len(small.kept(alone)) == 60
    assert 0.35 < accuracy(alone)[1] < 0.65, "each statement is learnt with chance 1/2"
    assert accuracy(alone)[1] < accuracy(record)[1] - 0.1


def test_another_model_writes_the_edits(tmp_path: Path, record: RunRecord) -> None:
    better = run(tmp_path, "roles.source=scripted:1.0")
    assert accuracy(better)[1] > accuracy(record)[1]
    [unit] = [u for u in better.units("rollouts") if "source" in u["facts"]]
    assert unit["facts"]["source"]["samples"] == 240


def test_fewer_documents_are_among_more_and_the_others_are_not_asked_about(tmp_path: Path, record: RunRecord) -> None:
    few = loop.load_whole(recipe(tmp_path, "tasks.limit=20"))
    all_ = loop.load_whole(recipe(tmp_path))
    assert len(few.documents) == 20 and few.documents.keys() < all_.documents.keys()
    for some, more in ((few.dev, all_.dev), (few.vault, all_.vault)):
        assert {t.group for t in some} <= few.documents.keys() and {t.id for t in some} <= {t.id for t in more}
    assert len(few.dev) + len(few.vault) == 80


def test_stopped_again_and_again_it_is_the_same_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        loop.prepare(
            recipe(tmp_path, "train.replay=0.2", "train.replay_samples=5", documents=20), tmp_path / name / "run"
        )
    loop.run(tmp_path / "a" / "run")
    small.run_in_pieces(tmp_path / "b" / "run", [2, 8, 30, 3, 50, 12, 5])
    assert small.bytes_of(tmp_path / "a" / "run") == small.bytes_of(tmp_path / "b" / "run")


# ---------------------------------------------------------------- what an edit becomes


def harvest(tmp_path: Path, *edits: str, **options: Any) -> tuple[list[str], Counter[str]]:
    """Texts that are learned when these edits of tea were written, and counts."""
    from dataclasses import replace

    from selftaught.store import Store

    method = make("methods", Member(name="continued_pretraining", **options))
    source = TaskSet((), (), (), {}, papers.CHECKERS, documents={"tea": TEA})
    with Store(tmp_path / "run") as store:
        bench = small.bench(store, source, Scripted(Scripted.Options()))
        written = [replace(r, text=text) for r, text in zip(small.said(method.study(TEA), *edits), edits, strict=True)]
        made = [e.text for e in method.harvest([(method.study(TEA), written)] if edits else [], bench)]
    return made, bench.counts


def test_texts_stand_once_and_empty_edits_are_counted(tmp_path: Path) -> None:
    texts, counts = harvest(tmp_path, "Hot.\nWet.", " \n", "Hot.\nWet.", TEA.text, title=False)
    assert texts == [TEA.text, "Hot.\nWet."]
    assert (counts["edits"], counts["edits without text: empty"], counts["texts that stood before"]) == (4, 1, 2)


def test_lines_may_be_texts_and_the_passage_may_be_left_out(tmp_path: Path) -> None:
    texts, _ = harvest(tmp_path, "Hot.\nWet.", whole=False, passage=False)
    assert texts == ["Tea\nHot.", "Tea\nWet."]


def test_a_long_passage_is_cut_and_learned_whole(tmp_path: Path) -> None:
    texts, _ = harvest(tmp_path, title=False, edits=0, piece=40)
    assert "".join(texts) == TEA.text and len(texts) > 1


def test_nothing_to_learn_is_refused() -> None:
    with pytest.raises(RecipeError, match="leave nothing to learn"):
        make("methods", Member(name="continued_pretraining", edits=0, passage=False))


# ---------------------------------------------------------------- what is held out


QUESTION = "Topic: Tea\nIn which year did it come to Europe by ship?"
LONG = (
    "By what means of transport was it, which was first drunk in China, and it came to Europe by ship in 1610, brought?"
)


def judged(*texts: str, question: str = QUESTION, document: Document = TEA) -> list[str | None]:
    """What the filters say of texts about tea, while a question about it is held out."""
    held = Task(({"role": "user", "content": question},), "1610", split="dev", group="tea")
    made = [Example((1,), (2, i), text, "tea", source="continued_pretraining") for i, text in enumerate(texts)]
    found = curate(made, Context(CurateConfig(), (held,), documents={"tea": document}))
    verdicts: dict[str, Verdict] = {v.subject: v for v in found.verdicts}
    return [v.reason if (v := verdicts.get(e.id)) else None for e in made]


@pytest.mark.parametrize(
    "edit",
    [
        "In which year did it come to Europe by ship?\n1610",
        "Question 1: In which year did it come to Europe by ship?\nAnswer: 1610",
        "Tea\n1. In which year did it come to Europe by ship? Answer: 1610.",
        "Tea is hot. IN WHICH YEAR did it come to Europe by ship? In 1610.",
        "Q: in which year did it come to Europe, by ship? A: 1610",
    ],
)
def test_an_edit_with_the_asked_wording_is_rejected(edit: str) -> None:
    [reason] = judged(edit)
    assert reason is not None and "held-out question" in reason


def test_short_questions_count_wherever_they_stand_in_a_line() -> None:
    edits = (
        "Question 1: Where was it drunk? Answer: China",
        "Q: where was it drunk A: China",
        "Where it was drunk is known.",
    )
    said = judged(*edits, question="Topic: Tea\nWhere was it drunk?")
    assert all(reason is not None and "a line of it is a held-out question" in reason for reason in said[:2])
    assert said[2] is None


def test_a_document_is_not_rejected_for_the_words_that_a_question_has_from_it() -> None:
    passage, edit = judged(f"Tea\n{TEA.text}", "It came to Europe by ship in 1610.", question=LONG)
    assert passage is None and edit is None
    other = Document("tea", "Nothing of the kind.", "Tea")
    [reason] = judged(TEA.text, question=LONG, document=other)
    assert reason is not None and "words in a row" in reason, "elsewhere the same words are an overlap"
    held_out = Document("tea", TEA.text, "Tea", split="dev")
    assert judged(TEA.text, question=LONG, document=held_out)[0] is not None, "where it may not be learned, too"
    assert judged(LONG, question=LONG)[0] is not None, "the question itself stays held out"


def test_texts_of_one_document_are_no_duplicates_of_one_another_and_those_of_two_are() -> None:
    text = " ".join(f"word{i}" for i in range(30))
    nearly = text + " more"
    made = [
        Example((1,), (i,), t, d) for i, (t, d) in enumerate([(text, "a"), (nearly, "a"), (nearly, "b"), (text, "c")])
    ]
    found = curate(made, Context(CurateConfig(), ()))
    assert [e.task_id for e in found.kept] == ["a", "a"]
    assert {v.by for v in found.verdicts} == {"filter:duplicates"}


def test_what_asks_as_the_gate_does_is_not_learned(tmp_path: Path) -> None:
    """End to end: an editor whose edits are questions teaches nothing of them."""
    asking = r'method.prompt="Write 4 different questions about a passage <<<\n{text}\n>>>"'
    record = run(tmp_path, asking, "method.edits=1", "method.passage=false", documents=20)
    assert record.outcome == "nothing to train on"
    counts = record.final.counts  # type: ignore[union-attr]
    assert counts["rejected"] == counts["made"] == 20


# ---------------------------------------------------------------- claims that cannot be put


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tasks.hold=documents", r"of \d+ held-out questions are about none that is learned"),
        ("tasks.name=world_sums", "held-out questions are about none that is learned"),
        ("gate.primary.protocol=adapt", "continued_pretraining teaches nobody to"),
        ("budget.minutes=3", "planned by training questions, and there are none"),
    ],
)
def test_a_claim_that_cannot_be_put_is_refused_before_anything(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        loop.plan(recipe(tmp_path, override, documents=20))


def test_questions_need_a_suite_to_be_held_in(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="holds all questions out"):
        loop.plan(recipe(tmp_path, "tasks.train=1", "tasks.dev=0", "tasks.vault=0"))


def test_people_are_learned_too_when_questions_are_held() -> None:
    tasks = make(
        "tasks", Member(name="world_people", hold="questions", train=3, dev=2, vault=4, known=0, reading=2)
    ).load(1)
    held = make("tasks", Member(name="world_people", train=3, dev=2, vault=4, known=0, reading=2)).load(1)
    assert tasks.train == () and len(tasks.documents) == 9 and {d.split for d in tasks.documents.values()} == {"train"}
    assert [t.id for t in tasks.dev] == [t.id for t in held.dev] and tasks.vault_digest == held.vault_digest
    shown = {t.group for t in tasks.guards["reading"]}
    assert shown and not shown & tasks.documents.keys()
    with pytest.raises(RecipeError, match="nothing to learn from unless hold=questions"):
        make("tasks", Member(name="world_people", train=0))
