from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from selftaught.config import Member
from selftaught.errors import DataError
from selftaught.load import make
from selftaught.tasks._checkers import checker
from selftaught.tasks.gsm8k import Gsm8k, gold
from selftaught.tasks.jsonl import Jsonl

ROWS = {"train.jsonl": 7473, "test.jsonl": 1319}


def published(folder: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "gsm8k" / name).read_text().splitlines()]


@pytest.mark.parametrize("name", ROWS)
def test_every_published_answer_is_read_as_the_official_code_does(shared_data: Path, name: str) -> None:
    rows = published(shared_data, name)
    official = [re.search(r"#### (\-?[0-9\.\,]+)", r["answer"])[1].strip().replace(",", "") for r in rows]  # type: ignore[index]
    assert len(rows) == ROWS[name]
    assert [gold(r["answer"]) for r in rows] == official
    number = checker("number")
    for row, answer in zip(rows, official, strict=True):
        parsed = number.parse(row["answer"])
        assert parsed is not None and number.same(parsed, answer), row["answer"]
        assert parsed == answer.removesuffix(".").removesuffix(".0") or float(parsed) == float(answer)


def test_the_published_folder_is_split(shared_data: Path) -> None:
    tasks = make("tasks", Member(name="gsm8k", path=str(shared_data / "gsm8k"))).load(seed=0)  # type: ignore[call-arg]
    assert abs(len(tasks.train) - 7473) <= 20 and len(tasks.dev) + len(tasks.vault) == 1319
    assert len(tasks.dev) == 440
    assert {t.source.split(":")[0] for t in tasks.train} == {"train.jsonl"}
    assert {t.source.split(":")[0] for t in tasks.vault} == {"test.jsonl"}
    assert tasks.notes[0] == "train.jsonl: 7473 rows, 7473 with an answer (JSON lines; question + answer)"


def test_jsonl_reads_it_the_same(shared_data: Path) -> None:
    path = str(shared_data / "gsm8k" / "test.jsonl")
    first, second = Gsm8k(Gsm8k.Options(path=path)).load(0), Jsonl(Jsonl.Options(path=path)).load(0)
    assert first.vault_digest == second.vault_digest and "checker: number, guessed from the answers" in second.notes
    number = checker("number")
    pairs = zip(first.vault, second.vault, strict=True)
    assert all(number.same(a.answer or "", b.answer or "") for a, b in pairs)


def write(path: Path, *rows: dict[str, str]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_a_row_of_another_layout_is_named(tmp_path: Path) -> None:
    good = {"question": "1+1?", "answer": "1+1=2\n#### 2"}
    write(tmp_path / "q.jsonl", good, {"question": "2+2?", "answer": "4"})
    with pytest.raises(
        DataError, match=r"q\.jsonl, line 2: not a GSM8K row .*question, answer.* 1 good .* 2 rows"
    ) as error:
        Gsm8k(Gsm8k.Options(path=str(tmp_path / "q.jsonl"))).load(0)
    assert "tasks.name=jsonl" in error.value.hint


def test_a_folder_without_the_files_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {"question": "1+1?", "answer": "#### 2"})
    with pytest.raises(DataError, match=r"has no test\.jsonl; it holds train\.jsonl"):
        Gsm8k(Gsm8k.Options(path=str(tmp_path))).load(0)
