"""The loop around rounds: plan a run, prepare its folder, run or resume it, ask its two models.

Running a folder again goes on where it ended and comes to the same chain, bit for bit. The loop is the only writer.
"""

from __future__ import annotations

import gc
import platform
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from selftaught import auditing, budget, control, ledger, load, paired, power, questions, replay, roles
from selftaught.collapse import Signals
from selftaught.config import GateConfig, Recipe, to_yaml
from selftaught.curate import make_filters
from selftaught.engines.base import Engine, StopToken, Tokens, never
from selftaught.errors import (
    DataError,
    EndpointError,
    IntegrityError,
    ModelError,
    RecipeError,
    RunError,
    SelftaughtError,
    Stopped,
    Waiting,
    disk_is_full,
    noticing_a_full_disk,
)
from selftaught.filters.base import Context
from selftaught.methods.base import Reads, answering
from selftaught.rollout import NO_ROOM, rollout
from selftaught.round import Beginning, Transaction
from selftaught.rows import read_rows
from selftaught.setting import Setting, check_claim, guard_margins, sources
from selftaught.setting import prepare as prepare_setting
from selftaught.settle import settle
from selftaught.stopping import STOP, heard
from selftaught.store import Store, began_by, write_file
from selftaught.tasks.base import NO_CHECKER, TaskSet, sizes
from selftaught.texts import read_texts
from selftaught.types import VERSION, Checkpoint, Example, Round, Task
from selftaught.view import Silent, View


@dataclass(frozen=True)
class Plan:
    """What a run would do: the settled recipe, split sizes, the smallest gain each holdout can show, notes.

    ``needed`` says how many labelled items each suite needs for a gain of ``gate.min_gain`` to be proved.
    """

    recipe: Recipe
    sizes: Mapping[str, int]
    provable: Mapping[str, float | None]
    needed: Mapping[str, int]
    notes: tuple[str, ...]


def make_engine(recipe: Recipe) -> Engine:
    """The recipe's engine; engines that render prompts get the recipe's ``prompt`` section."""
    member = recipe.engine
    kind = load.member_class("engines", member.name)
    if not hasattr(kind, "tune"):
        raise RecipeError(
            f"engine.name={member.name} only generates, and the student is trained here.",
            hint="Name the server as roles.source, and the student as model.",
        )
    if "prompt" in kind.Options.model_fields:
        member = member.model_copy(update={"prompt": recipe.prompt.model_dump()})
    engine: Engine = load.make("engines", member)
    return engine


def engine_to_ask(recipe: Recipe) -> Engine:
    """The engine for a run's models after the run, maybe on another machine: with kernels where they can be built."""
    member = recipe.engine
    if member.options.get("kernels") is True:
        recipe = recipe.model_copy(update={"engine": member.model_copy(update={"kernels": "auto"})})
    return make_engine(recipe)


def plan(recipe: Recipe, engine: Engine | None = None, stop: StopToken = never) -> Plan:
    """Settle a recipe without running it. Raises what a run would raise about its model, data or recipe."""
    method = load.make("methods", recipe.method)
    make_filters(Context(recipe.curate, ()))
    engine = engine or make_engine(recipe)
    try:
        settled, notes = settle(recipe, engine)
        others = roles.check(settled, method, engine)
        if stop():
            raise Stopped
        whole = load_whole(settled)
        read_texts(settled.gate.text, "gate.text", settled.gate.text_items)
        tokens = engine.tokens(engine.open(settled.model))
        written = questions.planned(settled, whole, method)
        check_claim(settled.gate, whole, method, tokens, stop)
        instead = control.planned(settled, method, tokens)
        length, mixed = replay.planned(settled, tokens, stop)
        settled, audited = auditing.settled(settled, _lab(settled, engine, tokens, whole, stop))
        margins = {f"guard {name}": margin for name, margin in guard_margins(settled.gate, whole).items()}
        fitted, more = budget.fit(settled, engine, budget.trim(whole, settled), length, stop, auditing.samples(settled))
    finally:
        engine.close()
    tasks = budget.trim(whole, fitted)
    provable = _provable(fitted.gate, tasks)
    spent = _spent(fitted, whole)
    if "vault" in provable and spent >= fitted.gate.looks:
        provable["vault"] = None
    looked = (f"{spent} of {fitted.gate.looks} looks at this vault are spent",) if spent else ()
    needed = power.needed(fitted.gate, margins)
    learned = [d for d in tasks.documents.values() if d.split == "train"]
    asked = roles.planned(fitted, method, len(learned if isinstance(method, Reads) else tasks.train))
    said = (
        *notes, *instead, *others, *asked, *mixed, *audited, *more, *tasks.notes, *written, *looked,
        *_unknown(fitted.gate),
    )  # fmt: skip
    return Plan(fitted, sizes(tasks), provable, needed, said)


def _lab(recipe: Recipe, engine: Engine, tokens: Tokens, whole: TaskSet, stop: StopToken) -> auditing.Workshop:
    """What audits are asked about before a run. Raises DataError for private texts that cannot be read."""
    found = sources(recipe, whole)
    if isinstance(found, DataError):
        raise found
    return auditing.Workshop(engine, tokens, recipe.seed, stop, private=found.texts, canaries=found.canaries)


