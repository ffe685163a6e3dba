"""What a person reads at the end of a run and from ``selftaught show``: one content, drawn rich or plain, or as JSON.

A summary is a list of blocks. On a terminal a block becomes a rich table; elsewhere the same rows become aligned text.
Texts of a model are data: control characters are made visible, and nothing in them is taken for markup.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftaught import control, paired
from selftaught.arms import Arm, arms
from selftaught.evaluate import HOLDOUTS, UNIT_OF, main_metric
from selftaught.figures import change, changed, interval, measure
from selftaught.findings import Found, findings
from selftaught.ledger import EXIT_CODES, GOOD, RunRecord
from selftaught.pairs import flips, pairs
from selftaught.roles import money, taken, written_by
from selftaught.trends import audits, audits_by_round, line
from selftaught.types import Metric, Report, Round, Rule
from selftaught.visible import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# first words, by stage
COUNT_ORDER = ("questions", "samples", "edits", "control", "replay", "real", "made", "kept", "rejected")
LONGEST = 240  # characters of a model's text in a summary; `selftaught ask` shows all of it


@dataclass(frozen=True)
class Block:
    """A titled table. ``stacked`` rows hold long texts: in plain text each cell gets lines of its own."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    header: tuple[str, ...] = ()
    stacked: bool = False


@dataclass(frozen=True)
class Change:
    """One suite before and after, on the same items; ``after`` and ``gain`` are None without a candidate."""

    suite: str
    n: int
    before: Metric
    after: Metric | None
    gain: Metric | None
    unit: str = "share"


# ---------------------------------------------------------------- numbers


def changes(record: RunRecord) -> list[Change]:
    """Every suite by its metric, with 95 % intervals; the gain's is paired (see paired.gain). Text guards are rules."""
    reports = {key: r for key, r in record.reports().items() if r.unit == "share" or key[1] in HOLDOUTS}
    suites = sorted({suite for _, suite in reports}, key=lambda s: (s not in HOLDOUTS, s))
    return [_change(s, reports["parent", s], reports.get(("candidate", s))) for s in suites
            if ("parent", s) in reports and reports["parent", s].scores]  # fmt: skip


def _change(suite: str, before: Report, after: Report | None) -> Change:
    n = len(before.scores)
    if after is None:
        return Change(suite, n, main_metric(before), None, None, before.unit)
    return Change(suite, n, main_metric(before), main_metric(after), paired.gain(before, after), before.unit)


def gains(record: RunRecord) -> dict[str, float]:
    """Gain on dev and vault as the gate saw it, read from the record alone."""
    rules = record.final.decision.rules if record.final else ()
    known = {rule.holdout: rule for rule in rules if rule.holdout}
    return {k: r.after - r.before for k, r in known.items() if r.after is not None and r.before is not None}


# ---------------------------------------------------------------- words


def shortened(text: str, longest: int = LONGEST) -> str:
    flat = " / ".join(line.strip() for line in printable(text).strip().splitlines() if line.strip())
    return flat if len(flat) <= longest else flat[: longest - 1] + "…"


def reference(record: RunRecord, root: Path) -> str:
    """What to type to name this run: its name if it lies under ``root``, else its path."""
    near = record.path.resolve().parent == root.resolve()
    return shlex.quote(record.name if near else str(record.path))


def next_commands(record: RunRecord, root: Path) -> list[str]:
    name = reference(record, root)
    if not (record.final and record.over):
        what = {"running": "show", "waiting": "review"}.get(record.outcome, "resume")
        return [f"selftaught {what} {name}"]
    report = f"selftaught report {name}"
    if record.kept is None:
        return [report]
    if _adapts(record):  # what it answers unprompted is not what it was trained for
        return [f"selftaught export {name} FOLDER", report] if record.outcome in GOOD else [report]
    return [f'selftaught ask {name} "{_sample_question(record)}"', report]


def _adapts(record: RunRecord) -> bool:
    return record.recipe.gate.primary.protocol == "adapt"


