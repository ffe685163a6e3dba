"""A run from its first stage to its record: every outcome, every way to be interrupted, and what must never change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import selftaught
import small
from selftaught import ledger, loop
from selftaught.config import read_recipe
from selftaught.engines.base import Completion, Request
from selftaught.errors import DataError, IntegrityError, ModelError, RecipeError, RunError, RunLocked, Stopped
from selftaught.rows import read_rows
from selftaught.store import Store, write_file
from selftaught.types import Example, Labels, Verdict


def run_of(folder: Path, *overrides: str) -> ledger.RunRecord:
    small.prepared(folder, *overrides)
    loop.run(folder)
    return ledger.read_run(folder)


def adds_up(record: ledger.RunRecord) -> None:
    counts = record.rounds[-1].counts
    [unit] = record.units("examples")
    folder = record.path / unit["place"]
    kept, rejected = (read_rows(folder / f"{name}.parquet", Example) for name in ("kept", "rejected"))
    assert counts["made"] == counts["kept"] + counts["rejected"] == len(kept) + len(rejected)
    assert counts["kept"] == counts["kept from rollouts"] + counts["kept replay"]
    assert counts["kept replay"] == sum(e.source == "replay" for e in kept)
    assert [v.subject for v in read_rows(folder / "verdicts.parquet", Verdict)] == [e.id for e in rejected]


# ---------------------------------------------------------------- outcomes


def test_a_run_that_learns_is_proved(tmp_path: Path) -> None:
    record = run_of(tmp_path / "runs" / "one")
    [done] = record.rounds
    assert done.decision.outcome == "proved", done.decision.reason
    assert [(r.name, r.passed) for r in done.decision.rules] == [
        ("gain on dev", True),
        ("guard: sort", True),
        ("gain on vault", True),
    ]
    assert done.looks == {"look": 1, "of": 3}
    assert "look 1 of 3 on this vault" in done.decision.rules[-1].detail
    assert done.labels == Labels(training=False, selection=False, gate=True)
    assert set(record.reports()) == {(r, s) for r in ("parent", "candidate") for s in ("dev", "sort", "vault")}
    assert done.counts["questions voted"] + done.counts["questions without a majority"] == 40
    assert done.counts["samples"] == 320
    adds_up(record)


def test_a_run_that_unlearns_is_rejected_and_looks_at_no_vault(tmp_path: Path) -> None:
    record = run_of(tmp_path / "runs" / "one", "engine.learns=-0.5")
    [done] = record.rounds
    assert done.decision.outcome == "rejected"
    assert done.decision.reason == "did not pass: gain on dev"
    assert (done.looks, ("candidate", "vault") in record.reports()) == ({}, False)
    assert not (tmp_path / "runs" / "looks.jsonl").exists()
    assert record.kept is not None, "the candidate stays for a look at it"
    adds_up(record)


def test_without_an_answer_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    record = run_of(tmp_path / "one", "engine.answers=false")
    [done] = record.rounds
    assert done.decision.outcome == "nothing to train on"
    assert "40 questions without a majority" in done.decision.reason
    assert "320 samples" in done.decision.reason
    assert (done.candidate, record.kept, record.reports()) == (None, None, {})
    assert done.labels == Labels(), "no label was read for anything"
    adds_up(record)


def test_replay_alone_teaches_nothing_and_is_still_accounted_for(tmp_path: Path) -> None:
    record = run_of(tmp_path / "one", "curate.max_tokens=45", "tasks.steps=[9]")
    [done] = record.rounds
    assert done.decision.outcome == "nothing to train on", done.decision.reason
    assert done.counts["kept from rollouts"] == 0 < done.counts["kept replay"]
    adds_up(record)


def test_the_replay_control_trains_on_replay_alone_and_needs_some(tmp_path: Path) -> None:
    record = run_of(tmp_path / "some", "train.replay=1", "train.steps=3")
    assert record.facts("candidate")["steps"] == 3
    none = run_of(tmp_path / "none", "train.replay=1", "train.steps=3", "train.replay_max_tokens=2")
    assert none.outcome == "nothing to train on"
    assert none.rounds[-1].counts["replay truncated"] == 20
    adds_up(none)


def test_training_that_diverges_is_rejected_and_leaves_no_candidate(tmp_path: Path) -> None:
    record = run_of(tmp_path / "one", "engine.diverges=true")
    [done] = record.rounds
    assert (done.decision.outcome, done.candidate) == ("rejected", None)
    assert done.decision.reason == "Training left the numbers (scripted)."
    assert record.kept is None and not (tmp_path / "one" / "round-000" / "candidate").exists()
    assert done.labels.gate is False
    with pytest.raises(RunError, match=r"one has no trained model \(rejected\)"):
        loop.ask(record.path, "1+1")


def test_without_a_vault_a_gain_is_accepted_and_not_proved(tmp_path: Path) -> None:
    record = run_of(tmp_path / "runs" / "one", "tasks.vault=0")
    assert record.outcome == "accepted"
    assert [r.name for r in record.rounds[0].decision.rules] == ["gain on dev", "guard: sort"]
    assert not (tmp_path / "runs" / "looks.jsonl").exists()


def test_without_dev_questions_a_gain_is_unproven_and_the_vault_stays_shut(tmp_path: Path) -> None:
    record = run_of(tmp_path / "one", "tasks.dev=0", "tasks.guard=0")
    assert record.outcome == "unproven"
    assert record.reports() == {}
    assert record.rounds[0].labels == Labels()


@pytest.mark.parametrize("overrides", [("tasks.train=1", "train.replay=0"), ("seed=2147483647", "tasks.train=2")])
def test_the_smallest_run_and_the_largest_seed_run_through(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    record = run_of(tmp_path / "one", *overrides)
    assert record.outcome in ("proved", "rejected", "nothing to train on")
    adds_up(record)


@pytest.mark.parametrize(
    "options",
    [
        ("method.early_stop=3",),
        (
            "method.sample_format=few_shot_cot",
            "method.formats=[few_shot_cot,few_shot_answer,zero_shot_cot,answer_only]",
        ),
        ("method.write_questions={count: 20, seeds: 3}",),
        ("method.vote=all",),
        ("method.vote=random",),
        ("train.kind=lora",),
    ],
    ids=["early stop", "all formats", "written questions", "unvoted", "random votes", "lora"],
)
def test_every_way_of_the_method_runs_and_replays_to_the_same_record(tmp_path: Path, options: tuple[str, ...]) -> None:
    record = run_of(tmp_path / "a" / "run", *options)
    adds_up(record)
    again = small.prepared(tmp_path / "b" / "run", *options)
    stopped_and_resumed(again, 43)
    stopped_and_resumed(again, 90)
    loop.run(again)
    assert small.bytes_of(again) == small.bytes_of(record.path), "counts noted by the method included"


# ---------------------------------------------------------------- a file of one's own


def own(tmp_path: Path, *overrides: str, labelled: int | None = None, rows: int = 150) -> ledger.RunRecord:
    path = small.write_jsonl(tmp_path / "data" / "mine.jsonl", small.sum_rows(rows, labelled=labelled))
    return run_of(tmp_path / "runs" / "own", "tasks.name=jsonl", f"tasks.path={path}", *overrides)


def test_a_file_of_ones_own_is_proved_and_its_looks_are_counted_beside_it(tmp_path: Path) -> None:
    record = own(tmp_path, rows=300)
    assert record.outcome == "proved", record.rounds[0].decision.reason
    [look] = ledger.read_lines(tmp_path / "data" / ".mine.jsonl.looks.jsonl")
    assert (look["look"], look["run"], look["candidate"]) == (1, "own", record.rounds[0].candidate)


def test_looks_at_a_holdout_file_are_counted_beside_that_file(tmp_path: Path) -> None:
    holdout = small.write_jsonl(tmp_path / "elsewhere" / "held.jsonl", small.sum_rows(200, start=500))
    record = own(tmp_path, f"tasks.holdout={holdout}", labelled=0)
    assert record.outcome == "proved", record.rounds[0].decision.reason
    assert (tmp_path / "elsewhere" / ".held.jsonl.looks.jsonl").exists()
    assert not (tmp_path / "data" / ".mine.jsonl.looks.jsonl").exists()


def test_a_guard_file_guards(tmp_path: Path) -> None:
    guard = small.write_jsonl(tmp_path / "data" / "guard.jsonl", small.sort_rows(120))
    record = own(tmp_path, f"tasks.guard={guard}", rows=300)
    rules = {r.name: r for r in record.rounds[0].decision.rules}
    assert (rules["guard: guard"].before, rules["guard: guard"].after) == (1.0, 1.0)
    assert rules["guard: guard"].passed


def test_a_file_without_an_answer_is_learned_from_and_unproven(tmp_path: Path) -> None:
    record = own(tmp_path, labelled=0)
    assert record.outcome == "unproven"
    assert record.rounds[0].decision.reason == "no labelled questions on dev: nothing can show a gain"
    assert record.rounds[0].labels == Labels(), "there was none to use"
    assert record.kept is not None


def test_a_guard_alone_is_a_label_for_the_gate(tmp_path: Path) -> None:
    guard = small.write_jsonl(tmp_path / "data" / "guard.jsonl", small.sort_rows(120))
    record = own(tmp_path, f"tasks.guard={guard}", labelled=0)
    assert (record.outcome, record.labels) == ("unproven", Labels(gate=True))


def test_a_file_with_few_answers_is_unproven_and_says_so(tmp_path: Path) -> None:
    record = own(tmp_path, "engine.learns=0.05", labelled=12)
    assert record.outcome == "unproven"
    assert "gain on dev has 4 labelled items" in record.rounds[0].decision.reason


def test_a_file_with_one_question_runs_through(tmp_path: Path) -> None:
    assert own(tmp_path, rows=1, labelled=0).outcome == "unproven"


# ---------------------------------------------------------------- looks


def test_every_different_candidate_spends_a_look_until_they_are_spent(tmp_path: Path) -> None:
    found = [run_of(tmp_path / f"run-{i}", f"engine.learns=0.{9 - i}", "gate.looks=3") for i in range(4)]
    assert [r.outcome for r in found] == ["proved"] * 3 + ["accepted"]
    assert [r.rounds[0].looks["look"] for r in found] == [1, 2, 3, 4]
    assert found[3].rounds[0].decision.reason.endswith("the vault's looks are spent, so it is not proved")
    assert ("candidate", "vault") not in found[3].reports(), "the vault was not opened for it"
    again = run_of(tmp_path / "again", "engine.learns=0.9", "gate.looks=3")
    assert again.rounds[0].looks["look"] == 1, "the same candidate is the same look"


def test_what_a_budget_leaves_out_of_the_holdouts_is_held_out_all_the_same(tmp_path: Path) -> None:
    path = small.write_jsonl(tmp_path / "q.jsonl", small.sum_rows(300))
    folder = small.prepared(tmp_path / "run", f"tasks.path={path}", "budget.holdout_share=0.3")
    whole = loop.load_whole(read_recipe(folder / "recipe.yaml"))
    left_out = whole.vault[-1]
    assert left_out not in loop.load_tasks(read_recipe(folder / "recipe.yaml")).vault

    class Leaky(small.Counting):
        """Writes a question of the vault in each of its unprompted texts."""

        def _complete(self, request: Request, seed: int) -> Completion:
            found = super()._complete(request, seed)
            if len(request.prompt_ids) > 1:
                return found
            text = f"Q: {left_out.question}\nA: {left_out.answer}"
            return Completion((*text.encode(), 257), (-0.1,) * (len(text.encode()) + 1), "stop")

    done = loop.run(folder, engine=Leaky())
    reasons = [v.reason for v in read_rows(folder / "round-000" / "examples" / "verdicts.parquet", Verdict)]
    assert done.counts["kept replay"] == 0 and sum(left_out.question in r for r in reasons) == 20


def test_another_budget_does_not_make_it_a_new_vault(tmp_path: Path) -> None:
    run_of(tmp_path / "whole")
    part = run_of(tmp_path / "part", "budget.holdout_share=0.9", "engine.learns=0.6")
    assert part.rounds[0].looks["look"] == 2
    assert len(part.reports()["candidate", "vault"].items) == 108


# ---------------------------------------------------------------- interrupted


def stopped_and_resumed(folder: Path, calls: int) -> None:
    with pytest.raises(Stopped):
        loop.run(folder, stop=small.after(calls))
    assert ledger.read_run(folder).outcome == "stopped"


def test_a_run_stopped_again_and_again_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    whole = run_of(tmp_path / "a" / "run")
    folder = small.prepared(tmp_path / "b" / "run")
    lengths = []
    for calls in (1, 20, 50, 3, 110, 260, 260, 60, 260, 260):
        try:
            loop.run(folder, stop=small.after(calls))
        except Stopped:
            lengths.append(len(ledger.read_run(folder).chain))
    assert lengths == sorted(lengths) and len(set(lengths)) >= 5, f"each attempt went on where it ended: {lengths}"
    loop.run(folder)
    assert small.bytes_of(folder) == small.bytes_of(whole.path)
    events = [e["event"] for e in ledger.read_run(folder).journal if e["event"] != "stage"]
    assert events == ["started", *["stopped", "resumed"] * len(lengths), "finished"]


class Impatient:
    """A view whose reader presses Ctrl-C at a stage."""

    def __init__(self, stage: str) -> None:
        self.at = stage

    def stage(self, name: str, detail: str = "") -> None:
        if name == self.at:
            raise KeyboardInterrupt

    def progress(self, done: int, total: int, unit: str) -> None: ...

    def line(self, text: str) -> None: ...


@pytest.mark.parametrize("stage", ["prepare", "sample", "curate", "train", "evaluate", "audit", "gate", "record"])
def test_ctrl_c_at_any_stage_loses_nothing(tmp_path: Path, stage: str) -> None:
    whole = run_of(tmp_path / "a" / "run")
    folder = small.prepared(tmp_path / "b" / "run")
    with pytest.raises(KeyboardInterrupt):
        loop.run(folder, view=Impatient(stage))
    assert ledger.read_run(folder).outcome == "stopped"
    loop.run(folder)
    assert small.bytes_of(folder) == small.bytes_of(whole.path)


class Absent(Impatient):
    """A view during which somebody else asks the run to stop, by a file in its folder."""

    def __init__(self, stage: str, folder: Path) -> None:
        super().__init__(stage)
        self.folder = folder

    def stage(self, name: str, detail: str = "") -> None:
        if name == self.at:
            selftaught.stop(self.folder)


@pytest.mark.parametrize("stage", ["sample", "train", "evaluate", "audit", "gate"])
def test_a_run_asked_to_stop_by_a_file_ends_in_order_and_goes_on_later(tmp_path: Path, stage: str) -> None:
    whole = run_of(tmp_path / "a" / "run")
    folder = small.prepared(tmp_path / "b" / "run")
    with pytest.raises(RunError, match="is not running"):
        selftaught.stop(folder)
    with pytest.raises(Stopped):
        loop.run(folder, view=Absent(stage, folder))
    assert ledger.read_run(folder).outcome == "stopped"
    loop.run(folder)
    assert small.bytes_of(folder) == small.bytes_of(whole.path)


@pytest.mark.parametrize("kind", ["named", "unreadable", "none"])
def test_a_run_that_names_private_texts_is_its_owners_alone_before_anything_is_sampled(
    tmp_path: Path, kind: str
) -> None:
    texts = small.write_jsonl(tmp_path / "private.jsonl", [{"text": "nobody may know of this"}])
    folder = small.prepared(tmp_path / "runs" / "one", *([] if kind == "none" else [f"private={texts}"]))
    folder.chmod(0o755)
    if kind == "unreadable":
        texts.unlink()
    with pytest.raises(KeyboardInterrupt):
        loop.run(folder, view=Impatient("sample"))
    assert folder.stat().st_mode & 0o777 == (0o755 if kind == "none" else 0o700)
    loop.run(folder)
    assert folder.stat().st_mode & 0o777 == (0o755 if kind == "none" else 0o700)


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import pyarrow.parquet  # here, so that no child has to
from selftaught import load, loop

for family in ("engines", "methods", "tasks", "filters"):
    for member in load.members(family):
        load.member_class(family, member)

def attempt(folder, limit, seconds=None):
    # A child that dies just before its limit-th durable act (a rename, or opening a file of the run to write), or is
    # killed after so many seconds.
    child = os.fork()
    if child == 0:
        seen = 0
        def watch(event, args):
            nonlocal seen
            opened = event == "open" and str(folder.parent) in str(args[0])
            if opened and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR) or event in ("os.rename", "os.truncate"):
                seen += 1
                if seen == limit:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(watch)
        loop.run(folder)
        (folder.parent / "acts").write_text(str(seen))
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]

root, recipe = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
folder = root / "whole" / "run"
def prepare(name):
    folder = root / name / "run"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_bytes(recipe)
    return folder
began = time.monotonic()
assert attempt(prepare("whole"), None) == 0
whole = time.monotonic() - began
acts = int((root / "whole" / "acts").read_text())
for act in range(1, acts + 1):
    folder = prepare(f"act-{act}")
    assert os.WTERMSIG(attempt(folder, act)) == signal.SIGKILL
    print("act", act, attempt(folder, None), flush=True)
moments = random.Random(20)
for number in range(30):
    folder = prepare(f"moment-{number}")
    attempt(folder, None, moments.uniform(0, whole))
    print("moment", number, attempt(folder, None), flush=True)
"""


