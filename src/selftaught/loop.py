"""The one loop: propose, sample, harvest, curate, train, evaluate, gate, record. No recipe can leave a stage out.

A round is a transaction. Each stage asks the store for its unit and makes only what is not committed, so running a
folder again goes on where it ended and comes to the same chain, bit for bit. The loop is the only writer.
"""

from __future__ import annotations

import json
import platform
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selftaught import gate, ledger, load
from selftaught.bench import RunBench, heldout
from selftaught.config import Recipe, to_yaml
from selftaught.curate import curate
from selftaught.engines.base import Engine, StopToken, never
from selftaught.errors import IntegrityError, NonFiniteError, RunError, SelftaughtError, Stopped
from selftaught.evaluate import report
from selftaught.filters.base import Context
from selftaught.rollout import rollout
from selftaught.settle import settle
from selftaught.store import Store, folder_digest, read_rows, write_file, write_report, write_rows
from selftaught.tasks.base import Checker, TaskSet, sizes
from selftaught.train import make_job
from selftaught.types import (
    Checkpoint, Decision, Example, Labels, Report, Rollout, Round, Sampling, Task, Verdict, canonical, digest,
)  # fmt: skip
from selftaught.view import Silent, View

LOOKS = "looks.jsonl"
NO_CHECKER = Checker("", parse=lambda text: None, same=lambda a, b: False)


@dataclass(frozen=True)
class Plan:
    """What a run would do: the settled recipe, split sizes, the smallest gain each holdout can show, notes."""

    recipe: Recipe
    sizes: Mapping[str, int]
    provable: Mapping[str, float | None]
    notes: tuple[str, ...]


def make_engine(recipe: Recipe) -> Engine:
    """The recipe's engine; engines that render prompts get the recipe's ``prompt`` section."""
    member = recipe.engine
    if "prompt" in load.member_class("engines", member.name).Options.model_fields:
        member = member.model_copy(update={"prompt": recipe.prompt.model_dump()})
    engine: Engine = load.make("engines", member)
    return engine


def plan(recipe: Recipe, engine: Engine | None = None) -> Plan:
    """Settle a recipe without running it. Raises what a run would raise about its model, data or recipe."""
    engine = engine or make_engine(recipe)
    try:
        settled, notes = settle(recipe, engine)
    finally:
        engine.close()
    tasks = load_tasks(settled)
    provable = {"dev": gate.smallest_gain(len(tasks.dev), settled.gate.alpha),
                "vault": gate.smallest_gain(len(tasks.vault), settled.gate.alpha / settled.gate.looks)}  # fmt: skip
    return Plan(settled, sizes(tasks), provable, (*notes, *tasks.notes))


def prepare(recipe: Recipe, folder: Path, engine: Engine | None = None) -> Recipe:
    """Make the run folder: settle the recipe and write it. What is written there is what runs, now and on resume."""
    settled = plan(recipe, engine).recipe
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "recipe.yaml").exists():
        raise RunError(f"{folder} already holds a run.", hint=f"Go on with it: selftaught resume {folder.name}")
    write_file(folder / "recipe.yaml", to_yaml(settled).encode())
    return settled


def load_tasks(recipe: Recipe) -> TaskSet:
    tasks: TaskSet = load.make("tasks", recipe.tasks).load(recipe.seed)
    return tasks


# ---------------------------------------------------------------- one run


def run(folder: Path, *, view: View | None = None, stop: StopToken = never, engine: Engine | None = None) -> Round:
    """Run a prepared folder to its end, or go on with it. Returns the recorded round.

    Raises Stopped at a unit boundary after ``stop()`` (everything finished is kept), RunLocked when another process
    works here, IntegrityError when something on disk is not what the record says.
    """
    recipe = ledger.read_run(folder).recipe
    with Store(folder) as store:
        recorded = ledger.read_run(folder).rounds
        if recorded:
            return recorded[-1]
        store.journal("resumed" if store.chain else "started", python=platform.python_version())
        engine = engine or make_engine(recipe)
        try:
            done = _Round(store, recipe, engine, view or Silent(), stop).run()
        except (Stopped, KeyboardInterrupt):
            store.journal("stopped")
            raise
        except SelftaughtError as error:
            store.journal("broken", error=str(error))
            raise
        except Exception:
            store.journal("broken", error=traceback.format_exc())
            raise
        finally:
            engine.close()
        store.journal("finished", outcome=done.decision.outcome)
    return done


