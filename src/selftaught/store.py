"""Every durable write of a run goes through this module; nothing else opens a run file for writing.

A run folder holds *units*: folders of files, published whole (write to a temporary folder, fsync each file, rename,
fsync the parent) and then *committed* by one line in the hash-linked chain. A unit that is not in the chain does not
exist, whatever lies on disk; a unit that is in the chain is read back only if its bytes still have the recorded
SHA-256. So resuming is: ask for each unit again, and make only the ones that are not committed.

    chain.jsonl    units and decisions; no clock, no process id: two runs of the same recipe have the same chain
    journal.jsonl  what happened when: starts, resumes, stops, errors; quotes the head of the chain
    lock           flock'd while a process works here
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from selftaught.errors import IntegrityError, RunError, RunLocked
from selftaught.types import Example, Report, Rollout, Task, Verdict, canonical, digest

T = TypeVar("T")
GENESIS = "0" * 64
DAMAGED = "The record was edited or damaged. Restore the file from a copy, or start a new run."
LOCK_TRIES = 4


# ---------------------------------------------------------------- bytes on disk


def file_digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def folder_digest(folder: Path, names: Sequence[str] | None = None) -> str:
    """One digest over the names and bytes of the files in ``folder`` (all of them, or just ``names``)."""
    chosen = sorted(names) if names else sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return digest([[name, file_digest(folder / name)] for name in chosen])


def fsync_path(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
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
    with temporary.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)
    fsync_path(path.parent)


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
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, before)
            raise
    finally:
        os.close(handle)
    if new:
        fsync_path(path.parent)


def disk_is_full(error: Exception) -> bool:
    """Whether ``error`` says that no more can be written: no space, over quota, or over a limit on file size."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    said = str(error)  # safetensors reports it in words
    return (isinstance(error, OSError) and error.errno in full) or any(f"os error {code}" in said for code in full)


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


# ---------------------------------------------------------------- rows as parquet


def _columns(cls: type[Any]) -> Any:
    import pyarrow as pa

    text, ids = pa.string(), pa.list_(pa.int32())
    kinds: dict[type[Any], dict[str, Any]] = {
        Task: {
            "prompt": text,
            "answer": text,
            "checker": text,
            "split": text,
            "group": text,
            "source": text,
            "form": text,
        },
        Rollout: {
            "task_id": text,
            "index": pa.int32(),
            "author": text,
            "tokenizer": text,
            "prompt_ids": ids,
            "completion_ids": ids,
            "logprobs": pa.list_(pa.float64()),
            "text": text,
            "seed": pa.int64(),
            "answer": text,
            "error": text,
        },
        Example: {
            "prompt_ids": ids,
            "completion_ids": ids,
            "text": text,
            "task_id": text,
            "rejected_ids": ids,
            "loss": text,
            "weight": pa.float64(),
            "source": text,
            "parents": pa.list_(text),
        },
        Verdict: {"subject": text, "by": text, "ok": pa.bool_(), "reason": text, "value": text},
    }
    return pa.schema(list(kinds[cls].items()))


def write_rows(path: Path, cls: type[T], rows: Sequence[T]) -> None:
    """Rows of one noun as parquet, with page checksums. ``prompt`` messages are stored as a JSON string."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _columns(cls)
    columns: dict[str, list[Any]] = {}
    for name in schema.names:
        values = [getattr(row, name) for row in rows]
        columns[name] = [json.dumps(v, ensure_ascii=False) for v in values] if name == "prompt" else values
    pq.write_table(pa.table(columns, schema=schema), path, write_page_checksum=True, compression="zstd")


def read_rows(path: Path, cls: type[T]) -> list[T]:
    import pyarrow.parquet as pq

    table = pq.read_table(path, page_checksum_verification=True).to_pydict()
    tuples = {f.name for f in fields(cls) if str(f.type).startswith("tuple")}  # type: ignore[arg-type]
    if "prompt" in table:
        table["prompt"] = [json.loads(v) for v in table["prompt"]]
    names = list(table)
    rows = zip(*table.values(), strict=True)
    return [cls(**{k: tuple(v) if k in tuples else v for k, v in zip(names, row, strict=True)}) for row in rows]


def write_report(path: Path, report: Report) -> None:
    path.write_bytes(canonical(asdict(report)) + b"\n")


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

    Raises RunLocked when another process holds it and IntegrityError when the chain does not hold together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder)
        self._lock = self._take_lock()
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
        for name in ("chain.jsonl", "journal.jsonl"):
            mend(self.folder / name)
        for leftover in list(self.folder.rglob(".tmp-*")):
            remove(leftover)
        return read_chain(self.folder)

    def _take_lock(self) -> Any:
        try:
            handle = (self.folder / "lock").open("a+")
        except PermissionError as error:
            raise RunError(f"{self.folder} may not be written.", hint="Allow it, or start a new run.") from error
        if not _flocked(handle):
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            handle.close()
            raise RunLocked(
                f"{self.folder} is in use by {holder}.",
                hint="Wait for it to end or stop it with Ctrl-C there; or start your own run with another name=...",
            )
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        return handle

    @property
    def head(self) -> str:
        return self.chain[-1]["hash"] if self.chain else GENESIS

    def append(self, kind: str, unit: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Commit one entry to the chain. What it returns is what a later process will read."""
        plain: dict[str, Any] = json.loads(canonical(body))
        entry = {**plain, "seq": len(self.chain), "prev": self.head, "kind": kind, "unit": unit}
        entry["hash"] = digest(entry)
        append_line(self.folder / "chain.jsonl", entry)
        self.chain.append(entry)
        return entry

    def journal(self, event: str, **facts: Any) -> None:
        append_line(
            self.folder / "journal.jsonl",
            {"time": round(time.time(), 3), "event": event, "pid": os.getpid(), "head": self.head, **facts},
        )

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


def _flocked(handle: Any) -> bool:
    """Whether the lock was had. Tried for a moment: ``ledger.is_locked`` holds it for an instant."""
    for _ in range(LOCK_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.05)
    return False


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    for relative, expected in files.items():
        path = folder / relative
        if not path.is_file():
            raise IntegrityError(f"{path} is missing.", hint="Restore it from a copy, or start a new run.")
        if file_digest(path) != expected:
            raise IntegrityError(
                f"{path} is not what was recorded (SHA-256 differs).",
                hint="The file was edited or damaged. Restore it from a copy, or start a new run.",
            )


def read_chain(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run's chain, each link checked. Raises IntegrityError at the first bad one."""
    chain = read_lines(folder / "chain.jsonl")
    previous = GENESIS
    for number, entry in enumerate(chain):
        body = {k: v for k, v in entry.items() if k != "hash"}
        if entry.get("seq") != number or entry.get("prev") != previous or digest(body) != entry.get("hash"):
            raise IntegrityError(
                f"{folder / 'chain.jsonl'}, entry {number}: the chain does not hold together.", hint=DAMAGED
            )
        if not all(_stays_inside(name) for name in (entry.get("place", ""), *entry.get("files", ()))):
            raise IntegrityError(
                f"{folder / 'chain.jsonl'}, entry {number}: it names a file outside the run folder.", hint=DAMAGED
            )
        previous = entry["hash"]
    return chain


def _stays_inside(name: str) -> bool:
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
