"""Nouns as files: rows of one kind as parquet with page checksums, a report as one line of JSON."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from selftaught.types import Document, Example, Item, Report, Rollout, Task, Tried, Verdict, canonical

T = TypeVar("T")


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
        Item: {
            "id": text,
            "question": text,
            "group": text,
            "gold": text,
            "answer": text,
            "score": pa.float64(),
            "error": text,
        },
        Document: {"id": text, "text": text, "title": text, "split": text, "oracle": pa.list_(text)},
        Tried: {
            "trial": text,
            "task_id": text,
            "answer": text,
            "text": text,
            "right": pa.float64(),
            "loglik": pa.float64(),
            "error": text,
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

    table = pq.read_table(path, page_checksum_verification=True)
    columns = {name: _values(table[name].combine_chunks()) for name in table.column_names}
    if "prompt" in columns:
        columns["prompt"] = [tuple(json.loads(v)) for v in columns["prompt"]]
    names, rows = list(columns), zip(*columns.values(), strict=True)
    if names == [f.name for f in fields(cls)]:  # type: ignore[arg-type]
        return [cls(*row) for row in rows]
    return [cls(**dict(zip(names, row, strict=True))) for row in rows]  # an earlier format had fewer


def _values(column: Any) -> list[Any]:
    """A column as Python values, lists as tuples. By way of numpy, which makes them many at once."""
    import pyarrow as pa

    if pa.types.is_list(column.type):
        items, ends = _values(column.values), column.offsets.to_pylist()
        return [tuple(items[start:end]) for start, end in itertools.pairwise(ends)]
    if column.null_count and not pa.types.is_string(column.type):
        return list(column.to_pylist())
    return list(column.to_numpy(zero_copy_only=False).tolist())


def write_report(path: Path, report: Report) -> None:
    path.write_bytes(canonical(asdict(report)) + b"\n")