class _Round:
    """One round in progress: the stages in order, each a method, each a unit in the store."""

    def __init__(self, store: Store, recipe: Recipe, engine: Engine, view: View, stop: StopToken) -> None:
        self.store, self.recipe, self.engine, self.view, self.stop = store, recipe, engine, view, stop
        self.place = "round-000"
        self.method = load.make("methods", recipe.method)
        self.looks: dict[str, int] = {}

    def run(self) -> Round:
        self._prepare()
        examples = self._examples()
        if not examples:
            decision = Decision("nothing to train on", (), self._why_nothing())
            return self._record(None, decision)
        self._stage("train", f"{len(examples)} examples")
        try:
            candidate = self._train(examples)
        except NonFiniteError as error:
            return self._record(None, Decision("rejected", (), error.message))
        return self._record(candidate, self._judge(candidate))

    def _stage(self, name: str, detail: str = "") -> None:
        self.store.journal("stage", stage=name)
        self.view.stage(name, detail)

    # ------------------------------------------------------------ prepare

    def _prepare(self) -> None:
        self._stage("prepare", self.recipe.model)
        self.parent = self.engine.open(self.recipe.model)
        self.tokens = self.engine.tokens(self.parent)
        self.tasks = load_tasks(self.recipe)
        facts = {"recipe": self.recipe.digest, "model": self.parent.digest, "counts": sizes(self.tasks),
                 "notes": list(self.tasks.notes), "vault": self.tasks.vault_digest}  # fmt: skip
        if self.store.chain and self.store.chain[0]["facts"] != facts:
            changed = [k for k, v in self.store.chain[0]["facts"].items() if facts.get(k) != v]
            raise IntegrityError(
                f"This run began with another {', '.join(changed)}.",
                hint="A run keeps the recipe, model and questions it began with. Restore them, or start a new run.",
            )
        self.store.unit("tasks", facts, "tasks", lambda out: self._write_tasks(out, facts))
        environment = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system(),
                       **self.engine.describe(self.parent)}  # fmt: skip
        write_file(self.store.folder / "environment.json", canonical(environment) + b"\n")
        self.bench = RunBench(self.store, self.engine, self.parent, self.tasks, self.recipe.seed, self.place,
                              self.view, self.stop)  # fmt: skip
        self.counts = self.bench.counts

    def _write_tasks(self, out: Path, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        write_rows(out / "train.parquet", Task, self.tasks.train)
        write_rows(out / "dev.parquet", Task, self.tasks.dev)
        write_rows(out / "vault.parquet", Task, self.tasks.vault)
        for name, suite in self.tasks.guards.items():
            write_rows(out / f"guard-{name}.parquet", Task, suite)
        return facts

    # ------------------------------------------------------------ propose, sample, harvest, curate

    def _examples(self) -> list[Example]:
        self._stage("sample", f"{len(self.tasks.train)} questions")
        proposed = list(self.method.propose(self.bench))
        self.view.line(f"  {len(proposed)} questions, {self.method.sampling().n} samples each")
        groups = self.bench.generate(proposed, self.method.sampling())
        self._stage("curate")
        made = list(self.method.harvest(groups, self.bench))
        replay = self._replay() if made else []
        questions = {t.id: t.question for t, _ in groups}
        key = [self.recipe.digest, self.parent.digest, [e.id for e in made], [e.id for e in replay]]
        unit = self.store.unit("examples", digest(key), f"{self.place}/examples",
                               lambda out: self._curate(out, made, replay, questions))  # fmt: skip
        self.counts = Counter(unit.facts["counts"])
        self.view.line(f"  {self.counts['made']} made: {self.counts['kept']} kept, {self.counts['rejected']} rejected")
        return read_rows(unit.folder / "kept.parquet", Example)

    def _replay(self) -> list[Example]:
        """The parent's own unprompted text: replay against forgetting (2505.13811), with no label in it."""
        config = self.recipe.train
        if not config.replay:
            return []
        sampling = Sampling(config.replay_samples, 1.0, max_tokens=config.replay_max_tokens)
        task = Task((), checker=self.tasks.train[0].checker, source="replay")
        [(_, rollouts)] = self.bench.generate([task], sampling)
        whole = [r for r in rollouts if r.error is None and r.text.strip()]
        self.counts["replay sampled"], self.counts["replay truncated"] = len(rollouts), len(rollouts) - len(whole)
        return [Example(r.prompt_ids, r.completion_ids, r.text, source="replay", parents=(r.id,)) for r in whole]

    def _curate(self, out: Path, made: Sequence[Example], replay: Sequence[Example],
                questions: dict[str, str]) -> Mapping[str, Any]:  # fmt: skip
        result = curate((*made, *replay), Context(self.recipe.curate, heldout(self.tasks), questions))
        write_rows(out / "kept.parquet", Example, result.kept)
        write_rows(out / "rejected.parquet", Example, result.rejected)
        write_rows(out / "verdicts.parquet", Verdict, result.verdicts)
        own = sum(e.source != "replay" for e in result.kept)
        if not own:
            write_rows(out / "kept.parquet", Example, [])
        counts = {**self.counts, "made": len(made) + len(replay), "kept": len(result.kept), "kept from rollouts": own,
                  "kept replay": len(result.kept) - own, "rejected": len(result.rejected)}  # fmt: skip
        return {"counts": counts}

    def _why_nothing(self) -> str:
        said = "; ".join(f"{v} {k}" for k, v in self.counts.items() if v)
        return f"no example was left to learn from ({said or 'nothing was sampled'})"

    # ------------------------------------------------------------ train

    def _train(self, examples: Sequence[Example]) -> Checkpoint:
        own = [e for e in examples if e.source != "replay"]
        replay = [e for e in examples if e.source == "replay"]
        job = make_job(self.parent, own, replay, self.recipe.train, self.recipe.seed)
        key = digest(self.parent.digest, self.recipe.digest, [e.id for e in examples])
        unit = self.store.unit("candidate", key, f"{self.place}/candidate", lambda out: self._tune(out, job))
        weights = unit.folder / unit.facts["kind_folder"]
        lora = job.kind == "lora"
        return Checkpoint(unit.facts["digest"], self.parent.model if lora else str(weights),
                          str(weights) if lora else None, self.parent.digest)  # fmt: skip

    def _tune(self, out: Path, job: Any) -> Mapping[str, Any]:
        folder = "adapter" if job.kind == "lora" else "model"
        (out / folder).mkdir()
        self.view.line(f"  {job.kind} fine-tuning, {len(job.batches)} steps, learning rate {job.lr:g}")
        tuned = self.engine.tune(job, out / folder, stop=self.stop, progress=self.view.progress)
        curve = {"losses": tuned.losses, "grad_norms": tuned.grad_norms, "tokens": tuned.tokens,
                 "steps": len(job.batches), "kind": job.kind}  # fmt: skip
        write_file(out / "train.json", json.dumps(curve).encode())
        return {"digest": digest(self.parent.digest if job.kind == "lora" else "", folder_digest(out / folder)),
                "kind": job.kind, "kind_folder": folder, "steps": len(job.batches), "tokens": tuned.tokens,
                "first_loss": round(tuned.losses[0], 4), "last_loss": round(tuned.losses[-1], 4)}  # fmt: skip

    # ------------------------------------------------------------ evaluate, gate, record

    def _judge(self, candidate: Checkpoint) -> Decision:
        config = self.recipe.gate
        margins = self._margins()
        self._stage("evaluate", "parent and candidate on dev" + "".join(f", {g}" for g in margins))
        suites = {"dev": self.tasks.dev} | {name: self.tasks.guards[name] for name in margins}
        pairs = {name: (self._evaluate(self.parent, "parent", name, suite),
                        self._evaluate(candidate, "candidate", name, suite))
                 for name, suite in suites.items() if suite}  # fmt: skip
        guards = {name: (*pairs[name], margin) for name, margin in margins.items()}
        self._stage("gate")
        decision = gate.decide(config, pairs.get("dev"), guards)
        if decision.outcome != "accepted" or not self.tasks.vault:
            return decision
        look = ledger.spend_look(self._registry(), self.tasks.vault_digest, candidate.digest, self.store.folder.name)
        self.looks = {"look": look, "of": config.looks}
        self.view.line(f"  accepted on dev; look {look} of {config.looks} on the vault")
        if look > config.looks:
            empty = Report("evaluation", "vault", candidate.digest, "vault")
            return gate.prove(decision, config, empty, empty, look)
        before = self._evaluate(self.parent, "parent", "vault", self.tasks.vault)
        after = self._evaluate(candidate, "candidate", "vault", self.tasks.vault)
        return gate.prove(decision, config, before, after, look)

    def _margins(self) -> dict[str, float]:
        guards = self.recipe.gate.guards
        if guards == "auto":
            return {name: 0.03 for name, suite in self.tasks.guards.items() if suite}
        for g in guards:
            if g.suite not in self.tasks.guards:
                raise RunError(f"There is no guard suite {g.suite!r} in these tasks.",
                               hint=f"They bring: {', '.join(self.tasks.guards) or 'none'}. See gate.guards.")  # fmt: skip
        return {g.suite: g.margin for g in guards}

    def _registry(self) -> Path:
        """Looks are counted beside the data, or beside the runs where the questions are generated."""
        path = self.recipe.tasks.options.get("path")
        return Path(path).resolve().parent / f".{Path(path).name}.{LOOKS}" if path else self.store.folder.parent / LOOKS

    def _evaluate(self, checkpoint: Checkpoint, role: str, suite: str, tasks: Sequence[Task]) -> Report:
        sampling = replace(self.method.sampling(), n=1, temperature=0.0)
        key = digest(checkpoint.digest, [t.id for t in tasks], self.recipe.digest)
        unit = self.store.unit("evaluation", key, f"{self.place}/evaluate/{role}-{suite}",
                               lambda out: self._answer(out, checkpoint, role, suite, tasks, sampling))  # fmt: skip
        found = ledger.read_report(unit.folder / "report.json")
        self.view.line(f"  {role} on {suite}: {100 * found.metrics['accuracy'].value:.1f} % of {len(tasks)}")
        return found

    def _answer(self, out: Path, checkpoint: Checkpoint, role: str, suite: str, tasks: Sequence[Task],
                sampling: Sampling) -> Mapping[str, Any]:  # fmt: skip
        asked = [self.method.ask(t) for t in tasks]
        rows = rollout(self.engine, checkpoint, self.tokens, asked, sampling, self.tasks.checkers,
                       run_seed=self.recipe.seed, stop=self.stop, progress=self.view.progress)  # fmt: skip
        found = report(suite, suite, checkpoint, tasks, rows, self.tasks)
        write_rows(out / "rows.parquet", Rollout, rows)
        write_report(out / "report.json", found)
        return {"role": role, "suite": suite, "accuracy": round(found.metrics["accuracy"].value, 6)}

    def _record(self, candidate: Checkpoint | None, decision: Decision) -> Round:
        self._stage("record", decision.outcome)
        labels = Labels(training=self.bench.labels_read, selection=False, gate=bool(self.tasks.dev or self.tasks.vault))
        done = Round(0, self.parent.digest, candidate.digest if candidate else None, decision, dict(self.counts),
                     labels, self.method.name, self.looks)  # fmt: skip
        ledger.record(self.store, done)
        return done


# ---------------------------------------------------------------- asking


def ask(folder: Path, question: str, engine: Engine | None = None) -> tuple[str, str]:
    """The parent's and the candidate's greedy answers to one question. Raises RunError when there is no candidate."""
    record = ledger.read_run(folder)
    weights = record.kept
    if weights is None:
        raise RunError(f"{record.name} has no trained model ({record.outcome}).",
                       hint=f"Finish it with: selftaught resume {record.name}")  # fmt: skip
    record.check_candidate()
    engine = engine or make_engine(record.recipe)
    try:
        parent = engine.open(record.recipe.model)
        lora = weights.name == "adapter"
        candidate = Checkpoint(record.facts("candidate")["digest"], parent.model if lora else str(weights),
                               str(weights) if lora else None, parent.digest)  # fmt: skip
        method = load.make("methods", record.recipe.method)
        task = method.ask(Task(({"role": "user", "content": question},), checker=""))
        sampling = replace(method.sampling(), n=1, temperature=0.0)
        texts = [rollout(engine, c, engine.tokens(parent), [task], sampling, {"": NO_CHECKER}, run_seed=0)[0].text
                 for c in (parent, candidate)]  # fmt: skip
    finally:
        engine.close()
    return texts[0].strip(), texts[1].strip()
