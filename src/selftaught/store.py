"""Every durable write of a run goes through this module; nothing else opens a run file for writing.

A run folder holds *units*: folders of files, published whole (write to a temporary folder, fsync each file, rename,
fsync the parent) and then *committed* by one line in the hash-linked chain. A unit that is not in the chain does not
exist, whatever lies on disk; a unit that is in the chain is read back only if its bytes still have the recorded
SHA-256. So resuming is: ask for each unit again, and make only the ones that are not committed.

    chain.jsonl    units and decisions; no clock, no process id: two runs of the same recipe have the same chain
    journal.jsonl  what happened when: starts, resumes, stops, errors; quotes the head of the chain
    lock           locked while a process works here, see lock.py

The first entry of a chain says its format. A later format is refused, an earlier one is read but not gone on with: a
format stands for how work is named, cut and seeded, so under one format a resumed run ends as an undisturbed one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from selftaught import lock
from selftaught.errors import IntegrityError, RunError
from selftaught.types import VERSION, canonical, digest

T = TypeVar("T")
FORMAT = 6  # of the record; raise it when an old run, gone on with, would not end as it would have then
GENESIS = "0" * 64
DAMAGED = "The record was edited or damaged. Restore the file from a copy, or start a new run."
NO_HARD_LINKS = (errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
DROP_TRIES = 20


# ---------------------------------------------------------------- bytes on disk


def file_digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def folder_digest(folder: Path, names: Sequence[str] | None = None) -> str:
    """One digest over the names and bytes of the files in ``folder`` (all of them, or just ``names``)."""
    chosen = sorted(names) if names else sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return digest([[name, file_digest(folder / name)] for name in chosen])


def fsync(handle: int, path: Path) -> None:
    """Make last what was written to ``path``. The one fsync there is, and who audits this process hears of it, as of
    every open, rename and truncate; of itself Python is silent about an fsync."""
    sys.audit("selftaught.fsync", str(path))
    os.fsync(handle)


def fsync_path(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        fsync(handle, path)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """``mkdir -p`` whose new names survive a power cut."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_path(folder.parent)


def write_file(path: Path, data: bytes) -> None:
    """Replace ``path`` whole or not at all, and survive a power cut once this returns."""
    make_folder(path.parent)
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        _write(temporary, data)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    fsync_path(path.parent)


def _write(path: Path, data: bytes, mode: str = "wb") -> None:
    with path.open(mode) as f:
        f.write(data)
        f.flush()
        fsync(f.fileno(), path)


def drop(path: Path, data: bytes) -> bool:
    """Create ``path`` whole, there for good once this returns; False if somebody was first, and theirs stays.

    For what several people may put into one place while a run works there: nobody waits, and nothing is ever half
    there. Whoever reads the folder passes over names that begin with a dot.
    """
    temporary = path.with_name(f".tmp-{path.name}-{secrets.token_hex(8)}")
    for attempt in range(DROP_TRIES):
        make_folder(path.parent)
        try:
            _write(temporary, data, "xb")
            first = _came_first(temporary, path)
            break
        except FileNotFoundError:  # a run that began just now took it for a leftover, and swept it away
            if attempt + 1 == DROP_TRIES:
                raise
        finally:
            with suppress(OSError):
                temporary.unlink()
    fsync_path(path.parent)
    return first


def _came_first(temporary: Path, path: Path) -> bool:
    """Give what is written its name, unless that name is taken: by a hard link, which no two can make."""
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
    with lock.turn(path.with_name(".turn")):  # a file system without hard links: one after the other
        if os.path.lexists(path):
            return False
        os.rename(temporary, path)
        return True


def publish_folder(temporary: Path, target: Path) -> None:
    """fsync every file under ``temporary``, then rename it to ``target``; an uncommitted leftover there is removed."""
    for path in sorted(temporary.rglob("*")):
        fsync_path(path)
    fsync_path(temporary)
    make_folder(target.parent)
    remove(target)
    os.rename(temporary, target)
    fsync_path(target.parent)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """One line at the end of a JSONL file, there for good once this returns; on a full disk, not there at all."""
    line, new = canonical(record) + b"\n", not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        before = os.fstat(handle).st_size
        try:
            while line:
                line = line[os.write(handle, line) :]
            fsync(handle, path)
        except OSError:
            os.ftruncate(handle, before)
            raise
    finally:
        os.close(handle)
    if new:
        fsync_path(path.parent)


