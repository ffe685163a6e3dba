"""Power loss: whatever was not fsynced may be gone, and recovery still finds nothing half and loses nothing promised.

A kill leaves what was written; a power cut leaves only what was made durable. So every state is built that a disk may
hold around each act of real work: names without their bytes, bytes without their names, and both gone (ALICE, Pillai
et al., OSDI 2014). Recovery is then run on each for real. Scorecard row 2.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from selftaught import ledger, store
from selftaught.errors import IntegrityError
from selftaught.store import Store, check_files, drop, read_chain, write_file
from watching import FSYNC, watched

Image = dict[str, bytes | None]  # path -> content; None is a folder
Promise = Callable[[str, int], None]


class Disk:
    """Hears of each act below ``root`` before it is done, and says what could be on the disk at that moment.

    ``content`` holds the bytes of a file when it was last fsynced, ``entries`` the names in a folder when that was.
    ``deaf`` says of which paths an fsync is not heard: such a disk holds what a store without it would leave.
    """

    def __init__(self, root: Path, deaf: Callable[[Path], bool] = lambda path: False) -> None:
        self.root, self.deaf = root, deaf
        self.content: dict[int, bytes] = {}
        self.entries: dict[int, dict[str, int]] = {}
        self.promised: dict[str, int] = {}
        self.images: list[tuple[Image, dict[str, int]]] = []  # with what had been promised by then
        self.acts: list[str] = []
        self._synced(root)

    def hear(self, act: str, path: Path) -> None:
        self.acts.append(act)
        self.crash()
        if act == FSYNC and not self.deaf(path):
            self._synced(path)
            self.crash()

    def promise(self, what: str, count: int) -> None:
        """What the program was told is there for good."""
        self.promised[what] = count

    def _synced(self, path: Path) -> None:
        inode = path.stat().st_ino
        if path.is_dir():
            self.entries[inode] = {p.name: p.stat().st_ino for p in path.iterdir()}
        else:
            self.content[inode] = path.read_bytes()

    def crash(self) -> None:
        """Note the states that a power cut could leave now."""
        live = {p.stat().st_ino: p for p in (self.root, *self.root.rglob("*"))}
        names = {i: {c.name: c.stat().st_ino for c in p.iterdir()} for i, p in live.items() if p.is_dir()}
        folders = {*names, *self.entries}
        for entries in (self.entries, names):  # names may be lost, or be there before what they name
            for content in (self.content, *(self._torn(live, share) for share in (0.0, 0.5, 1.0))):
                image = dict(self._walk(self.root.stat().st_ino, "", entries, content, folders))
                if (image, self.promised) not in self.images:
                    self.images.append((image, dict(self.promised)))

    def _torn(self, live: dict[int, Path], share: float) -> dict[int, bytes]:
        """What was written since the last fsync is there up to a share of it."""
        torn = {}
        for inode, path in live.items():
            if path.is_file():
                now, safe = path.read_bytes(), self.content.get(inode, b"")
                torn[inode] = now[: len(safe) + round(share * (len(now) - len(safe)))] if len(now) > len(safe) else now
        return {**self.content, **torn}

    def _walk(
        self, inode: int, at: str, entries: dict[int, dict[str, int]], content: dict[int, bytes], folders: set[int]
    ) -> Iterator[tuple[str, bytes | None]]:
        for name, child in entries.get(inode, {}).items():
            path = f"{at}{name}"
            if child in folders:
                yield path, None
                yield from self._walk(child, path + "/", entries, content, folders)
            elif child in content:
                yield path, content[child]


def lay_out(image: Image, root: Path) -> Path:
    root.mkdir()
    for name, content in image.items():
        if content is None:
            (root / name).mkdir(parents=True, exist_ok=True)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
    return root


VERDICT = b'{"by": "ana", "ok": true}\n'


def work(root: Path, promise: Promise = lambda what, count: None) -> int:
    """What a run does to its folder: units, the journal, a record, a look beside it; and what a person drops there.

    Repeats nothing that is done. Returns the look.
    """
    write_file(root / "run" / "recipe.yaml", b"name: one\n")
    with Store(root / "run") as opened:
        opened.journal("started")
        for number in range(3):
            opened.unit("rollouts", number, f"round-000/rollouts/{number}", lambda out, n=number: _unit(out, n))
            promise("entries", len(opened.chain))
        look = ledger.spend_look(root / "looks.jsonl", ["vault"], "candidate", "run")
        promise("looks", look)
        drop(root / "run" / "inbox" / "verdict.json", VERDICT)
        promise("verdicts", 1)
        opened.unit("evaluation", 0, "round-000/evaluate", lambda out: _unit(out, 9))
        if not any(e["kind"] == "round" for e in opened.chain):
            opened.append("round", "round-000", {"round": {"index": 0}})
        promise("entries", len(opened.chain))
    return look


def _unit(out: Path, number: int) -> dict[str, int]:
    (out / "inner").mkdir()
    (out / "rows.parquet").write_bytes(bytes([number]) * 2000)
    (out / "inner" / "more.json").write_text(str(number))
    return {"number": number}


def worked(root: Path, deaf: Callable[[Path], bool] = lambda path: False) -> Disk:
    """The disk after ``work`` on it."""
    root.mkdir()
    disk = Disk(root, deaf)
    with watched(root, disk.hear):
        assert work(root, disk.promise) == 1
    disk.crash()
    return disk


def found(root: Path, promised: dict[str, int]) -> int:
    """How many entries the chain of a state has; raises IntegrityError for what is half there, or promised and gone."""
    chain = read_chain(root / "run")
    for entry in chain:
        check_files(root / "run" / entry.get("place", ""), entry.get("files", {}))
    verdict = root / "run" / "inbox" / "verdict.json"
    if verdict.exists() and verdict.read_bytes() != VERDICT:
        raise IntegrityError("half a verdict")
    looks = len(ledger.read_lines(root / "looks.jsonl"))
    there = {"entries": len(chain), "looks": looks, "verdicts": int(verdict.exists())}
    if any(there[what] < count for what, count in promised.items()):
        raise IntegrityError(f"promised {promised}, there {there}")
    return len(chain)


def test_recovery_from_every_state_that_a_power_cut_can_leave(tmp_path: Path) -> None:
    disk = worked(tmp_path / "disk")
    golden = (disk.root / "run" / "chain.jsonl").read_bytes()
    assert disk.acts.count(FSYNC) > 40 and len(disk.images) > 150, "every act was followed"
    lengths = set()
    for number, (image, promised) in enumerate(disk.images):
        root = lay_out(image, tmp_path / str(number))
        lengths.add(found(root, promised))
        assert work(root) == 1, "one look, whatever happened"
        assert (root / "run" / "chain.jsonl").read_bytes() == golden, f"state {number}"
        assert len(ledger.read_lines(root / "looks.jsonl")) == 1
        assert (root / "run" / "inbox" / "verdict.json").read_bytes() == VERDICT
    assert lengths == {0, 1, 2, 3, 4, 5}, "they were cut at every point of the chain"


CARELESS: dict[str, Callable[[Path], bool]] = {
    "of folders": Path.is_dir,
    "of files": Path.is_file,
    "of a unit's files": lambda path: path.name in ("rows.parquet", "more.json"),
    "of a unit's inner folder": lambda path: path.name == "inner",
    "of the folder of a unit": lambda path: path.name.startswith(".tmp-") and path.is_dir(),
    "of where units stand": lambda path: path.name == "rollouts",
    "of the chain": lambda path: path.name == "chain.jsonl",
    "of the looks": lambda path: path.name == "looks.jsonl",
    "of what is dropped": lambda path: path.name.startswith(".tmp-verdict"),
    "of where it is dropped": lambda path: path.name == "inbox",
}


@pytest.mark.parametrize("fsync", CARELESS)
def test_the_model_sees_a_missing_fsync(tmp_path: Path, fsync: str) -> None:
    """Without this, the test above might be blind: a disk to which some fsync never came has to fail it."""
    disk, broken = worked(tmp_path / "disk", CARELESS[fsync]), 0
    for number, (image, promised) in enumerate(disk.images):
        try:
            found(lay_out(image, tmp_path / str(number)), promised)
        except IntegrityError:
            broken += 1
    assert broken > 0


def test_an_fsync_that_is_told_is_one(tmp_path: Path) -> None:
    """The kernel refuses to fsync a device and a pipe; so the call comes to it."""
    told: list[tuple[str, Path]] = []
    with watched(Path("/dev"), lambda act, path: told.append((act, path))), pytest.raises(OSError, match="Invalid"):
        store.fsync_path(Path("/dev/null"))
    assert told == [(FSYNC, Path("/dev/null"))]
    ends = os.pipe()
    with pytest.raises(OSError, match="Invalid"):
        store.fsync(ends[1], tmp_path)
    for end in ends:
        os.close(end)


LASTING = {"fsync", "fdatasync", "rename", "replace", "renames", "truncate", "ftruncate", "link"}


def test_only_the_store_makes_things_last() -> None:
    """What another module renamed or cut, the model above would not have been asked about."""
    users = set()
    for path in Path(store.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os" and node.attr in LASTING:
                users.add(path.name)
    assert users == {"store.py"}
