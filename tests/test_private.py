"""Files of private texts and canaries: what is read, and that whatever cannot be is named and never passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selftaught.errors import DataError
from selftaught.private import Sources, read_private
from selftaught.types import Canary, Private

CANARY = {"before": "The code is", "secret": [" 4", " 7"], "space": [[" 1", " 4"], [" 7", " 9"]], "repeats": 2}


def lines(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in CANARY.items() if k != key}


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("name", ["one.txt", "one.md", "ONE.TXT"])
def test_a_text_file_is_one_text_as_it_stands(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("\ufeff\n  one line\n\nand another, naïve\n\n", encoding="utf-8")
    assert read_private(str(tmp_path / name)) == Sources((Private("one line\n\nand another, naïve"),))


def test_lines_hold_texts_and_canaries(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "some.jsonl", "\ufeff" + json.dumps({"text": "a\u2028b"}), {"text": "c", "repeats": 0}, "", CANARY,
        {"text": "d", "repeats": 4, "name": "Ana"},
    )  # fmt: skip
    found = read_private(path)
    assert found.texts == (Private("a\u2028b"), Private("c", 0), Private("d", 4))
    assert found.canaries == (Canary("The code is", (" 4", " 7"), ((" 1", " 4"), (" 7", " 9")), 2),)
    assert found.canaries[0].text == "The code is 4 7"


def test_a_text_stands_once_and_the_same_text_seen_otherwise_is_another(tmp_path: Path) -> None:
    path = lines(tmp_path / "some.jsonl", {"text": "a"}, {"text": "a"}, {"text": "a", "repeats": 1})
    assert read_private(path).texts == (Private("a"), Private("a", 1))


def test_a_folder_is_all_such_files_in_it_in_the_order_of_their_paths(tmp_path: Path) -> None:
    (tmp_path / "in" / "here.txt").mkdir(parents=True)  # a folder whose name looks like a file's
    (tmp_path / "in" / "here.txt" / "z.md").write_text("z")
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "picture.png").write_bytes(b"\xff")
    lines(tmp_path / "a.jsonl", {"text": "a"}, CANARY)
    found = read_private(str(tmp_path))
    assert [t.text for t in found.texts] == ["a", "b", "z"] and len(found.canaries) == 1


def test_canaries_alone_are_enough(tmp_path: Path) -> None:
    assert read_private(lines(tmp_path / "some.jsonl", CANARY)).texts == ()


def test_the_digest_names_every_text_and_canary(tmp_path: Path) -> None:
    given = [
        ({"text": "a"},),
        ({"text": "a", "repeats": 1},),
        ({"text": "a"}, CANARY),
        ({"text": "a"}, without("repeats")),
    ]
    digests = [read_private(lines(tmp_path / "some.jsonl", *rows)).digest for rows in given]
    assert len({*digests}) == 4
    assert digests[0] == read_private(lines(tmp_path / "again.jsonl", *given[0])).digest, "and not where they lie"


# ---------------------------------------------------------------- what is not


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"text\na\n", "a.csv is no text"),
        ("a.txt", b"\xff\xfe broken", "a.txt cannot be read: 'utf-8' codec can't decode byte 0xff in position 0"),
        ("a.jsonl", b'{"text": "a"}\n\xff\n', "a.jsonl cannot be read: 'utf-8'"),
        ("a.txt", b"", "a.txt holds no text"),
        ("a.jsonl", b"\n\n", "a.jsonl holds no text"),
        ("a.jsonl", b'{"text": "a"}\nno json\n', "a.jsonl, line 2: neither a text nor a canary"),
        ("a.jsonl", b'["a"]\n', "line 1: neither a text nor a canary"),
        ("a.jsonl", b'{"text": ""}\n', "line 1: neither a text nor a canary ('' is no text)"),
        ("a.jsonl", b'{"text": 5}\n', "line 1: neither a text nor a canary (5 is no text)"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: neither a text nor a canary ('utf-8' codec can't encode"),
        ("a.jsonl", b'{"text": "a", "repeats": -1}\n', "line 1: neither a text nor a canary (repeats is no count)"),
        ("a.jsonl", b'{"text": "a", "repeats": true}\n', "(repeats is no count)"),
        ("a.jsonl", b'{"text": "a", "repeats": 1.5}\n', "(repeats is no count)"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        read_private(str(tmp_path / name))
    assert error.value.message.startswith("private: ") and said in error.value.message
    assert error.value.hint.startswith("Give .txt or .md files")


def test_what_is_not_there_or_holds_nothing_is_named(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "nowhere", "is not there"), (tmp_path / "gone.txt", "is not there")):
        with pytest.raises(DataError, match=said):
            read_private(str(path))
    with pytest.raises(DataError, match="holds no text"):
        read_private(str(tmp_path))


def test_one_bad_file_in_a_folder_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.md").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"b\.md cannot be read"):
        read_private(str(tmp_path))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (without("before"), "neither a text nor a canary ('before')"),
        (without("secret"), "neither a text nor a canary ('secret')"),
        (without("space"), "neither a text nor a canary ('space')"),
        (CANARY | {"before": ""}, "('' is no text)"),
        (CANARY | {"secret": [" 4"]}, "every piece of the secret has to stand in its slot of the space"),
        (CANARY | {"secret": [" 4", " 8"]}, "every piece of the secret has to stand in its slot of the space"),
        (CANARY | {"space": [[" 4"], [" 7", " 7"]]}, "every piece of the secret"),  # it could be nothing else
        (CANARY | {"secret": [], "space": []}, "every piece of the secret"),
        (CANARY | {"secret": [" 4", 7]}, "(7 is no text)"),
    ],
)
def test_a_canary_that_cannot_be_measured_is_refused(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as error:
        read_private(lines(tmp_path / "some.jsonl", {"text": "a"}, row))
    assert "line 2: " in error.value.message and said in error.value.message
