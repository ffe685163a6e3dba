"""Ask a run's models a suite after the fact: a labelled file, or the run's own test holdout, which is opened once.

Nothing here enters the chain: what a run claims was decided by its gate. The result is kept in its ``evals/``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selftaught import gate, ledger, load, loop
from selftaught.config import Member
from selftaught.engines.base import Engine
from selftaught.errors import DataError, RunError
from selftaught.evaluate import report
from selftaught.rollout import rollout
from selftaught.store import write_file
from selftaught.tasks.base import TaskSet
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

    Raises RunError where there is no trained model, no test holdout, or one that another candidate has opened, and
    DataError for a file that cannot be used.
    """
    if (file is None) != test:
        raise RunError("Give a file of labelled questions, or --test.", hint=f"selftaught eval {record.name} FILE")
    whole = loop.load_whole(record.recipe)
    suite = _open_test(record, whole) if test else _read(record, file, checker)
    ids = digest([[t.id, t.answer, t.checker] for t in suite.dev])
    path = record.path / EVALS / f"{'test' if test else digest(str(file))[:8]}-{ids[:12]}.json"
    if not path.exists():
        found = _ask(record, suite, "test" if test else str(file), _known(suite.dev, whole, test), engine)
        write_file(path, canonical(found) + b"\n")
    return _stored(path)


def _stored(path: Path) -> Exam:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name in ("before", "after", "gain"):
        data[name] = tuple(data[name])
    return Exam(**data)


def _open_test(record: ledger.RunRecord, whole: TaskSet) -> TaskSet:
    """The test suite, after it is on record that it was opened for this candidate, and for no other."""
    if not whole.test:
        raise RunError(f"{record.name} has no test holdout.", hint="Set tasks.test in the recipe of a new run.")
    if record.trained is None:
        raise RunError(f"{record.name} has no trained model ({record.outcome}).", hint="A test set is opened once.")
    registry, ids = ledger.tests_registry(record.recipe, record.path), [t.id for t in whole.test]
    candidate = record.trained["facts"]["digest"]
    others = [e for e in ledger.looks_at(registry, ids) if e["candidate"] != candidate]
    if not others and ledger.spend_look(registry, ids, candidate, record.name) == 1:
        return replace(whole, dev=whole.test)
    by = others[0]["run"] if others else "another run"
    raise RunError(
        f"This test holdout was opened for {by}; a test set is opened once.",
        hint="Judge new models on dev and vault, and keep fresh questions for the next test.",
    )


def _read(record: ledger.RunRecord, file: Path | None, checker: str) -> TaskSet:
    assert file is not None
    options = {"name": "jsonl", "path": str(file), "checker": checker}
    tasks: TaskSet = load.make("tasks", Member(**options)).suite()
    if not tasks.dev:
        raise DataError(f"{file} holds no question.", hint="Give labelled questions.")
    return tasks


def _known(suite: Sequence[Task], whole: TaskSet, test: bool) -> dict[str, int]:
    ids = {t.id for t in suite}
    splits = {"train": whole.train, "dev": whole.dev, "vault": whole.vault} | dict(whole.guards)
    counts = {name: len(ids & {t.id for t in tasks}) for name, tasks in splits.items()}
    return {} if test else {name: count for name, count in counts.items() if count}


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
