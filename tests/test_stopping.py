"""A run that is asked to stop ends within ten seconds: in order where it can look, else together with its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

import selftaught
import small
import tiny
from selftaught import integrity, ledger, loop, tell
from selftaught.cli import main as cli_main
from selftaught.config import CurateConfig, to_yaml
from selftaught.curate import LOOK, judge
from selftaught.errors import Stopped
from selftaught.evaluate import answers
from selftaught.filters.base import Context, Filter
from selftaught.live import Live, _say_stopped
from selftaught.rollout import rollout
from selftaught.stopping import SECONDS, STOP, heeding
from selftaught.store import read_lines
from selftaught.tasks.base import Checker
from selftaught.types import Example
from selftaught.view import Silent
from test_live import terminal

COMMAND = (sys.executable, "-W", "ignore", "-c", f"from {cli_main.__module__} import main; main()")


def journal(folder: Path, event: str) -> list[dict[str, Any]]:
    return [e for e in read_lines(folder / "journal.jsonl") if e["event"] == event]


def sound(folder: Path) -> bool:
    return all(check.ok for check in integrity.verify(folder))


# ---------------------------------------------------------------- in order


def test_items_are_heeded_from_the_first_on() -> None:
    with pytest.raises(Stopped):
        next(heeding(lambda: True, [1]))
    seen = []
    with pytest.raises(Stopped):
        seen += [seen.append(i) for i in heeding(small.after(2), range(1000), every=10)]
    assert seen == list(range(20))


class Slow(Filter):
    def __init__(self, context: Context) -> None:
        self.seen = 0

    def reason(self, example: Example) -> str | None:
        self.seen += 1
        return None


def test_curating_very_many_examples_stops_in_order() -> None:
    slow = Slow(Context(CurateConfig(), ()))
    with pytest.raises(Stopped):
        judge([Example((1,), (i, 2), "t") for i in range(100_000)], [("slow", slow)], small.after(3))
    assert slow.seen == 3 * LOOK


def test_judging_with_a_users_function_stops_between_two_answers() -> None:
    calls = []

    def score(task: object, text: str) -> float:
        calls.append(text)
        return 1.0

    checkers = {"number": Checker("number", str, str.__eq__, score)}
    bench_tasks = small.sums(50, "dev")
    source = small.tasks((), bench_tasks)
    engine = small.Counting()
    parent = engine.open("scripted:0.6")
    sampling = small.method().sampling()
    rows = rollout(engine, parent, engine.tokens(parent), bench_tasks, sampling, checkers, run_seed=1)[:: sampling.n]
    judged = type(source)(source.train, source.dev, (), {}, checkers)
    with pytest.raises(Stopped):
        answers("dev", parent, bench_tasks, rows, judged, stop=small.after(7))
    assert len(calls) == 7


class Asking(Silent):
    """A view during which somebody asks the run to stop: as ``stage`` begins, or with ``amid`` at work in it."""

    def __init__(self, folder: Path, stage: str, amid: bool) -> None:
        self.folder, self.at, self.amid = folder, stage, amid
        self.now = ""
        self.asked = 0.0

    def stage(self, name: str, detail: str = "") -> None:
        self.now = name
        self._ask(not self.amid)

    def progress(self, done: int, total: int, unit: str) -> None:
        self._ask(self.amid and done < total)

    def _ask(self, here: bool) -> None:
        if here and self.now == self.at and not self.asked:
            self.asked = time.monotonic()
            selftaught.stop(self.folder)


def test_a_real_run_ends_in_order_at_every_stage_and_goes_on_to_the_same(tmp_path: Path) -> None:
    """With torch; a stop at the beginning of each stage, and amid those that count their progress."""
    quick = ("engine.max_rows=4", "gate.text_items=20", "audits.collapse.skip=it takes longest")
    folder = tiny.run(tmp_path / "a", *quick)
    whole = tmp_path / "b" / "run"
    whole.mkdir(parents=True)
    (whole / "recipe.yaml").write_bytes((folder / "recipe.yaml").read_bytes())
    loop.run(whole)
    ahead = [("prepare", False), ("sample", False), ("sample", True), ("curate", False), ("train", False),
             ("train", True), ("evaluate", False), ("evaluate", True), ("audit", False)]  # fmt: skip
    for stage, amid in ahead:
        view = Asking(folder, stage, amid)
        with pytest.raises(Stopped):
            loop.run(folder, view=view)
        assert view.asked and time.monotonic() - view.asked < SECONDS / 2, f"{stage}, amid: {amid}"
        assert ledger.read_run(folder).outcome == "stopped" and "hard" not in journal(folder, "stopped")[-1]
    loop.run(folder)
    assert small.bytes_of(folder) == small.bytes_of(whole)


def test_asked_before_it_begins_a_new_run_does_not_begin(tmp_path: Path) -> None:
    """The file may lie in the folder while the run is prepared; later it is what an earlier stop left."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / STOP).touch()
    with pytest.raises(Stopped):
        small.prepared(folder)
    assert [p.name for p in folder.iterdir()] == [STOP]
    (folder / STOP).unlink()
    small.prepared(folder)
    (folder / STOP).touch()
    with pytest.raises(Stopped):
        loop.run(folder)
    assert not ledger.read_run(folder).chain
    assert loop.run(folder).decision.outcome == "proved" and not (folder / STOP).exists()