ONE_AUDIT = ("audits.calibration.skip=one is enough", "audits.forgetting.skip=one is enough")  # to be killed in


def test_killed_anywhere_and_run_again_it_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    """Scorecard row 1: at every durable act, and at thirty random moments."""
    recipe = small.prepared(tmp_path / "base", "tasks.train=20", *ONE_AUDIT) / "recipe.yaml"
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLER, str(tmp_path / "runs"), str(recipe)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    lines = [line.split() for line in found.stdout.splitlines()]
    assert len(lines) >= 40 + 30 and {status for *_, status in lines} == {"0"}
    whole = tmp_path / "runs" / "whole" / "run"
    assert ledger.read_run(whole).outcome == "proved"
    for kind, number, _ in lines:
        folder = tmp_path / "runs" / f"{kind}-{number}" / "run"
        said = f"killed at {kind} {number}"
        assert (folder / "chain.jsonl").read_bytes() == (whole / "chain.jsonl").read_bytes(), said
        assert small.bytes_of(folder) == small.bytes_of(whole), said
        looks = ledger.read_lines(folder.parent / "looks.jsonl")
        assert [e["look"] for e in looks] == [1], f"{said}: one look, not two"


FILLER = """
import errno, os, sys
from pathlib import Path
from selftaught import ledger, loop
from selftaught.errors import DiskFull

root, recipe = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
full, seen, folder = None, 0, root
ACTS = ("os.rename", "os.truncate", "selftaught.fsync")
def watch(event, args):
    global seen
    opened = event == "open" and str(folder.parent) in str(args[0])
    if opened and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR) or event in ACTS:
        seen += 1
        if full is not None and seen >= full:  # full it stays, until space is made
            raise OSError(errno.ENOSPC, "No space left on device")
sys.addaudithook(watch)
def prepare(name):
    global folder, seen
    folder, seen = root / name / "run", 0
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_bytes(recipe)
    seen = 0
    return folder
loop.run(prepare("whole"))
for act in range(1, seen + 1, 2):
    prepare(f"full-{act}")
    full = act
    try:
        loop.run(folder)
        print(act, "nothing was full")
    except DiskFull as error:
        full = None
        print(act, "MB are free" in str(error) and loop.run(folder).decision.outcome, flush=True)
"""


