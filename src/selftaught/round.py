"""One round, a transaction: propose, sample, harvest, curate, train, evaluate, gate, record.

Each stage asks the store for its unit and makes only what is not committed. No recipe can leave a stage out.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from selftaught import ledger, load, people
from selftaught.bench import RunBench
from selftaught.collapse import Signals, alarm, signals
from selftaught.control import instead
from selftaught.curate import curate
from selftaught.engines.base import TuneJob
from selftaught.errors import NonFiniteError, NonFiniteLogits
from selftaught.judge import Judge
from selftaught.methods.base import Group, Method, Studies
from selftaught.replay import mixed
from selftaught.roles import written_by
from selftaught.rows import read_rows, write_rows
from selftaught.setting import Setting
from selftaught.stopping import heeding
from selftaught.store import folder_digest, write_file
from selftaught.tasks.base import TaskSet
from selftaught.train import make_job, packed
from selftaught.types import (
    Checkpoint,
    Decision,
    Example,
    Labels,
    Question,
    Round,
    Task,
    Verdict,
    digest,
    seed_for,
)

LOOK = 64  # examples made between two looks at the stop token


@dataclass(frozen=True)
class Beginning:
    """Where a round begins: the last accepted model, the last proved one, and what accepted rounds were taught."""

    index: int
    parent: Checkpoint
    proven: Checkpoint
    pool: tuple[Example, ...] = ()
    first: Signals | None = None  # of the run's first round: what a collapse is measured against


class Refused(Exception):
    """People or the collapse alarm refused what the round would have learned."""


class Transaction:
    """One round in progress: the stages in order, each a method, each a unit in the store."""

    def __init__(self, setting: Setting, begin: Beginning) -> None:
        self.setting, self.begin = setting, begin
        self.store, self.recipe, self.view = setting.store, setting.recipe, setting.view
        self.parent = begin.parent
        self.place = ledger.place_of(begin.index)
        self.seed = self.recipe.seed if begin.index == 0 else seed_for(self.recipe.seed, "round", begin.index)
        self.method: Method = load.make("methods", self.recipe.method)
        self.judge = Judge(setting, self.place, begin.parent, begin.proven)
        self.questions = questions_of(setting.tasks.train, self.recipe.round_questions, begin.index)
        asked = replace(setting.whole, train=self.questions)  # what a budget leaves out is held out all the same
        self.bench = RunBench(
            self.store,
            setting.engine,
            self.parent,
            asked,
            self.seed,
            self.place,
            self.view,
            setting.stop,
            setting.roles,
            setting.tryer,
        )
        self.counts = self.bench.counts
        self.reviewed = self.edited = False
        self._groups: Sequence[Group] = ()

    def run(self) -> Round:
        """From the first stage to the record. Raises Stopped or Waiting at a unit boundary; nothing done is lost."""
        try:
            examples = self._examples()
            if not self._teaches(examples):
                return self._record(None, Decision("nothing to train on", (), self._why_nothing()))
            self.setting.stage("train", f"{len(examples)} examples")
            candidate = self._train(examples)
            self._control()
        except (NonFiniteError, Refused) as error:
            return self._record(None, Decision("rejected", (), str(error).splitlines()[0]))
        return self._record(candidate, self._decide(candidate, examples))

    # ------------------------------------------------------------ propose, sample, harvest, curate

    def _examples(self) -> list[Example]:
        self.setting.stage("sample", f"{len(self.questions)} questions")
        proposed = list(self.method.propose(self.bench))
        self.view.line(f"  {len(proposed)} questions, {self.method.sampling().n} samples each")
        if said := written_by(self.recipe):
            self.view.line(f"  {said}")
        groups = self._groups = self.bench.generate(proposed, self.method.sampling(), role="source")
        made = list(heeding(self.setting.stop, self.method.harvest(groups, self.bench), LOOK))
        made = instead(made, groups, self.method, self.parent, self.setting, self.bench)
        self.setting.stage("curate")
        examples = mixed(made, self.setting, self.bench)
        asked = {t.id: t for t, _ in groups}
        seen = signals(groups)
        unit = self.store.unit(
            "examples",
            digest(self.recipe.digest, self.parent.digest, [e.id for e in examples]),
            f"{self.place}/examples",
            lambda out: self._curate(out, examples, asked, seen),
        )
        self.counts = Counter(unit.facts["counts"])
        self.view.line(f"  {self.counts['made']} made: {self.counts['kept']} kept, {self.counts['rejected']} rejected")
        if why := alarm(seen, self.begin.first):
            raise Refused(f"the votes have collapsed: {why}")
        return self._review(read_rows(unit.folder / "kept.parquet", Example), groups)

    def _curate(
        self, out: Path, examples: Sequence[Example], asked: Mapping[str, Task], seen: Signals | None
    ) -> Mapping[str, Any]:
        result = curate(examples, self.setting.context(asked), self.setting.stop)
        _write_examples(out, result.kept, result.rejected, result.verdicts)
        kept = Counter("rollouts" if e.own else e.source for e in result.kept)
        counts = {
            **self.counts,
            "made": len(examples),
            "kept": len(result.kept),
            "kept from rollouts": kept["rollouts"],
            "kept replay": kept["replay"],
            "rejected": len(result.rejected),
        }
        if "real pieces" in counts:
            counts["kept real"] = kept["real"]
        if result.failed:
            counts["rejected because a filter failed"] = result.failed
        return {"counts": counts, "signals": seen.as_facts() if seen else None}

    def _teaches(self, examples: Sequence[Example]) -> bool:
        """Whether there is anything to learn: not without the method's own, nor where a replay of 1 lacks its texts."""
        replayed = any(e.source == "replay" for e in examples)
        return any(e.own for e in examples) and (replayed or self.recipe.train.replay < 1)

    def _why_nothing(self) -> str:
        said = "; ".join(f"{v} {k}" for k, v in self.counts.items() if v)
        return f"no example was left to learn from ({said or 'nothing was sampled'})"

    # ------------------------------------------------------------ people

    def _review(self, examples: list[Example], groups: Sequence[Group]) -> list[Example]:
        """What people leave of the kept examples, where the recipe has them judge. Raises Waiting until they have."""
        config = self.recipe.review
        own = {e.id: e for e in examples if e.own}
        if config.who == "none" or not own:
            return examples
        self.setting.stage("review", "people judge what would be learned")
        chosen = sorted(own, key=lambda i: digest("review", self.seed, i))
        if config.who == "sample":
            chosen = chosen[: config.size]
        tasks = {t.id: t.question for t, _ in groups}
        why = f"{'drawn at random' if config.who == 'sample' else 'all are judged'}: {len(chosen)} of {len(own)}"
        asked = [Question(i, "review", tasks.get(own[i].task_id, ""), own[i].text, why) for i in chosen]
        verdicts = {v.subject: v for v in people.ask(self.store, f"{self.place}/review", asked)}
        self.reviewed = True
        unit = self.store.unit(
            "reviewed",
            digest([e.id for e in examples], [[v.subject, v.ok, v.value, v.by] for v in verdicts.values()]),
            f"{self.place}/reviewed",
            lambda out: self._apply(out, examples, verdicts, {t.id: t for t, _ in groups}),
        )
        self.counts.update(unit.facts["counts"])
        self.counts["kept"] -= unit.facts["rejected"]
        self.counts["kept from rollouts"] -= unit.facts["rejected"]
        self.counts["rejected"] += unit.facts["rejected"]
        self.edited = unit.facts["counts"]["edited by people"] > 0
        refused = sum(not v.ok for v in verdicts.values())
        if config.who == "sample" and refused > config.max_rejected * len(verdicts):
            raise Refused(
                f"people rejected {refused} of {len(verdicts)} sampled examples, more than {config.max_rejected:.0%}"
            )
        return read_rows(unit.folder / "kept.parquet", Example)

    def _apply(
        self, out: Path, examples: Sequence[Example], verdicts: Mapping[str, Verdict], asked: Mapping[str, Task]
    ) -> Mapping[str, Any]:
        """Rejected examples go; an edited one takes the place of the first, if it passes the filters as any other."""
        edits = {i: self._edited(e, v) for e in examples if (v := verdicts.get(i := e.id)) and v.ok and v.value}
        again = curate(tuple(edits.values()), self.setting.context(asked), self.setting.stop)
        passed = {e.id for e in again.kept}
        kept, rejected, reasons = [], list(again.rejected), list(again.verdicts)
        for example in examples:
            verdict = verdicts.get(example.id)
            if verdict is not None and not verdict.ok:
                rejected.append(example)
                reasons.append(replace(verdict, reason=verdict.reason or "rejected"))
            elif example.id not in edits:
                kept.append(example)
            elif edits[example.id].id in passed:
                kept.append(edits[example.id])
        _write_examples(out, kept, rejected, reasons)
        counts = {"reviewed by people": len(verdicts), "rejected by people": sum(not v.ok for v in verdicts.values()),
                  "edited by people": len(edits)}  # fmt: skip
        return {"counts": counts, "rejected": len(rejected)}

    def _edited(self, example: Example, verdict: Verdict) -> Example:
        text = verdict.value or ""
        ids = self.setting.tokens.encode_completion(text)
        return replace(example, completion_ids=ids, text=text, parents=(*example.parents, example.id, verdict.by))

    # ------------------------------------------------------------ train

    def _control(self) -> None:
        """A second candidate that learned edits at random, where the recipe asks for it. It decides nothing, so what
        goes wrong with it is noted, and costs the candidate nothing."""
        if "random_edits" not in self.recipe.gate.controls or not self.setting.tasks.dev:
            return
        try:
            if examples := self._at_random():
                student = self._train(examples, "random_edits")
                self.setting.stage("evaluate", "random edits on dev")
                self.judge.compare("random_edits", student)
                return
            why = "no edit was left to learn from"
        except (NonFiniteError, NonFiniteLogits) as error:
            why = error.message
        self.judge.unmeasured("random_edits", why)

    def _at_random(self) -> list[Example]:
        """What a candidate would learn that does not choose; it passes the filters as any other."""
        made = list(cast(Studies, self.method).at_random(self._groups, self.bench))
        examples = mixed(made, self.setting, self.bench)
        asked = {t.id: t for t, _ in self._groups}
        context = self.setting.context(asked)
        return list(curate(examples, context, self.setting.stop).kept)

    def _train(self, examples: Sequence[Example], name: str = "candidate") -> Checkpoint:
        config = self.recipe.train
        start = self.setting.base if config.start == "base" else self.parent
        pool = self.begin.pool if config.start == "base" else ()
        own = {e.id: e for e in (*pool, *examples) if e.own}.values()
        most = min(config.pack, self.setting.tokens.context)
        learned = packed([*own, *(e for e in examples if not e.own)], most, self.seed)
        job = make_job(start, learned, config, self.seed)
        key = digest(self.parent.digest, self.recipe.digest, [e.id for e in learned])
        if config.checkpoints > 1 and name == "candidate":
            return self._best(job, key)
        unit = self.store.unit(name, key, f"{self.place}/{name}", lambda out: self._tune(out, job))
        return ledger.checkpoint(unit.folder, unit.facts, self.setting.base, self.parent)

    def _best(self, job: TuneJob, key: str) -> Checkpoint:
        """Of checkpoints at equal distances the one that dev likes best, as the candidate; the others stay where they
        are, and are never exported."""
        count = min(self.recipe.train.checkpoints, len(job.batches))
        saves = tuple(len(job.batches) * i // count for i in range(1, count + 1))
        unit = self.store.unit(
            "checkpoints", key, f"{self.place}/checkpoints", lambda out: self._tune(out, replace(job, saves=saves))
        )
        tried = [ledger.checkpoint(unit.folder, unit.facts | facts, self.setting.base, self.parent)
                 for facts in unit.facts["saved"]]  # fmt: skip
        chosen = self.judge.choose(tried)

        def copy(out: Path) -> Mapping[str, Any]:
            facts, kind = unit.facts["saved"][chosen], unit.facts["kind_folder"].split("/")[0]
            shutil.copytree(unit.folder / facts["kind_folder"], out / kind)
            shutil.copyfile(unit.folder / "train.json", out / "train.json")
            rest = {k: v for k, v in unit.facts.items() if k != "saved"}
            return {**rest, **facts, "kind_folder": kind, "checkpoint": chosen + 1, "checkpoints": count}

        made = self.store.unit("candidate", digest(key, chosen), f"{self.place}/candidate", copy)
        return ledger.checkpoint(made.folder, made.facts, self.setting.base, self.parent)

    def _tune(self, out: Path, job: TuneJob) -> Mapping[str, Any]:
        folder = "adapter" if job.kind == "lora" else "model"
        (out / folder).mkdir()
        self.view.line(f"  {job.kind} fine-tuning, {len(job.batches)} steps, learning rate {job.lr:g}")
        tuned = self.setting.engine.tune(job, out / folder, stop=self.setting.stop, progress=self.view.progress)
        losses = [finite(x) for x in tuned.losses]
        curve = {
            "losses": losses,
            "grad_norms": [finite(x) for x in tuned.grad_norms],
            "tokens": tuned.tokens,
            "steps": len(job.batches),
            "kind": job.kind,
        }
        write_file(out / "train.json", json.dumps(curve).encode())
        facts = {
            "kind": job.kind,
            "kind_folder": folder,
            "steps": len(job.batches),
            "tokens": tuned.tokens,
            "first_loss": None if losses[0] is None else round(losses[0], 4),
            "last_loss": None if losses[-1] is None else round(losses[-1], 4),
        }
        prefix = job.parent.digest if job.kind == "lora" else ""
        if not job.saves:
            return {"digest": digest(prefix, folder_digest(out / folder)), **facts}
        names = [(step, f"{folder}/{step}") for step in job.saves]
        saved = [{"step": step, "kind_folder": name, "digest": digest(prefix, folder_digest(out / name))}
                 for step, name in names]  # fmt: skip
        return {**facts, "saved": saved}

    # ------------------------------------------------------------ judge, record

    def _decide(self, candidate: Checkpoint, learned: Sequence[Example]) -> Decision:
        self.judge.votes = ballots(self._groups, self.setting.tasks)
        try:
            return self.judge.decide(candidate, learned, self.recipe.train.checkpoints)
        except NonFiniteError as error:
            return Decision("rejected", (), error.message.rstrip("."))

    def _record(self, candidate: Checkpoint | None, decision: Decision) -> Round:
        self.setting.stage("record", decision.outcome)
        labels = Labels(
            training=self.bench.labels_read or self.edited, selection=self.reviewed, gate=self.judge.labels_read
        )
        done = Round(
            self.begin.index,
            self.parent.digest,
            candidate.digest if candidate else None,
            decision,
            {**self.counts, **self.judge.counts},
            labels,
            self.method.name,
            self.judge.looks,
            self.judge.evaluations,
        )
        ledger.record(self.store, done)
        return done


# ---------------------------------------------------------------- small parts


def ballots(groups: Sequence[Group], tasks: TaskSet) -> list[tuple[float, float]]:
    """(share of the majority among the samples, whether it is right) of each question whose answer is known."""
    known = {t.question: t for t in tasks.train if t.answer is not None}
    found = []
    for task, rows in groups:
        votes = Counter(r.answer for r in rows if r.answer is not None)
        given = known.get(task.question)
        if given is not None and votes and len(rows) > 1:
            winner, count = votes.most_common(1)[0]
            same = tasks.checkers[given.checker].same
            found.append((count / len(rows), float(same(winner or "", given.answer or ""))))
    return found


def questions_of(train: tuple[Task, ...], count: int | None, index: int) -> tuple[Task, ...]:
    """The training questions of a round: all, or the next ``count``, from the first again when they are used up."""
    if count is None or count >= len(train):
        return train
    return tuple(train[(index * count + i) % len(train)] for i in range(count))


def _write_examples(
    out: Path, kept: Sequence[Example], rejected: Sequence[Example], verdicts: Sequence[Verdict]
) -> None:
    write_rows(out / "kept.parquet", Example, kept)
    write_rows(out / "rejected.parquet", Example, rejected)
    write_rows(out / "verdicts.parquet", Verdict, verdicts)


def finite(value: float) -> float | None:
    """None for the loss of a refused step: JSON has no NaN."""
    return value if math.isfinite(value) else None
