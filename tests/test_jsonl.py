from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from selftaught.config import Member
from selftaught.errors import DataError, RecipeError
from selftaught.load import make
from selftaught.tasks import _read
from selftaught.tasks._read import read_rows
from selftaught.tasks._rows import read_questions
from selftaught.tasks._split import NO_LABELS
from selftaught.tasks.base import TaskSet


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def load(path: Path, seed: int = 0, **options: Any) -> TaskSet:
    tasks = make("tasks", Member(name="jsonl", path=str(path), **options)).load(seed)
    assert isinstance(tasks, TaskSet)
    return tasks


def sums(count: int, offset: int = 0, **extra: Any) -> list[dict[str, Any]]:
    return [{"question": f"What is {n}+1?", "answer": str(n + 1), **extra} for n in range(offset, offset + count)]


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("row", "question", "gold"),
    [
        ({"prompt": "a", "completion": "b"}, "a", "b"),
        ({"question": "a"}, "a", None),
        ({"question": "a", "answer": None}, "a", None),
        ({"question": "a", "answer": " "}, "a", None),
        ({"question": "a", "label": 0}, "a", "0"),
        ({"question": "a", "target": True}, "a", "true"),
        ({"question": "a", "answer": 1.5}, "a", "1.5"),
        ({"question": "a", "answer": "2+2=4\n#### 4"}, "a", "4"),
        ({"instruction": "add", "input": "1 2", "output": "3"}, "add\n\n1 2", "3"),
        ({"instruction": "add", "input": "", "output": "3"}, "add", "3"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a", "b"),
        ({"messages": [{"role": "user", "content": "a"}], "answer": "c"}, "a", "c"),
        ({"prompt": [{"role": "user", "content": "a"}],
          "completion": [{"role": "assistant", "content": "b"}]}, "a", "b"),
    ],
)  # fmt: skip
def test_layouts(tmp_path: Path, row: dict[str, Any], question: str, gold: str | None) -> None:
    item = read_questions(lines(tmp_path / "q.jsonl", row)).items[0]
    assert (item.prompt[-1]["content"], item.gold, item.source) == (question, gold, "q.jsonl:1")


def test_a_conversation_is_kept_whole(tmp_path: Path) -> None:
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    row = {"messages": [{"role": r, "content": c} for r, c in turns]}
    item = read_questions(lines(tmp_path / "q.jsonl", row)).items[0]
    assert [(m["role"], m["content"]) for m in item.prompt] == turns[:-1] and item.gold == "d"


def test_groups_and_the_text_of_a_passage_as_a_group(tmp_path: Path) -> None:
    rows = ({"question": "a", "group": 7}, {"question": "b", "passage": "long " * 50}, {"question": "c"})
    groups = [q.group for q in read_questions(lines(tmp_path / "q.jsonl", *rows)).items]
    assert groups[0] == "7" and groups[1] is not None and len(groups[1]) == 16 and groups[2] is None


TEXT = "Ana keeps hens. They lay twelve eggs a week, and she sells ten of them at the market in town."


@pytest.mark.parametrize("field", ["passage", "document", "context"])
def test_a_text_is_shown_before_its_question_and_groups(tmp_path: Path, field: str) -> None:
    rows = [{field: TEXT, "question": "How many are left?", "answer": "2"},
            {field: TEXT, "question": "Who sells?"}, {field: "p7", "question": "Why?"}]  # fmt: skip
    read = read_questions(lines(tmp_path / "q.jsonl", *rows))
    asked = [q.prompt[0]["content"] for q in read.items]
    assert asked == [f"{TEXT}\n\nHow many are left?", f"{TEXT}\n\nWho sells?", "Why?"], "a name is not a text"
    assert read.items[0].group == read.items[1].group != read.items[2].group == "p7"
    assert read.items[0].shape == f"{field} + question + answer" and read.unused == ()