def test_a_full_disk_at_any_write_pauses_the_run_and_loses_nothing(tmp_path: Path) -> None:
    """Scorecard row 5."""
    recipe = small.prepared(tmp_path / "base", "tasks.train=20", *ONE_AUDIT) / "recipe.yaml"
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", FILLER, str(tmp_path / "runs"), str(recipe)],
                           env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                           capture_output=True, text=True, timeout=300, check=False)  # fmt: skip
    assert found.returncode == 0, found.stderr
    lines = [line.split() for line in found.stdout.splitlines()]
    assert len(lines) > 20 and {outcome for _, outcome in lines} == {"proved"}, found.stdout
    whole = tmp_path / "runs" / "whole" / "run"
    for act, _ in lines:
        assert small.bytes_of(tmp_path / "runs" / f"full-{act}" / "run") == small.bytes_of(whole), f"full at act {act}"


# ---------------------------------------------------------------- resumed


def test_resuming_a_finished_run_returns_its_record_and_changes_nothing(tmp_path: Path) -> None:
    record = run_of(tmp_path / "one")
    before = small.bytes_of(record.path), (record.path / "journal.jsonl").read_bytes()
    engine = small.Counting()
    assert loop.run(record.path, engine=engine) == record.rounds[0]
    assert (small.bytes_of(record.path), (record.path / "journal.jsonl").read_bytes()) == before
    assert engine.calls == []


