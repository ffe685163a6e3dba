"""Power loss: whatever was not fsynced may be gone, and recovery still finds nothing half and loses nothing committed.

A kill leaves what was written; a power cut leaves only what was made durable. So every state is built that a disk may
hold after each step of real work: names without their bytes, bytes without their names, and both gone (ALICE, Pillai
et al., OSDI 2014). Recovery is then run on each for real. Scorecard row 2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selftaught import ledger, store
from selftaught.store import Store, check_files, read_chain, write_file

Image = dict[str, bytes | None]  # path -> content; None is a folder


class Disk:
    """Follows fsync and rename below ``root`` and says what could be on the disk at this moment.

    ``content`` holds the bytes of a file when it was last fsynced, ``entries`` the names in a folder when that was.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.content: dict[int, bytes] = {}
        self.entries: dict[int, dict[str, int]] = {}
        self.images: list[Image] = []
        self.synced(root)

    def synced(self, path: Path) -> None:
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
                if image not in self.images:
                    self.images.append(image)

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


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk whose durable steps are followed."""
    root = tmp_path / "disk"
    root.mkdir()
    found = Disk(root)

    def follow(name: str, after: Any) -> None:
        real = getattr(os, name)

        def acted(*args: Any, **how: Any) -> Any:
            mine = str(args[0]).startswith(str(root)) or isinstance(args[0], int)
            if mine:
                found.crash()
            result = real(*args, **how)
            if mine:
                after(args)
                found.crash()
            return result

        monkeypatch.setattr(store.os, name, acted)

    follow("fsync", lambda args: found.synced(Path(os.readlink(f"/proc/self/fd/{args[0]}"))))
    for name in ("rename", "replace", "truncate"):
        follow(name, lambda args: None)
    return found


def work(root: Path) -> list[int]:
    """What a run does to its folder: units, the journal, a record; and a look beside it. Repeats nothing done."""
    write_file(root / "run" / "recipe.yaml", b"name: one\n")
    with Store(root / "run") as opened:
        opened.journal("started")
        for number in range(3):
            opened.unit("rollouts", number, f"round-000/rollouts/{number}", lambda out, n=number: _unit(out, n))
        look = ledger.spend_look(root / "looks.jsonl", ["vault"], "candidate", "run")
        opened.unit("evaluation", 0, "round-000/evaluate", lambda out: _unit(out, 9))
        if not any(e["kind"] == "round" for e in opened.chain):
            opened.append("round", "round-000", {"round": {"index": 0}})
    return [look]


def _unit(out: Path, number: int) -> dict[str, int]:
    (out / "inner").mkdir()
    (out / "rows.parquet").write_bytes(bytes([number]) * 2000)
    (out / "inner" / "more.json").write_text(str(number))
    return {"number": number}


def test_recovery_from_every_state_that_a_power_cut_can_leave(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert work(disk.root) == [1]
    golden = (disk.root / "run" / "chain.jsonl").read_bytes()
    monkeypatch.undo()
    assert len(disk.images) > 100, "every step was followed"
    lengths = set()
    for number, image in enumerate(disk.images):
        root = lay_out(image, tmp_path / str(number))
        if (root / "run").is_dir():
            chain = read_chain(root / "run") if (root / "run" / "chain.jsonl").exists() else []
            lengths.add(len(chain))
            for entry in chain:
                check_files(root / "run" / entry.get("place", ""), entry.get("files", {}))
        assert work(root) == [1], "one look, whatever happened"
        assert (root / "run" / "chain.jsonl").read_bytes() == golden, f"state {number}"
        assert len(ledger.read_lines(root / "looks.jsonl")) == 1
    assert lengths == {0, 1, 2, 3, 4, 5}, "they were cut at every point of the chain"


@pytest.mark.parametrize("what", ["fsync_path", "write_file"])
def test_the_model_sees_a_missing_fsync(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Without this, the test above might be blind: a store that does not fsync has to fail it."""
    if what == "fsync_path":
        monkeypatch.setattr(store, "fsync_path", lambda path: None)
    else:
        monkeypatch.setattr(store, "publish_folder", lambda temporary, target: _careless(temporary, target))
    work(disk.root)
    monkeypatch.undo()
    broken = 0
    for number, image in enumerate(disk.images):
        root = lay_out(image, tmp_path / str(number))
        try:
            for entry in read_chain(root / "run") if (root / "run" / "chain.jsonl").exists() else []:
                check_files(root / "run" / entry.get("place", ""), entry.get("files", {}))
        except store.IntegrityError:
            broken += 1
    assert broken > 0


def _careless(temporary: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(temporary, target)
