"""A file of real text in the place of a model that writes: its texts are drawn, re-tokenised and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import small
import test_prompt_free as runs
from selftaught import integrity, loop, roles
from selftaught.engines.base import Request
from selftaught.engines.scripted import BOS, ByteTokens
from selftaught.engines.text_file import PROMPTED, TextFile, TextFileOptions
from selftaught.errors import DataError, IntegrityError, Stopped
from selftaught.ledger import read_run
from selftaught.rows import read_rows
from selftaught.types import Rollout, Sampling

TEXTS = [f"Passage {i} tells of something that a person wrote down, number {i * i}." for i in range(25)]


def file_of(folder: Path, texts: list[str] = TEXTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.txt").write_text("\n\n".join(texts))
    return folder / "texts.txt"


def drawn(path: Path, *seeds: int, prompt: tuple[int, ...] = ()) -> list[str]:
    made = TextFile(TextFileOptions(path=str(path)))
    checkpoint = made.open()
    [(index, found)] = made.generate([Request(checkpoint, prompt, Sampling(len(seeds)), seeds)])
    assert index == 0
    return [c.error or made.tokens(checkpoint).decode(c.ids) for c in found]


def test_a_sample_is_the_text_of_its_seed(tmp_path: Path) -> None:
    path = file_of(tmp_path, ["a\nb", "c", "a b", "d"])
    assert drawn(path, 0, 1, 2, 5, 2**62) == ["a b", "c", "d", "d", ["a b", "c", "d"][2**62 % 3]], (
        "three different ones"
    )


def test_the_texts_are_the_source_s_name_and_not_where_they_lie(tmp_path: Path) -> None:
    names = [TextFile(TextFileOptions(path=str(file_of(tmp_path / d, t)))).open().digest
             for d, t in (("a", TEXTS), ("b", TEXTS), ("c", TEXTS[:-1]))]  # fmt: skip
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    ("prompt", "answered"), [((), True), (tuple(b"\n"), True), (tuple(b"Q: 1+1"), False), (tuple(b"x"), False)]
)
def test_only_nothing_is_answered(tmp_path: Path, prompt: tuple[int, ...], answered: bool) -> None:
    found = drawn(file_of(tmp_path), 3, 4, prompt=prompt)
    assert found == ([TEXTS[3], TEXTS[4]] if answered else [PROMPTED] * 2)


def test_it_stops_when_it_is_asked_to(tmp_path: Path) -> None:
    made = TextFile(TextFileOptions(path=str(file_of(tmp_path))))
    request = Request(made.open(), (), Sampling(1), (0,))
    with pytest.raises(Stopped):
        list(made.generate([request, request], stop=small.after(1)))


# ---------------------------------------------------------------- in a run


def test_a_run_learns_the_texts_of_the_file(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    record = runs.run_of(tmp_path / "run", f"roles.source={path}")
    assert record.final is not None
    counts = record.final.counts
    assert (counts["source: samples"], counts["source: re-tokenised"]) == (40, 40)
    assert counts[f"samples after the token ids [{BOS}]"] == 40
    [rows] = [read_rows(record.path / e["place"] / "rows.parquet", Rollout)
              for e in record.units("rollouts") if "source" in e["facts"]]  # fmt: skip
    tokens = ByteTokens(4096)
    assert {r.text for r in rows} <= {*TEXTS} and len({r.text for r in rows}) > 12
    assert all(r.completion_ids == tokens.encode_completion(r.text) and r.tokenizer == tokens.digest for r in rows)
    assert counts["tokens of text"] == sum(len(r.completion_ids) for r in rows)
    own = [e for e in small.kept(record) if e.own]
    assert {e.text for e in own} == {r.text for r in rows}, "each once: copies are rejected"
    assert counts["rejected"] >= 40 - len(own)
    assert roles.written_by(record.recipe) == f"nobody writes here: the texts of {path} are what is learned from"
    assert all(c.ok for c in integrity.verify(record.path))


def test_a_student_without_a_begin_token_reads_the_file_too(tmp_path: Path) -> None:
    given = (runs.RECIPE, f"roles.source={file_of(tmp_path)}", f"method.begin={json.dumps(chr(10))}", "train.replay=0")
    folder = small.prepared(tmp_path / "run", *given)
    done = loop.run(folder, engine=runs.Beginless(runs.Beginless.Options()))
    assert done.counts["samples after the token ids [10]"] == 40 and done.counts["kept from rollouts"] > 12


def test_a_text_longer_than_the_student_s_context_is_dropped_and_counted(tmp_path: Path) -> None:
    path = file_of(tmp_path, [*TEXTS[:3], "long " * 90])
    record = runs.run_of(tmp_path / "run", f"roles.source={path}", "engine.context=400")
    assert record.final is not None
    lost = record.final.counts["samples dropped: longer than the student's context"]
    assert 0 < lost < 40 and not [e for e in small.kept(record) if e.text.startswith("long")]


def test_a_method_that_asks_is_left_without_an_example(tmp_path: Path) -> None:
    record = small.prepared(tmp_path / "run", f"roles.source={file_of(tmp_path)}")
    done = loop.run(record)
    assert done.decision.outcome == "nothing to train on"
    rows = [read_rows(record / e["place"] / "rows.parquet", Rollout) for e in read_run(record).units("rollouts")]
    assert {r.error for some in rows for r in some} == {PROMPTED} and sum(map(len, rows)) == 320


def test_a_run_keeps_the_texts_that_it_began_with(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    folder = small.prepared(tmp_path / "run", runs.RECIPE, f"roles.source={path}")
    with pytest.raises(Stopped):
        loop.run(folder, stop=small.after(20))
    file_of(tmp_path, TEXTS[:-1])
    with pytest.raises(IntegrityError, match="began with another roles"):
        loop.run(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"", "roles.source: .*a.txt holds no text"),
        ("a.txt", b" \n\n \n", "holds no text"),
        ("a.jsonl", b'{"text": "a"}\n{"tekst": "b"}\n', "a.jsonl, line 2: no text"),
        ("a.csv", b"text\na\n", "a.csv is a .csv file, not text"),
        ("a.txt", b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_file_without_text_is_refused_before_the_run(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        small.prepared(tmp_path / "run", runs.RECIPE, f"roles.source={tmp_path / name}")
    assert not (tmp_path / "run").exists()