def _provable(config: GateConfig, tasks: TaskSet) -> dict[str, float | None]:
    """The smallest gain in right answers that dev and vault can show. Of another claim, and of questions that somebody
    has yet to write, nobody knows it before.
    """
    if (
        not config.primary.per_question
        or config.primary.margin is not None
        or (tasks.unasked and not (tasks.dev or tasks.vault))
    ):
        return {}
    holdouts = {"dev": (tasks.dev, config.alpha), "vault": (tasks.vault, config.alpha / config.looks)}
    shown = {name: power.smallest_gain(units(suite), alpha) for name, (suite, alpha) in holdouts.items()}
    if config.primary.test != "bootstrap":
        return shown
    return {name: power.by_bootstrap(gain, units(holdouts[name][0])) for name, gain in shown.items()}


def _unknown(config: GateConfig) -> tuple[str, ...]:
    claim = config.primary
    if claim.protocol == "adapt":
        said = "how small a gain dev and vault can show depends on how much it differs from document to document"
        return (f"gate.primary.protocol=adapt: {said}; the decision says how many documents it took",)
    if claim.metric == "accuracy":
        return ()
    said = "how small a gain dev and vault can show depends on how much it differs from question to question"
    return (f"gate.primary.metric={claim.metric}: {said}; the decision says how many questions it took",)


def _spent(recipe: Recipe, whole: TaskSet) -> int:
    """Looks that are spent on the vault of a user's file, in looks of this recipe."""
    if not (recipe.tasks.options.get("path") and whole.vault):
        return 0
    share = recipe.gate.alpha / recipe.gate.looks
    earlier = ledger.looks_at(ledger.registry(recipe, Path()), [t.id for t in whole.vault])
    return round(ledger.spent(earlier, share))


def units(tasks: Sequence[Task]) -> int:
    """Independent items: questions, but a group counts once."""
    return paired.units([t.group for t in tasks])


def prepare(recipe: Recipe, folder: Path, engine: Engine | None = None, *, stop: StopToken = never) -> Recipe:
    """Make the run folder: settle the recipe and write it. What is written there is what runs, now and on resume."""
    with heard(stop, folder) as told:
        settled = plan(recipe, engine, told).recipe
    if (folder / "recipe.yaml").exists():
        raise RunError(f"{folder} already holds a run.", hint=f"Go on with it: selftaught resume {folder.name}")
    with noticing_a_full_disk(folder):
        write_file(folder / ledger.NUMBER, b"%d\n" % ledger.next_number(folder.parent))
        write_file(folder / "recipe.yaml", to_yaml(settled).encode())
    return settled


def load_whole(recipe: Recipe) -> TaskSet:
    """Everything the recipe's source brings."""
    tasks: TaskSet = load.make("tasks", recipe.tasks).load(recipe.seed)
    return tasks


def load_tasks(recipe: Recipe) -> TaskSet:
    """What a run of the recipe uses: the shares that its budget allows."""
    return budget.trim(load_whole(recipe), recipe)


# ---------------------------------------------------------------- one run


def run(folder: Path, *, view: View | None = None, stop: StopToken = never, engine: Engine | None = None) -> Round:
    """Run a prepared folder to its end, or go on with it. Returns the round that says what came of it.

    Raises Waiting when people have to answer first, Stopped soon after ``stop()`` is true or a file ``stop`` lies in
    the folder (everything finished is kept), RunLocked when another process works here, IntegrityError when something
    on disk is not what the record says, DiskFull when nothing more can be written. Soon is after a step of the model,
    a call of the user's checker, the loading of a model; only a Watchdog as ``stop`` bounds these: see stopping.py.
    """
    with noticing_a_full_disk(folder):
        return _run(folder, view or Silent(), stop, engine)


def _run(folder: Path, view: View, stop: StopToken, engine: Engine | None) -> Round:
    record = ledger.read_run(folder)
    if record.final and record.over:  # nothing to write, so a folder that may only be read will do
        return record.final
    recipe = record.recipe
    with Store(folder) as store, heard(stop, folder, store.journal) as told:
        if (folder / "journal.jsonl").exists():
            (folder / STOP).unlink(missing_ok=True)  # whoever runs it again wants it to go on
        again = ledger.read_run(folder)
        if again.final and again.over:  # by another process, just now
            return again.final
        store.journal("resumed" if store.chain else "started", **_versions(folder))
        engine = engine or make_engine(recipe)
        try:
            setting = prepare_setting(store, recipe, engine, load_whole(recipe), view, told)
            _close_to_others(setting)
            gc.freeze()  # what is loaded by now stays: the collector need not go through all of torch again and again
            done = _rounds(setting)
        except (Stopped, KeyboardInterrupt):
            store.journal("stopped")
            raise
        except Waiting as error:
            store.journal("waiting", missing=error.missing)
            raise
        except SelftaughtError as error:
            store.journal("paused" if isinstance(error, EndpointError) else "broken", error=str(error))
            raise
        except Exception as error:
            with suppress(OSError):  # on a full disk not even this goes
                store.journal("paused" if disk_is_full(error) else "broken", error=traceback.format_exc())
            raise
        finally:
            gc.unfreeze()
            engine.close()
        store.journal("finished", outcome=done.decision.outcome)
    return done