def test_a_text_goes_before_the_last_turn_and_not_twice(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    rows = [{"messages": [*turns, {"role": "user", "content": "Who sells?"}], "context": TEXT},
            {"prompt": f"Read this. {TEXT} Who sells?", "context": f" {TEXT}\n"}]  # fmt: skip
    items = read_questions(lines(tmp_path / "q.jsonl", *rows)).items
    assert [m["content"] for m in items[0].prompt] == ["Hi", "Yes?", f"{TEXT}\n\nWho sells?"]
    assert [m["content"] for m in items[1].prompt] == [f"Read this. {TEXT} Who sells?"]


def test_columns_that_are_not_used_are_named(tmp_path: Path) -> None:
    rows = [
        {"question": "a", "choices": ["x", "y"], "id": 1, "none": None, "answer": "5"},
        {"instruction": "b", "input": "c", "output": "5", "Anwser": "5", "id": 2, "none": ""},
    ]
    read = read_questions(lines(tmp_path / "q.jsonl", *rows))
    assert read.summary.endswith("; columns not used: choices, id, Anwser"), "an empty column holds nothing to miss"
    many = {"question": "a", **{f"c{n}": n for n in range(20)}}
    assert read_questions(lines(tmp_path / "q.jsonl", many)).summary.endswith(
        ": c0, c1, c2, c3, c4, c5, c6, c7 and 12 more"
    )


def test_field_names_are_read_in_any_case(tmp_path: Path) -> None:
    [item] = read_questions(lines(tmp_path / "q.jsonl", {"Question": "a", "Answer": "b", "GROUP": "c"})).items
    assert (item.prompt[0]["content"], item.gold, item.group, item.shape) == ("a", "b", "c", "question + answer")


def test_passages_are_sent_to_the_source_that_reads_them(tmp_path: Path) -> None:
    for field in ("questions", "qas", "paragraphs", "data"):
        with pytest.raises(DataError, match=r"line 1: a passage with its questions.*\n  Set tasks.name=passages"):
            read_questions(lines(tmp_path / "q.jsonl", {"title": "Tea", field: []}))


# ---------------------------------------------------------------- files


def test_every_format_gives_the_same_questions(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"question": f"What, is {n}?", "answer": str(n)} for n in range(5)]
    lines(tmp_path / "q.jsonl", *rows)
    lines(tmp_path / "lines.json", *rows)
    (tmp_path / "q.json").write_text("\ufeff" + json.dumps(rows, indent=1), encoding="utf-8")
    cells = "".join(f'"{r["question"]}",{r["answer"]}\r\n' for r in rows)
    (tmp_path / "q.csv").write_text("\ufeffquestion,answer\r\n" + cells, encoding="utf-8")
    (tmp_path / "q.tsv").write_text("question\tanswer\n" + "".join(f"{r['question']}\t{r['answer']}\n" for r in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    formats = {"q.jsonl": "JSON lines", "lines.json": "JSON lines", "q.json": "JSON list", "q.csv": "CSV",
               "q.tsv": "TSV", "q.parquet": "parquet"}  # fmt: skip
    for name, kind in formats.items():
        read = read_questions(tmp_path / name)
        assert read.format == kind, name
        assert [(q.prompt[0]["content"], q.gold) for q in read.items] == [(r["question"], r["answer"]) for r in rows]


def test_a_suffix_in_capitals_and_a_header_with_spaces(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "q.CSV").write_text("question, answer\na,5\n")
    (tmp_path / "q.TSV").write_text(" question \tanswer\na\t5\n")
    pq.write_table(pa.table({"question": ["a"], "answer": ["5"]}), tmp_path / "q.PARQUET")
    for name, kind in {"q.CSV": "CSV", "q.TSV": "TSV", "q.PARQUET": "parquet"}.items():
        read = read_questions(tmp_path / name)
        assert (read.format, read.items[0].gold, read.unused) == (kind, "5", ()), name
    (tmp_path / "q.PARQUET").write_text("question")
    with pytest.raises(DataError, match="is not a parquet file, though its name says so"):
        read_rows(tmp_path / "q.PARQUET")


def test_a_torn_file_is_refused_at_every_cut_inside_a_line(tmp_path: Path) -> None:
    whole = lines(tmp_path / "whole.jsonl", *sums(20)).read_bytes()
    for cut in range(1, len(whole), 7):
        (tmp_path / "torn.jsonl").write_bytes(whole[:cut])
        complete, rest = whole[:cut].count(b"\n"), whole[:cut].rpartition(b"\n")[2]
        if not rest or rest.endswith(b"}"):
            assert len(read_rows(tmp_path / "torn.jsonl")[1]) == complete + bool(rest)
            continue
        with pytest.raises(
            DataError, match=rf"line {complete + 1}: not JSON: .* 1 bad, {complete} good lines"
        ) as error:
            read_rows(tmp_path / "torn.jsonl")
        assert error.value.hint == "The last line is cut short: copy the file again, or delete that line."


def test_a_torn_parquet_file_is_refused_at_every_cut(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(sums(50)), tmp_path / "q.parquet")
    whole = (tmp_path / "q.parquet").read_bytes()
    for cut in range(5, len(whole), len(whole) // 20):
        (tmp_path / "q.parquet").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"q\.parquet is not a whole parquet file after \d+ good rows") as error:
            read_rows(tmp_path / "q.parquet")
        assert "copy it again" in error.value.hint


def test_a_compressed_file_is_refused_however_it_is_cut(tmp_path: Path) -> None:
    """Packed files are never opened, so none is read short."""
    packed = gzip.compress(lines(tmp_path / "whole.jsonl", *sums(200)).read_bytes())
    for cut in (*range(20), *range(20, len(packed), len(packed) // 30), len(packed) - 8, len(packed) - 1):
        for name in ("q.jsonl.gz", "q.jsonl"):
            (tmp_path / name).write_bytes(packed[:cut])
            with pytest.raises(DataError, match=["is empty", "line 1: not JSON", "is a gzip archive"][min(cut, 2)]):
                read_rows(tmp_path / name)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"question": "a", "question": "b"}', r"the key 'question' stands twice"),
        (b'{"question": "a", "answer": NaN}', r"NaN is not a JSON value"),
        (b'{"question": "a", "answer": -Infinity}', r"-Infinity is not a JSON value"),
        (b'["question"]', r"a record must be a JSON object \{\.\.\.\}, this is a list"),
        (b'{"question": "caf\xe9"}', r"not UTF-8: byte 0xe9 at column 18"),
        (b'{"question": "\\ud800"}', r"half of a surrogate pair"),
        (b'{"question": ' + b"[" * 100_000, r"nested too deeply"),
        (b'{"question": ' + b"1" * 5000 + b"}", r"Exceeds the limit"),
        (b"question", r"not JSON: Expecting value at column 1"),
    ],
)
def test_a_malformed_line_is_named_and_counted(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "q.jsonl").write_bytes(b'{"question": "x"}\n' + line + b'\n\n{"question": "y"}\n')
    with pytest.raises(DataError, match=rf"q\.jsonl, line 2: {reason}.* 1 bad, 2 good lines\.") as error:
        read_rows(tmp_path / "q.jsonl")
    assert "sed -i 2d" in error.value.hint


def test_a_text_file_is_told_what_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("What is this?\nAnd this?\n")
    with pytest.raises(DataError, match=r"line 1: not JSON: .* 2 bad, 0 good lines") as error:
        read_rows(tmp_path / "q.txt")
    assert "JSON lines (.jsonl)" in error.value.hint and '{"question":' in error.value.hint


def test_files_that_are_no_text_are_named_for_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside.jsonl").touch()
    contents = {
        "empty.jsonl": (b"", "is empty"),
        "bom.csv": (b"\xef\xbb\xbf", "is empty"),
        "bom.jsonl": (b"\xef\xbb\xbf", "is empty"),
        "blank.csv": (b"\xef\xbb\xbf\n", "has no rows"),
        "blank.jsonl": (b"\n \n", "has no rows"),
        "list.json": (b"[]", "has no rows"),
        "q.jsonl.gz": (gzip.compress(b"{}"), "is a gzip archive"),
        "q.pkl": (pickle.dumps({"a": 1}), "is a Python pickle, which can run code"),
        "q.bin": (b"\x7fELF\x00\x01", "is a binary file"),
        "utf16.jsonl": ('{"question": "a"}'.encode("utf-16"), "is UTF-16, not UTF-8"),
        "q.parquet": (b"question", "is not a parquet file, though its name says so"),
        "header.csv": (b"question,answer\n", "has no rows"),
    }
    for name, (data, reason) in contents.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=reason) as error:
            read_rows(tmp_path / name)
        assert name in error.value.message and error.value.hint
    with pytest.raises(DataError, match="is a folder") as error:
        read_rows(tmp_path / "folder")
    assert "inside.jsonl" in error.value.hint
    with pytest.raises(DataError, match="There is no file") as error:
        read_rows(tmp_path / "emty.jsonl")
    assert error.value.hint == f"Did you mean {tmp_path / 'empty.jsonl'}?"
    with pytest.raises(DataError, match="is not a regular file"):
        read_rows(Path("/dev/null"))


