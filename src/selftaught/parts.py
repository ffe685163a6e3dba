"""Parts of a run folder as what people read quotes them: only files whose bytes the chain knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from selftaught import load
from selftaught.ledger import RunRecord
from selftaught.rows import read_rows
from selftaught.store import check_files
from selftaught.types import Document

T = TypeVar("T")
Entry = Mapping[str, Any]


def part(record: RunRecord, entry: Entry, name: str) -> Path | None:
    """A file of a committed unit, its bytes checked; None where the unit has none or the file was removed."""
    folder: Path = record.path / str(entry["place"])
    if name not in entry["files"] or not (folder / name).exists():
        return None
    check_files(folder, {name: entry["files"][name]})
    return folder / name


def last_part(record: RunRecord, kind: str, name: str) -> Path | None:
    """``part`` of the newest unit of a kind, in the final round where it belongs to one."""
    found = record.units(kind, None if kind == "tasks" else record.final)
    return part(record, found[-1], name) if found else None


def columns(path: Path | None, *names: str) -> Iterator[tuple[Any, ...]]:
    """Some columns of a parquet file, row by row: token ids and log-probabilities are big and of no use here."""
    import pyarrow.parquet as pq

    if path is None:
        return iter(())
    table = pq.read_table(path, columns=list(names), page_checksum_verification=True)
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def studied(record: RunRecord) -> dict[str, Document]:
    """Documents by the id of the task that asks for an edit of them; empty where the method writes none."""
    path = last_part(record, "tasks", "documents.parquet")
    method: Any = load.make("methods", record.recipe.method) if path else None
    if path is None or not hasattr(method, "study"):
        return {}
    return {method.study(d).id: d for d in read_rows(path, Document)}


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most ``most`` items, evenly spaced from the first: a choice nobody can tune."""
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]