def _sample_question(record: RunRecord) -> str:
    found = pairs(record, most=1)
    question = " ".join(printable(found[0].question).split()) if found else ""
    return question if 0 < len(question) <= 80 and not set(question) & set('"\\$`!') else "your question"


def verdict(record: RunRecord) -> tuple[str, str]:
    """(outcome, why), in words."""
    if record.final and record.over:
        return record.outcome, record.final.decision.reason
    why = {
        "running": "a process works on it now",
        "waiting": "people have to answer first",
        "broken": "it ended with an error before a decision",
    }
    return record.outcome, why.get(record.outcome, "it has not come to a decision yet; what is finished is kept")


def headline(record: RunRecord) -> str:
    outcome, why = verdict(record)
    kind = record.recipe.control
    name = record.name if kind == "none" else f"{record.name} (control: {kind})"
    return f"{name}: {outcome} ({why})" if why else f"{name}: {outcome}"


def whereabouts(record: RunRecord) -> str:
    if record.kept is None:
        return "There is no new model; the parent stands."
    if record.outcome in GOOD:
        return f"The new model ({record.kept.name}): {record.kept}"
    return f"The parent stands. The candidate ({record.kept.name}) is kept for inspection: {record.kept}"


def author(record: RunRecord) -> str:
    """Who wrote what was learned, where it was not the model here, and what is asked, and what that cost."""
    said, asked = written_by(record.recipe), record.facts("questions")
    units = [taken(e["facts"]) for kind in ("evaluation", "control") for e in record.units(kind)]
    costs = money(record.recipe, [*(r.counts for r in record.rounds), asked.get("used", {}), *units])
    others = {name: costs.pop(name, 0.0) for name in ("judge", "editor")}
    cost = sum(costs.values())
    parts = [f"{said[0].upper()}{said[1:]}."] if said else []
    parts += [f"Questions about documents, with their answers, were written by {asked['by']}."] if asked else []
    parts += [f"Its tokens cost {cost:.4g} by the prices of the recipe."] if parts and cost else []
    parts += [
        f"The tokens of roles.{name} cost {c:.4g} by the prices of the recipe." for name, c in others.items() if c
    ]
    return " ".join(parts)


def used_labels(record: RunRecord) -> str:
    used = [name for name, value in asdict(record.labels).items() if value]
    return "Labels were used for: " + (", ".join(used) or "nothing") + "."


# ---------------------------------------------------------------- blocks


def blocks(record: RunRecord, root: Path) -> list[Block]:
    """The whole summary below its headline; blocks without rows are left out."""
    rules = record.final.decision.rules if record.final else ()
    counts = record.final.counts if record.final else {}
    found = changes(record)
    table = [(c.suite, str(c.n), interval(c.before, c.unit), interval(c.after, c.unit), changed(c.gain, c.unit))
             for c in found]  # fmt: skip
    title = "Right answers" if all(c.unit == "share" for c in found) else "Before and after"
    by = " (dev and vault: of adapters that learned an edit of the document)" if _adapts(record) else ""
    down = record.recipe.gate.primary.direction == "down"
    shown = [(shortened(p.question), shortened(p.before), shortened(p.after)) for p in pairs(record)]
    about = (control.said(record.recipe), whereabouts(record), author(record), used_labels(record))
    drawn = [
        Block(
            f"{title}, with 95 % intervals{by}" + ("; less is better on dev and vault" if down else ""),
            tuple(table),
            ("suite", "n", "before", "after", "change"),
        ),
        Block(
            "On dev, what adapters reached",
            tuple(map(_arm_row, _compared(record))),
            ("arm", "reached", "candidate minus it", "how"),
        ),
        Block(
            "Rewards of edits", tuple(map(_found_row, findings(record))), ("", "95 % interval", "over", "what it is")
        ),
        Block("Rounds", _rounds(record), ("round", "outcome", "on dev", "on vault", "why")),
        Block("The gate", tuple(_rule_row(r) for r in rules), ("rule", "before", "after", "passed", "how")),
        Block("Audits", tuple(map(line, audits(record, record.final))), ("audit", "outcome", "why")),
        Block(_pairs_title(record), tuple(shown), ("question", "before", "after"), stacked=True),
        Block("Counts", tuple((k, f"{counts[k]:,}") for k in sorted(counts, key=_count_place))),
        Block("The model", tuple((said,) for said in about if said)),
        Block("Next", tuple((command,) for command in next_commands(record, root))),
    ]
    return [b for b in drawn if b.rows]


