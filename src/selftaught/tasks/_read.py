"""Files to rows: JSON lines, a JSON list, CSV, TSV or parquet; and files that are one JSON object, or text.

Nothing is skipped: one bad line refuses the file. Every fault is a DataError with file, line and counts; sizes are
bounded, and nothing compressed or pickled is opened.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from selftaught.errors import DataError

MAX_LINE = 10_000_000  # bytes
MAX_FILE = 1_000_000_000  # bytes, for formats that are read whole, and for parquet once unpacked
PARQUET_BATCH = 64  # rows; bounds what one batch can unpack to before it is counted

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_ACCEPTED = "Accepted: JSON lines (.jsonl), a JSON list (.json), .csv, .tsv and .parquet."
_TEXT = "Accepted: plain text in UTF-8 (.txt, .md). Save it as such, or take it out of the folder."


@dataclass(frozen=True)
class Row:
    """One record and where it stands: the line in a text file, else the number of the item, both from 1."""

    line: int
    data: Mapping[str, Any]


def read_rows(path: Path) -> tuple[str, list[Row]]:
    """(format, rows) of a file; format is "JSON lines", "JSON list", "CSV", "TSV" or "parquet". Raises DataError."""
    try:
        kind = _sniff(path)
        rows = _READERS[kind](path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not rows:
        raise DataError(f"{path} has no rows.", hint="Put one question per line, for example " + EXAMPLE)
    return kind, rows


EXAMPLE = '{"question": "What is 2+3?", "answer": "5"}'


# ---------------------------------------------------------------- what kind of file is it


def _sniff(path: Path) -> str:
    _require_file(path)
    with path.open("rb") as f:
        head = f.read(8192)
    if not head.removeprefix(b"\xef\xbb\xbf"):
        raise DataError(f"{path} is empty.", hint="Put one question per line, for example " + EXAMPLE)
    if head.startswith(b"PAR1"):
        return "parquet"
    _refuse_binary(path, head)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        raise DataError(f"{path} is not a parquet file, though its name says so.", hint=_ACCEPTED)
    if suffix in (".csv", ".tsv"):
        return suffix[1:].upper()
    return "JSON list" if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[") else "JSON lines"


def _require_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.is_file())[:5]
        raise DataError(f"{path} is a folder.", hint=f"Name one file in it: {', '.join(inside) or 'it has none'}.")
    if not path.exists():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, near, n=1)
        raise DataError(
            f"There is no file {path}.", hint=f"Did you mean {path.parent / close[0]}?" if close else "Check the path."
        )
    if not path.is_file():
        raise DataError(f"{path} is not a regular file.", hint=_ACCEPTED)


def _refuse_binary(path: Path, head: bytes, accepted: str = _ACCEPTED, suffix: str = ".jsonl") -> None:
    """``accepted`` is the advice, and ``suffix`` that of a file which would be."""
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{path} is a {name} archive.", hint="Unpack it first and name the file inside.")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            f"{path} is UTF-16, not UTF-8.",
            hint=f"Convert it: iconv -f UTF-16 -t UTF-8 {path} > {path.stem}.utf8{suffix}",
        )
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise DataError(f"{path} is a Python pickle, which can run code; it is never opened.", hint=accepted)
    if b"\x00" in head:
        raise DataError(f"{path} is a binary file, not text.", hint=accepted)


# ---------------------------------------------------------------- JSON


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [k for k, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _parse(text: str) -> Any:
    """JSON without duplicate keys, NaN, Infinity and unpaired surrogates. Raises ValueError in words for a person."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise ValueError(f"not JSON: {error.msg} at {place}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair (\\ud800-\\udfff) stands alone") from None
    return value


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte 0x{data[error.start]:02x} at column {error.start + 1}") from None


def _bounded_lines(path: Path, f: BinaryIO) -> Iterator[bytes]:
    number = 0
    while line := f.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise DataError(
                f"{path}, line {number}: longer than {MAX_LINE // 1_000_000} MB ({number - 1} lines before it).",
                hint="Is it one record per line? Split the record, or write the file as JSON lines.",
            )
        yield line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _read_lines(path: Path) -> list[Row]:
    rows: list[Row] = []
    bad: list[tuple[int, str]] = []
    last = b""
    with path.open("rb") as f:
        for number, last in enumerate(_bounded_lines(path, f), start=1):
            if not last.strip():
                continue
            try:
                rows.append(Row(number, _record(_parse(_decode(last)))))
            except ValueError as error:
                bad.append((number, str(error)))
    if bad:
        raise _bad_lines(path, len(rows), bad, torn=bad[-1][0] == number and not last.endswith(b"\n"))
    return rows


def _record(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"a record must be a JSON object {{...}}, this is a {type(value).__name__}")
    return value


def _bad_lines(path: Path, good: int, bad: Sequence[tuple[int, str]], torn: bool) -> DataError:
    number, reason = bad[0]
    if torn and len(bad) == 1:
        advice = "The last line is cut short: copy the file again, or delete that line."
    elif good == 0:
        advice = f"{_ACCEPTED} One line is for example {EXAMPLE}"
    else:
        advice = f"Mend the line or delete it (sed -i {number}d {path}); nothing is skipped silently."
    return DataError(f"{path}, line {number}: {reason}. {len(bad)} bad, {good} good lines.", hint=advice)


