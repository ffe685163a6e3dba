"""Audits alone: of a run's models after the fact, or of any model, beside another one or by itself.

Nothing here enters the chain: what a run claims was decided by its gate. What is found of a run is kept in its
``evals/``. The accepted models between a run's first and its last are measured as well, so that alarms which look at
several rounds have them; what was recorded as a reason not to measure is asked again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from selftaught import ledger, load, loop, questions
from selftaught.auditing import Workshop, broken, make_audits, read_audited
from selftaught.audits.base import Answered, Audit, Opinion
from selftaught.bench import heldout_documents
from selftaught.config import Recipe, parse_recipe, to_yaml
from selftaught.engines.base import Engine, StopToken, Tokens, never
from selftaught.errors import DataError, IntegrityError, ModelError, RunError
from selftaught.evaluate import HOLDOUTS
from selftaught.exam import EVALS
from selftaught.judge import sentinels
from selftaught.parts import part
from selftaught.private import Sources
from selftaught.report import FORMS
from selftaught.round import ballots
from selftaught.rows import read_rows
from selftaught.setting import sources
from selftaught.store import write_file
from selftaught.tasks.base import TaskSet
from selftaught.texts import held_out, read_texts
from selftaught.trends import as_said
from selftaught.types import Audited, Checkpoint, Example, Rollout, Round, Task, canonical, digest, groups_of
from selftaught.view import Silent, View

ALONE = "nothing to compare with"
NO_START = "its tokenizer has no token to begin with: nothing is sampled unprompted, private texts are fed as they are"
OF_A_RUN = ("audits", "engine", "seed", "prompt", "gate.text", "gate.text_items")  # what may differ from its recipe
MODEL = "name: audit\nmethod: {name: self_consistency}\ntasks: {name: world_sums}\n"


@dataclass(frozen=True)
class Inspection:
    """What audits say of ``model``, a digest; ``between``: accepted models of a run between the base and it."""

    subject: str  # the run or the model, by name
    model: str
    base: str | None  # what it is held against
    between: int
    audits: tuple[Audited, ...]
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """As of a round: 5 if an audit that decides failed, 8 if one does not know, else 0."""
        said = {a.outcome for a in self.audits if a.decides}
        codes = ledger.EXIT_CODES
        return codes["rejected"] if "failed" in said else codes["unproven"] if "inconclusive" in said else 0


@dataclass(frozen=True)
class Subject:
    """One checkpoint and what its audits may look at."""

    checkpoint: Checkpoint
    lab: Workshop


def find(name: str, root: Path) -> ledger.RunRecord | str:
    """The run of that name, or the name itself, which may be a model's."""
    try:
        return ledger.read_run(ledger.find_run(name, root))
    except RunError:
        if name in ("latest", "champion"):
            raise
        return name


def inspect(
    subject: ledger.RunRecord | str, overrides: Sequence[str], base: str | None, root: Path, **how: Any
) -> Inspection:
    """``inspect_run`` or ``inspect_model``. Raises RunError for what is neither a run nor a model."""
    if isinstance(subject, ledger.RunRecord):
        if base is not None:
            raise RunError(f"{subject.name} is a run: it is held against the model that it began with.",
                           hint="Leave --base out, or name a model.")  # fmt: skip
        return inspect_run(subject, overrides, **how)
    try:
        return inspect_model(subject, overrides, base=base, **how)
    except ModelError as error:
        known = ", ".join(p.name for p in ledger.list_runs(root)[-5:]) or "none yet"
        raise ModelError(f"There is no run {subject!r}, and as a model: {error.message}",
                         hint=f"Runs in {root}: {known}. {error.hint}") from error  # fmt: skip


# ---------------------------------------------------------------- a run


def inspect_run(
    record: ledger.RunRecord,
    overrides: Sequence[str] = (),
    *,
    private: Path | None = None,
    text: Path | None = None,
    engine: Engine | None = None,
    view: View | None = None,
    stop: StopToken = never,
) -> Inspection:
    """Every audit of the model that a run began with and of its candidate, by the run's recipe and ``overrides``.

    Raises RunError where there is no candidate or an override would change the run, IntegrityError where models,
    answers or private texts are not what they were, DataError for a file that cannot be used.
    """
    recipe = _recipe_of(record, overrides, private, text)
    whole = questions.recorded(loop.load_whole(record.recipe), record)
    found = _sources(recipe, whole)
    if private is None and found.digest != record.facts("tasks").get("private texts", Sources().digest):
        raise IntegrityError(
            f"{record.name} began with other private texts.", hint="Restore them, or name some: --private PATH"
        )
    engine = engine or loop.engine_to_ask(recipe)
    try:
        base, candidate = loop.models(record, engine)
        lab = _labs(record, recipe, engine, engine.tokens(base), whole, found, stop)
        earlier = [Subject(_candidate(record, r, base), lab(r)) for r in _accepted(record, record.final)]
        now = Subject(candidate, lab(record.final))
        path = record.path / EVALS / f"audits-{_key(recipe, [base, *earlier, now], found)[:12]}.json"
        if not path.exists():
            first = next((r for r in record.rounds if r.candidate), record.final)  # when the base was measured
            audits = _ask(make_audits(recipe), Subject(base, lab(first)), earlier, now, view or Silent())
            made = Inspection(record.name, candidate.digest, recipe.model, len(earlier), audits, _notes(now.lab))
            write_file(path, canonical(asdict(made)) + b"\n")
    finally:
        engine.close()
    return _stored(path)