def _compared(record: RunRecord) -> list[Arm]:
    """Both models' edits and the controls, where there are controls."""
    found = arms(record, record.reports())
    return found if any(a.name not in ("parent", "candidate") for a in found) else []


def _arm_row(arm: Arm) -> tuple[str, ...]:
    return arm.name.replace("_", " "), interval(arm.reached, arm.unit), changed(arm.gain, arm.unit), arm.meaning


def _found_row(found: Found) -> tuple[str, ...]:
    said = (changed if found.change else interval)(found.metric, found.unit)
    return found.name, said, f"{found.metric.n:,} {found.over}".strip(), found.meaning


def _rounds(record: RunRecord) -> tuple[tuple[str, ...], ...]:
    """A row per round of a run of several."""
    if len(record.rounds) < 2:
        return ()
    return tuple(
        (str(r.index + 1), r.decision.outcome, *(_step(r, name) for name in ("dev", "vault")), r.decision.reason)
        for r in record.rounds
    )


def _step(done: Round, holdout: str) -> str:
    rule = next((r for r in done.decision.rules if r.holdout == holdout and r.after is not None), None)
    return f"{measure(rule.before, rule.unit)} → {measure(rule.after, rule.unit)}" if rule else "–"


def _pairs_title(record: RunRecord) -> str:
    """Says what went the other way as well: three examples are not a score."""
    found = flips(record)
    counts = f" ({len(found.won)} on {found.suite}; {len(found.lost)} went the other way)" if found else ""
    return f"{'Adapters wrong' if _adapts(record) else 'Wrong'} before, right now{counts}"


def _count_place(name: str) -> tuple[int, str]:
    """Counts in the order of the loop; the record keeps them by name."""
    first = name.partition(" ")[0]
    return (COUNT_ORDER.index(first) if first in COUNT_ORDER else len(COUNT_ORDER), name)


def _rule_row(rule: Rule) -> tuple[str, ...]:
    return (
        rule.name,
        measure(rule.before, rule.unit),
        measure(rule.after, rule.unit),
        "yes" if rule.passed else "NO",
        rule.detail,
    )


def as_json(record: RunRecord, root: Path) -> dict[str, Any]:
    """The summary as one JSON object."""
    outcome, why = verdict(record)
    last = record.final if record.final else None
    return brief(record) | {
        "reason": why,
        "exit_code": EXIT_CODES.get(outcome),
        "suites": {c.suite: asdict(c) for c in changes(record)},
        "rules": [asdict(r) for r in last.decision.rules] if last else [],
        "audits": audits_by_round(record),
        "arms": {a.name: asdict(a) for a in arms(record, record.reports())},
        "rewards": {f.name: asdict(f.metric) for f in findings(record)},
        "counts": dict(last.counts) if last else {},
        "looks": dict(last.looks) if last else {},
        "parent": last.parent if last else None,
        "roles": dict(record.facts("tasks").get("roles", {})),
        "candidate": last.candidate if last else None,
        "kept": str(record.kept.resolve()) if record.kept else None,
        "pairs": [asdict(p) for p in pairs(record)],
        "next": next_commands(record, root),
    }