def _read_list(path: Path) -> list[Row]:
    _bound(path, path.stat().st_size)
    try:
        value = _parse(_decode(path.read_bytes()).removeprefix("\ufeff"))
    except ValueError as error:
        raise DataError(
            f"{path}: {error}. 0 good rows: a JSON list is all or nothing.",
            hint="Copy the file again, or write one record per line (.jsonl).",
        ) from error
    bad = [n for n, item in enumerate(value, start=1) if not isinstance(item, dict)]
    if bad:
        raise DataError(
            f"{path}, item {bad[0]}: not a JSON object. {len(bad)} bad, {len(value) - len(bad)} good items.",
            hint=f"Each item must look like {EXAMPLE}",
        )
    return [Row(n, item) for n, item in enumerate(value, start=1)]


def read_object(path: Path) -> Mapping[str, Any] | None:
    """A file that is one JSON object with ``data``, as SQuAD is published; None for any other. Raises DataError."""
    _require_file(path)
    try:
        with path.open("rb") as f:
            first = f.readline(MAX_LINE + 1).removeprefix(b"\xef\xbb\xbf")
        if not first.lstrip().startswith(b"{") or _is_record(first):
            return None
        _bound(path, path.stat().st_size)
        value = _record(_parse(_decode(path.read_bytes()).removeprefix("\ufeff")))
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise DataError(
            f"{path}: {error}. 0 good entries: a file of one JSON object is all or nothing.",
            hint="Copy the file again, or write one record per line (.jsonl).",
        ) from error
    return value if "data" in value else None


def _is_record(line: bytes) -> bool:
    """Whether a line is a whole JSON object, and not of the kind that holds all others."""
    try:
        return "data" not in _record(_parse(_decode(line)))
    except ValueError:
        return False


def read_text(path: Path) -> str:
    """A text file, its lines ended by a line feed. Raises DataError, with the line where it is not UTF-8."""
    _require_file(path)
    try:
        _bound(path, path.stat().st_size)
        data = path.read_bytes()
        _refuse_binary(path, data[:8192], _TEXT, path.suffix)
        return data.removeprefix(b"\xef\xbb\xbf").decode().replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: not UTF-8: byte 0x{error.object[error.start]:02x}.",
            hint=f"Convert it: iconv -f LATIN1 -t UTF-8 {path} > {path.stem}.utf8{path.suffix}",
        ) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read: {error.strerror or error}.", hint="Check the file and who may read it.")


def _bound(path: Path, size: int, limit: int = MAX_FILE) -> None:
    if size > limit:
        raise DataError(
            f"{path} holds more than {limit // 1_000_000} MB.", hint="Split it, or write it as JSON lines (.jsonl)."
        )


# ---------------------------------------------------------------- tables


def _read_table(path: Path) -> list[Row]:
    _bound(path, path.stat().st_size)
    rows: list[Row] = []
    limit = csv.field_size_limit(MAX_LINE)
    try:
        with path.open(encoding="utf-8-sig", newline="") as f:
            reader = csv.reader(f, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            header = [name.strip() for name in next(reader)]
            _check_header(path, header)
            for cells in reader:
                if cells:
                    rows.append(Row(reader.line_num, _table_row(path, header, cells, reader.line_num, len(rows))))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} after {len(rows)} good rows.",
            hint=f"Convert it: iconv -f LATIN1 -t UTF-8 {path} > {path.stem}.utf8{path.suffix}",
        ) from error
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}. {len(rows)} good rows before it.",
            hint="Mend the quotes there; if it is the end of the file, it was cut short: copy it again.",
        ) from error
    finally:
        csv.field_size_limit(limit)
    return rows


def _check_header(path: Path, header: Sequence[str]) -> None:
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise DataError(f"{path}, line 1: the column {twice[0]!r} stands twice.", hint="Rename one of the two.")


def _table_row(path: Path, header: Sequence[str], cells: Sequence[str], line: int, good: int) -> Mapping[str, Any]:
    if len(cells) != len(header):
        raise DataError(
            f"{path}, line {line}: {len(cells)} cells under {len(header)} columns. {good} good rows before it.",
            hint='A cell with a comma or a line break needs quotes: "1,000".',
        )
    return dict(zip(header, cells, strict=True))


def _read_parquet(path: Path, limit: int = MAX_FILE) -> list[Row]:
    """Counts what unpacks as it goes: a small file of repeated values can unpack to a thousand times its size."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records: list[Mapping[str, Any]] = []
    unpacked = 0
    try:
        file = pq.ParquetFile(path)
        _bound(path, sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)), limit)
        for batch in file.iter_batches(batch_size=PARQUET_BATCH):
            unpacked += batch.nbytes
            _bound(path, unpacked, limit)
            records += batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path} is not a whole parquet file after {len(records)} good rows: {str(error).splitlines()[0]}",
            hint="It was cut short or damaged: copy it again.",
        ) from error
    return [Row(n, record) for n, record in enumerate(records, start=1)]


_READERS = {
    "JSON lines": _read_lines,
    "JSON list": _read_list,
    "CSV": _read_table,
    "TSV": _read_table,
    "parquet": _read_parquet,
}
