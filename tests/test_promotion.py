"""The champion: who may become it, who has to say so, and how it is taken back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import selftaught
import small
from selftaught import champions, ledger, loop, trends
from selftaught.engines.base import Completion, Request
from selftaught.engines.scripted import EOS, Scripted
from selftaught.errors import IntegrityError, RunError


def proved(root: Path, name: str = "one", *overrides: str) -> Path:
    folder = small.prepared(root / name, *overrides)
    assert loop.run(folder).decision.outcome == "proved"
    return folder


def test_a_proved_model_is_promoted_and_known_as_the_champion(tmp_path: Path) -> None:
    folder = proved(tmp_path)
    found = selftaught.promote(folder, "ana", "looks right")
    assert (found.missing, found.champion) == (0, "one")
    assert ledger.read_run(folder).outcome == "promoted"
    assert ledger.find_run("champion", tmp_path) == folder
    assert selftaught.ask("champion", "1+1", runs=tmp_path).after
    assert [e["action"] for e in champions.entries(tmp_path)] == ["approved", "promoted"]
    selftaught.promote(folder, "ana")
    assert len(champions.entries(tmp_path)) == 2, "said twice, done once"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [(("tasks.vault=0",), "is accepted: only a proved"), (("engine.learns=-0.5",), "is rejected: only a proved")],
)
def test_what_is_not_proved_is_not_promoted(tmp_path: Path, overrides: tuple[str, ...], says: str) -> None:
    folder = small.prepared(tmp_path / "one", *overrides)
    loop.run(folder)
    with pytest.raises(RunError, match=says):
        selftaught.promote(folder, "ana")
    assert champions.entries(tmp_path) == []


def test_a_record_that_does_not_hold_is_not_promoted(tmp_path: Path) -> None:
    folder = proved(tmp_path)
    (folder / "round-000" / "examples" / "kept.parquet").write_bytes(b"?")
    with pytest.raises(IntegrityError, match="does not hold: files"):
        selftaught.promote(folder, "ana")


def test_it_takes_as_many_different_people_as_the_recipe_says(tmp_path: Path) -> None:
    folder = proved(tmp_path, "one", "promotion.people=2")
    assert selftaught.promote(folder, "ana").missing == 1
    assert selftaught.promote(folder, "ana").missing == 1, "the same person twice is one"
    assert champions.champion(tmp_path) is None and ledger.read_run(folder).outcome == "proved"
    assert selftaught.promote(folder, "ben").champion == "one"
    with pytest.raises(RunError, match="is not a name"):
        selftaught.promote(folder, "a\nb")


def test_rolled_back_the_one_before_is_the_champion_with_the_same_bytes(tmp_path: Path) -> None:
    first, second = proved(tmp_path, "one"), proved(tmp_path, "two", "engine.learns=0.6")
    before = small.bytes_of(first)
    selftaught.promote(first, "ana")
    selftaught.promote(second, "ana")
    assert [ledger.read_run(f).outcome for f in (first, second)] == ["proved", "promoted"]
    assert selftaught.rollback("ben", "it was worse", runs=tmp_path) == "one"
    assert ledger.find_run("champion", tmp_path) == first and small.bytes_of(first) == before
    assert selftaught.promote(second, "ana").champion == "two", "a rollback can be taken back"
    selftaught.rollback("ben", runs=tmp_path)
    assert selftaught.rollback("ben", runs=tmp_path) is None and champions.champion(tmp_path) is None
    with pytest.raises(RunError, match="There is no champion"):
        selftaught.rollback("ben", runs=tmp_path)


def test_a_damaged_predecessor_is_not_gone_back_to(tmp_path: Path) -> None:
    first, second = proved(tmp_path, "one"), proved(tmp_path, "two", "engine.learns=0.6")
    selftaught.promote(first, "ana")
    selftaught.promote(second, "ana")
    kept = ledger.read_run(first).kept
    assert kept is not None
    (kept / "scripted.json").write_text("{}")
    with pytest.raises(IntegrityError, match="not what was recorded"):
        selftaught.rollback("ben", runs=tmp_path)
    assert champions.champion(tmp_path)["run"] == "two"  # type: ignore[index]


def test_an_edited_list_is_named(tmp_path: Path) -> None:
    folder = proved(tmp_path)
    selftaught.promote(folder, "ana")
    lines = [json.loads(line) for line in (tmp_path / "champions.jsonl").read_text().splitlines()]
    lines[0]["by"] = "ben"
    small.write_jsonl(tmp_path / "champions.jsonl", lines)
    with pytest.raises(IntegrityError, match="entry 0: the list does not hold together"):
        champions.champion(tmp_path)


class Collapsing(Scripted):
    """Answers as ever, and says one thing when nobody asks, once it was trained."""

    class Options(Scripted.Options):
        pass

    def _complete(self, request: Request, seed: int, mind: Any = None) -> Completion:
        if len(request.prompt_ids) > 1 or request.checkpoint.model == "scripted:0.6":
            return super()._complete(request, seed, mind)
        ids = (*b"aaaaaaa", EOS)
        return Completion(ids, (-0.1,) * len(ids), "stop")


@pytest.mark.parametrize("gating", [True, False])
def test_what_an_audit_that_decides_said_later_stands_against_a_proved_model(tmp_path: Path, gating: bool) -> None:
    given = ("rounds=2", "engine.learns=0.2", "train.replay=0", f"audits.collapse.gating={str(gating).lower()}")
    folder = small.prepared(tmp_path / "one", *given)
    loop.run(folder, engine=Collapsing(Scripted.Options(learns=0.2)))
    record = ledger.read_run(folder)
    first, second = (next(a for a in trends.audits(record, r) if a.name == "collapse") for r in record.rounds)
    assert (first.outcome, second.outcome) == ("passed", "failed") and record.outcome == "proved"
    assert record.final == record.rounds[0] and record.final.candidate in second.subjects
    if not gating:
        assert selftaught.promote(folder, "ana").champion == "one"
        return
    said = "one: the audit collapse failed in round 2, and names this model: alarm: different 2-grams went down"
    with pytest.raises(RunError, match=said):
        selftaught.promote(folder, "ana")
    assert champions.entries(tmp_path) == []


KILLER = """
import os, signal, sys
from pathlib import Path
from selftaught import promotion
root, what, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
seen = 0
def watch(event, args):
    global seen
    opened = event == "open" and str(root) in str(args[0]) and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)
    if opened or event in ("os.rename", "os.truncate", "selftaught.fsync"):
        seen += 1
        if seen == limit:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
promotion.promote(root / "two", "ana") if what == "promote" else promotion.rollback(root, "ana")
print(seen)
"""


def killed(root: Path, what: str, limit: int) -> int:
    """Acts seen, or minus the signal that ended it."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", KILLER, str(root), what, str(limit)],
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                          capture_output=True, text=True, check=False)  # fmt: skip
    return done.returncode if done.returncode < 0 else int(done.stdout)


def test_killed_at_any_write_it_is_the_old_champion_or_the_new_one(tmp_path: Path) -> None:
    first, second = proved(tmp_path, "one"), proved(tmp_path, "two", "engine.learns=0.6")
    selftaught.promote(first, "ana")
    for what, old, new in (("promote", "one", "two"), ("rollback", "two", "one")):
        deaths = 0
        for limit in range(1, 12):
            ended = killed(tmp_path, what, limit)
            now = champions.champion(tmp_path)
            assert now is not None and now["run"] in (old, new), f"{what} killed at {limit}"
            if ended > 0 or now["run"] == new:
                break
            assert ended == -signal.SIGKILL
            deaths += 1
        assert deaths >= 2, f"{what} was killed on its way"
        if what == "promote":
            assert selftaught.promote(second, "ana").champion == "two"
