"""What commands print when nobody asked for JSON: a plan, a first look at a file, a list of checks."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from rich.console import Console

from selftaught import summary
from selftaught.api import Started
from selftaught.integrity import Check


def plan(found: Mapping[str, Any]) -> None:
    """The settled recipe, the sizes, and what each holdout can prove."""
    print(yaml.safe_dump(found["recipe"], sort_keys=False, allow_unicode=True))
    print("\n".join(f"{name}: {count:,} questions" for name, count in found["sizes"].items()), end="\n\n")
    points = 100 * found["recipe"]["gate"]["min_gain"]
    for name, wanted in found["needed"].items():
        shown = f" → {provable(found['provable'][name])}" if name in found["provable"] else ""
        have = found["sizes"].get(name, 0)
        print(f"{name}: {have:,} labelled items{shown}; {wanted:,} needed to prove {points:g} points")
    print("\n".join(["", *found["notes"]]) if found["notes"] else "", end="\n")


def provable(gain: float | None) -> str:
    return "no gain can be proved" if gain is None else f"smallest provable gain {100 * gain:.1f} points"


def started(init: Started, console: Console) -> None:
    """What ``init`` found in a file, one question as the model sees it, and the next command."""
    found = init.findings
    shapes = ", ".join(f"{count:,} × {shape}" for shape, count in found.shapes.items())
    split = ", ".join(f"{count:,} {name}" for name, count in found.sizes.items())
    lines = [(f"{found.rows:,} rows of {found.format}: {shapes}",), (f"Split: {split}",), (found.proof,),
             *((note,) for note in found.notes)]  # fmt: skip
    sample = [("prompt", init.prompt), ("completion", init.completion),
              ("answer", init.answer if init.answer is not None else "none could be read from it")]  # fmt: skip
    if init.problem:
        sample = [("problem", init.problem)]
    out = shlex.quote(str(init.out))
    blocks = [
        summary.Block(str(found.path), tuple(lines)),
        summary.Block(f"One question, as {init.model} sees it", tuple((k, summary.printable(v)) for k, v in sample)),
        summary.Block(f"Wrote {init.out}. Next", ((f"selftaught run {out} --dry-run",), (f"selftaught run {out}",))),
    ]
    summary.draw(blocks, console)


def checks(found: Sequence[Check]) -> None:
    print("\n".join(f"{'ok   ' if c.ok else 'WRONG'}  {c.name:<10}  {c.detail}" for c in found))