def test_an_edited_recipe_is_refused_by_name(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "one")
    stopped_and_resumed(folder, 50)
    text = (folder / "recipe.yaml").read_text()
    write_file(folder / "recipe.yaml", text.replace("min_share: 0.3", "min_share: 0.4").encode())
    for use in (loop.run, ledger.read_run):
        with pytest.raises(IntegrityError, match=r"one began with another recipe: recipe.yaml was edited\."):
            use(folder)
    write_file(folder / "recipe.yaml", text.encode())
    assert loop.run(folder).decision.outcome == "proved", "restored, it goes on"


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda rows: rows[:-1], "counts, notes"),
        (lambda rows: [{**r, "answer": "7"} if i == 3 else r for i, r in enumerate(rows)], "questions"),
        (lambda rows: [{**r, "question": r["question"] + "!"} for r in rows], "vault, questions"),
    ],
    ids=["a row less", "another answer", "other words"],
)
def test_an_edited_questions_file_is_refused_by_name(
    tmp_path: Path, edit: Callable[[list[dict[str, str]]], list[dict[str, str]]], named: str
) -> None:
    rows = small.sum_rows(60)
    path = small.write_jsonl(tmp_path / "mine.jsonl", rows)
    folder = small.prepared(tmp_path / "one", "tasks.name=jsonl", f"tasks.path={path}")
    stopped_and_resumed(folder, 30)
    small.write_jsonl(path, edit(rows))
    with pytest.raises(IntegrityError, match=f"began with another {named}"):
        loop.run(folder)