def _recipe_of(record: ledger.RunRecord, overrides: Sequence[str], private: Path | None, text: Path | None) -> Recipe:
    """The run's recipe without recorded reasons to skip an audit."""
    other = [o for o in overrides if not o.removeprefix("--").partition("=")[0].startswith(OF_A_RUN)]
    if other:
        raise RunError(
            f"{other[0]} would make it another run: {record.name} keeps the recipe that it began with.",
            hint=f"Of a run you may set {', '.join(OF_A_RUN)}, --private and --text.",
        )
    asked = {name: {k: v for k, v in o.items() if k != "skip"} for name, o in record.recipe.audits.items()}
    recipe = parse_recipe(to_yaml(record.recipe.model_copy(update={"audits": asked})), record.name, overrides)
    return _with_files(recipe, private, text)


def _with_files(recipe: Recipe, private: Path | None, text: Path | None) -> Recipe:
    gate = recipe.gate.model_copy(update={"text": str(text)}) if text else recipe.gate
    return recipe.model_copy(update={"gate": gate, **({"private": str(private)} if private else {})})


def _sources(recipe: Recipe, whole: TaskSet) -> Sources:
    found = sources(recipe, whole)
    if isinstance(found, DataError):
        raise found
    return found


def _labs(
    record: ledger.RunRecord,
    recipe: Recipe,
    engine: Engine,
    tokens: Tokens,
    whole: TaskSet,
    found: Sources,
    stop: StopToken,
) -> Callable[[Round | None], Workshop]:
    """What audits may look at of the candidate of a round, as it was when that round was judged."""
    suites = _suites(record)
    texts = _texts(recipe, whole, suites.get("dev", []), tokens)
    answers = _answers(record, suites)

    def lab(done: Round | None) -> Workshop:
        learned = _learned(record, done)
        rounds = _accepted(record, done) + ([done] if done else [])
        taught = {ledger.place_of(r.index): sentinels(_learned(record, r)) for r in rounds}
        written = [e.completion_ids for e in learned if e.source != "real"]
        votes = ballots(_groups(record, done, whole), whole)
        return Workshop(
            engine, tokens, recipe.seed, stop, private=found.texts, canaries=found.canaries, texts=texts,
            written=written, taught=taught, votes=votes, answers=answers,
        )  # fmt: skip

    return lab


def _accepted(record: ledger.RunRecord, before: Round | None) -> list[Round]:
    good = [r for r in record.rounds if r.decision.outcome in ledger.GOOD]
    return [r for r in good if before is None or r.index < before.index]


def _candidate(record: ledger.RunRecord, done: Round, base: Checkpoint) -> Checkpoint:
    unit = record.units("candidate", done)[-1]
    made = ledger.checkpoint(record.path / unit["place"], unit["facts"], base, base)
    return replace(made, parent=done.parent)


def _learned(record: ledger.RunRecord, done: Round | None) -> list[Example]:
    """What a round's update learned; in a run without a round, the last that was curated."""
    units = [*record.units("examples", done), *record.units("reviewed", done)]
    path = part(record, units[-1], "kept.parquet") if units else None
    return read_rows(path, Example) if path else []


def _suites(record: ledger.RunRecord) -> dict[str, list[Task]]:
    """Dev and guards as the run asked them."""
    found: dict[str, list[Task]] = {}
    for unit in record.units("tasks")[:1]:
        for name in unit["files"]:
            suite = name.removesuffix(".parquet").removeprefix("guard-")
            path = part(record, unit, name) if suite == "dev" or name.startswith("guard-") else None
            found |= {suite: read_rows(path, Task)} if path else {}
    return found


def _answers(record: ledger.RunRecord, suites: Mapping[str, Sequence[Task]]) -> dict[str, dict[str, Answered]]:
    """What every checkpoint answered to suites that were asked directly."""
    adapts = record.recipe.gate.primary.protocol == "adapt"
    found: dict[str, dict[str, Answered]] = {}
    for entry in record.units("evaluation"):
        suite, path = entry["facts"]["suite"], part(record, entry, "report.json")
        if path is None or suite not in suites or (adapts and suite in HOLDOUTS):
            continue
        report, rows = ledger.read_report(path), part(record, entry, "rows.parquet")
        said = Answered(report, read_rows(rows, Rollout) if rows else [])
        found.setdefault(report.subject, {})[suite] = said
    return found


def _groups(record: ledger.RunRecord, done: Round | None, whole: TaskSet) -> list[tuple[Task, list[Rollout]]]:
    """Training questions with what was sampled of them in a round."""
    known = {replace(t, form=form).id: t for t in whole.train for form in (t.form, *FORMS)}
    rows: list[Rollout] = []
    for entry in record.units("rollouts", done):
        path = part(record, entry, "rows.parquet")
        some = read_rows(path, Rollout) if path else []
        rows += [replace(r, task_id=known[r.task_id].id) for r in some if r.task_id in known]
    asked = {r.task_id for r in rows}
    return groups_of([t for t in whole.train if t.id in asked], rows)


