"""A clock that is set forward or back changes no duration, no order and no outcome. Scorecard row 12."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import small
from selftaught import ledger, loop, report
from selftaught.errors import Stopped

DAY = 86_400.0
JUMPS: dict[str, Callable[[int], float]] = {
    "a day back in the middle": lambda line: -DAY * (line > 4),
    "a day forward in the middle": lambda line: DAY * (line > 4),
    "back and forward at every line": lambda line: DAY * (-1) ** line,
    "an hour back each line": lambda line: -3600.0 * line,
    "stopped": lambda line: 0.0,
}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small.prepared(tmp_path_factory.mktemp("runs") / "run")
    with pytest.raises(Stopped):
        loop.run(folder, stop=small.after(60))
    loop.run(folder)
    return folder


def journal_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("jump", JUMPS)
def test_durations_and_outcome_do_not_depend_on_the_clock(resumed: Path, tmp_path: Path, jump: str) -> None:
    folder = Path(shutil.copytree(resumed, tmp_path / "run"))
    whole = report.stage_seconds(journal_of(folder))
    lines = [e | {"time": (0.0 if jump == "stopped" else e["time"]) + JUMPS[jump](n)}
             for n, e in enumerate(journal_of(folder))]  # fmt: skip
    (folder / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in lines))
    record = ledger.read_run(folder)
    cost = report.cost(record)
    assert (cost["stages"], cost["attempts"]) == whole == (whole[0], 2)
    assert set(whole[0]) == {"prepare", "sample", "curate", "train", "evaluate", "audit", "gate", "record"}
    assert all(0 <= seconds < 30 for seconds in whole[0].values()) and sum(whole[0].values()) > 0
    assert record.outcome == "proved"
    report.write_report(folder)


def test_an_attempt_on_another_day_and_after_another_start_of_the_machine_counts_for_itself() -> None:
    """Seconds since boot begin anew with each start of the machine; between attempts nothing is subtracted."""
    events = [("started", 5000.0), ("sample", 5001.0), ("stopped", 5011.0), ("resumed", 20.0), ("sample", 21.0),
              ("train", 51.0), ("finished", 111.0)]  # fmt: skip
    journal = [{"event": e if e in ("started", "stopped", "resumed", "finished") else "stage", "stage": e,
                "time": -s, "seconds": s} for e, s in events]  # fmt: skip
    assert report.stage_seconds(journal) == ({"sample": 10 + 30, "train": 60}, 2)


def test_a_journal_of_before_counts_a_clock_set_back_for_nothing() -> None:
    times = [("started", 100.0), ("stage", 101.0), ("stage", 101.0 - DAY), ("finished", 109.0 - DAY)]
    journal = [{"event": e, "stage": f"stage {n}", "time": t} for n, (e, t) in enumerate(times)]
    assert report.stage_seconds(journal) == ({"stage 1": 0.0, "stage 2": 8.0}, 1)


@pytest.mark.parametrize("outcome", ["stopped", "broken", "paused"])
def test_how_an_attempt_ended_is_what_was_written_last(tmp_path: Path, outcome: str) -> None:
    folder = small.prepared(tmp_path / "run")
    events = ["started", "broken", "resumed", "paused", "resumed", outcome]
    lines = [{"event": e, "time": 1000.0 - DAY * n, "head": "0" * 64} for n, e in enumerate(events)]
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert ledger.read_run(folder).outcome == outcome


NAMES = ["zebra-1", "ant-1", "zebra-2", "bee-1"]  # as begun: neither by name nor, below, by age


@pytest.mark.parametrize("age", [lambda n: 1000 - n, lambda n: 1000, lambda n: 1000 + 7 * n % 3, lambda n: -n])
def test_the_latest_run_is_the_one_that_was_begun_last(tmp_path: Path, age: Callable[[int], int]) -> None:
    for number, name in enumerate(NAMES):
        small.prepared(tmp_path / name)
        os.utime(tmp_path / name / "recipe.yaml", (age(number), age(number)))
    assert [p.name for p in ledger.list_runs(tmp_path)] == NAMES
    assert ledger.find_run("latest", tmp_path).name == "bee-1"
    shutil.rmtree(tmp_path / "ant-1")
    small.prepared(tmp_path / "ant-1")
    assert ledger.find_run("latest", tmp_path).name == "ant-1", "a number is not given twice while it counts"


def test_runs_without_a_number_come_first_by_age_and_at_once_by_name(tmp_path: Path) -> None:
    for number, name in enumerate(["new-2", "new-1", "old-b", "old-a"]):
        small.prepared(tmp_path / name)
        os.utime(tmp_path / name / "recipe.yaml", (1000 - number, 1000 - number))
    (tmp_path / "old-b" / "number").write_bytes(b"\x00\x00")
    (tmp_path / "old-a" / "number").unlink()
    (tmp_path / "new-1" / "number").write_bytes(b"1\n")  # begun at the same moment as new-2
    assert [p.name for p in ledger.list_runs(tmp_path)] == ["old-a", "old-b", "new-1", "new-2"]