def test_an_edited_checker_is_refused_by_name(tmp_path: Path) -> None:
    """Else the parent would be judged by one function and the candidate by another."""
    judge = tmp_path / "judge.py"
    judge.write_text("def right(completions, answer):\n    return [float(completions[0].endswith(answer[0]))]\n")
    path = small.write_jsonl(tmp_path / "q.jsonl", small.sum_rows(300))
    folder = small.prepared(tmp_path / "run", f"tasks.path={path}", f"tasks.checker={judge}:right")
    stopped_and_resumed(folder, 150)
    judge.write_text("def right(completions, answer):\n    return [1.0]\n")
    with pytest.raises(IntegrityError, match="began with another checkers"):
        loop.run(folder)


def test_an_edited_unit_is_refused_by_path(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "one")
    stopped_and_resumed(folder, 100)
    rows = folder / "round-000" / "rollouts" / "00-000" / "rows.parquet"
    rows.write_bytes(rows.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"rollouts/00-000/rows.parquet is not what was recorded"):
        loop.run(folder)


def test_a_folder_in_use_is_refused_with_its_own_exit_code(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "one")
    with Store(folder), pytest.raises(RunLocked, match=f"one is in use by process {os.getpid()}") as refused:
        loop.run(folder)
    assert refused.value.exit_code == 6
    assert loop.run(folder).decision.outcome == "proved"


