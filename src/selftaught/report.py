"""A run folder in, one ``report.html`` out that needs nothing else: no script, no remote file, no clock of its own.

Each function reads one part of the record into plain values; ``report.html.j2`` puts them into words and drawings. A
part that a run does not have (no labels, nothing trained, unfinished) is None or empty, and the page says so. A file is
quoted only if its bytes still have the SHA-256 in the chain. What a model wrote is data: it reaches the page escaped,
with the characters that a reader would not see spelled out.
"""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from selftaught.arms import Arm, arms, axes, side_by_side
from selftaught.config import to_yaml
from selftaught.control import said
from selftaught.evaluate import HOLDOUTS
from selftaught.figures import claim, decimals, plain
from selftaught.findings import edits
from selftaught.ledger import RunRecord, read_report, read_run
from selftaught.panels import axis, compare, panels
from selftaught.parts import Entry, T, columns, last_part, part, spread, studied
from selftaught.roles import written_by
from selftaught.rows import read_rows
from selftaught.store import GENESIS, read_lines, write_file
from selftaught.tasks.base import CORRECT_SCORE
from selftaught.trends import sheets
from selftaught.types import MIXED_IN, Example, Report, Task, Verdict
from selftaught.visible import spelled, written

Tasks = Mapping[str, Task]  # by id
FORMS = ("chat", "cot", "plain")  # how a method may have put a question: its rollouts go by the id of that form
SHOWN = 8  # kept samples, rejected samples, pairs of answers
ENDS = {
    "finished": "finished",
    "waiting": "waiting for people",
    "stopped": "stopped by request",
    "paused": "paused",
    "broken": "broke with an error",
}
COUNTS = ("sampled", "samples", "edits", "answered", "questions", "control", "made", "kept", "rejected", "replay",
          "real")  # first words  # fmt: skip


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a run folder and return its path. The same record gives the same bytes.

    Raises RecipeError for a folder that is no run, and IntegrityError when a file that would be quoted is not what the
    chain says.
    """
    page = drawn(contents(read_run(folder)))
    write_file(folder / "report.html", page.encode())
    return folder / "report.html"


def drawn(shown: Mapping[str, Any]) -> str:
    """The page of what ``contents`` read."""
    env = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                      finalize=spelled, trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    env.filters.update(written=written, date=date, decimals=decimals, quoted=shlex.quote,
                       plain=lambda value: plain(value).replace("-", "−"))  # fmt: skip
    return env.get_template("report.html.j2").render(**shown)


def contents(record: RunRecord) -> dict[str, Any]:
    """Everything the template shows."""
    reports, tasks, documents = read_reports(record), read_tasks(record), studied(record)
    adapts, tried = record.recipe.gate.primary.protocol == "adapt", edits(record, documents)
    done = [record.final] if record.final and record.over else []
    down = record.recipe.gate.primary.direction == "down"
    suites = compare(reports, done[0].decision.rules if done else (), down)
    judged = {s.name: s for s in suites if s.gain is not None}
    return {
        "record": record, "author": written_by(record.recipe), "control": said(record.recipe),
        "round": done[0] if done else None, "ending": None if done else ending(record),
        "claim": claim(record.recipe.gate.primary), "panels": panels(suites),
        "hero": judged.get("vault") or judged.get("dev"),
        "audits": sheets(record), "arms": reached(arms(record, reports)), "edits": tried,
        "documents": {split: len({q.group for q in some.values()}) for split, some in tasks.items() if documents},
        "wrote": wrote(record, tasks.get("train", {}), set(documents), texts=tried is None),
        "learning": learning(record), "pairs": None if adapts else pairs(record, reports, tasks),
        "sides": side_by_side(record, reports, tasks, documents) if adapts else None, "cost": cost(record),
        "rounds": record.rounds if len(record.rounds) > 1 else [],
        "head": record.chain[-1]["hash"] if record.chain else GENESIS, "recipe_yaml": to_yaml(record.recipe),
    }  # fmt: skip


def reached(found: list[Arm]) -> dict[str, Any] | None:
    """The arms with their axes, if there is more to compare than the two models."""
    if not any(a.name not in ("parent", "candidate") for a in found):
        return None
    values, gains = axes(found)
    return {"rows": found, "unit": found[0].unit, "across": values, "gains": gains}


def ending(record: RunRecord) -> tuple[str, str]:
    """How a run without a decision stands, and the error it ended with, if any."""
    last = {e["event"]: e for e in record.journal}
    end = record.journal[-1] if record.journal else {"event": ""}
    killed = "still working" if record.outcome == "running" else "ended without a word (killed, or a power cut)"
    stage = f", in the stage “{last['stage']['stage']}”" if "stage" in last else ""
    return ENDS.get(end["event"], killed) + stage, str(end.get("error", "")).strip()


# ---------------------------------------------------------------- reading the folder


def read_tasks(record: RunRecord) -> dict[str, Tasks]:
    """The splits whose questions the page quotes."""
    paths = {split: last_part(record, "tasks", f"{split}.parquet") for split in ("train", "dev", "vault")}
    return {split: {t.id: t for t in read_rows(path, Task)} for split, path in paths.items() if path}


def read_reports(record: RunRecord) -> dict[tuple[str, str], Report]:
    """``RunRecord.reports()`` of the files that are still there, checked."""
    paths = {key: part(record, entry, "report.json") for key, entry in record.evaluations().items()}
    found = {key: read_report(path) for key, path in paths.items() if path}
    return {key: report for key, report in found.items() if report.unit == "share" or key[1] in HOLDOUTS}


def in_turns(items: Iterable[T], kind: Callable[[T], str]) -> list[T]:
    """At most ``SHOWN`` items, one of each kind in turn, so that a rare kind is seen."""
    kinds: dict[str, list[T]] = {}
    for item in items:
        kinds.setdefault(kind(item), []).append(item)
    turns = zip_longest(*(spread(k, SHOWN) for k in kinds.values()))
    return [item for turn in turns for item in turn if item is not None][:SHOWN]


# ---------------------------------------------------------------- what the model wrote


@dataclass(frozen=True)
class Vote:
    """How the samples of one question voted. ``right``: samples that equal its answer, where it came with one."""

    winner: str | None
    count: int
    samples: int
    answer: str | None
    right: int


def wrote(record: RunRecord, train: Tasks, studies: Set[str] = frozenset(), texts: bool = True) -> dict[str, Any]:
    """``studies``: tasks that ask for edits of documents, which no vote is about. ``texts``: whether to quote some."""
    counts = dict(record.final.counts if record.final else record.facts("examples").get("counts", {}))
    asked = {replace(t, form=form).id: t for t in train.values() for form in (t.form, *FORMS)}
    votes, refused = count_votes(record, asked, studies), rejected(record)
    kept = columns(last_part(record, "examples", "kept.parquet"), "source", "task_id", "text")
    chosen = spread([(task_id, text) for source, task_id, text in kept if texts and source not in MIXED_IN], SHOWN)
    turns = in_turns(refused, lambda pair: pair[1].by)
    return {
        "counts": {k: counts[k] for k in sorted(counts, key=_count_place)}, "histogram": histogram(votes),
        "kept": [(asked.get(task_id), votes.get(task_id), text, None) for task_id, text in chosen],
        "rejected": [(asked.get(e.task_id), votes.get(e.task_id), e.text, v) for e, v in turns],
        "reasons": _reasons([v for _, v in refused]),
    }  # fmt: skip


def _count_place(name: str) -> tuple[int, str]:
    first = name.replace("_", " ").split()[0]
    return (COUNTS.index(first) if first in COUNTS else len(COUNTS), name)


def count_votes(record: RunRecord, asked: Tasks, studies: Set[str] = frozenset()) -> dict[str, Vote]:
    """Votes on every question sampled more than once; unprompted text is no vote, nor is a sample without an answer,
    nor an edit of a document (``studies``).

    Answers are compared letter for letter. ``asked`` holds the tasks that are known by the ids of the rollouts.
    """
    ballots: dict[str, Counter[str | None]] = {}
    for entry in record.units("rollouts", record.final):
        for task_id, answer in columns(part(record, entry, "rows.parquet"), "task_id", "answer"):
            ballots.setdefault(task_id, Counter())[answer] += 1
    unasked = {Task(()).id, *studies}
    return {t: _vote(b, asked.get(t)) for t, b in ballots.items() if b.total() > 1 and t not in unasked}


def _vote(ballot: Counter[str | None], task: Task | None) -> Vote:
    winner, count = next(((a, n) for a, n in ballot.most_common() if a is not None), (None, 0))
    answer = task.answer if task else None
    return Vote(winner, count, ballot.total(), answer, 0 if answer is None else ballot[answer])


def histogram(votes: Mapping[str, Vote]) -> dict[str, Any] | None:
    """Questions by the share of samples behind the majority; where training answers exist, by right and not."""
    samples = max((v.samples for v in votes.values()), default=0)
    if samples < 2:
        return None
    steps = samples if samples <= 16 else 10
    right, rest = [0] * (steps + 1), [0] * (steps + 1)
    for v in votes.values():
        hit = v.winner is not None and v.winner == v.answer
        (right if hit else rest)[math.ceil(v.count / v.samples * steps - 1e-9)] += 1
    known = [v for v in votes.values() if v.answer is not None]
    return {"bins": list(zip(right, rest, strict=True)), "samples": samples, "questions": len(votes),
            "known": len(known), "axis": axis(0, max(map(sum, zip(right, rest, strict=True))), 4),
            "majority": sum(right) / max(1, len(known)),
            "single": sum(v.right / v.samples for v in known) / max(1, len(known))}  # fmt: skip


def rejected(record: RunRecord) -> list[tuple[Example, Verdict]]:
    examples, verdicts = (last_part(record, "examples", f"{name}.parquet") for name in ("rejected", "verdicts"))
    if examples is None or verdicts is None:
        return []
    by_id = {e.id: e for e in read_rows(examples, Example)}
    return [(by_id[v.subject], v) for v in read_rows(verdicts, Verdict) if not v.ok and v.subject in by_id]


def _reasons(verdicts: Sequence[Verdict]) -> list[tuple[str, int, str]]:
    """(filter, how many, its first reason), most frequent first."""
    first = {v.by: v.reason for v in reversed(verdicts)}
    ranked = sorted(Counter(v.by for v in verdicts).items(), key=lambda item: (-item[1], item[0]))
    return [(by.removeprefix("filter:"), count, first[by]) for by, count in ranked]


# ---------------------------------------------------------------- learning, answers side by side, cost


def learning(record: RunRecord) -> dict[str, Any] | None:
    path = last_part(record, "candidate", "train.json")
    if path is None:
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    curves = {"loss": curve(data["losses"]), "norm": curve(data.get("grad_norms", ()))}
    return {**record.facts("candidate", record.final), **data, **curves}


def curve(values: Sequence[float | None]) -> dict[str, Any] | None:
    """At most 300 bucket means of a series, and their running mean over a twentieth of it."""
    numbers = [v for v in values if v is not None and math.isfinite(v)]
    if len(numbers) < 2:
        return None
    count = min(300, len(numbers))
    edges = [i * len(numbers) // count for i in range(count + 1)]
    points = [sum(numbers[a:b]) / (b - a) for a, b in pairwise(edges)]
    windows = [points[max(0, i - count // 40) : i + count // 40 + 1] for i in range(count)]
    return {"points": points, "smooth": [sum(w) / len(w) for w in windows], "steps": len(numbers),
            "y": axis(min(points), max(points), 4), "first": numbers[0], "last": numbers[-1]}  # fmt: skip


def pairs(
    record: RunRecord, reports: Mapping[tuple[str, str], Report], tasks: Mapping[str, Tasks]
) -> dict[str, Any] | None:
    """Questions that changed sides, from the vault if both models answered it, else from dev: 5 gained, 3 lost."""
    both = [s for s in ("vault", "dev") if ("parent", s) in reports and ("candidate", s) in reports]
    if not both:
        return None
    suite, items = both[0], reports["parent", both[0]].items
    units = record.evaluations()
    said = [list(columns(part(record, units[role, suite], "rows.parquet"), "text", "answer", "error"))
            for role in ("parent", "candidate")]  # fmt: skip
    if any(len(rows) != len(items) for rows in said):
        return None
    way = -1 if record.recipe.gate.primary.direction == "down" else 1
    change = [
        way * (a - b) for b, a in zip(*(reports[role, suite].scores for role in ("parent", "candidate")), strict=True)
    ]
    gained, lost = [i for i, c in enumerate(change) if c > 0], [i for i, c in enumerate(change) if c < 0]
    chosen = [("gained", i) for i in spread(gained, SHOWN - 3)] + [("lost", i) for i in spread(lost, 3)]
    right = [[score >= CORRECT_SCORE for score in reports[role, suite].scores] for role in ("parent", "candidate")]
    rows = [
        (sign, tasks.get(suite, {}).get(items[i]), *((*said[k][i], right[k][i]) for k in (0, 1))) for sign, i in chosen
    ]
    return {"suite": suite, "n": len(items), "gained": len(gained), "lost": len(lost), "rows": rows,
            "graded": reports["parent", suite].unit != "share"}  # fmt: skip


def cost(record: RunRecord) -> dict[str, Any]:
    stages, attempts = stage_seconds(record.journal)
    facts = [e["facts"] for e in record.units("rollouts")]
    return {
        "stages": stages, "attempts": attempts,
        "trained": sum(e["facts"].get("tokens", 0) for e in record.units("candidate")),
        **{key: sum(f.get(key, 0) for f in facts) for key in ("samples", "tokens", "truncated")},
        "machine": next(iter(read_lines(record.path / "environment.json")), {}),
    }  # fmt: skip


def stage_seconds(journal: Sequence[Entry]) -> tuple[dict[str, float], int]:
    """Seconds per stage, all attempts added up, and the number of attempts. By "seconds", which no setting of the clock
    changes; an old journal has only "time". A stage lasts until the next or its attempt's end; where the attempt was
    killed, up to the last line that it wrote.
    """
    seconds: dict[str, float] = {}
    stage, seen = "", journal[0] if journal else {}
    for entry in journal:
        opens = entry["event"] in ("started", "resumed")
        if stage and not opens:
            clock = "seconds" if "seconds" in entry and "seconds" in seen else "time"
            seconds[stage] = seconds.get(stage, 0.0) + max(0.0, entry[clock] - seen[clock])
        seen = entry
        stage = entry["stage"] if entry["event"] == "stage" else "" if opens or entry["event"] in ENDS else stage
    return seconds, sum(e["event"] in ("started", "resumed") for e in journal)


# ---------------------------------------------------------------- values as text


def date(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"