def test_a_very_long_line_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(b'{"question": "a"}\n{"question": "' + b"a" * _read.MAX_LINE + b'"}\n')
    with pytest.raises(DataError, match=r"line 2: longer than 10 MB \(1 lines before it\)"):
        read_rows(tmp_path / "q.jsonl")


def test_a_parquet_bomb_is_refused_while_it_unpacks(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    batch = pa.table({"question": pa.DictionaryArray.from_arrays(pa.array([0] * 64, pa.int32()), ["a" * 1_000_000])})
    with pq.ParquetWriter(tmp_path / "q.parquet", batch.schema.remove_metadata(), store_schema=False) as writer:
        for _ in range(3):
            writer.write_table(batch)
    assert (tmp_path / "q.parquet").stat().st_size < 2_000_000
    with pytest.raises(DataError, match=r"q\.parquet holds more than 100 MB"):
        _read._read_parquet(tmp_path / "q.parquet", limit=100_000_000)


def test_tables_with_a_fault_name_the_line(tmp_path: Path) -> None:
    faults = {
        "question,answer\na,1\nb,1,000\n": r"line 3: 3 cells under 2 columns\. 1 good rows before it",
        "question,question\na,1\n": r"line 1: the column 'question' stands twice",
        'question,answer\na,1\n"b,2\n': r"line 3: unexpected end of data\. 1 good rows before it",
    }
    for text, reason in faults.items():
        (tmp_path / "q.csv").write_text(text)
        with pytest.raises(DataError, match=reason):
            read_rows(tmp_path / "q.csv")
    (tmp_path / "q.csv").write_bytes(b"question,answer\ncaf\xe9,1\n")
    with pytest.raises(DataError, match=r"q\.csv is not UTF-8: byte 0xe9 after \d good rows"):
        read_rows(tmp_path / "q.csv")


def test_a_json_list_with_a_fault(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text('[{"question": "a"}, 3]')
    with pytest.raises(DataError, match=r"item 2: not a JSON object\. 1 bad, 1 good items"):
        read_rows(tmp_path / "q.json")
    (tmp_path / "q.json").write_text('[{"question": "a"},\n {"question"')
    with pytest.raises(DataError, match=r"not JSON: .* at line 2, column \d+\. 0 good rows"):
        read_rows(tmp_path / "q.json")


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"qestion": "b", "answer": "1"}, r"no question; the keys are qestion, answer; did you mean 'question'"),
        ({"text": "b"}, r"no question; the keys are text"),
        ({}, r"no question; the keys are none"),
        ({"question": None}, r"no question; the keys are question, but it is empty"),
        ({"question": "  "}, r"'question' is empty"),
        ({"question": 5}, r"'question' is a int, not text"),
        ({"question": "b", "answer": ["1"]}, r"'answer' is a list, not text or a number"),
        ({"question": "b", "answer": "so ####"}, r"nothing follows '####' in the answer"),
        ({"question": "b", "group": 1.5}, r"'group' is a float"),
        ({"question": "b", "context": {"p": "x"}}, r"'context' is a dict"),
        ({"question": "b", "Question": "b"}, r"the key 'question' stands twice, up to case"),
        ({"messages": "b"}, r"'messages' is not a list of messages"),
        ({"messages": [{"role": "tool", "content": "b"}]}, r"a turn of 'messages' is not a role"),
        ({"messages": [{"role": "assistant", "content": "b"}]}, r"'messages' has no question: no user turn"),
    ],
)
def test_a_row_that_is_no_question_is_named(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    path = lines(tmp_path / "q.jsonl", {"question": "a"}, row, {"question": "c"})
    with pytest.raises(DataError, match=rf"q\.jsonl, line 2: {reason}.* 1 good rows before it, 3 rows in all") as error:
        read_questions(path)
    assert error.value.hint


def test_a_parquet_answer_that_is_nan_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"question": ["a", "b"], "answer": [1.0, float("nan")]}), tmp_path / "q.parquet")
    with pytest.raises(DataError, match=r"line 2: 'answer' is nan"):
        read_questions(tmp_path / "q.parquet")


