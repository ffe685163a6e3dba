"""Nothing is lost, nothing is half written, and what was changed behind our back is named."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from selftaught import store
from selftaught.errors import IntegrityError, RunError, RunLocked
from selftaught.ledger import is_locked, read_report
from selftaught.rows import read_rows, write_report, write_rows
from selftaught.store import Store, read_chain, read_lines, write_file
from selftaught.types import Example, Metric, Report, Rollout, Task, Verdict

UNITS = 200
WORKER = """
import sys
from pathlib import Path
from selftaught.store import Store

def make(number):
    def fill(folder):
        (folder / "rows.txt").write_text(f"unit {number}\\n" * 50)
        return {"number": number}
    return fill

with Store(Path(sys.argv[1])) as store:
    store.journal("started")
    print("holding", flush=True)
    for number in range(int(sys.argv[2])):
        store.unit("work", number, f"work/{number:03d}", make(number))
    if sys.argv[3:] == ["hold"]:
        sys.stdin.read()
"""


def writing(content: str, **facts: Any) -> Callable[[Path], Mapping[str, Any]]:
    def make(folder: Path) -> Mapping[str, Any]:
        (folder / "data.txt").write_text(content)
        return facts

    return make


def two_units(folder: Path) -> None:
    with Store(folder) as run:
        run.unit("work", "a", "work/a", writing("one", number=1))
        run.unit("work", "b", "work/b", writing("two", number=2))


def worker(folder: Path, units: int, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), str(units), *words],
        text=True,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


# ---------------------------------------------------------------- units


def test_a_unit_is_made_once_and_then_read_back(tmp_path: Path) -> None:
    with Store(tmp_path / "run") as run:
        made = run.unit("work", ["a", 1], "work/a", writing("one", number=1))
        again = run.unit("work", ["a", 1], "work/a", writing("never written"))
    assert (made.fresh, again.fresh) == (True, False)
    with Store(tmp_path / "run") as run:
        read = run.unit("work", ["a", 1], "work/a", writing("never written"))
    assert (read.fresh, read.facts, (read.folder / "data.txt").read_text()) == (False, {"number": 1}, "one")


def test_facts_are_the_same_fresh_and_read_back(tmp_path: Path) -> None:
    facts = {"tuple": (1, 2), "numbers": {10: "ten", 9: "nine"}, "text": "ünï\ud83d\u2028", "none": None, "float": 1e-7}
    with Store(tmp_path) as run:
        fresh = run.unit("work", 1, "work", writing("x", **facts)).facts
    with Store(tmp_path) as run:
        assert run.unit("work", 1, "work", writing("x")).facts == fresh
    assert fresh["tuple"] == [1, 2] and fresh["numbers"] == {"10": "ten", "9": "nine"}


def test_nested_files_belong_to_the_unit(tmp_path: Path) -> None:
    def make(folder: Path) -> Mapping[str, Any]:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights").write_bytes(b"\x00\x01")
        return {}

    with Store(tmp_path) as run:
        run.unit("candidate", 1, "round-000/candidate", make)
    assert list(read_chain(tmp_path)[0]["files"]) == ["adapter/weights"]


def test_a_unit_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> Mapping[str, Any]:
        (folder / "half.txt").write_text("half")
        raise ValueError("disk on fire")

    with Store(tmp_path) as run:
        with pytest.raises(ValueError, match="disk on fire"):
            run.unit("work", 1, "work/a", fail)
        assert not (tmp_path / "work" / "a").exists() and run.chain == []
        assert run.unit("work", 1, "work/a", writing("whole")).fresh
    assert [p.name for p in (tmp_path / "work" / "a").iterdir()] == ["data.txt"], "the half file is gone"


def test_a_unit_published_but_not_committed_does_not_exist(tmp_path: Path) -> None:
    two_units(tmp_path)
    chain = tmp_path / "chain.jsonl"
    lines = chain.read_bytes().splitlines(keepends=True)
    chain.write_bytes(lines[0])  # the crash came after the folder was renamed and before the line was written
    with Store(tmp_path) as run:
        again = run.unit("work", "b", "work/b", writing("two", number=2))
    assert again.fresh, "it is made again"
    assert chain.read_bytes() == b"".join(lines), "and the record is what it would have been"


def test_other_work_never_takes_a_committed_place(tmp_path: Path) -> None:
    two_units(tmp_path)
    with Store(tmp_path) as run, pytest.raises(RunError, match="work/a already holds other committed work"):
        run.unit("work", "changed", "work/a", writing("three"))
    assert (tmp_path / "work" / "a" / "data.txt").read_text() == "one"


def test_two_runs_of_the_same_work_have_the_same_chain(tmp_path: Path) -> None:
    two_units(tmp_path / "one")
    two_units(tmp_path / "two")
    chains = [(tmp_path / name / "chain.jsonl").read_bytes() for name in ("one", "two")]
    assert chains[0] == chains[1], "no clock, no process id, no path"


# ---------------------------------------------------------------- damage


def test_a_flipped_byte_is_named(tmp_path: Path) -> None:
    two_units(tmp_path)
    path = tmp_path / "work" / "a" / "data.txt"
    path.write_text("onf")
    with Store(tmp_path) as run, pytest.raises(IntegrityError, match=r"a/data.txt is not what was") as caught:
        run.unit("work", "a", "work/a", writing("one"))
    assert caught.value.exit_code == 7


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    two_units(tmp_path)
    (tmp_path / "work" / "a" / "data.txt").unlink()
    with Store(tmp_path) as run, pytest.raises(IntegrityError, match=r"work/a/data.txt is missing"):
        run.unit("work", "a", "work/a", writing("one"))


def edit_chain(folder: Path, number: int, edit: Callable[[bytes], bytes]) -> None:
    path = folder / "chain.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number] = edit(lines[number])
    path.write_bytes(b"".join(lines))


def rehashed(line: bytes) -> bytes:
    entry = json.loads(line)
    entry["facts"] = {"number": 7}
    del entry["hash"]
    return store.canonical({**entry, "hash": store.digest(entry)}) + b"\n"


EDITS: dict[str, tuple[int, Callable[[bytes], bytes], int]] = {
    "a value": (0, lambda line: line.replace(b'"number":1', b'"number":7'), 0),
    "a value, with its hash made to fit": (0, rehashed, 1),
    "an entry taken out": (0, lambda line: b"", 0),
    "an entry twice": (1, lambda line: line + line, 2),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edited_entry_is_named(tmp_path: Path, what: str) -> None:
    two_units(tmp_path)
    line, edit, named = EDITS[what]
    edit_chain(tmp_path, line, edit)
    with pytest.raises(IntegrityError, match=rf"chain.jsonl, entry {named}: the chain does not hold together"):
        Store(tmp_path)


@pytest.mark.parametrize("line", [b"\n", b"{\n", b"[]\n", b'{"a":NaN}\n', b"\xff\n", b"null\n"])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: bytes) -> None:
    two_units(tmp_path)
    edit_chain(tmp_path, 1, lambda _: line)
    with pytest.raises(IntegrityError, match=r"chain.jsonl, line 2: not JSON"):
        Store(tmp_path)


def test_a_store_that_cannot_open_keeps_no_lock(tmp_path: Path) -> None:
    two_units(tmp_path)
    edit_chain(tmp_path, 0, lambda _: b"{\n")
    with pytest.raises(IntegrityError, match="not JSON") as caught:
        Store(tmp_path)
    assert not is_locked(tmp_path), f"although somebody still holds {caught.type.__name__}"


@pytest.mark.parametrize("name", ["chain.jsonl", "journal.jsonl"])
def test_a_torn_tail_is_cut_off(tmp_path: Path, name: str) -> None:
    two_units(tmp_path)
    with Store(tmp_path) as run:
        run.journal("started")
    whole = (tmp_path / name).read_bytes()
    with (tmp_path / name).open("ab") as file:
        file.write(b'{"half": "a li')
    with Store(tmp_path) as run:
        assert (tmp_path / name).read_bytes() == whole
        run.unit("work", "c", "work/c", writing("three"))
        run.journal("resumed")
    assert [entry["unit"] for entry in read_chain(tmp_path)] and len(read_chain(tmp_path)) == 3
    assert [entry["event"] for entry in read_lines(tmp_path / "journal.jsonl")] == ["started", "resumed"]


def test_a_reader_never_cuts_what_a_writer_is_writing(tmp_path: Path) -> None:
    path = tmp_path / "chain.jsonl"
    path.write_bytes(b'{"a":1}\n{"b":')
    assert read_lines(path) == [{"a": 1}], "the half line is passed over"
    assert path.read_bytes() == b'{"a":1}\n{"b":', "and left to its writer"


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "chain.jsonl"
    store.append_line(path, {"a": 1})
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            store.append_line(path, {"b": "a line that does not fit"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before


def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    two_units(tmp_path)
    for place in (".tmp-work", "work/.tmp-c", "work/.tmp-c/.tmp-inner"):
        (tmp_path / place).mkdir()
    (tmp_path / "work" / ".tmp-c" / "half.txt").write_text("half")
    (tmp_path / ".tmp-recipe.yaml").write_text("half")
    with Store(tmp_path):
        assert [str(p) for p in tmp_path.rglob(".tmp-*")] == []
    assert (tmp_path / "work" / "a" / "data.txt").read_text() == "one"


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "recipe.yaml"
    write_file(path, b"one")
    write_file(path, b"two")
    assert [(p.name, p.read_bytes()) for p in path.parent.iterdir()] == [("recipe.yaml", b"two")]


# ---------------------------------------------------------------- one writer


def test_a_second_process_is_refused_and_told_who(tmp_path: Path) -> None:
    with worker(tmp_path, 1, "hold") as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "holding\n"
        assert is_locked(tmp_path)
        with pytest.raises(RunLocked, match=rf"is in use by process {holder.pid} on ") as caught:
            Store(tmp_path)
        assert caught.value.exit_code == 6 and "name=" in caught.value.hint
        holder.communicate("")
    with Store(tmp_path) as run:
        assert len(run.chain) == 1, "when it has ended, the next may write"


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with worker(tmp_path, 1, "hold") as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "holding\n"
        holder.kill()
    assert not is_locked(tmp_path)
    with Store(tmp_path) as run:
        assert run.unit("more", 1, "more", writing("x")).fresh


def test_asking_whether_a_run_is_locked_changes_nothing(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not is_locked(tmp_path / "absent")


def test_killed_again_and_again_it_ends_as_if_never_killed(tmp_path: Path) -> None:
    with worker(tmp_path / "calm", UNITS) as calm:
        assert calm.stdout is not None and calm.stdout.readline() == "holding\n"
        began = time.monotonic()
        calm.wait()
    pause, moments, left = time.monotonic() - began, random.Random(20), []
    for _ in range(8):
        with worker(tmp_path / "killed", UNITS) as process:
            assert process.stdout is not None and process.stdout.readline() == "holding\n", (
                "it starts from what was left"
            )
            time.sleep(moments.uniform(0, 0.2) * pause)
            process.kill()
        left.append(len(read_chain(tmp_path / "killed")))
    with worker(tmp_path / "killed", UNITS) as process:
        process.communicate()
    assert len(set(left) - {0, UNITS}) > 0, f"the kills came in the middle: {left}"
    chains = [(tmp_path / name / "chain.jsonl").read_bytes() for name in ("calm", "killed")]
    assert chains[0] == chains[1], "the chain is the same, bit for bit"
    for entry in read_chain(tmp_path / "killed"):
        store.check_files(tmp_path / "killed" / entry["place"], entry["files"])
    assert len(read_chain(tmp_path / "killed")) == UNITS


# ---------------------------------------------------------------- rows

TASKS = [
    Task(({"role": "user", "content": 'ünï 🙂 \u2028 "q"\n'}, {"role": "assistant", "content": ""}), "", group="g"),
    Task(()),
]
ROLLOUTS = [
    Rollout("t", 0, "a", "k", (), (), (), "", 2**63 - 1, error="context"),
    Rollout("t", 2**31 - 1, "human:ana", "k", (1, 2**31 - 1), (3,), (-0.1,), "é🙂\x00", 0, answer=""),
]
EXAMPLES = [
    Example((), (), ""),
    Example((1,), (2, 3), "ü", "t", (4,), "dpo", -0.3, "replay", ("r1", "r2")),
]
VERDICTS = [Verdict("s", "human:ana", ok=True), Verdict("s", "filter:x", ok=False, reason="zu läng", value="")]


@pytest.mark.parametrize("rows", [TASKS, ROLLOUTS, EXAMPLES, VERDICTS], ids=lambda rows: type(rows[0]).__name__)
def test_rows_come_back_as_they_were(tmp_path: Path, rows: list[Any]) -> None:
    path, kind = tmp_path / "rows.parquet", type(rows[0])
    write_rows(path, kind, rows)
    assert read_rows(path, kind) == rows
    assert [r.id for r in read_rows(path, kind) if hasattr(r, "id")] == [r.id for r in rows if hasattr(r, "id")]


@pytest.mark.parametrize("kind", [Task, Rollout, Example, Verdict])
def test_no_rows_come_back_as_none(tmp_path: Path, kind: type[Any]) -> None:
    write_rows(tmp_path / "rows.parquet", kind, [])
    assert read_rows(tmp_path / "rows.parquet", kind) == []


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_rows(tmp_path / name, Rollout, ROLLOUTS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_reports_come_back_as_they_were(tmp_path: Path) -> None:
    report = Report(
        "evaluation", "sört", "d", "dev", {"accuracy": Metric(0.5, 2, 0.1, 0.9)}, (1.0, 0.0), ("a", "b"), (None, "g")
    )
    write_report(tmp_path / "report.json", report)
    assert read_report(tmp_path / "report.json") == report


def test_chunks_cover_everything_in_order() -> None:
    assert [list(c) for c in store.chunks([1, 2, 3, 4, 5], 2)] == [[1, 2], [3, 4], [5]]
    assert list(store.chunks([], 2)) == []


def test_a_folders_digest_sees_names_and_bytes(tmp_path: Path) -> None:
    digests = set()
    for name, data in [("a", b"1"), ("b", b"1"), ("a", b"2")]:
        folder = tmp_path / f"{name}{data.decode()}"
        write_file(folder / name, data)
        digests.add(store.folder_digest(folder))
    assert len(digests) == 3
    assert store.folder_digest(tmp_path / "a1", ["a"]) == store.folder_digest(tmp_path / "a1")
