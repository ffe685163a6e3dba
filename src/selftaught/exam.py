"""Ask a run's models a suite after the fact: a labelled file, or the run's own test holdout, which is opened once.

Nothing here enters the chain: what a run claims was decided by its gate. The result is kept in its ``evals/``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selftaught import budget, gate, ledger, load, loop, paired, questions
from selftaught.config import Member, PrimaryConfig, RolesConfig
from selftaught.engines.base import Engine, Tokens
from selftaught.errors import DataError, IntegrityError, RunError
from selftaught.evaluate import main_metric
from selftaught.measure import measure
from selftaught.methods.base import Method
from selftaught.roles import open_roles
from selftaught.rows import read_rows
from selftaught.setting import contents
from selftaught.store import check_files, write_file
from selftaught.tasks.base import Held, TaskSet
from selftaught.trial import Tryer
from selftaught.types import Report, Task, canonical, digest

EVALS = "evals"
DIRECT = (
    "asked directly, without an adapter: the run's claim (gate.primary.protocol=adapt) is about documents, and these"
    " questions come with none"
)


@dataclass(frozen=True)
class Exam:
    """The run's metric before and after on ``n`` questions, with 95 % intervals, and the paired test in words."""

    run: str
    suite: str
    n: int
    before: tuple[float, float, float]  # value, low, high
    after: tuple[float, float, float]
    gain: tuple[float, float, float]  # paired: see paired.gain
    test: str
    known: Mapping[str, int]  # split of the run -> questions of this suite that stand in it
    unit: str = "share"  # of before, after and gain, as in Report
    down: bool = False  # less is better
    note: str = ""  # how the questions were put, where that is not what the run claims


def examine(
    record: ledger.RunRecord,
    file: Path | None = None,
    *,
    test: bool = False,
    checker: str = "auto",
    engine: Engine | None = None,
) -> Exam:
    """Both models of a run on ``file``, or on the run's test holdout.

    ``checker`` "auto" is the run's own function where the run claims a score, else what the answers of the file fit.
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
    whole = questions.recorded(loop.load_whole(record.recipe), record)
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
    if checker == "auto" and record.recipe.gate.primary.metric == "score":
        checker = record.recipe.tasks.options.get("checker", checker)
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
        if path.stem == "documents":
            continue
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
    claim = _claim(record, suite)
    before, after = _reports(record, suite, claim, engine)
    gain = paired.gain(before, after)
    rule = gate.gain_rule("gain", before, after, record.recipe.gate.alpha, claim)
    said = ([m.value, m.low, m.high] for m in (main_metric(before), main_metric(after), gain))
    return {"run": record.name, "suite": name, "n": gain.n, **dict(zip(("before", "after", "gain"), said, strict=True)),
            "test": rule.detail.partition(", must")[0], "known": dict(known), "unit": before.unit,
            "down": claim.direction == "down",
            "note": DIRECT if claim.protocol != record.recipe.gate.primary.protocol else ""}  # fmt: skip


def _claim(record: ledger.RunRecord, suite: TaskSet) -> PrimaryConfig:
    """What the run claimed, as far as these questions allow: groups are never counted as independent, and what no
    function scores is right or wrong.
    """
    claim = record.recipe.gate.primary
    if claim.metric == "score" and any(c.score is None for c in suite.checkers.values()):
        claim = PrimaryConfig()
    if claim.protocol == "adapt" and any(t.group not in suite.documents for t in suite.dev):
        claim = claim.model_copy(update={"protocol": "direct"})
    if claim.test == "mcnemar" and paired.grouped([t.group for t in suite.dev]):
        claim = claim.model_copy(update={"test": "auto"})
    return claim


def _reports(
    record: ledger.RunRecord, suite: TaskSet, claim: PrimaryConfig, engine: Engine | None
) -> tuple[Report, Report]:
    engine = engine or loop.engine_to_ask(record.recipe)
    try:
        models = loop.models(record, engine)
        method, tokens = load.make("methods", record.recipe.method), engine.tokens(models[0])
        asked, seed = (tokens, method, suite, "exam", suite.dev, claim.metric), record.recipe.seed
        tryer = _tryer(record, suite, engine, tokens, method) if claim.protocol == "adapt" else None
        before, after = (measure(engine, c, *asked, seed=seed, tryer=tryer).report for c in models)
    finally:
        engine.close()
    return before, after


def _tryer(record: ledger.RunRecord, suite: TaskSet, engine: Engine, tokens: Tokens, method: Method) -> Tryer:
    """As the run's own, with its judge and no one else of its roles: nobody else is asked here."""
    recipe = record.recipe.model_copy(update={"roles": RolesConfig(judge=record.recipe.roles.judge)})
    judge = open_roles(recipe, engine, record.path).get("judge")
    return Tryer(engine, tokens, method, suite, recipe.trial, recipe.seed, judge=judge)
