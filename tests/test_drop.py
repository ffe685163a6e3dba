"""What many hands put into one place: the first stays, whole, whatever is killed or full. Scorecard row 13."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from selftaught.store import Store, drop
from watching import FSYNC, Full, watched

HANDS = 50
CROWD = """
import os, sys
from pathlib import Path
from selftaught.store import drop

path, hands = Path(sys.argv[1]), int(sys.argv[2])
hold, go = os.pipe()
children = []
for number in range(hands):
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(hold, 1)  # all go on when the last writing end is closed
        os._exit(10 if drop(path, f"{os.getpid()}\\n".encode() * 1000) else 20)
    children.append(child)
os.close(go)
print([child for child in children if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10])
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from selftaught.store import drop
from watching import watched

root = Path(sys.argv[1])
for act in range(1, 100):
    child = os.fork()
    if child == 0:
        left = [act]
        def tell(what, path):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
        with watched(root, tell):
            drop(root / str(act) / "inbox" / "verdict.json", b"whole" * 1000)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(act - 1)
        break
"""


def run(text: str, *words: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text, *words], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ).stdout  # fmt: skip


def threads_that_win(path: Path) -> list[int]:
    ready, won = threading.Barrier(HANDS), []

    def hand(number: int) -> None:
        ready.wait()
        if drop(path, f"{number}\n".encode() * 1000):
            won.append(number)

    threads = [threading.Thread(target=hand, args=(number,)) for number in range(HANDS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


def test_of_fifty_processes_exactly_one_is_first(tmp_path: Path) -> None:
    path = tmp_path / "inbox" / "verdict.json"
    [winner] = eval(run(CROWD, str(path), str(HANDS)))
    assert path.read_bytes() == f"{winner}\n".encode() * 1000
    assert [p.name for p in path.parent.iterdir()] == ["verdict.json"], "nothing is left of the others"


@pytest.mark.parametrize("links", [True, False])
def test_of_fifty_threads_exactly_one_is_first_with_hard_links_and_without(tmp_path: Path, links: bool) -> None:
    path = tmp_path / "inbox" / "verdict.json"
    refusing = Full(1, errno.EPERM, only=() if links else ("os.link",))
    with watched(tmp_path, refusing):
        [winner] = threads_that_win(path)
    assert path.read_bytes() == f"{winner}\n".encode() * 1000
    assert sorted(p.name for p in path.parent.iterdir()) == ([] if links else [".turn"]) + ["verdict.json"]
    assert refusing.seen == (0 if links else HANDS)


def test_the_first_stays(tmp_path: Path) -> None:
    path = tmp_path / "verdict.json"
    assert [drop(path, data) for data in (b"one", b"two", b"one")] == [True, False, False]
    assert path.read_bytes() == b"one"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert not drop(tmp_path / "link", b"x"), "a name is taken, wherever it leads"


def test_killed_at_any_act_it_leaves_the_whole_or_nothing_that_counts(tmp_path: Path) -> None:
    acts = int(run(KILLED, str(tmp_path)))
    there = []
    for act in range(1, acts + 1):
        path = tmp_path / str(act) / "inbox" / "verdict.json"
        there.append(path.exists())
        assert not path.exists() or path.read_bytes() == b"whole" * 1000
        if path.parent.is_dir():
            assert {p.name for p in path.parent.iterdir() if not p.name.startswith(".")} <= {"verdict.json"}
        assert drop(path, b"again") is not there[-1], "who was killed blocks nobody"
        with Store(tmp_path / str(act)):
            assert [p.name for p in path.parent.iterdir()] == ["verdict.json"], "the next run sweeps"
    assert set(there) == {False, True} and acts >= 7


def test_a_run_that_begins_meanwhile_sweeps_nothing_away(tmp_path: Path) -> None:
    path, swept = tmp_path / "inbox" / "verdict.json", []

    def begin(act: str, at: Path) -> None:
        if act == "os.link" and not swept:
            with Store(tmp_path):
                swept.append(not at.exists())

    with watched(tmp_path, begin):
        assert drop(path, b"data")
    assert swept == [True] and path.read_bytes() == b"data"


@pytest.mark.parametrize("act", range(1, 5))
def test_a_full_disk_leaves_nothing_half(tmp_path: Path, act: int) -> None:
    path = tmp_path / "inbox" / "verdict.json"
    with watched(tmp_path, Full(act)), pytest.raises(OSError, match="No space left"):
        drop(path, b"data")
    assert not path.exists() and [p for p in tmp_path.rglob("*") if p.is_file()] == []
    assert drop(path, b"data")


def test_what_was_dropped_is_made_to_last(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    with watched(tmp_path, lambda act, path: told.append((act, path.name.partition("-verdict")[0]))):
        drop(tmp_path / "verdict.json", b"data")
    assert told == [("open", ".tmp"), (FSYNC, ".tmp"), ("os.link", ".tmp"), ("os.remove", ".tmp"),
                    (FSYNC, tmp_path.name)]  # fmt: skip