def test_a_stop_while_a_budget_is_measured_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        selftaught.run(small.recipe("budget.minutes=5"), runs=tmp_path, stop=small.after(9))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- together with the process

CHECKER = """
import time
from pathlib import Path

def reward(completions, answer, **row):
    here = Path(__file__)
    if here.with_name("slow").exists() and completions != answer:  # not where the plan tries it
        here.with_name("slow").write_text("at work")
        time.sleep(60)
    return [float(a in c) for a, c in zip(answer, completions)]
"""


@contextmanager
def started(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    with subprocess.Popen([*words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, **environment}) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def lines(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def test_the_command_ends_within_ten_seconds_while_a_users_function_sleeps(tmp_path: Path) -> None:
    """The function decides what is right on dev; the run ends, its record holds, and it goes on to the same end."""
    (tmp_path / "mine.py").write_text(CHECKER)
    small.write_jsonl(tmp_path / "q.jsonl", small.sum_rows(120))
    words = (f"tasks.path={tmp_path / 'q.jsonl'}", f"tasks.checker={tmp_path / 'mine.py'}:reward")
    recipe = small.recipe("tasks={name: jsonl, path: x}", *words)
    (tmp_path / "r.yaml").write_text(to_yaml(recipe))
    whole = selftaught.run(tmp_path / "r.yaml", runs=tmp_path / "whole")
    slow, folder = tmp_path / "slow", tmp_path / "runs" / "small-1"
    slow.touch()
    with started(*COMMAND, "run", str(tmp_path / "r.yaml"), "--runs", str(tmp_path / "runs")) as process:
        while not slow.read_text() and process.poll() is None:
            time.sleep(0.02)
        began = time.monotonic()
        (folder / STOP).touch()
        said = process.communicate(timeout=30)[1]
        took = time.monotonic() - began
    assert took < SECONDS and process.returncode == Stopped.exit_code
    assert said == (
        f"stopped in the middle of a step; nothing finished is lost; go on with: selftaught resume {folder}\n"
    )
    [stopped] = journal(folder, "stopped")
    assert (stopped["hard"], stopped["during"]) == (True, "evaluate")
    assert ledger.read_run(folder).outcome == "stopped" and sound(folder)
    slow.unlink()
    selftaught.resume(folder)
    assert small.bytes_of(folder) == small.bytes_of(whole.path) and sound(folder)


WATCHED = """
import os, sys, time
from pathlib import Path
from selftaught import loop
from selftaught.errors import Stopped
from selftaught.stopping import Watchdog
from selftaught.view import Silent

class Stuck(Silent):  # at the first progress in a stage, for a minute
    now = ""
    def stage(self, name, detail=""):
        self.now = name
    def progress(self, done, total, unit):
        if self.now == sys.argv[2]:
            asked.append(time.monotonic())
            children = [p.name for p in Path("/proc").glob("[0-9]*") if parent(p) == os.getpid()]
            print(*children, flush=True)
            time.sleep(60)

def parent(process):
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None

asked = []
def say(text):
    print(text, flush=True)
try:
    with Watchdog(lambda: bool(asked), say, patience=0.5) as stop:
        loop.run(Path(sys.argv[1]), view=Stuck(), stop=stop)
except Stopped:
    time.sleep(2)
    print("in order", flush=True)
"""


def lives(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_sampling_processes_go_with_it(tmp_path: Path) -> None:
    """Even one that is stopped and would notice nothing."""
    folder = tiny.run(tmp_path / "base", "engine.processes=2", "engine.max_rows=8")
    with started(sys.executable, "-W", "ignore", "-c", WATCHED, str(folder), "sample") as process:
        children = lines(process.stdout).readline().split()
        workers = [pid for pid in children if b"spawn_main" in Path("/proc", pid, "cmdline").read_bytes()]
        assert len(workers) == 2
        os.kill(int(workers[0]), signal.SIGSTOP)
        began = time.monotonic()
        said = process.communicate(timeout=30)[0]
        assert process.returncode == Stopped.exit_code and time.monotonic() - began < 5
    assert "in the middle of a step" in said
    gone = time.monotonic() + 2
    while any(map(lives, children)) and time.monotonic() < gone:
        time.sleep(0.05)
    assert not any(map(lives, children))
    assert journal(folder, "stopped")[-1]["during"] == "sample" and sound(folder)


def test_a_run_that_ends_in_order_is_left_alone(tmp_path: Path) -> None:
    """Its process too: the watchdog goes with the run, and rests while nobody asks."""
    folder = small.prepared(tmp_path / "run")
    script = WATCHED.replace("time.sleep(60)", "time.sleep(0.1)").replace("time.sleep(2)", "time.sleep(1.2)")
    for stage, code in (("train", 0), ("never", 0)):
        with started(sys.executable, "-c", script, str(folder), stage) as process:
            said = process.communicate(timeout=30)
        assert process.returncode == code and said[1] == "" and ("in order" in said[0]) is (stage == "train")
    assert [e.get("hard") for e in journal(folder, "stopped")] == [None]
    assert ledger.read_run(folder).outcome == "proved"


PREPARED = """
import sys, time
from pathlib import Path
import selftaught
from selftaught.config import read_recipe
from selftaught.stopping import Watchdog

asked = Path(sys.argv[2])
with Watchdog(asked.exists, lambda text: print(text, flush=True), patience=0.5) as stop:
    selftaught.run(Path(sys.argv[1]), runs=sys.argv[3], stop=stop)
"""


def test_what_is_stopped_before_it_began_leaves_no_folder(tmp_path: Path) -> None:
    """As while a model loads: here a user's file, which is run when the questions are read."""
    (tmp_path / "mine.py").write_text(f"import time\nopen({str(tmp_path / 'asked')!r}, 'w').close()\ntime.sleep(60)\n")
    small.write_jsonl(tmp_path / "q.jsonl", small.sum_rows(120))
    words = (f"tasks.path={tmp_path / 'q.jsonl'}", f"tasks.checker={tmp_path / 'mine.py'}:reward")
    (tmp_path / "r.yaml").write_text(to_yaml(small.recipe("tasks={name: jsonl, path: x}", *words)))
    where = [str(tmp_path / name) for name in ("r.yaml", "asked", "runs")]
    with started(sys.executable, "-c", PREPARED, *where) as process:
        said = process.communicate(timeout=30)
    assert process.returncode == Stopped.exit_code
    assert said == ("stopped before anything was begun\n", "")
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_terminal_gets_its_cursor_back(capfd: pytest.CaptureFixture[str]) -> None:
    view = Live(terminal())
    view.__enter__()
    view.stage("train")
    _say_stopped(view, "stopped in the middle")
    written = view.console.file.getvalue()  # type: ignore[attr-defined]
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") >= 0 and "■" in written
    assert capfd.readouterr().err == "stopped in the middle\n"


# ---------------------------------------------------------------- selftaught stop


def test_the_command_stop_waits_and_says_what_came_of_it(tmp_path: Path) -> None:
    recipe = small.recipe("tasks.train=2000", "method.samples=32")
    (tmp_path / "r.yaml").write_text(to_yaml(recipe))
    where = ("--runs", str(tmp_path / "runs"))
    with started(*COMMAND, "run", str(tmp_path / "r.yaml"), *where) as process:
        assert any("[sample]" in line for line in lines(process.stdout))
        with started(*COMMAND, "stop", *where) as stop:
            said = stop.communicate(timeout=30)
        assert stop.returncode == 0
        assert said == (
            f"small-1 has stopped; go on with: selftaught resume {tmp_path / 'runs' / 'small-1'}\n",
            "",
        )
        assert not ledger.is_locked(tmp_path / "runs" / "small-1")
        assert process.wait(timeout=30) == Stopped.exit_code
    with started(*COMMAND, "stop", *where) as stop:
        said = stop.communicate(timeout=30)
    assert stop.returncode == 2 and said[1].startswith("error: small-1 is not running.")


class Busy(Silent):
    """A view during which somebody asks, waits a moment and looks: the run cannot stop meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.code = folder, -1

    def stage(self, name: str, detail: str = "") -> None:
        if name == "train":
            selftaught.stop(self.folder, wait=0.3)
            self.code = tell.stopped(selftaught.show(self.folder))


def test_a_run_that_has_not_ended_is_named_with_its_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view = Busy(small.prepared(tmp_path / "run"))
    with pytest.raises(Stopped):
        loop.run(view.folder, view=view)
    assert view.code == 1
    said = capsys.readouterr().out
    assert said.startswith(f"run was asked to stop and still works (process {os.getpid()} on ")
    assert f"kill -9 {os.getpid()}" in said
    loop.run(view.folder)
    assert tell.stopped(selftaught.show(view.folder)) == 0
    assert capsys.readouterr().out == "run has ended: proved\n"