def brief(record: RunRecord) -> dict[str, Any]:
    """One line of ``selftaught runs --json``."""
    return {
        "name": record.name,
        "path": str(record.path.resolve()),
        "recipe": record.recipe.name,
        "method": record.recipe.method.name,
        "control": record.recipe.control,
        "outcome": record.outcome,
        "labels": asdict(record.labels),
        "model": record.recipe.model,
        "seed": record.recipe.seed,
        "gain": gains(record),
    }


def runs_block(records: Iterable[RunRecord]) -> Block:
    rows = [_run_row(record) for record in records]
    return Block("Runs", tuple(rows), ("run", "outcome", "on dev", "on vault", "model", "method"))


def _run_row(record: RunRecord) -> tuple[str, ...]:
    recipe = record.recipe
    method = recipe.method.name + (f", control: {recipe.control}" if recipe.control != "none" else "")
    return (record.name, record.outcome, _gain(record, "dev"), _gain(record, "vault"), recipe.model, method)


def _gain(record: RunRecord, holdout: str) -> str:
    gain = gains(record).get(holdout)
    return "–" if gain is None else change(gain, UNIT_OF[record.recipe.gate.primary.metric])


# ---------------------------------------------------------------- drawing


def draw(found: Sequence[Block], console: Console, head: str = "", good: bool | None = None) -> None:
    """Print blocks: rich tables on a terminal, plain text elsewhere. ``good`` colours the headline."""
    if not console.is_terminal:
        print(plain(found, f"\n{head}" if head else ""), file=console.file, flush=True)
        return
    from rich.text import Text

    if head:
        colour = {None: "bold", True: "bold green", False: "bold yellow"}[good]
        console.print(Text("\n" + head, style=colour))
    for block in found:
        console.print(Text("\n" + block.title, style="bold"))
        console.print(_table(block))


def draw_run(record: RunRecord, root: Path, console: Console) -> None:
    draw(blocks(record, root), console, headline(record), record.outcome in GOOD)


def plain(found: Sequence[Block], head: str = "") -> str:
    parts = [[head]] if head else []
    parts += [[block.title, *(f"  {line}" for line in _lines(block))] for block in found]
    return "\n\n".join("\n".join(part) for part in parts)


def _lines(block: Block) -> list[str]:
    if block.stacked:
        width = max(map(len, block.header))
        return [f"{name:<{width}} | {cell}" for row in block.rows for name, cell in zip(block.header, row, strict=True)]
    rows = [block.header, *block.rows] if block.header else list(block.rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return [line for row in rows for line in _aligned(row, widths)]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """One row; only the last cell may have several lines, which stand below each other."""
    start = "".join(f"{cell:<{width}}  " for cell, width in zip(row[:-1], widths, strict=True))
    first, *rest = row[-1].split("\n")
    return [start + first, *(" " * len(start) + line for line in rest)]


def _table(block: Block) -> RenderableType:
    from rich import box
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD if block.header else None, show_header=bool(block.header),
                  padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, show_lines=False)  # fmt: skip
    for number, name in enumerate(block.header or [""] * len(block.rows[0])):
        first = number == 0 and not block.stacked and len(block.rows[0]) > 1
        table.add_column(name, header_style="dim", overflow="fold", no_wrap=first, ratio=1 if block.stacked else None)
    for row in block.rows:
        table.add_row(*(Text(cell) for cell in row), end_section=block.stacked)
    if block.title in ("Next", "The model"):  # to be copied: never broken by a border or a column
        return Padding(Text("\n".join(cell for row in block.rows for cell in row), overflow="fold"), (0, 0, 0, 2))
    return Padding(table, (0, 0, 0, 2))


def draw_answers(before: str, after: str, console: Console) -> None:
    """The parent's and the candidate's whole answers: side by side on a terminal, one below the other elsewhere."""
    texts = {"before": printable(before).strip(), "after": printable(after).strip()}
    if not console.is_terminal:
        print("\n\n".join(f"{name}:\n{text}" for name, text in texts.items()), file=console.file, flush=True)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for name in texts:
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(*(Text(text) for text in texts.values()))
    console.print(table)
