"""What commands print when nobody asked for JSON: a plan, a first look at a file, a list of checks."""

from __future__ import annotations

import json as json_
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from rich.console import Console

from selftaught import figures, summary
from selftaught.api import Started, runs_root
from selftaught.exam import Exam
from selftaught.export import beside
from selftaught.inspection import Inspection
from selftaught.integrity import Check
from selftaught.ledger import EXIT_CODES, RunRecord
from selftaught.lock import holder
from selftaught.people import Imported, Queue
from selftaught.promotion import Promotion
from selftaught.trends import in_order, line
from selftaught.types import Audited, Metric
from selftaught.visible import printable


def plan(found: Mapping[str, Any]) -> None:
    """The settled recipe, the sizes, and what each holdout can prove."""
    print(yaml.safe_dump(found["recipe"], sort_keys=False, allow_unicode=True))
    print("\n".join(f"{name}: {count:,} questions" for name, count in found["sizes"].items()), end="\n\n")
    points = 100 * found["recipe"]["gate"]["min_gain"]
    for name, wanted in found["needed"].items():
        shown = f" → {provable(found['provable'][name])}" if name in found["provable"] else ""
        have = found["sizes"].get(name, 0)
        aim = "rule out its margin" if name.startswith("guard") else f"prove {points:g} points"
        print(f"{name}: {have:,} labelled items{shown}; {wanted:,} needed to {aim}")
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
        summary.Block(f"One question, as {init.model} sees it", tuple((k, printable(v)) for k, v in sample)),
        summary.Block(f"Wrote {init.out}. Next", ((f"selftaught run {out} --dry-run",), (f"selftaught run {out}",))),
    ]
    summary.draw(blocks, console)


def queue(found: Queue) -> None:
    """Where the questions are, how many are open, the first of them, and what to do."""
    if not found.questions:
        print(f"{found.run} asks nobody anything.")
        return
    first = found.questions[0]
    print(f"{found.run} waits for {len(found.questions)} verdicts. Its queue: {found.files[-1]}\n")
    print(f"The first, {first.why or first.kind}:\n  {printable(first.question)}")
    print("  " + printable(first.text).strip().replace("\n", "\n  "), end="\n\n")
    print('Copy the file, set "ok" to true or false in each line, then:')
    print(f"  selftaught review {shlex.quote(found.run)} --import FILE --by NAME")


def finish(record: RunRecord, quiet: bool, json: bool, console: Console) -> int:
    """A finished run: all of it, one line, or JSON; the exit code is its outcome's."""
    home = runs_root()  # where the next command looks when it is typed without --runs
    if json:
        print(json_.dumps(summary.as_json(record, home), indent=2, ensure_ascii=False))
    elif quiet:
        print(summary.headline(record))
    else:
        summary.draw_run(record, home, console)
    return EXIT_CODES.get(record.outcome, 0)


def stopped(record: RunRecord) -> int:
    """Whether a run that was asked to stop, and waited for, has; 1 where it still works."""
    outcome = record.outcome
    if outcome == "running":
        who = holder(record.path / "lock")
        end = f"kill -9 {who.pid}, on {who.host}" if who else "kill -9 its process"
        print(f"{record.name} was asked to stop and still works ({who or 'in another process'}).")
        print(f"  It ends after what it is at. At once, with nothing lost that is finished: {end}")
        return 1
    name = shlex.quote(record.name if record.path.parent.resolve() == runs_root().resolve() else str(record.path))
    said = f"has stopped; go on with: selftaught resume {name}" if outcome == "stopped" else f"has ended: {outcome}"
    print(f"{record.name} {said}")
    return 0


def promoted(found: Promotion) -> None:
    more = f"{found.missing} more must approve" if found.missing else f"{found.run} is the champion"
    print(f"approved by {', '.join(found.by)}; {more}")


def exam(found: Exam) -> None:
    """Before, after and the gain with their 95 % intervals."""
    before, after, gain = (Metric(value, found.n, *ends) for value, *ends in (found.before, found.after, found.gain))
    print(f"{found.n:,} questions of {found.suite}")
    print(f"  before  {figures.interval(before, found.unit)}\n  after   {figures.interval(after, found.unit)}")
    print(f"  change  {figures.changed(gain, found.unit)}" + (" (less is better)" if found.down else ""))
    print(f"  {found.test}")
    print(f"  {found.note}\n" if found.note else "", end="")
    for split, count in found.known.items():
        print(f"  {count} of them stand in the run's own {split}")


def exported(record: RunRecord) -> None:
    """On stderr, what whoever publishes the model has to know."""
    if said := beside(record):
        print(f"warning: {said}", file=sys.stderr)


def audit(found: Inspection, console: Console) -> None:
    """What every audit says, and a table of its measures."""
    between = f", {found.between} accepted between them" if found.between else ""
    beside = f"held against {found.base}{between}" if found.base else "by itself: nothing to compare with"
    blocks = [
        summary.Block(f"{found.subject}, {beside}", tuple(map(line, found.audits)), ("audit", "outcome", "why")),
        *(b for a in found.audits if (b := _measures(a)).rows),
        summary.Block("Note", tuple((note,) for note in found.notes)),
    ]
    summary.draw([b for b in blocks if b.rows], console)


def _measures(audit: Audited) -> summary.Block:
    rows = [(name, figures.spanned(before), figures.spanned(after), f"{(after or before or _NONE).n:,}")
            for name, before, after in in_order(audit)]  # fmt: skip
    return summary.Block(f"{audit.name}: {audit.outcome}", tuple(rows), ("measure", "before", "after", "n"))


_NONE = Metric(0.0, 0, 0.0, 0.0)


def imported(found: Imported) -> None:
    said = {"taken": found.taken, "the same as before": found.same, "too late (another verdict came first)": found.late,
            "not asked": found.unknown, "undecided": found.undecided}  # fmt: skip
    print("; ".join(f"{count} {what}" for what, count in said.items() if count) or "nothing in it")
    print(f"{found.missing} still missing" if found.missing else "every question has its verdict: selftaught resume")


def checks(found: Sequence[Check]) -> None:
    print("\n".join(f"{'ok   ' if c.ok else 'WRONG'}  {c.name:<10}  {c.detail}" for c in found))
