"""One process writes a run; whoever is refused is told by whom, and a dead holder blocks nobody. Scorecard row 11."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import small
from selftaught import ledger, lock, loop
from selftaught.errors import RunError, RunLocked
from selftaught.lock import Holder
from selftaught.store import Store

FORKER = """
import ctypes, os, sys, time
from pathlib import Path
from selftaught import loop
from selftaught.view import Silent

class Forking(Silent):
    def stage(self, name, detail=""):
        if name == "train":
            child = os.fork() if sys.argv[2] == "python" else ctypes.PyDLL(None).fork()
            if not child:
                print(os.getpid(), flush=True)  # it is on its own business now: what a fork does is done
            time.sleep(600)  # both: the child on its own business, the parent until it is killed

loop.run(Path(sys.argv[1]), view=Forking())
"""
BOTH = """
import os, sys, time
from pathlib import Path
from selftaught import loop
from selftaught.errors import RunLocked
from selftaught.view import Silent

root, recipe = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()

class Patient(Silent):  # the winner waits in the middle of its run until the other has been refused
    def stage(self, name, detail=""):
        while name == "sample" and not (folder / "refused").exists():
            time.sleep(0.01)

for number in range(20):
    folder = root / f"run-{number}"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_bytes(recipe)
    hold, go = os.pipe()
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(hold, 1)  # both go on when the last writing end is closed
            try:
                said = loop.run(folder, view=Patient()).decision.outcome
            except RunLocked as error:
                said = f"{error.exit_code} {error.message}"
                (folder / "refused").touch()
            (folder / f"said-{os.getpid()}").write_text(said)
            os._exit(0)
        children.append(child)
    os.close(go)
    os.close(hold)
    for child in children:
        os.waitpid(child, 0)
    print([[child, (folder / f"said-{child}").read_text()] for child in children])
"""
CHILD = """
import os, sys
from pathlib import Path
from selftaught.store import Store

with Store(Path(sys.argv[1])) as store:
    if os.fork() == 0:
        for write in (lambda: store.append("work", "a", {}), lambda: store.journal("started")):
            try:
                write()
            except Exception as error:
                print(type(error).__name__, str(error).splitlines()[0], flush=True)
        os._exit(0)
    os.wait()
    store.append("work", "b", {})
"""


def script(text: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", text, *words],
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )


@contextmanager
def orphan(folder: Path, how: str) -> Iterator[tuple[int, int]]:
    """A run is killed in the middle, a child that it forked lives on: (who ran it, the child)."""
    with script(FORKER, str(folder), how) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        assert ledger.is_locked(folder)
        holder.kill()
        holder.wait()
        try:
            os.kill(child, 0)  # it lives
            yield holder.pid, child
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_child_that_outlives_a_killed_run_does_not_keep_its_lock(tmp_path: Path) -> None:
    whole, folder = small.prepared(tmp_path / "a" / "run"), small.prepared(tmp_path / "b" / "run")
    loop.run(whole)
    with orphan(folder, "python"):
        assert not ledger.is_locked(folder) and ledger.read_run(folder).outcome == "stopped"
        assert loop.run(folder).decision.outcome == "proved"
    assert small.bytes_of(folder) == small.bytes_of(whole)


def test_a_child_forked_behind_pythons_back_is_named_with_what_to_type(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run")
    with orphan(folder, "libc") as (holder, child), pytest.raises(RunLocked) as refused:
        loop.run(folder)
    message = (
        rf"run was in use by process {holder} on \S+, which has ended; process {child} that it started still keeps"
    )
    assert re.search(message, refused.value.message) and refused.value.hint.endswith(f": kill {child}")
    while ledger.is_locked(folder):
        pass  # until the kernel has buried it
    assert loop.run(folder).decision.outcome == "proved"


def test_of_two_runs_started_at_once_one_wins_and_the_other_is_told_by_whom(tmp_path: Path) -> None:
    recipe = small.prepared(tmp_path / "base", "tasks.train=5", "tasks.dev=40", "tasks.vault=0", "tasks.guard=0")
    with script(BOTH, str(tmp_path / "runs"), str(recipe / "recipe.yaml")) as process:
        trials = [json.loads(line.replace("'", '"')) for line in process.communicate()[0].splitlines()]
    assert len(trials) == 20
    for trial in trials:
        [(winner, outcome)] = [(pid, said) for pid, said in trial if not said.startswith("6 ")]
        [refusal] = [said for pid, said in trial if pid != winner]
        assert outcome in ("accepted", "unproven", "rejected")
        assert f"is in use by process {winner} on {socket.gethostname()}." in refusal


def test_threads_of_one_process_are_kept_apart_too(tmp_path: Path) -> None:
    ready, done, said = threading.Barrier(8), threading.Event(), []

    def start() -> None:
        ready.wait()
        try:
            with lock.take(tmp_path / "lock"):
                said.append("won")
                done.wait(30)
        except RunLocked as error:
            said.append(error.message)
        if len(said) == 8:
            done.set()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refusal = f"{tmp_path} is in use by process {os.getpid()} on {socket.gethostname()}."
    assert sorted(said) == sorted(["won", *[refusal] * 7])


def test_a_forked_child_does_not_write_and_its_parent_still_does(tmp_path: Path) -> None:
    with script(CHILD, str(tmp_path)) as process:
        said = process.communicate()[0].splitlines()
    assert said == [f"RunError {tmp_path} is not open for writing here."] * 2
    with Store(tmp_path) as store:
        assert [e["unit"] for e in store.chain] == ["b"]
    with pytest.raises(RunError, match="not open for writing here"):
        store.journal("started")


def test_who_holds_a_lock_is_told_from_whoever_has_the_same_number(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock.take(path):
        own = Holder(**json.loads(path.read_bytes()))
        assert (own.pid, own.host, own.ended) == (os.getpid(), socket.gethostname(), False)
        assert own.boot and own.began
        for holder, said in (
            (own, f"is in use by {own}."),
            (replace(own, began="1"), f"was in use by {own}, which has ended; process {os.getpid()} that it started"),
            (replace(own, pid=2**22 + 1), "which has ended"),
            (replace(own, pid=2**22 + 1, boot="another"), f"is in use by process {2**22 + 1} on {own.host}."),
            (replace(own, pid=2**22 + 1, host="elsewhere"), f"is in use by process {2**22 + 1} on elsewhere."),
        ):
            path.write_text(json.dumps(asdict(holder)))
            with pytest.raises(RunLocked) as refused:
                lock.take(path)
            assert said in refused.value.message
        for unreadable in (b"", b"process 7 on a machine", b'{"pid": 7}', b"\x00" * 50, b"[]"):
            path.write_bytes(unreadable)
            with pytest.raises(RunLocked, match=r"is in use by another process\."):
                lock.take(path)
    assert not lock.is_held(path)
