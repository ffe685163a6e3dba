"""Documents and their questions, in the formats that people have; what is wrong with a file is said with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selftaught.config import Member
from selftaught.errors import DataError, RecipeError
from selftaught.load import make
from selftaught.tasks._passages import cut, read_passages
from selftaught.tasks.base import TaskSet, sizes
from selftaught.tasks.passages import document_id, families
from selftaught.types import Task

TEA = "Tea is made of leaves. It was first drunk in China, and came to Europe in 1610."
RHINE = "The Rhine begins in the Alps and flows into the North Sea at Rotterdam."
TRAIN = {"train": 1.0, "dev": 0.0, "vault": 0.0}


def load(path: Path, seed: int = 0, **options: Any) -> TaskSet:
    tasks = make("tasks", Member(name="passages", path=str(path), **options)).load(seed)
    assert isinstance(tasks, TaskSet)
    return tasks


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def passage(text: str = TEA, *asked: tuple[str, str], title: str = "Tea") -> dict[str, Any]:
    return {"title": title, "context": text, "questions": [{"question": q, "answer": a} for q, a in asked]}


def many(count: int, questions: int = 3) -> list[dict[str, Any]]:
    """Documents about different things, each with its own questions."""
    return [
        passage(f"Person {n} was born in town {n} and works as number {n}.",
                *((f"Question {q} of person {n}?", f"town {n}") for q in range(questions)), title=f"Person {n}")
        for n in range(count)
    ]  # fmt: skip


def every(tasks: TaskSet) -> list[Task]:
    return [*tasks.train, *tasks.dev, *tasks.vault, *tasks.test]


def complaint(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(path, **options)
    assert caught.value.hint
    return str(caught.value)


# ---------------------------------------------------------------- formats

WHEN, WHERE = ("When did it come to Europe?", "1610"), ("Where was it first drunk?", "China")
QAS = [{"id": "1", "question": WHEN[0], "answers": [{"text": "1610", "answer_start": 74}, {"text": "in 1610"}]},
       {"id": "2", "question": WHERE[0], "answers": [{"text": "China"}], "is_impossible": False},
       {"id": "3", "question": "Who drank it?", "answers": [], "is_impossible": True}]  # fmt: skip
PUBLISHED = {"version": "1.1", "data": [{"title": "The_Tea", "paragraphs": [{"context": TEA, "qas": QAS}]},
                                        {"title": "Rhine", "paragraphs": [{"context": RHINE, "qas": []}]}]}  # fmt: skip


def test_every_format_gives_the_same_documents_and_questions(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    grouped = [passage(TEA, WHEN, WHERE, title="The Tea"), {"title": "Rhine", "text": RHINE}]
    flat = [{"title": "The_Tea", "context": TEA, "question": q, "answers": {"text": [a], "answer_start": [0]}}
            for q, a in (WHEN, WHERE)]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(flat), tmp_path / "hub.parquet")
    (tmp_path / "pretty.json").write_text("\ufeff" + json.dumps(PUBLISHED, indent=2), encoding="utf-8")
    files = {
        written(tmp_path / "squad.json", PUBLISHED): "SQuAD",
        tmp_path / "pretty.json": "SQuAD",
        written(tmp_path / "list.json", grouped): "JSON list",
        lines(tmp_path / "grouped.jsonl", *grouped): "JSON lines",
        lines(tmp_path / "articles.jsonl", *PUBLISHED["data"]): "JSON lines",
        lines(tmp_path / "flat.jsonl", *flat, {"passage": RHINE, "title": "Rhine"}): "JSON lines",
        tmp_path / "hub.parquet": "parquet",
    }
    for path, kind in files.items():
        tasks = load(path, **TRAIN)
        assert read_passages(path, 400).format == kind
        asked = {t.question: (t.answer, tasks.documents[t.group or ""].text) for t in tasks.train}
        assert asked == {f"Topic: The Tea\n{q}": (a, TEA) for q, a in (WHEN, WHERE)}, path.name
        others = [d.title for d in tasks.documents.values() if d.text == RHINE]
        assert others == ([] if kind == "parquet" else ["Rhine"]), "a document without questions is one too"


def test_any_published_answer_is_right_and_the_first_is_the_gold_one(tmp_path: Path) -> None:
    data = {"data": [{"title": "X", "paragraphs": [{"context": TEA, "qas": [
        {"question": "Where?", "answers": [{"text": "China"}, {"text": "Far East"}, {"text": "China"}]},
        {"question": "When?", "answers": [{"text": "1610"}]}]}]}]}  # fmt: skip
    tasks = load(written(tmp_path / "q.json", data), **TRAIN)
    where, when = sorted(tasks.train, key=lambda t: t.question, reverse=True)
    assert (where.answer, where.source, when.source) == ("China", "q.json:1.1.1", "q.json:1.1.2")
    assert tasks.check(where, "the Far East")[1] and tasks.check(where, "China")[1]
    assert not tasks.check(when, "the Far East")[1] and tasks.check(when, "1610")[1]


def test_questions_that_are_said_to_have_no_answer_are_dropped_and_counted(tmp_path: Path) -> None:
    hub = {"context": TEA, "title": "Tea", "question": "Who?", "answers": {"text": [], "answer_start": []}}
    tasks = load(lines(tmp_path / "q.jsonl", hub, {**hub, "question": "Where?", "answer": "China", "answers": None},
                       {**hub, "question": "Why?", "is_impossible": True, "answers": []}), **TRAIN)  # fmt: skip
    assert [t.question for t in tasks.train] == ["Topic: Tea\nWhere?"]
    assert "2 questions dropped because they are said to have no answer" in tasks.notes


def test_without_topic_a_question_stands_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "q.json", [passage(TEA, WHEN), passage(RHINE, ("Where?", "the Alps"), title="")])
    assert {t.question for t in load(path, topic=False, **TRAIN).train} == {WHEN[0], "Where?"}
    assert {t.question for t in load(path, **TRAIN).train} == {f"Topic: Tea\n{WHEN[0]}", "Where?"}


# ---------------------------------------------------------------- one document, one side


def test_a_document_never_crosses_and_a_limit_keeps_the_first(tmp_path: Path) -> None:
    path = written(tmp_path / "q.json", many(60))
    tasks = load(path)
    assert sizes(tasks) == {"train": 72, "dev": 36, "vault": 72} and len(tasks.documents) == 60
    sides = [{t.group for t in side} for side in (tasks.train, tasks.dev, tasks.vault)]
    assert sum(map(len, sides)) == 60 == len(set.union(*sides))
    few, fewer = (load(path, limit=n) for n in (10, 4))
    assert len({t.group for t in few.train}) == 10 and len(few.train) == 30
    assert {t.id for t in fewer.train} < {t.id for t in few.train} < {t.id for t in tasks.train}
    assert few.vault == tasks.vault and len(few.documents) == 60 - 24 + 10
    assert "14 documents left out, more than tasks.limit" in few.notes


def test_the_split_does_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    first = load(written(tmp_path / "a.json", many(40)), questions_per_document=2)
    second = load(written(tmp_path / "b.json", many(40)[::-1]), questions_per_document=2)
    assert [t.id for t in every(first)] == [t.id for t in every(second)] and len(every(first)) == 80
    assert [t.id for t in every(load(tmp_path / "a.json", seed=1))] != [t.id for t in every(load(tmp_path / "a.json"))]


def test_the_same_text_twice_is_one_document(tmp_path: Path) -> None:
    twice = [passage(TEA, WHEN), passage(TEA.replace(" It", "\n It"), WHERE, title="Again")]
    tasks = load(written(tmp_path / "q.json", twice), **TRAIN)
    [document] = tasks.documents.values()
    assert (document.text, document.title) == (TEA, "Tea")
    assert {t.question for t in tasks.train} == {f"Topic: Tea\n{q}" for q, _ in (WHEN, WHERE)}


def test_documents_that_hold_one_another_are_a_family() -> None:
    texts = {
        "a": "one two three four five six seven eight nine ten",
        "b": "TWO three\nfour five six seven eight nine",
        "c": "zero two three four five six seven eight nine nil",
        "d": "one two",
        "e": "eleven",
        "f": "two one",
    }
    found = families(texts)
    assert {n for n in texts if found[n] == found["a"]} == {"a", "b", "c", "d"}, "c holds b, which a holds"
    assert len({found[n] for n in "aef"}) == 3
    assert families({"x": "a category", "y": "a cat"}) == {"x": "x", "y": "y"}, "whole words"


def test_a_document_goes_where_one_goes_that_holds_it(tmp_path: Path) -> None:
    rows = []
    for n, row in enumerate(many(30, 2)):
        rows += [
            row,
            passage(f"A longer one. {row['context']} It ends.", (f"How long is {n}?", "longer"), title="Long"),
        ]
    path = written(tmp_path / "q.json", rows)
    for seed in range(5):
        tasks = load(path, seed)
        side = {t.group: t.split for t in every(tasks)}
        assert len(side) == 60 and set(side.values()) == {"train", "dev", "vault"}
        pairs = [(document_id(a["context"]), document_id(b["context"])) for a, b in zip(*[iter(rows)] * 2, strict=True)]
        assert all(side[a] == side[b] for a, b in pairs)
        assert "30 documents go where another goes that holds them, or that they hold" in tasks.notes


def test_a_document_without_questions_is_trained_on_unless_it_holds_a_held_out_one(tmp_path: Path) -> None:
    rows = many(20)
    longer = [{"title": "Book", "context": f"It is said: {row['context']} So it is."} for row in rows]
    tasks = load(written(tmp_path / "q.json", [*rows, *longer, {"title": "Rhine", "context": RHINE}]))
    held = {t.group for t in (*tasks.dev, *tasks.vault)}
    texts = [tasks.documents[name or ""].text for name in held]
    unasked = [d for n, d in tasks.documents.items() if n not in {t.group for t in every(tasks)}]
    assert {d.title for d in unasked} == {"Book", "Rhine"} and len(unasked) == 20 - len(held) + 1
    assert not [d for d in unasked for text in texts if text in d.text]
    assert f"{len(held)} documents dropped because one that goes with them is held out" in tasks.notes


def sides(tasks: TaskSet) -> dict[str, set[str]]:
    """What a document is called, without its part -> the suites in which it stands."""
    found: dict[str, set[str]] = {}
    for document in tasks.documents.values():
        found.setdefault(document.title.partition(" (part")[0], set()).add(document.split)
    return found


def test_parts_of_one_text_go_to_one_side(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / f"{name}.txt").write_text("\n\n".join(f"Of {name}{n} much is said here." for n in range(12)))
    tasks = load(tmp_path, max_words=20)
    assert len(tasks.documents) == 8 * 4 and len({d.id for d in tasks.documents.values()}) == 32
    found = sides(tasks)
    assert set(found) == {*"abcdefgh"} and all(len(some) == 1 for some in found.values()), found
    assert set.union(*found.values()) == {"train", "dev", "vault"}
    assert "32 documents are parts of 8 long texts; each counts as a document" in tasks.notes
    learned = load(tmp_path, max_words=20, hold="questions")
    asked = {(t.question.partition(" (part")[0], t.split) for t in learned.unasked}
    assert len(asked) > 8, "where all are learned, a text may be asked about in dev and in the vault"


def test_long_passages_of_a_file_stay_together_too(tmp_path: Path) -> None:
    long = [
        {"title": f"T{n}", "text": "\n\n".join(f"Of {n} and {m} much is said." for m in range(12))} for n in range(8)
    ]
    found = sides(load(written(tmp_path / "q.json", long), max_words=20))
    assert len(found) == 8 and all(len(some) == 1 for some in found.values()), found


def test_one_long_text_leaves_nothing_to_judge_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("\n\n".join(f"Of {n} much is said in this book." for n in range(40)))
    tasks = load(tmp_path / "book.txt", max_words=20)
    assert {t.split for t in tasks.unasked} == {"train"}
    assert "nothing fell to dev and vault: too few labelled questions or groups" in tasks.notes


def test_an_article_may_be_held_together(tmp_path: Path) -> None:
    rows = [{**row, "title": f"Article {n // 5}"} for n, row in enumerate(many(60))]
    path = written(tmp_path / "q.json", rows)
    assert any(len(some) > 1 for some in sides(load(path)).values()), "the split is by document"
    tasks = load(path, together="title")
    found = sides(tasks)
    assert len(found) == 12 and all(len(some) == 1 for some in found.values()), found
    assert "48 documents go where another goes that has their title" in tasks.notes
    assert len({t.group for t in every(tasks)}) == 60, "and each is a document of its own"


# ---------------------------------------------------------------- questions


def test_a_question_put_twice_to_a_document_takes_either_answer(tmp_path: Path) -> None:
    asked = (("Where  was it?", "China"), ("where was it?", "Europe"), WHEN)
    tasks = load(written(tmp_path / "q.json", [passage(TEA, *asked)]), **TRAIN)
    [where] = [t for t in tasks.train if "was it" in t.question]
    assert where.answer == "China" and tasks.check(where, "Europe")[1] and not tasks.check(where, "1610")[1]
    assert "1 questions repeated; any answer that was given to them is right" in tasks.notes


def test_a_question_put_to_several_documents_is_dropped(tmp_path: Path) -> None:
    rows = [passage(TEA, ("Where?", "China"), WHEN), passage(RHINE, ("Where?", "the Alps"))]
    tasks = load(written(tmp_path / "q.json", rows), **TRAIN)
    assert [t.question for t in tasks.train] == [f"Topic: Tea\n{WHEN[0]}"] and len(tasks.documents) == 2
    assert "2 questions dropped because several documents are asked the same" in tasks.notes
    assert len(load(written(tmp_path / "r.json", [rows[0], {**rows[1], "title": "Rhine"}]), **TRAIN).train) == 3


def test_an_answer_that_does_not_stand_in_the_document_is_a_note(tmp_path: Path) -> None:
    tasks = load(written(tmp_path / "q.json", [passage(TEA, ("Who?", "Nobody"), ("Where?", "CHINA"))]), **TRAIN)
    assert len(tasks.train) == 2
    assert "1 questions with no answer that stands in the document" in tasks.notes


def test_a_checker_of_ones_own_choice(tmp_path: Path) -> None:
    path = written(tmp_path / "q.json", [passage(TEA, WHEN)])
    assert list(load(path, checker="number", **TRAIN).checkers) == ["number"]
    found = load(path, checker="regex", pattern=r"\d{4}", **TRAIN)
    assert found.check(found.train[0], "It came in 1610.") == ("1610", True)
    with pytest.raises(RecipeError, match="no checker 'recal'; did you mean 'recall'"):
        load(path, checker="recal")
    written(path, [passage(TEA, WHEN, WHERE)])
    said = complaint(path, checker="number")
    assert "q.json:1.2: the checker 'number' finds no answer in the gold answer 'China'." in said


# ---------------------------------------------------------------- texts


def test_a_folder_of_texts(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "green_tea.txt").write_text("# no heading\n" + TEA, encoding="utf-8")
    (tmp_path / "deep" / "r.MD").write_bytes(b"\xef\xbb\xbfIntro\r\n\r\n## The Rhine ##\r\n" + RHINE.encode())
    (tmp_path / "deep" / "plain.md").write_text("No heading.\n")
    (tmp_path / ".git" / "x.txt").write_text("hidden")
    (tmp_path / ".hidden.txt").write_text("hidden")
    (tmp_path / "paper.pdf").write_bytes(b"%PDF\x00")
    tasks = load(tmp_path)
    assert sorted((d.title, d.text) for d in tasks.documents.values()) == [
        ("The Rhine", f"Intro\n\n## The Rhine ##\n{RHINE}"), ("green tea", f"# no heading\n{TEA}"),
        ("plain", "No heading.")]  # fmt: skip
    assert every(tasks) == [] and "3 documents without questions" in tasks.notes
    assert f"{tmp_path.name}: 3 documents, 0 questions (3 text files)" in tasks.notes
    assert "1 other files in the folder are not read: paper.pdf" in tasks.notes
    assert {t.group for t in tasks.unasked} == set(tasks.documents)
    fewer = list(load(tmp_path, limit=2, **TRAIN).documents)
    assert fewer == [n for n in tasks.documents if n in fewer] and len(fewer) == 2
    [alone] = load(tmp_path / "green_tea.txt", **TRAIN).documents.values()
    assert alone.title == "green tea"
    assert "None of 1 documents is left to learn from." in complaint(tmp_path / "green_tea.txt")


def test_a_long_text_is_cut_between_paragraphs(tmp_path: Path) -> None:
    paragraphs = [" ".join(f"w{n}" for _ in range(size)) for n, size in enumerate((8, 8, 8, 15, 3))]
    (tmp_path / "long.txt").write_text("\n \n".join(paragraphs))
    found = [(d.title, d.text) for d in load(tmp_path, max_words=20).documents.values()]
    a, b, c, d, e = paragraphs
    assert found == [("long (part 1 of 3)", f"{a}\n\n{b}"), ("long (part 2 of 3)", c),
                     ("long (part 3 of 3)", f"{d}\n\n{e}")]  # fmt: skip


def test_a_long_paragraph_is_cut_between_sentences_and_a_long_sentence_between_words() -> None:
    assert cut("a b. c d! e f? g", 4) == ["a b. c d!", "e f? g"]
    assert cut("one two three four five", 2) == ["one two", "three four", "five"]
    text = "x y\n\na b c d e f. g h\n\ni"
    parts = cut(text, 3)
    assert parts == ["x y", "a b c", "d e f.", "g h\n\ni"]
    assert " ".join(parts).split() == text.split(), "no word is lost"


def test_a_long_passage_with_questions_stays_whole(tmp_path: Path) -> None:
    long = " ".join(f"word{n}" for n in range(90))
    path = written(tmp_path / "q.json", [passage(long, ("Which?", "word7")), {"title": "Bare", "text": "x " + long}])
    titles = {d.title for d in load(path, max_words=50, **TRAIN).documents.values()}
    assert titles == {"Tea", "Bare (part 1 of 2)", "Bare (part 2 of 2)"}


# ---------------------------------------------------------------- what cannot be read

GOOD = passage(TEA, WHEN)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"title": "x", "questions": []}, "item 2: no text; the keys are title, questions."),
        ({"question": "Who?", "answer": "x"}, "item 2: no text; the keys are question, answer."),
        (passage(" "), "item 2: 'context' is empty."),
        ({"context": 5}, "item 2: 'context' is a int, not text."),
        ({"context": TEA, "title": 7}, "item 2: 'title' is a int, not text."),
        (passage(TEA, WHEN, ("Who?", " ")), "item 2, question 2: a question without an answer."),
        (passage(TEA) | {"qas": 1, "questions": None}, "item 2: 'qas' is a int, not a list."),
        (passage(TEA) | {"questions": [{"question": "Who?", "answers": []}]}, "item 2, question 1: a question without"),
        (passage(TEA) | {"questions": [{"answer": "x"}]}, "item 2, question 1: no question; the keys are answer."),
        (passage(TEA) | {"questions": ["Who?"]}, "item 2, question 1: a str, not a JSON object."),
        (passage(TEA, WHEN) | {"question": "Who?"}, "item 2: a question without an answer."),
        ({"context": TEA, "question": "Who?", "answer": True}, "item 2: an answer is a bool, not text or a number."),
        ({"title": "x", "paragraphs": [GOOD, {"context": ""}]}, "item 2, paragraph 2: 'context' is empty."),
        ({"title": "x", "paragraphs": 5}, "item 2: 'paragraphs' is a int, not a list."),
        ({"title": "x", "paragraphs": [7]}, "item 2, paragraph 1: a int, not a JSON object."),
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_read_is_named(tmp_path: Path, entry: Any, said: str) -> None:
    path = written(tmp_path / "q.json", [GOOD, entry])
    assert complaint(path).startswith(f"{path}, {said}")
    counts = 2 if "paragraph 2" in said else 1
    assert f" {counts} good documents before it, 2 entries in all." in complaint(path)


def test_a_line_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", GOOD, {"context": ""})
    assert complaint(path).startswith(f"{path}, line 2: 'context' is empty. 1 good documents before it")
    path.write_text(json.dumps(GOOD) + '\n{"context": "x"\n')
    assert f"{path}, line 2: not JSON" in complaint(path) and "1 bad, 1 good lines." in complaint(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"data": [{"title": "x", "paragraphs": [\n{"context": ', "not JSON: Expecting value at line 2"),
        (b'{"data": []}', "'data' is not a list of articles, or it is empty."),
        (b'{"data": {"title": "x"}}', "'data' is not a list of articles, or it is empty."),
        (b'{\n"data": [7]}', ", article 1: a int, not a JSON object."),
        (b'{\n"data": [{"context": "\xff"}]}', "not UTF-8: byte 0xff"),
        (b'{\n"data": [], "data": []}', "the key 'data' stands twice"),
        (b"\x1f\x8b\x08\x00", "is a gzip archive"),
        (b"", "is empty"),
        (b"Just some prose.", "line 1: not JSON"),
        (b"[]", "has no rows"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "q.json"
    path.write_bytes(content)
    assert str(path) in complaint(path) and said in complaint(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "squad.json").write_text("[]")
    assert f"There is no file {tmp_path / 'sqad.json'}." in complaint(tmp_path / "sqad.json")
    assert "Did you mean" in complaint(tmp_path / "sqad.json")
    assert "There is no file" in complaint(tmp_path / "nothing.txt")


def test_a_folder_without_texts_says_what_it_holds(tmp_path: Path) -> None:
    assert f"{tmp_path} has no .txt or .md file; it holds nothing." in complaint(tmp_path)
    (tmp_path / "squad.json").write_text("[]")
    assert "it holds squad.json." in complaint(tmp_path) and "tasks.path=FILE.json" in complaint(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b" \n", " is empty. 1 good files before it, 2 in all."),
        (b"good\nbad \xe9t\xe9", ", line 2: not UTF-8: byte 0xe9."),
        (b"text \x00", " is a binary file, not text."),
        (b"\xff\xfet\x00", " is UTF-16, not UTF-8."),
    ],
)
def test_a_text_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.txt").write_text(TEA)
    (tmp_path / "b.txt").write_bytes(content)
    assert complaint(tmp_path).startswith(f"{tmp_path / 'b.txt'}{said}")


def test_what_would_be_read_is_said_of_a_text(tmp_path: Path) -> None:
    hints = {}
    for name, content in {"binary": b"text \x00", "utf16": b"\xff\xfet\x00"}.items():
        path = tmp_path / f"{name}.txt"
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            load(path)
        hints[name] = caught.value.hint
    assert hints["binary"].startswith("Accepted: plain text in UTF-8 (.txt, .md).")
    assert hints["utf16"].endswith("> utf16.utf8.txt"), "a folder of texts would not read a .jsonl"
    (tmp_path / "q.jsonl").write_bytes(b"\x00")
    with pytest.raises(DataError) as caught:
        load(tmp_path / "q.jsonl")
    assert caught.value.hint.startswith("Accepted: JSON lines")


def test_too_few_documents_to_hold_any_out_says_how_many_are_needed(tmp_path: Path) -> None:
    for n in range(5):
        (tmp_path / f"copy{n}.txt").write_text(TEA)
    with pytest.raises(DataError, match="None of 1 documents is left to learn from") as caught:
        load(tmp_path)
    assert "at least three (the same text counts once" in caught.value.hint
    assert "tasks.hold=questions, with method.name=continued_pretraining" in caught.value.hint
    assert len(load(tmp_path, hold="questions").documents) == 1, "which is true"
    for n, text in enumerate((RHINE, "Nobody knows.")):
        (tmp_path / f"other{n}.txt").write_text(text)
    assert {t.split for t in load(tmp_path).unasked} == {"train", "dev", "vault"}, "three are enough"


def test_nothing_left_to_train_on_is_said(tmp_path: Path) -> None:
    path = written(tmp_path / "q.json", many(5))
    assert "No question is left to train on" in complaint(path, train=0.0, dev=0.5, vault=0.5)
    with pytest.raises(RecipeError, match="train \\+ dev \\+ vault \\+ test must be 1"):
        load(path, train=0.5)


# ---------------------------------------------------------------- SQuAD itself


def test_squad_is_read_whole(shared_data: Path) -> None:
    path = shared_data / "squad" / "squad_val.json"
    if not path.is_file():
        pytest.skip(f"no SQuAD in {path.parent}")
    tasks = load(path)
    rows = json.loads(path.read_text(encoding="utf-8"))
    asked = sum(len(row["questions"]) for row in rows)
    assert len(tasks.documents) == len(rows) == 2067
    assert {d.text for d in tasks.documents.values()} == {row["context"].strip() for row in rows}
    assert len(every(tasks)) == asked - 39 - 4, "39 stand twice in their passage, two are put to two passages each"
    sides = [{t.group for t in side} for side in (tasks.train, tasks.dev, tasks.vault)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 2067
    assert all(tasks.check(t, t.answer or "")[1] for t in every(tasks)), "every gold answer is right"
    assert not any(tasks.check(t, "")[1] for t in every(tasks))
    some = load(path, limit=50, questions_per_document=3)
    assert len({t.group for t in some.train}) == 50 and {t.id for t in some.train} < {t.id for t in tasks.train}
