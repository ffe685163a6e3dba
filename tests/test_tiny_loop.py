"""The example for reading does what it says: the vote is accepted, chance is rejected, the record holds together."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "examples" / "tiny_loop.py"


@dataclass(frozen=True)
class Shown:
    """What a run prints: shares of right answers, and the chain."""

    before: float
    after: float
    chain: tuple[dict[str, Any], ...]

    @property
    def outcome(self) -> str:
        return str(self.chain[-1]["outcome"])


@lru_cache
def printed(*words: str) -> str:
    return subprocess.run([sys.executable, FILE, *words], capture_output=True, text=True, check=True, timeout=60).stdout


def shown(*words: str) -> Shown:
    text = printed(*words)
    found = re.search(r"before ([\d.]+)%, after ([\d.]+)% of", text)
    assert found is not None
    chain = tuple(json.loads(line) for line in text.splitlines() if line.startswith("{"))
    return Shown(float(found[1]), float(found[2]), chain)


def holds(chain: tuple[dict[str, Any], ...]) -> bool:
    """Every entry has the hash of its content and quotes the hash of the one before it."""
    previous = "0" * 64
    for entry in chain:
        content = json.dumps({k: v for k, v in entry.items() if k != "hash"}, sort_keys=True).encode()
        if entry["previous"] != previous or entry["hash"] != hashlib.sha256(content).hexdigest():
            return False
        previous = entry["hash"]
    return True


def test_it_is_short_and_needs_the_standard_library_only() -> None:
    text = FILE.read_text(encoding="utf-8")
    modules = {a.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import) for a in n.names}
    modules |= {n.module or "" for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)}
    assert len(text.splitlines()) <= 200
    assert modules <= sys.stdlib_module_names


def test_what_the_samples_agree_on_is_learnt_and_accepted() -> None:
    voted = shown()
    assert voted.outcome == "accepted" and voted.after > voted.before + 10
    assert voted.chain[-1]["model"] == voted.chain[-1]["candidate"]


def test_random_votes_are_rejected_and_the_parent_stands() -> None:
    random = shown("--vote", "random")
    assert random.outcome == "rejected" and random.before == shown().before
    assert random.chain[-1]["candidate"] != random.chain[0]["parent"] == random.chain[-1]["model"]


def test_unvoted_samples_teach_the_model_what_it_says_already() -> None:
    every = shown("--vote", "all")
    assert every.outcome == "rejected" and abs(every.after - every.before) < 3


def test_the_record_holds_together_until_it_is_edited() -> None:
    chain = shown().chain
    assert [entry["kind"] for entry in chain] == ["begin", "examples", "round"] and holds(chain)
    edited = ({**chain[0], "seed": 1}, *chain[1:])
    assert not holds(edited) and not holds(chain[1:])


def test_the_same_seed_gives_the_same_bytes() -> None:
    printed.cache_clear()
    first = printed()
    printed.cache_clear()
    assert printed() == first != printed("--seed", "1")