def mend(path: Path) -> None:
    """Cut a torn last line (no newline) off a JSONL file, so that appends stay whole. Only for who may write it."""
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
        fsync_path(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Complete lines of a JSONL file; a torn last line (no newline) is passed over. Never writes: a run may be on."""
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    return [_read_line(path, number, line) for number, line in enumerate(data[:whole].split(b"\n")[:-1], start=1)]


def _read_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line, parse_constant=_refuse)
        if not isinstance(record, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}, line {number}: not JSON ({error}).", hint=DAMAGED) from error
    return record


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


# ---------------------------------------------------------------- the run folder


@dataclass(frozen=True)
class Unit:
    """A committed piece of work: its facts and the folder with its files."""

    id: str
    kind: str
    facts: Mapping[str, Any]
    folder: Path
    fresh: bool  # made just now, not read back


class Store:
    """One run folder, opened for writing by one process at a time.

    Raises RunLocked when another process holds it, IntegrityError when the chain does not hold together, and RunError
    when the chain is of another format than what would be added to it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder)
        try:
            self._lock = lock.take(folder / "lock")
        except PermissionError as error:
            raise RunError(f"{folder} may not be written.", hint="Allow it, or start a new run.") from error
        try:
            self.chain = self._recover()
        except BaseException:
            self._lock.close()
            raise
        self._units = {entry["unit"]: entry for entry in self.chain if entry["kind"] != "round"}

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _recover(self) -> list[dict[str, Any]]:
        """The chain, after what a crash left half written is cleared away."""
        chain = read_chain(self.folder)
        if format_of(chain) != FORMAT:
            said = _said(began_by(self.folder), "an earlier")
            raise RunError(
                f"{self.folder} is a record of format {format_of(chain)}, begun by {said}; "
                f"this is selftaught {VERSION}, which goes on with format {FORMAT} only, or results would be mixed.",
                hint="It can still be read. To finish it, install the version that began it; or start a new run.",
            )
        for name in ("chain.jsonl", "journal.jsonl"):
            mend(self.folder / name)
        for leftover in list(self.folder.rglob(".tmp-*")):
            remove(leftover)
        return chain

    @property
    def head(self) -> str:
        return self.chain[-1]["hash"] if self.chain else GENESIS

    def append(self, kind: str, unit: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Commit one entry to the chain. What it returns is what a later process will read."""
        self._check_open()
        plain: dict[str, Any] = json.loads(canonical(body))
        if not self.chain:
            plain["format"] = FORMAT
        entry = {**plain, "seq": len(self.chain), "prev": self.head, "kind": kind, "unit": unit}
        entry["hash"] = digest(entry)
        append_line(self.folder / "chain.jsonl", entry)
        self.chain.append(entry)
        return entry

    def journal(self, event: str, **facts: Any) -> None:
        """``time`` says when, by a clock that may be set; ``seconds`` (since boot) is what durations are made of."""
        self._check_open()
        clocks = {"time": round(time.time(), 3), "seconds": round(time.monotonic(), 3)}
        append_line(
            self.folder / "journal.jsonl", {**clocks, "event": event, "pid": os.getpid(), "head": self.head, **facts}
        )

    def _check_open(self) -> None:
        if self._lock.closed:
            raise RunError(f"{self.folder} is not open for writing here.",
                           hint="One process writes a run; a forked child or a closed Store does not.")  # fmt: skip

    def unit(self, kind: str, key: Any, place: str, make: Callable[[Path], Mapping[str, Any]]) -> Unit:
        """The unit of work ``key``: read back if it is committed, else made, published and committed.

        ``make`` gets an empty folder, writes the unit's files there and returns its facts (JSON values; no clock).
        """
        name = digest(kind, key)
        if name in self._units:
            return self._committed(name)
        if any(entry["place"] == place for entry in self._units.values()):
            raise RunError(
                f"{self.folder / place} already holds other committed work.",
                hint="The recipe, the data or the program changed since; start a new run.",
            )
        target = self.folder / place
        temporary = target.with_name(f".tmp-{target.name}")
        remove(temporary)
        make_folder(temporary)
        facts = make(temporary)
        files = {p.relative_to(temporary).as_posix(): file_digest(p) for p in temporary.rglob("*") if p.is_file()}
        publish_folder(temporary, target)
        entry = self.append(kind, name, {"place": place, "files": files, "facts": dict(facts)})
        self._units[name] = entry
        return Unit(name, kind, entry["facts"], target, fresh=True)

    def _committed(self, name: str) -> Unit:
        entry = self._units[name]
        folder = self.folder / entry["place"]
        check_files(folder, entry["files"])
        return Unit(name, entry["kind"], entry["facts"], folder, fresh=False)


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Raises IntegrityError when a file of a unit is gone, is reached by a link, or has other bytes."""
    for relative, expected in files.items():
        path = folder / relative
        if folder.is_symlink() or linked(folder, relative):
            raise IntegrityError(f"{path} is reached by a link: what it leads to is not the record.", hint=DAMAGED)
        if not path.is_file():
            raise IntegrityError(f"{path} is missing.", hint="Restore it from a copy, or start a new run.")
        if file_digest(path) != expected:
            raise IntegrityError(
                f"{path} is not what was recorded (SHA-256 differs).",
                hint="The file was edited or damaged. Restore it from a copy, or start a new run.",
            )


def read_chain(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run's chain, each link checked. Raises IntegrityError at the first bad one, and RunError for a
    chain of a format to come."""
    chain = read_lines(folder / "chain.jsonl")
    if format_of(chain) > FORMAT:
        version = began_by(folder)
        wanted = f"that version or a later one: pip install 'selftaught>={version}'" if version else "a later version."
        raise RunError(
            f"{folder} is a record of format {format_of(chain)}, begun by {_said(version, 'a later')}; "
            f"this is selftaught {VERSION}, which reads up to format {FORMAT}.",
            hint=f"Install {wanted}",
        )
    previous = GENESIS
    for number, entry in enumerate(chain):
        body = {k: v for k, v in entry.items() if k != "hash"}
        if entry.get("seq") != number or entry.get("prev") != previous or digest(body) != entry.get("hash"):
            raise IntegrityError(
                f"{folder / 'chain.jsonl'}, entry {number}: the chain does not hold together.", hint=DAMAGED
            )
        place = entry.get("place", "")
        if not all(_stays_inside(name) for name in (place, *entry.get("files", ()))) or linked(folder, place):
            raise IntegrityError(
                f"{folder / 'chain.jsonl'}, entry {number}: it names a file outside the run folder.", hint=DAMAGED
            )
        previous = entry["hash"]
    return chain


def format_of(chain: Sequence[Mapping[str, Any]]) -> int:
    """The format that a chain says it has; those of before there were numbers are of format 1."""
    said = chain[0].get("format", 1) if chain else FORMAT
    return said if isinstance(said, int) else 1


def began_by(folder: Path) -> str:
    """The version that began a run, as its journal has it; "" where it has none."""
    with suppress(IntegrityError, OSError):
        return next((str(e["selftaught"]) for e in read_lines(folder / "journal.jsonl") if "selftaught" in e), "")
    return ""


def _said(version: str, otherwise: str) -> str:
    return f"selftaught {version}" if version else f"{otherwise} selftaught"


def linked(folder: Path, name: str) -> bool:
    """Whether a symbolic link lies on the way from ``folder`` down to ``name``."""
    steps = PurePosixPath(name).parts
    return any(folder.joinpath(*steps[:n]).is_symlink() for n in range(1, len(steps) + 1))


def _stays_inside(name: str) -> bool:
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