def test_gsm8k_names_no_option_that_it_lacks(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", {"question": "1+1?", "answer": "#### 1.2.3"})
    with pytest.raises(DataError, match=r"q\.jsonl:1: the checker 'number' finds no answer in .* '1\.2\.3'") as error:
        make("tasks", Member.model_validate({"name": "gsm8k", "path": str(path)})).load(0)
    assert error.value.hint == "Mend the answer."


# ---------------------------------------------------------------- tasks


def test_one_labelled_file_is_split_and_keeps_its_answers(tmp_path: Path) -> None:
    tasks = load(lines(tmp_path / "q.jsonl", *sums(100)))
    assert (len(tasks.train), len(tasks.dev), len(tasks.vault)) == (40, 20, 40)
    assert {t.checker for t in tasks.train} == {"number"} and all(t.answer for t in tasks.train)
    assert tasks.check(tasks.vault[0], f"#### {tasks.vault[0].answer}.00")[1]
    assert tasks.notes == (
        "q.jsonl: 100 rows, 100 with an answer (JSON lines; question + answer)",
        "checker: number, guessed from the answers",
    )


def test_one_file_with_few_labels(tmp_path: Path) -> None:
    tasks = load(lines(tmp_path / "q.jsonl", *sums(30), *[{"question": f"Why {n}?"} for n in range(50)]), limit=40)
    assert (len(tasks.train), len(tasks.dev), len(tasks.vault)) == (40, 10, 20)
    assert {t.answer for t in tasks.train} == {None}


def test_no_labels_is_fine(tmp_path: Path) -> None:
    tasks = load(lines(tmp_path / "q.jsonl", {"prompt": "a"}, {"prompt": "b"}))
    assert (len(tasks.train), tasks.dev, tasks.vault) == (2, (), ()) and NO_LABELS in tasks.notes


def test_without_labels_votes_go_by_what_each_text_ends_with(tmp_path: Path) -> None:
    tasks = load(lines(tmp_path / "q.jsonl", {"prompt": "a"}, {"prompt": "b"}))
    assert "checker: any, as there is no answer to go by" in tasks.notes
    paths = ["First 2, then 3, so 5.", "2 and 3 make 5", "So Rome falls out.\nThe answer is Paris.", "#### Paris"]
    assert [tasks.check(tasks.train[0], p)[0] for p in paths] == ["5", "5", "paris", "paris"], "a majority can form"


def test_a_holdout_and_a_guard_of_their_own(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", *[{"question": f"Why {n}?"} for n in range(50)])
    holdout = lines(tmp_path / "h.jsonl", *sums(90))
    guard = lines(tmp_path / "g.jsonl", *[{"question": f"Pick {n}", "answer": "ABC"[n % 3]} for n in range(30)])
    tasks = load(path, holdout=str(holdout), guard=str(guard))
    assert (len(tasks.train), len(tasks.dev), len(tasks.vault), len(tasks.guards["guard"])) == (50, 30, 60, 30)
    assert tasks.vault[0].checker == "number" and tasks.guards["guard"][0].checker == "choice"
    assert tasks.guards["guard"][0].source.startswith("g.jsonl:")


def test_the_guard_has_a_checker_of_its_own(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", *sums(50))
    guard = str(lines(tmp_path / "g.jsonl", *[{"question": f"Pick {n}", "answer": "ABC"[n % 3]} for n in range(30)]))
    tasks = load(path, guard=guard, checker="number")
    assert tasks.vault[0].checker == "number" and tasks.guards["guard"][0].checker == "choice"
    assert tasks.notes[2:4] == ("checker: number, as the recipe says",
                                "checker of the guard: choice, guessed from the answers")  # fmt: skip
    named = load(path, guard=guard, guard_checker="regex", pattern=r"(\w)$")
    assert {t.checker for t in named.guards["guard"]} == {"regex"} <= named.checkers.keys()
    exact = load(path, guard=guard, guard_checker="exact")
    assert "checker of the guard: exact, as the recipe says" in exact.notes and exact.vault[0].checker == "number"
    with pytest.raises(DataError, match=r"g\.jsonl:1: the checker 'number' finds no answer") as error:
        load(path, guard=guard, guard_checker="number")
    assert "tasks.guard_checker=exact" in error.value.hint


def test_options_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    path, holdout = lines(tmp_path / "q.jsonl", *sums(5)), str(lines(tmp_path / "h.jsonl", *sums(5, 10)))
    with pytest.raises(RecipeError, match=r"the holdout becomes dev and vault, .* set for example train=0\.4 dev=0\.2"):
        load(path, holdout=holdout, train=1, dev=0, vault=0)
    assert len(load(path, holdout=holdout, train=0, dev=1, vault=0).dev) == 5
    with pytest.raises(RecipeError, match="guard_checker is for the file of the guard, and there is none: set guard"):
        load(path, guard_checker="exact")


def test_a_holdout_must_be_labelled(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", {"question": "a"})
    holdout = lines(tmp_path / "h.jsonl", *sums(2), {"question": "b"})
    with pytest.raises(DataError, match=r"h\.jsonl:3: no answer, but every row of this file is held out .*2 of 3 have"):
        load(path, holdout=str(holdout))


def test_a_gold_answer_that_the_checker_cannot_read_is_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", *sums(2), {"question": "b", "answer": "none"})
    with pytest.raises(DataError, match=r"q\.jsonl:3: the checker 'number' finds no answer in the gold answer 'none'"):
        load(path, checker="number")


def test_conflicting_answers_are_refused_and_equal_ones_counted(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", *sums(10), {"question": "What is 3+1?", "answer": "$4.00"})
    assert "1 duplicate questions dropped" in load(path).notes
    lines(path, *sums(10), {"question": "What is 3+1?", "answer": "5"})
    with pytest.raises(DataError, match=r"q\.jsonl:4 and q\.jsonl:11: the same question has two answers, '4' and '5'"):
        load(path)


def test_a_pattern_for_gold_answers_and_one_for_completions(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "answer": f"It follows. FINAL<{n}> end"} for n in range(10)]
    tasks = load(lines(tmp_path / "q.jsonl", *rows), answer_pattern=r"FINAL<(\d+)>", pattern=r"\d+")
    assert tasks.check(tasks.train[0], f"I say 3, no, {tasks.train[0].answer}")[1] and "regex" in tasks.checkers
    assert sorted(int(t.answer or "") for t in (*tasks.train, *tasks.dev, *tasks.vault)) == list(range(10))
    with pytest.raises(DataError, match=r"line 1: tasks\.answer_pattern finds no answer in 'It follows"):
        load(tmp_path / "q.jsonl", answer_pattern=r"END<(\d+)>")
    with pytest.raises(RecipeError, match=r"answer_pattern: .*not a regular expression"):
        load(tmp_path / "q.jsonl", answer_pattern="(")


def test_shares_must_add_up(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", *sums(10))
    with pytest.raises(RecipeError, match=r"train \+ dev \+ vault \+ test must be 1, they are 1\.1: set all of"):
        load(path, dev=0.3)
    assert len(load(path, train=0.5, dev=0.3, vault=0.2).dev) == 3


def test_the_order_of_the_file_changes_nothing(tmp_path: Path) -> None:
    rows = sums(60)
    first = load(lines(tmp_path / "a.jsonl", *rows))
    second = load(lines(tmp_path / "b.jsonl", *reversed(rows)))
    assert [t.id for t in first.train] == [t.id for t in second.train] and len(first.train) == 24
    assert first.vault_digest == second.vault_digest


def test_groups_never_cross(tmp_path: Path) -> None:
    rows = [row | {"passage": f"p{n // 5}"} for n, row in enumerate(sums(100))]
    tasks = load(lines(tmp_path / "q.jsonl", *rows))
    groups = [{t.group for t in part} for part in (tasks.train, tasks.dev, tasks.vault)]
    assert [len(g) for g in groups] == [8, 4, 8] and len(set.union(*groups)) == 20