# ---------------------------------------------------------------- before anything is sampled


@pytest.mark.parametrize(
    ("overrides", "error", "says"),
    [
        (("gate.guards=[{suite: sorting}]",), RecipeError, r"no guard suite 'sorting' in these tasks.\n.*bring: sort"),
        (("gate.guards=[{suite: sort}]", "tasks.guard=0"), RecipeError, r"no guard suite 'sort'.*\n.*bring: none"),
        (("method.sampels=4",), RecipeError, "unknown key 'sampels'; did you mean 'samples'"),
        (("method.name=self_consistancy",), RecipeError, "did you mean 'self_consistency'"),
        (("model=nowhere",), ModelError, "not a scripted model"),
        (("tasks.name=jsonl", "tasks.path=nowhere.jsonl"), DataError, "nowhere.jsonl"),
        (("budget.minutes=1e-7",), RecipeError, "too short"),
    ],
)
def test_what_cannot_run_is_refused_before_a_folder_is_made(
    tmp_path: Path, overrides: tuple[str, ...], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        loop.prepare(small.recipe(*overrides), tmp_path / "one")
    assert not (tmp_path / "one").exists()


def test_a_folder_that_holds_a_run_is_not_prepared_again(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "one")
    with pytest.raises(RunError, match="already holds a run"):
        small.prepared(folder, "seed=6")
    assert read_recipe(folder / "recipe.yaml").seed == 5


def test_a_plan_says_sizes_and_what_they_can_prove() -> None:
    found = loop.plan(small.recipe("tasks.vault=0"))
    assert found.sizes == {"train": 40, "dev": 120, "vault": 0, "guard sort": 100}
    assert found.provable["vault"] is None
    assert 0.05 < (found.provable["dev"] or 0) < 0.2
    assert "train.lr: 0.0002" in found.notes


# ---------------------------------------------------------------- the two models


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_asking_gives_the_parents_and_the_candidates_answer(tmp_path: Path, kind: str) -> None:
    record = run_of(tmp_path / "one", "model=scripted:0.0", f"train.kind={kind}", "engine.learns=-1", "method.vote=all")
    assert loop.ask(record.path, "17+25")[0] != "17+25=42\n#### 42"
    record = run_of(tmp_path / "two", "model=scripted:0.45", f"train.kind={kind}", "engine.learns=1")
    answers = [loop.ask(record.path, f"{i}+25") for i in range(40)]
    right = [sum(f"#### {i + 25}" in a[k] for i, a in enumerate(answers)) for k in (0, 1)]
    assert right[0] < 30 < right[1], f"{right[0]} and {right[1]} of 40"


def test_a_damaged_candidate_is_not_asked(tmp_path: Path) -> None:
    record = run_of(tmp_path / "one")
    assert record.kept is not None
    (record.kept / "scripted.json").write_text('{"skill": 1.0}')
    with pytest.raises(IntegrityError, match=r"scripted\.json is not what was recorded"):
        loop.ask(record.path, "1+1")


def test_a_parent_that_changed_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "scripted.json").write_text('{"skill": 0.6}')
    folder = run_of(tmp_path / "run", f"model={tmp_path / 'model'}").path
    assert loop.ask(folder, "1+1")
    (tmp_path / "model" / "scripted.json").write_text('{"skill": 0.0}')
    with pytest.raises(IntegrityError, match="is not the model that run began with"):
        loop.ask(folder, "1+1")


def test_a_question_that_does_not_fit_is_said_to_be_too_long(tmp_path: Path) -> None:
    record = run_of(tmp_path / "one", "engine.context=200")
    with pytest.raises(ModelError, match=r"takes \d+ tokens of a context of 200"):
        loop.ask(record.path, "1+" * 150)


def test_the_parent_stays_as_it_was(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    write_file(parent / "scripted.json", json.dumps({"skill": 0.6}).encode())
    before = small.bytes_of(parent)
    record = run_of(tmp_path / "one", f"model={parent}")
    assert record.outcome == "proved"
    assert small.bytes_of(parent) == before
    assert record.rounds[0].candidate != record.rounds[0].parent == record.facts("tasks")["model"]
