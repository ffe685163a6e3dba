"""Ask a run's models a suite after the fact: a labelled file, or the run's own test holdout, which is opened once.

Nothing here enters the chain: what a run claims was decided by its gate. The result is kept in its ``evals/``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selftaught import budget, gate, ledger, load, loop
from selftaught.config import Member
from selftaught.engines.base import Engine
from selftaught.errors import DataError, IntegrityError, RunError
from selftaught.evaluate import report
from selftaught.rollout import rollout
from selftaught.rows import read_rows
from selftaught.setting import contents
from selftaught.store import check_files, write_file
from selftaught.tasks.base import Held, TaskSet
from selftaught.types import Report, Task, canonical, digest

EVALS = "evals"


@dataclass(frozen=True)
class Exam:
    """Right answers before and after on ``n`` questions; shares with 95 % intervals, and the paired test in words."""

    run: str
    suite: str
    n: int
    before: tuple[float, float, float]  # value, low, high (Wilson)
    after: tuple[float, float, float]
    gain: tuple[float, float, float]  # paired: Tango
    test: str
    known: Mapping[str, int]  # split of the run -> questions of this suite that stand in it


def examine(
    record: ledger.RunRecord,
    file: Path | None = None,
    *,
    test: bool = False,
    checker: str = "auto",
    engine: Engine | None = None,
) -> Exam:
    """Both models of a run on ``file``, or on the run's test holdout.

    Raises RunError where there is no trained model, no test holdout, one that another candidate has opened, or a file
    that holds questions of it; IntegrityError where the questions are no longer the run's; DataError for a file that
    cannot be used.
    """
    if (file is None) != test:
        raise RunError("Give a file of labelled questions, or --test.", hint=f"selftaught eval {record.name} FILE")
    suite = _open_test(record) if test else _read(record, file, checker)
    known = {} if test else _known(record, suite.dev)
    name = "test" if test else digest(str(file))[:8]
    path = record.path / EVALS / f"{name}-{_key(record, suite)[:12]}.json"
    if not path.exists():
        write_file(path, canonical(_ask(record, suite, "test" if test else str(file), known, engine)) + b"\n")
    return _stored(path)


def _key(record: ledger.RunRecord, suite: TaskSet) -> str:
    """Names what an answer depends on: the questions, who judges them, and the candidate (later rounds have others)."""
    candidate = record.trained["facts"]["digest"] if record.trained else ""
    judges = {c.name: c.digest for c in suite.checkers.values()}
    return digest([[[t.id, t.answer, t.checker, t.group] for t in suite.dev], judges, candidate])


def _stored(path: Path) -> Exam:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name in ("before", "after", "gain"):
        data[name] = tuple(data[name])
    return Exam(**data)


def _open_test(record: ledger.RunRecord) -> TaskSet:
    """The test suite, after it is on record that it was opened for this candidate, and for no other."""
    if not record.facts("tasks").get("counts", {}).get("test"):
        raise RunError(f"{record.name} has no test holdout.", hint="Set tasks.test in the recipe of a new run.")
    if record.trained is None:
        raise RunError(f"{record.name} has no trained model ({record.outcome}).", hint="A test set is opened once.")
    whole = loop.load_whole(record.recipe)
    _check_same(record, whole)
    registry, ids = ledger.tests_registry(record.recipe, record.path), [t.id for t in whole.test]
    ledger.open_test(registry, ids, record.trained["facts"]["digest"], record.name)
    return replace(whole, dev=whole.test)


def _check_same(record: ledger.RunRecord, whole: TaskSet) -> None:
    """Raises IntegrityError for other questions than the run began with: what it learned may be in their test part."""
    began = record.facts("tasks")
    judges = {c.name: c.digest for c in whole.checkers.values() if c.digest}
    now = (contents(budget.trim(whole, record.recipe)), judges)
    if now != (began.get("questions"), began.get("checkers")):
        raise IntegrityError(
            f"{record.name} began with other questions or another checker: its test holdout is not what it was.",
            hint="Restore them as they were when the run began.",
        )


def _read(record: ledger.RunRecord, file: Path | None, checker: str) -> TaskSet:
    assert file is not None
    options = {"name": "jsonl", "path": str(file), "checker": checker}
    tasks: TaskSet = load.make("tasks", Member(**options)).suite()
    if not tasks.dev:
        raise DataError(f"{file} holds no question.", hint="Give labelled questions.")
    return tasks


def _known(record: ledger.RunRecord, suite: Sequence[Task]) -> dict[str, int]:
    """Questions of ``suite`` by the split of the run in which they stand, up to case and white space.

    Raises RunError where one stands in the test holdout: a file is no way around opening it.
    """
    units = record.units("tasks")
    if not units:
        return {}
    unit, counts = units[0], dict[str, int]()
    folder = record.path / unit["place"]
    check_files(folder, unit["files"])
    for path in sorted(folder.glob("*.parquet")):
        held = Held(t.prompt for t in read_rows(path, Task))
        counts[path.stem] = sum(held.shows(t.prompt) for t in suite)
    if counts.get("test"):
        raise RunError(
            f"{counts['test']} of {len(suite)} stand in the test holdout of {record.name}, which is opened once.",
            hint=f"Take them out, or open it: selftaught eval {record.name} --test",
        )
    return {name: count for name, count in counts.items() if count}


def _ask(
    record: ledger.RunRecord, suite: TaskSet, name: str, known: Mapping[str, int], engine: Engine | None
) -> dict[str, Any]:
    before, after = _reports(record, suite, engine)
    wins, losses = gate.wins_losses(before.scores, after.scores)
    n = len(suite.dev)
    rule = gate.gain_rule("gain", before, after, record.recipe.gate.alpha)
    shares = (r.metrics["accuracy"] for r in (before, after))
    first, second = ([m.value, m.low, m.high] for m in shares)
    gain = [(wins - losses) / n, *gate.paired_interval(wins, losses, n)]
    return {"run": record.name, "suite": name, "n": n, "before": first, "after": second, "gain": gain,
            "test": rule.detail.partition(", must")[0], "known": dict(known)}  # fmt: skip


def _reports(record: ledger.RunRecord, suite: TaskSet, engine: Engine | None) -> tuple[Report, Report]:
    engine = engine or loop.make_engine(record.recipe)
    try:
        models = loop.models(record, engine)
        method, tokens = load.make("methods", record.recipe.method), engine.tokens(models[0])
        sampling = replace(method.sampling(), n=1, temperature=0.0)
        asked = [method.ask(t) for t in suite.dev]
        seed = record.recipe.seed
        rows = [rollout(engine, c, tokens, asked, sampling, suite.checkers, run_seed=seed) for c in models]
    finally:
        engine.close()
    before, after = (report("exam", "exam", c, suite.dev, r, suite) for c, r in zip(models, rows, strict=True))
    return before, after