def _close_to_others(setting: Setting) -> None:
    """Leave the run's folder to its owner where texts are private: samples and weights may hold some of them, and
    weights before and after tell more than either alone. What cannot be closed is noted."""
    private = setting.private
    if not isinstance(private, DataError) and not private.texts and not private.canaries:
        return
    try:
        setting.store.folder.chmod(0o700)
    except OSError as error:
        setting.store.journal("not closed to others", error=str(error))


def _rounds(setting: Setting) -> Round:
    """Rounds until the run is over; those that are recorded are read back. Returns the one that says what came of it.

    An accepted candidate is the next parent; after any other outcome the parent stands, and the next round, with fresh
    samples, starts from it again.
    """
    recipe, store = setting.recipe, setting.store
    begin = Beginning(0, setting.base, setting.base)
    rounds = ledger.read_run(store.folder).rounds
    done: list[Round] = []
    while not (done and ledger.is_over(recipe, done)):
        if done:
            begin = _after(setting, begin, done[-1])
        if len(done) == len(rounds) and done:
            setting.view.line(f"round {begin.index + 1} of at most {recipe.rounds}")
        done.append(rounds[begin.index] if begin.index < len(rounds) else Transaction(setting, begin).run())
    good = [r for r in done if r.decision.outcome in ledger.GOOD]
    return (good or done)[-1]


def _after(setting: Setting, begin: Beginning, done: Round) -> Beginning:
    """Where the next round begins: all of it is computed from the chain."""
    units = {e["place"]: e for e in setting.store.chain if "place" in e}
    place = ledger.place_of(done.index)
    facts = units.get(f"{place}/examples", {}).get("facts", {})
    first = begin.first or (Signals(**facts["signals"]) if facts.get("signals") else None)
    begin = replace(begin, index=done.index + 1, first=first)
    if done.decision.outcome not in ledger.GOOD:
        return begin
    made = units[f"{place}/candidate"]
    parent = ledger.checkpoint(setting.store.folder / made["place"], made["facts"], setting.base, begin.parent)
    proven = parent if done.decision.outcome == "proved" else begin.proven
    learned = units.get(f"{place}/reviewed", units[f"{place}/examples"])
    kept = read_rows(setting.store.folder / learned["place"] / "kept.parquet", Example)
    own = tuple(e for e in kept if e.own) if setting.recipe.train.start == "base" else ()
    return replace(begin, parent=parent, proven=proven, pool=(*begin.pool, *own))


def _versions(folder: Path) -> dict[str, str]:
    """What goes on with a run; and what began it, if that was another version (of the same format: see store.py)."""
    began = began_by(folder)
    other = {"began_by": began} if began not in ("", VERSION) else {}
    return {"selftaught": VERSION, "python": platform.python_version(), **other}


# ---------------------------------------------------------------- asking


def models(record: ledger.RunRecord, engine: Engine) -> tuple[Checkpoint, Checkpoint]:
    """The model that a run began with and its candidate, their bytes checked.

    Raises RunError when there is no candidate and IntegrityError when one of the two is not what it was.
    """
    if record.trained is None:
        hint = f"Finish it with: selftaught resume {record.name}"
        if record.rounds:
            hint = f"See why with: selftaught show {record.name}"
        raise RunError(f"{record.name} has no trained model ({record.outcome}).", hint=hint)
    record.check_candidate()
    base = engine.open(record.recipe.model)
    if base.digest != record.facts("tasks").get("model"):
        raise IntegrityError(
            f"{record.recipe.model} is not the model that {record.name} began with.",
            hint="Restore it: before and after could not be compared.",
        )
    return base, ledger.checkpoint(record.path / record.trained["place"], record.trained["facts"], base, base)


def ask(folder: Path, question: str, engine: Engine | None = None) -> tuple[str, str]:
    """The parent's and the candidate's greedy answers to one question.

    Raises RunError when there is no candidate and ModelError when the question does not fit into the context.
    """
    record = ledger.read_run(folder)
    engine = engine or engine_to_ask(record.recipe)
    try:
        parent, candidate = models(record, engine)
        method = load.make("methods", record.recipe.method)
        task = method.ask(Task(({"role": "user", "content": question},), checker=""))
        sampling = answering(method)
        tokens = engine.tokens(parent)
        before, after = (
            rollout(engine, c, tokens, [task], sampling, {"": NO_CHECKER}, run_seed=0)[0] for c in (parent, candidate)
        )
    finally:
        engine.close()
    if before.error == NO_ROOM:
        raise ModelError(
            f"The question takes {len(before.prompt_ids)} tokens of a context of {tokens.context}.",
            hint="Ask a shorter one.",
        )
    return before.text.strip(), after.text.strip()
