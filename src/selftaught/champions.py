"""Which model is the champion: a hash-linked list of promotions and rollbacks beside the runs, and nothing else.

The champion is computed from the list, so a crash leaves the old one or the new one and never a mix; an entry is there
whole or not at all. ``champions.jsonl`` lies in the folder of the runs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selftaught import lock
from selftaught.errors import IntegrityError
from selftaught.store import DAMAGED, GENESIS, append_line, make_folder, mend, read_lines
from selftaught.types import digest

CHAMPIONS = "champions.jsonl"
Entry = Mapping[str, Any]


def entries(root: Path) -> list[dict[str, Any]]:
    """Every entry, oldest first, each link checked. Raises IntegrityError at the first bad one."""
    found, previous = read_lines(root / CHAMPIONS), GENESIS
    for number, entry in enumerate(found):
        body = {k: v for k, v in entry.items() if k != "hash"}
        if entry.get("seq") != number or entry.get("prev") != previous or digest(body) != entry.get("hash"):
            raise IntegrityError(f"{root / CHAMPIONS}, entry {number}: the list does not hold together.", hint=DAMAGED)
        previous = entry["hash"]
    return found


def line_of_succession(found: Sequence[Entry]) -> list[Entry]:
    """The promotions that no rollback took back, oldest first; the last one is the champion."""
    line: list[Entry] = []
    for entry in found:
        if entry["action"] == "promoted":
            line.append(entry)
        elif entry["action"] == "rolled back":
            line = line[:-1]
    return line


def champion(root: Path) -> Entry | None:
    line = line_of_succession(entries(root))
    return line[-1] if line else None


def approvals(found: Sequence[Entry], run: str, candidate: str, head: str) -> set[str]:
    """Who approved exactly this: the candidate's weights and the record as it stood."""
    bound = (run, candidate, head)
    return {e["by"] for e in found if e["action"] == "approved" and (e["run"], e["candidate"], e["head"]) == bound}


def append(root: Path, found: Sequence[Entry], **facts: Any) -> dict[str, Any]:
    """One entry at the end, for whoever holds ``turn``; ``found`` is what stood there."""
    entry = {**facts, "seq": len(found), "prev": found[-1]["hash"] if found else GENESIS, "time": int(time.time())}
    entry["hash"] = digest(entry)
    append_line(root / CHAMPIONS, entry)
    return entry


def turn(root: Path) -> Any:
    """Within, nobody else writes the list; a torn last line is cut off first."""
    make_folder(root)
    mend(root / CHAMPIONS)
    return lock.turn(root / f"{CHAMPIONS}.lock")
