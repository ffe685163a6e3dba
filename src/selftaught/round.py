"""One round, a transaction: propose, sample, harvest, curate, train, evaluate, gate, record.

Each stage asks the store for its unit and makes only what is not committed. No recipe can leave a stage out.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selftaught import budget, gate, ledger, load
from selftaught.bench import RunBench, heldout
from selftaught.config import GateConfig, Recipe
from selftaught.curate import curate
from selftaught.engines.base import Engine, StopToken, TuneJob
from selftaught.errors import IntegrityError, NonFiniteError, RecipeError, RunError
from selftaught.evaluate import report
from selftaught.filters.base import Context
from selftaught.rollout import rollout
from selftaught.rows import read_rows, write_report, write_rows
from selftaught.store import Store, file_digest, folder_digest, write_file
from selftaught.tasks.base import TaskSet, sizes
from selftaught.train import make_job
from selftaught.types import (
    VERSION,
    Checkpoint,
    Decision,
    Example,
    Labels,
    Report,
    Rollout,
    Round,
    Sampling,
    Task,
    Verdict,
    canonical,
    digest,
)
from selftaught.view import View


class Transaction:
    """One round in progress: the stages in order, each a method, each a unit in the store.

    ``tasks`` is everything the source brings; the recipe's budget says how much of it the round uses. Looks are counted
    against the whole vault, so that another budget does not make it a new one.
    """

    def __init__(
        self, store: Store, recipe: Recipe, engine: Engine, tasks: TaskSet, view: View, stop: StopToken
    ) -> None:
        self.store, self.recipe, self.engine, self.view, self.stop = store, recipe, engine, view, stop
        self.place = "round-000"
        self.whole = tasks
        self.tasks = budget.trim(tasks, recipe)
        self.method = load.make("methods", recipe.method)
        self.looks: dict[str, int] = {}
        self.judged = False

    def run(self) -> Round:
        """From the first stage to the record. Raises Stopped at a unit boundary; nothing finished is lost."""
        self._prepare()
        examples = self._examples()
        if not self._teaches(examples):
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
        self.margins = guard_margins(self.recipe.gate, self.tasks)
        self.parent = self.engine.open(self.recipe.model)
        self.tokens = self.engine.tokens(self.parent)
        if self.recipe.train.replay:
            self.tokens.encode("")  # a model that cannot write unprompted says so now, not after sampling
        self._check_registry()
        facts = {
            "recipe": self.recipe.digest,
            "recipe.yaml": file_digest(self.store.folder / "recipe.yaml"),
            "model": self.parent.digest,
            "counts": sizes(self.tasks),
            "notes": list(self.tasks.notes),
            "vault": self.whole.vault_digest,
            "questions": contents(self.tasks),
            "checkers": {c.name: c.digest for c in self.tasks.checkers.values() if c.digest},
        }
        self._check_beginning(facts)
        self.store.unit("tasks", facts, "tasks", lambda out: self._write_tasks(out, facts))
        environment = {
            "selftaught": VERSION,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "system": platform.system(),
            **self.engine.describe(self.parent),
        }
        write_file(self.store.folder / "environment.json", canonical(environment) + b"\n")
        asked = replace(self.whole, train=self.tasks.train)  # what a budget leaves out is held out all the same
        self.bench = RunBench(
            self.store, self.engine, self.parent, asked, self.recipe.seed, self.place, self.view, self.stop
        )
        self.counts = self.bench.counts

    def _check_beginning(self, facts: Mapping[str, Any]) -> None:
        began = self.store.chain[0]["facts"] if self.store.chain else facts
        changed = [k for k in facts if facts[k] != began.get(k)]
        if changed:
            raise IntegrityError(
                f"This run began with another {', '.join(changed)}.",
                hint="A run keeps the recipe, model and questions it began with. Restore them, or start a new run.",
            )

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
        asked = {t.id: t for t, _ in groups}
        key = [self.recipe.digest, self.parent.digest, [e.id for e in made], [e.id for e in replay]]
        unit = self.store.unit(
            "examples", digest(key), f"{self.place}/examples", lambda out: self._curate(out, made, replay, asked)
        )
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

    def _curate(
        self, out: Path, made: Sequence[Example], replay: Sequence[Example], asked: Mapping[str, Task]
    ) -> Mapping[str, Any]:
        result = curate((*made, *replay), Context(self.recipe.curate, heldout(self.whole), asked))
        write_rows(out / "kept.parquet", Example, result.kept)
        write_rows(out / "rejected.parquet", Example, result.rejected)
        write_rows(out / "verdicts.parquet", Verdict, result.verdicts)
        own = sum(e.source != "replay" for e in result.kept)
        counts = {
            **self.counts,
            "made": len(made) + len(replay),
            "kept": len(result.kept),
            "kept from rollouts": own,
            "kept replay": len(result.kept) - own,
            "rejected": len(result.rejected),
        }
        if result.failed:
            counts["rejected because a filter failed"] = result.failed
        return {"counts": counts}

    def _teaches(self, examples: Sequence[Example]) -> bool:
        """Whether there is anything to learn: replay alone is not, and with ``train.replay`` 1 it is all there is."""
        replay = sum(e.source == "replay" for e in examples)
        return len(examples) > replay and (replay > 0 or self.recipe.train.replay < 1)

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
        return Checkpoint(
            unit.facts["digest"],
            self.parent.model if lora else str(weights),
            str(weights) if lora else None,
            self.parent.digest,
        )

    def _tune(self, out: Path, job: TuneJob) -> Mapping[str, Any]:
        folder = "adapter" if job.kind == "lora" else "model"
        (out / folder).mkdir()
        self.view.line(f"  {job.kind} fine-tuning, {len(job.batches)} steps, learning rate {job.lr:g}")
        tuned = self.engine.tune(job, out / folder, stop=self.stop, progress=self.view.progress)
        losses = [finite(x) for x in tuned.losses]
        curve = {
            "losses": losses,
            "grad_norms": [finite(x) for x in tuned.grad_norms],
            "tokens": tuned.tokens,
            "steps": len(job.batches),
            "kind": job.kind,
        }
        write_file(out / "train.json", json.dumps(curve).encode())
        return {
            "digest": digest(self.parent.digest if job.kind == "lora" else "", folder_digest(out / folder)),
            "kind": job.kind,
            "kind_folder": folder,
            "steps": len(job.batches),
            "tokens": tuned.tokens,
            "first_loss": None if losses[0] is None else round(losses[0], 4),
            "last_loss": None if losses[-1] is None else round(losses[-1], 4),
        }

    # ------------------------------------------------------------ evaluate, gate, record

    def _judge(self, candidate: Checkpoint) -> Decision:
        config = self.recipe.gate
        suites = {"dev": self.tasks.dev} | {name: self.tasks.guards[name] for name in self.margins}
        self._stage("evaluate", "parent and candidate on " + ", ".join(name for name, suite in suites.items() if suite))
        pairs = {
            name: (
                self._evaluate(self.parent, "parent", name, suite),
                self._evaluate(candidate, "candidate", name, suite),
            )
            for name, suite in suites.items()
            if suite
        }
        guards = {name: (*pairs[name], margin) for name, margin in self.margins.items()}
        self._stage("gate")
        decision = gate.decide(config, pairs.get("dev"), guards)
        if decision.outcome != "accepted" or not self.tasks.vault:
            return decision
        look = ledger.spend_look(
            ledger.registry(self.recipe, self.store.folder),
            [t.id for t in self.whole.vault],
            candidate.digest,
            self.store.folder.name,
            share=config.alpha / config.looks,
            asked=digest(sorted(t.id for t in self.tasks.vault)),
        )
        self.looks = {"look": look, "of": config.looks}
        self.view.line(f"  accepted on dev; look {look} of {config.looks} on the vault")
        if look > config.looks:
            empty = Report("evaluation", "vault", candidate.digest, "vault")
            return gate.prove(decision, config, empty, empty, look)
        before = self._evaluate(self.parent, "parent", "vault", self.tasks.vault)
        after = self._evaluate(candidate, "candidate", "vault", self.tasks.vault)
        return gate.prove(decision, config, before, after, look)

    def _check_registry(self) -> None:
        registry = ledger.registry(self.recipe, self.store.folder)
        written = [p for p in (registry, registry.with_name(registry.name + ".lock")) if p.exists()]
        shut = [p for p in (registry.parent, *written) if not os.access(p, os.W_OK)]
        if self.tasks.vault and shut:
            raise RunError(
                f"Looks at the vault are counted in {shut[0]}, where nothing may be written.",
                hint="Allow it, or copy the questions to a folder of your own.",
            )

    def _evaluate(self, checkpoint: Checkpoint, role: str, suite: str, tasks: Sequence[Task]) -> Report:
        sampling = replace(self.method.sampling(), n=1, temperature=0.0)
        key = digest(checkpoint.digest, [t.id for t in tasks], self.recipe.digest)
        unit = self.store.unit(
            "evaluation",
            key,
            f"{self.place}/evaluate/{role}-{suite}",
            lambda out: self._answer(out, checkpoint, role, suite, tasks, sampling),
        )
        self.judged = True
        found = ledger.read_report(unit.folder / "report.json")
        self.view.line(f"  {role} on {suite}: {100 * found.metrics['accuracy'].value:.1f} % of {len(tasks)}")
        return found

    def _answer(
        self, out: Path, checkpoint: Checkpoint, role: str, suite: str, tasks: Sequence[Task], sampling: Sampling
    ) -> Mapping[str, Any]:
        asked = [self.method.ask(t) for t in tasks]
        rows = rollout(
            self.engine,
            checkpoint,
            self.tokens,
            asked,
            sampling,
            self.tasks.checkers,
            run_seed=self.recipe.seed,
            stop=self.stop,
            progress=self.view.progress,
        )
        found = report(suite, suite, checkpoint, tasks, rows, self.tasks)
        write_rows(out / "rows.parquet", Rollout, rows)
        write_report(out / "report.json", found)
        return {"role": role, "suite": suite, "accuracy": round(found.metrics["accuracy"].value, 6)}

    def _record(self, candidate: Checkpoint | None, decision: Decision) -> Round:
        self._stage("record", decision.outcome)
        labels = Labels(training=self.bench.labels_read, selection=False, gate=self.judged)
        done = Round(
            0,
            self.parent.digest,
            candidate.digest if candidate else None,
            decision,
            dict(self.counts),
            labels,
            self.method.name,
            self.looks,
        )
        ledger.record(self.store, done)
        return done


# ---------------------------------------------------------------- small parts


def guard_margins(config: GateConfig, tasks: TaskSet) -> dict[str, float]:
    """Guard suite -> the loss it may show. Raises RecipeError for a suite that the tasks do not bring."""
    if config.guards == "auto":
        return {name: gate.MARGIN for name, suite in tasks.guards.items() if suite}
    unknown = [g.suite for g in config.guards if not tasks.guards.get(g.suite)]
    if unknown:
        raise RecipeError(
            f"There is no guard suite {unknown[0]!r} in these tasks.",
            hint=f"They bring: {', '.join(tasks.guards) or 'none'}. See gate.guards.",
        )
    return {g.suite: g.margin for g in config.guards}


def contents(tasks: TaskSet) -> str:
    """Names every question of a run with its answer, checker and group, suite by suite."""
    suites = {"train": tasks.train, "dev": tasks.dev, "vault": tasks.vault, **tasks.guards}
    return digest({name: [[t.id, t.answer, t.checker, t.group] for t in suite] for name, suite in suites.items()})


def finite(value: float) -> float | None:
    """None for the loss of a refused step: JSON has no NaN."""
    return value if math.isfinite(value) else None
