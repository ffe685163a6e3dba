"""What all rounds of a run share: recipe, engine, questions, the model it began with; checked once, before anything."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftaught import budget, gate, ledger, load
from selftaught.bench import RunBench, heldout, heldout_documents
from selftaught.config import GateConfig, Recipe
from selftaught.engines.base import Engine, StopToken, Tokens, never
from selftaught.errors import DataError, IntegrityError, RecipeError, RunError, Stopped
from selftaught.filters.base import Context
from selftaught.measure import check_room
from selftaught.methods.base import Method, Studies
from selftaught.private import Sources, read_private
from selftaught.questions import with_written
from selftaught.roles import Role, open_roles
from selftaught.rows import write_rows
from selftaught.store import Store, file_digest, write_file
from selftaught.tasks.base import TaskSet, sizes
from selftaught.texts import TEXT_GUARDS, Texts, read_texts
from selftaught.trial import NAME as TRIALS
from selftaught.trial import Tryer
from selftaught.types import VERSION, Checkpoint, Document, Task, as_json, canonical, digest
from selftaught.view import View


@dataclass(frozen=True)
class Setting:
    """``whole`` is everything the source brings; ``tasks`` what the recipe's budget allows of it.

    Looks are counted against the whole vault, so that another budget does not make it a new one.
    """

    store: Store
    recipe: Recipe
    engine: Engine
    whole: TaskSet
    tasks: TaskSet
    method: Method
    base: Checkpoint  # the model that the run began with
    tokens: Tokens
    margins: Mapping[str, float]  # guard suite -> the loss that has to be ruled out
    text_margins: Mapping[str, float]  # the same for texts, in nats per token
    real_text: Texts  # of gate.text, held out from what is learned
    train_text: Texts  # of train.real, learned from in every round
    private: Sources | DataError  # what must not come out again; or why that cannot be read
    roles: Mapping[str, Role]  # who stands in for the student, where the recipe says so
    tryer: Tryer
    view: View
    stop: StopToken

    @property
    def heldout(self) -> tuple[Task, ...]:
        """All that nothing learned may overlap: dev, vault, guards, the documents they ask about, and the real text."""
        return (*heldout(self.whole), *heldout_documents(self.whole), *self.real_text)

    def context(self, asked: Mapping[str, Task]) -> Context:
        """What filters may consult about examples that answer ``asked``."""
        private = () if isinstance(self.private, DataError) else self.private.texts
        ids = [self.tokens.encode_completion(p.text) for p in private]
        return Context(self.recipe.curate, self.heldout, asked, self.whole.documents, ids)

    def stage(self, name: str, detail: str = "") -> None:
        """Begin a stage; raises Stopped instead, before what may be long and cannot look."""
        if self.stop():
            raise Stopped
        self.store.journal("stage", stage=name)
        self.view.stage(name, detail)


def prepare(store: Store, recipe: Recipe, engine: Engine, whole: TaskSet, view: View, stop: StopToken) -> Setting:
    """Open the model, commit the questions, and refuse to go on with a run that began with something else.

    Raises IntegrityError naming what changed, and what the model, the recipe or the registry of looks is refused for.
    """
    engine.notice = store.journal  # memory that ran out, workers that died: told where it happened
    store.journal("stage", stage="prepare")
    view.stage("prepare", recipe.model)
    tasks = budget.trim(whole, recipe)
    margins = guard_margins(recipe.gate, tasks)
    base = engine.open(recipe.model)
    if stop():
        raise Stopped
    tokens, method = engine.tokens(base), load.make("methods", recipe.method)
    check_claim(recipe.gate, tasks, method, tokens, stop)
    if recipe.train.replay:
        tokens.encode("")  # a model that cannot write unprompted says so now, not after sampling
    _check_registry(store, recipe, tasks)
    held = read_texts(recipe.gate.text, "gate.text", recipe.gate.text_items)
    real = read_texts(recipe.train.real, "train.real")
    private = sources(recipe, whole)
    roles = open_roles(recipe, engine, store.folder)
    given = _given(store, recipe, base, whole, held, real, private, roles)
    _check_beginning(store, given)
    if whole.unasked:
        bench = RunBench(store, engine, base, whole, recipe.seed, "questions", view, stop, roles)
        whole = with_written(whole, recipe, store, bench)
        tasks = budget.trim(whole, recipe)
        check_claim(recipe.gate, tasks, method, tokens, stop)
    facts = given | {
        "counts": sizes(tasks),
        "notes": list(tasks.notes),
        "vault": whole.vault_digest,
        "questions": contents(tasks),
    }
    _check_beginning(store, facts)
    store.unit("tasks", facts, "tasks", lambda out: _write_tasks(out, tasks, facts))
    environment = {
        "selftaught": VERSION,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        **engine.describe(base),
    }
    write_file(store.folder / "environment.json", canonical(environment) + b"\n")
    texts = text_margins(recipe.gate)
    kept, judge = store.folder / TRIALS, roles.get("judge")
    tryer = Tryer(engine, tokens, method, whole, recipe.trial, recipe.seed, kept, judge, view, stop)
    return Setting(
        store, recipe, engine, whole, tasks, method, base, tokens, margins, texts, held, real, private, roles, tryer,
        view, stop,
    )  # fmt: skip


def sources(recipe: Recipe, whole: TaskSet) -> Sources | DataError:
    """What the tasks bring and what ``private`` names. That it cannot be read is no reason to stop here: then the audit
    that needs it fails, and nothing is promoted (where none does, see auditing.py)."""
    try:
        named = read_private(recipe.private) if recipe.private else Sources()
    except DataError as error:
        return error
    return Sources((*whole.private, *named.texts), (*whole.canaries, *named.canaries))


def _given(
    store: Store,
    recipe: Recipe,
    base: Checkpoint,
    whole: TaskSet,
    held: Texts,
    real: Texts,
    private: Sources | DataError,
    roles: Mapping[str, Role],
) -> dict[str, Any]:
    """What a run begins with, before anybody is asked anything."""
    facts: dict[str, Any] = {
        "recipe": recipe.digest,
        "recipe.yaml": file_digest(store.folder / "recipe.yaml"),
        "model": base.digest,
        "checkers": {c.name: c.digest for c in whole.checkers.values() if c.digest},
    }
    if held:
        facts["text"] = digest([t.id for t in held])
    if real:
        facts["real text"] = digest([t.id for t in real])
    if isinstance(private, DataError):  # what the run began with stands
        began: Mapping[str, Any] = next((e["facts"] for e in store.chain if e["kind"] == "tasks"), {})
        facts |= {k: began[k] for k in ("private texts",) if k in began}
    elif private.texts or private.canaries:
        facts["private texts"] = private.digest
    if whole.documents:
        facts["documents"] = digest([as_json(d) for d in whole.documents.values()])
    if roles:
        facts["roles"] = {name: role.as_facts() for name, role in roles.items()}
    return facts


def _check_beginning(store: Store, facts: Mapping[str, Any]) -> None:
    began = next((e["facts"] for e in store.chain if e["kind"] == "tasks"), facts)
    changed = [k for k in facts if facts[k] != began.get(k)]
    if changed:
        raise IntegrityError(
            f"This run began with another {', '.join(changed)}.",
            hint="A run keeps the recipe, model and questions it began with. Restore them, or start a new run.",
        )


def _check_registry(store: Store, recipe: Recipe, tasks: TaskSet) -> None:
    registry = ledger.registry(recipe, store.folder)
    written = [p for p in (registry, registry.with_name(registry.name + ".lock")) if p.exists()]
    shut = [p for p in (registry.parent, *written) if not os.access(p, os.W_OK)]
    if tasks.vault and shut:
        raise RunError(
            f"Looks at the vault are counted in {shut[0]}, where nothing may be written.",
            hint="Allow it, or copy the questions to a folder of your own.",
        )


def _write_tasks(out: Path, tasks: TaskSet, facts: Mapping[str, Any]) -> Mapping[str, Any]:
    write_rows(out / "train.parquet", Task, tasks.train)
    write_rows(out / "dev.parquet", Task, tasks.dev)
    write_rows(out / "vault.parquet", Task, tasks.vault)
    if tasks.test:
        write_rows(out / "test.parquet", Task, tasks.test)
    for name, suite in tasks.guards.items():
        write_rows(out / f"guard-{name}.parquet", Task, suite)
    if tasks.documents:
        write_rows(out / "documents.parquet", Document, [*tasks.documents.values()])
    return facts


def guard_margins(config: GateConfig, tasks: TaskSet) -> dict[str, float]:
    """Guard suite -> the loss it may show. Raises RecipeError for a suite that the tasks do not bring."""
    if config.guards == "auto":
        return {name: gate.MARGIN for name, suite in tasks.guards.items() if suite}
    named = [g for g in config.guards if g.suite not in TEXT_GUARDS]
    unknown = [g.suite for g in named if not tasks.guards.get(g.suite)]
    if unknown:
        raise RecipeError(
            f"There is no guard suite {unknown[0]!r} in these tasks.",
            hint=f"They bring: {', '.join(tasks.guards) or 'none'}. See gate.guards.",
        )
    return {g.suite: g.margin for g in named}


def check_claim(config: GateConfig, tasks: TaskSet, method: Method, tokens: Tokens, stop: StopToken = never) -> None:
    """Raises RecipeError for a claim that cannot be put to these questions, ModelError for one that does not fit.

    What would fail when the models are judged fails here, before anything is sampled.
    """
    judged = (*tasks.dev, *tasks.vault, *tasks.test)
    to_judge = (*judged, *(t for t in tasks.unasked if t.split != "train"))
    _check_test(config, gate.test_of(config.primary, [t.group for t in to_judge]))
    if config.primary.metric == "score" and any(tasks.checkers[t.checker].score is None for t in to_judge):
        raise RecipeError(
            "gate.primary.metric=score is the mean of what your own function returns, and tasks.checker names none.",
            hint="Write tasks.checker=path/to/file.py:function, or take metric=accuracy.",
        )
    if config.primary.protocol == "adapt":
        check_adapt(config, tasks, method, to_judge)
    elif config.controls:
        raise RecipeError(
            "gate.controls are of adapters, and gate.primary.protocol=direct trains none.",
            hint="Take them out, or take gate.primary.protocol=adapt.",
        )
    elif isinstance(method, Studies):
        raise RecipeError(
            f"{method.name} makes a better writer of edits, and gate.primary.protocol=direct asks for none.",
            hint="Set gate.primary.protocol=adapt.",
        )
    elif config.primary.metric == "loglik":
        _check_gold(judged)
        check_room(tokens, method, judged, stop)
    if getattr(method, "retains", False):
        _check_retained(tasks, method, to_judge)
    _try_functions(tasks, (*judged, *(t for suite in tasks.guards.values() for t in suite)))


def check_adapt(config: GateConfig, tasks: TaskSet, method: Method, judged: Sequence[Task]) -> None:
    """Raises RecipeError where a claim about adapters cannot be put to this method and these questions."""
    if not isinstance(method, Studies):
        raise RecipeError(
            f"gate.primary.protocol=adapt judges who writes edits of documents, and {method.name} teaches nobody to.",
            hint="Take a method that does, or protocol=direct.",
        )
    homeless = [t for t in judged if t.group not in tasks.documents]
    if homeless:
        raise RecipeError(
            f"gate.primary.protocol=adapt: {len(homeless)} of {len(judged)} held-out questions are about no document.",
            hint="Give documents with questions (tasks.name=passages), or take protocol=direct.",
        )
    shown = {t.group for t in judged if t.group and tasks.documents[t.group].split == "train"}
    if shown:
        raise RecipeError(
            f"gate.primary.protocol=adapt: {len(shown)} documents of held-out questions are learned from.",
            hint="Hold the documents out (tasks.hold=documents).",
        )
    if config.controls and not (tasks.dev or tasks.unasked):
        raise RecipeError("gate.controls are measured on dev, and there is no dev question.", hint="Take them out, or"
                          " give dev a share (tasks.dev).")  # fmt: skip
    if "oracle" in config.controls and not all(d.oracle for d in tasks.documents.values()):
        raise RecipeError(
            "gate.controls: nobody knows perfect edits of these documents (oracle).",
            hint="Take it out; only a generated world has them.",
        )


def _check_retained(tasks: TaskSet, method: Method, judged: Sequence[Task]) -> None:
    """Raises RecipeError where questions are not about what such a method makes a model know."""
    learned = {d.id for d in tasks.documents.values() if d.split == "train"}
    strange = sum(t.group not in learned for t in judged)
    if strange or not learned:
        raise RecipeError(
            f"{method.name} makes a model know documents; {strange} of {len(judged)} held-out questions are about none"
            " that is learned.",
            hint="Learn every document and hold only questions out (tasks.hold=questions; tasks.name=passages).",
        )


def _check_gold(judged: Sequence[Task]) -> None:
    if unanswered := sum(t.answer is None for t in judged):
        raise RecipeError(
            f"gate.primary.metric=loglik reads the probability of gold answers; {unanswered} of {len(judged)} held-out"
            " questions have none.",
            hint="Give them answers, or take metric=score with a function as tasks.checker.",
        )


def _check_test(config: GateConfig, test: str) -> None:
    if config.alpha / config.looks < gate.smallest_p(test):
        raise RecipeError(
            f"The test {test} is made by chance and gives no p below {gate.smallest_p(test):.2g}; a look at the vault"
            f" asks for {config.alpha / config.looks:.2g}.",
            hint="Raise gate.alpha, or allow fewer gate.looks.",
        )


def _try_functions(tasks: TaskSet, judged: Sequence[Task]) -> None:
    """Ask every checker that is a user's function about the gold answer of its first question."""
    for task in {t.checker: t for t in reversed(judged)}.values():
        if tasks.checkers[task.checker].score is not None:
            tasks.grade(task, task.answer or "")


def text_margins(config: GateConfig) -> dict[str, float]:
    """Text guard -> the loss that it may show, in nats per token: both by default, or those that the recipe names."""
    if not config.text_items:
        return {}
    if config.guards == "auto":
        return dict.fromkeys(TEXT_GUARDS, gate.TEXT_MARGIN)
    return {g.suite: g.margin for g in config.guards if g.suite in TEXT_GUARDS}


def contents(tasks: TaskSet) -> str:
    """Names every question of a run with its answer, checker and group, suite by suite."""
    suites = {"train": tasks.train, "dev": tasks.dev, "vault": tasks.vault, **tasks.guards}
    suites |= {"test": tasks.test} if tasks.test else {}
    return digest({name: [[t.id, t.answer, t.checker, t.group] for t in suite] for name, suite in suites.items()})