def _texts(recipe: Recipe, whole: TaskSet, dev: Sequence[Task], tokens: Tokens) -> list[tuple[int, ...]]:
    """Real text that nothing learned, as in a round."""
    real = read_texts(recipe.gate.text, "gate.text", recipe.gate.text_items)
    documents = [t for t in heldout_documents(whole) if t.split == "dev"]
    method = load.make("methods", recipe.method)
    return [ids for _, ids in held_out(real, documents, dev, method, tokens, recipe.gate.text_items)]


def _key(recipe: Recipe, models: Sequence[Checkpoint | Subject], found: Sources) -> str:
    """Names what the answer depends on."""
    checkpoints = [m.checkpoint if isinstance(m, Subject) else m for m in models]
    last = models[-1]
    texts = [list(ids) for ids in last.lab.texts] if isinstance(last, Subject) else []
    audits = [[a.name, a.version, a.options.model_dump(mode="json")] for a in make_audits(recipe)]
    return digest(audits, [c.digest for c in checkpoints], found.digest, texts, recipe.seed)


def _stored(path: Path) -> Inspection:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    data |= {"audits": tuple(map(read_audited, data["audits"])), "notes": tuple(data["notes"])}
    return Inspection(**data)


# ---------------------------------------------------------------- a model


def inspect_model(
    model: str,
    overrides: Sequence[str] = (),
    *,
    base: str | None = None,
    private: Path | None = None,
    text: Path | None = None,
    engine: Engine | None = None,
    view: View | None = None,
    stop: StopToken = never,
) -> Inspection:
    """Every audit that a model alone can be put to, beside ``base`` if there is one, else its values by themselves.

    Private texts and held-out text of a source come with ``tasks.*`` among the overrides. Raises ModelError for what is
    no model and for two that do not share a tokenizer, DataError for a file that cannot be used.
    """
    recipe = parse_recipe(MODEL, "audit", [*overrides, f"model={json.dumps(model)}"])
    recipe = _with_files(recipe, private, text)
    named = any(o.removeprefix("--").startswith("tasks.") for o in overrides)
    whole = loop.load_whole(recipe) if named else TaskSet((), (), (), {}, {})
    found = _sources(recipe, whole)
    engine = engine or loop.engine_to_ask(recipe)
    try:
        now, before = engine.open(model), engine.open(base) if base else None
        tokens = engine.tokens(now)
        if before and engine.tokens(before).digest != tokens.digest:
            raise ModelError(
                f"{model} and {base} do not share a tokenizer: what is counted in tokens cannot be compared.",
                hint="Name a base with the same one, or none.",
            )
        texts = _texts(recipe, whole, whole.dev, tokens)
        lab = Workshop(engine, tokens, recipe.seed, stop, private=found.texts, canaries=found.canaries, texts=texts)
        beside = Subject(before, lab) if before else None
        audits = _ask(make_audits(recipe), beside, [], Subject(now, lab), view or Silent())
    finally:
        engine.close()
    return Inspection(model, now.digest, base, 0, audits, _notes(lab))


# ---------------------------------------------------------------- asking


def _ask(
    audits: Sequence[Audit], base: Subject | None, earlier: Sequence[Subject], now: Subject, view: View
) -> tuple[Audited, ...]:
    said = []
    for audit in audits:
        view.stage("audit", audit.name)
        said.append(_one(audit, base, earlier, now))
    return tuple(said)


def _one(audit: Audit, base: Subject | None, earlier: Sequence[Subject], now: Subject) -> Audited:
    """As in a round: what cannot be measured has failed, and then decides."""
    before = after = None
    try:
        if why := audit.options.skip or audit.needless(now.lab):
            return as_said(audit, now.checkpoint.digest, Opinion("not applicable", why), None, None)
        after = audit.measure(now.lab, now.checkpoint, base=False)
        before = audit.measure(base.lab, base.checkpoint, base=True) if base else None
        if not (after.metrics or (before and before.metrics)):
            opinion = Opinion("not applicable", f"nothing to measure it on: {_lacking(now)}")
        elif before is None:
            opinion = Opinion("inconclusive", ALONE)
        else:
            past = [audit.measure(s.lab, s.checkpoint, base=False) for s in earlier]
            opinion = audit.judge(before, past, after)
    except Exception as error:
        return as_said(audit, now.checkpoint.digest, broken(error), None, None)
    return as_said(audit, now.checkpoint.digest, opinion, before, after)


def _lacking(now: Subject) -> str:
    """What there is none of, of all that audits look at."""
    known = {
        "no recorded answers, which a run has": bool(now.lab.answered(now.checkpoint)),
        "no real text (--text)": bool(now.lab.texts),
        "no token to begin with": now.lab.unprompted,
    }
    return ", ".join(name for name, there in known.items() if not there)


def _notes(lab: Workshop) -> tuple[str, ...]:
    return () if lab.unprompted else (NO_START,)
