"""Evaluate and gate: the answers before and after, the decision on dev and guards, and one counted look at the vault.

On dev a candidate is compared with its parent; on guards with the model that the run began with, so that small losses
do not add up over rounds unseen; on the vault with the last model that was proved, so that small gains do add up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selftaught import gate, ledger, texts
from selftaught.adapt import Writer, adapt
from selftaught.auditing import Auditor, Workshop
from selftaught.audits.base import Answered
from selftaught.bench import heldout_documents
from selftaught.errors import DataError, ModelError, NonFiniteError, NonFiniteLogits
from selftaught.evaluate import HOLDOUTS, likelihood, main_metric, unasked
from selftaught.figures import measure as figure
from selftaught.measure import measure
from selftaught.rollout import rollout
from selftaught.rows import read_rows, write_report, write_rows
from selftaught.setting import Setting
from selftaught.tasks.base import NO_CHECKER
from selftaught.types import (
    Audited,
    Checkpoint,
    Decision,
    Example,
    Item,
    Report,
    Rollout,
    Sampling,
    Task,
    digest,
    seed_for,
)

SENTINELS = 100  # of what an accepted round taught, that later rounds are held to


@dataclass
class Judge:
    """Judges one round's candidate; ``looks``, ``evaluations`` and ``labels_read`` say afterwards what it took."""

    setting: Setting
    place: str
    parent: Checkpoint
    proven: Checkpoint  # the last model of the run that was proved, at first the base
    looks: dict[str, int] = field(default_factory=dict)
    evaluations: dict[str, tuple[str, str]] = field(default_factory=dict)
    labels_read: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    votes: Sequence[tuple[float, float]] = ()  # of the round, where answers are known: for the audit of calibration

    def choose(self, tried: Sequence[Checkpoint]) -> int:
        """Which of several checkpoints of one update dev likes best; of equals the first."""
        s, down = self.setting, self.setting.recipe.gate.primary.direction == "down"
        s.stage("evaluate", f"{len(tried)} checkpoints on dev")
        if not s.tasks.dev:
            return len(tried) - 1
        reports = [self._evaluate(c, f"checkpoint-{i}", "dev", s.tasks.dev)[1] for i, c in enumerate(tried, start=1)]
        values = [main_metric(r).value * (-1 if down else 1) for r in reports]
        return values.index(max(values))

    def decide(self, candidate: Checkpoint, learned: Sequence[Example] = (), tries: int = 1) -> Decision:
        """``learned``: what the update taught. ``tries``: how many checkpoints the candidate was chosen from on dev."""
        s = self.setting
        if unchanged := self._unchanged(candidate):
            return Decision("no change", (), unchanged)
        before = {"dev": (self.parent, s.tasks.dev)} | {n: (s.base, s.tasks.guards[n]) for n in s.margins}
        asked = {name: pair for name, pair in before.items() if pair[1]}
        s.stage("evaluate", "before and after on " + ", ".join(asked))
        pairs = {name: self._pair(old, candidate, name, suite) for name, (old, suite) in asked.items()}
        text_pairs = {name: pair for name in s.text_margins if (pair := self._text_pair(name, candidate))}
        for control in s.recipe.gate.controls if s.tasks.dev else ():
            if control != "random_edits":  # which is a candidate of its own: see round.py
                try:
                    self.compare(control)
                except NonFiniteLogits as error:
                    self.unmeasured(control, error.message)
        s.stage("audit")
        audits = self._audits(candidate, pairs, learned)
        s.stage("gate")
        guards = {name: (*pairs[name], margin) for name, margin in s.margins.items()}
        guards |= {name: (*pair, s.text_margins[name]) for name, pair in text_pairs.items()}
        decision = gate.decide(s.recipe.gate, pairs.get("dev"), guards, audits, tries)
        if decision.outcome != "accepted" or not s.tasks.vault:
            return decision
        return self._look(decision, candidate)

    def _adapts(self, suite: str) -> bool:
        return suite in HOLDOUTS and self.setting.recipe.gate.primary.protocol == "adapt"

    # ------------------------------------------------------------ audits

    def _unchanged(self, candidate: Checkpoint) -> str:
        """Why the candidate counts as its parent, or "": they differ by less than ``train.min_change``."""
        s, least = self.setting, self.setting.recipe.train.min_change
        rows = [ids for name in texts.TEXT_GUARDS for _, ids in self._texts(name) if len(ids) > 1] if least else []
        if not rows:
            return ""

        def score(out: Path) -> Mapping[str, Any]:
            pair = [s.engine.score(c, rows, stop=s.stop) for c in (self.parent, candidate)]
            apart = [abs(b - a) for x, y in zip(*pair, strict=True) for a, b in zip(x, y, strict=True)]
            nats = sum(apart) / len(apart)
            if not math.isfinite(nats):
                raise NonFiniteError("The candidate's probabilities of texts are not finite numbers.")
            return {"nats": round(nats, 6), "tokens": len(apart), "texts": len(rows)}

        key = digest("change", self.parent.digest, candidate.digest, s.recipe.digest)
        facts = s.store.unit("change", key, f"{self.place}/change", score).facts
        s.view.line(f"  differs from its parent by {facts['nats']:.4g} nats per token")
        if facts["nats"] >= least:
            return ""
        return (
            f"it differs from its parent by {facts['nats']:.2g} nats per token on {facts['texts']} texts, "
            f"and at least {least:g} was asked (train.min_change)"
        )

    def _audits(
        self, candidate: Checkpoint, pairs: Mapping[str, tuple[Report, Report]], learned: Sequence[Example]
    ) -> list[Audited]:
        s = self.setting
        answers: dict[str, dict[str, Answered]] = {}
        for suite, pair in pairs.items():
            for report, unit in zip(pair, self.evaluations[suite], strict=True):
                if not self._adapts(suite):
                    answers.setdefault(report.subject, {})[suite] = Answered(report, self._rows(unit))
        lab = Workshop(
            s.engine, s.tokens, s.recipe.seed, s.stop,
            private=s.private if isinstance(s.private, DataError) else s.private.texts,
            canaries=() if isinstance(s.private, DataError) else s.private.canaries,
            texts=[ids for _, ids in self._texts("text")],
            written=[e.completion_ids for e in learned if e.source != "real"],
            taught=self._past() | {self.place: sentinels(learned)}, votes=self.votes, answers=answers,
        )  # fmt: skip
        return Auditor(s.recipe, s.store, self.place, lab, s.view).run(s.base, candidate)

    def _rows(self, unit: str) -> list[Rollout]:
        place = next(e["place"] for e in self.setting.store.chain if e["unit"] == unit)
        path = self.setting.store.folder / place / "rows.parquet"
        return read_rows(path, Rollout) if path.exists() else []

    def _past(self) -> dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]]:
        """Some of what each accepted round before this one taught."""
        s, found = self.setting, {}
        for entry in s.store.chain:
            if entry["kind"] == "round" and entry["round"]["decision"]["outcome"] in ledger.GOOD:
                place = ledger.place_of(entry["round"]["index"])
                folder = s.store.folder / place
                learned = folder / ("reviewed" if (folder / "reviewed").is_dir() else "examples")
                found[place] = sentinels(read_rows(learned / "kept.parquet", Example))
        return found

    # ------------------------------------------------------------ controls

    def compare(self, control: str, student: Checkpoint | None = None) -> Report:
        """What dev's adapters reach when they learn something else than the parent's own edits. It decides nothing.

        ``student`` writes edits as the candidate would, for the control that is another candidate.
        """
        s = self.setting
        checkpoint = student or s.base
        key = digest("control", control, checkpoint.digest, [t.id for t in s.tasks.dev], s.recipe.digest)
        unit = s.store.unit(
            "control", key, f"{self.place}/controls/{control}", lambda out: self._control(out, control, checkpoint)
        )
        self.labels_read = True
        found = ledger.read_report(unit.folder / "report.json")
        s.view.line(_said(control.replace("_", " "), found))
        return found

    def unmeasured(self, control: str, why: str) -> None:
        """On record that a control could not be measured."""
        self.setting.view.line(f"  {control.replace('_', ' ')} could not be measured: {why}")
        self.setting.store.journal("control not measured", control=control, why=why)
        self.counts["controls that could not be measured"] += 1

    def _control(self, out: Path, control: str, checkpoint: Checkpoint) -> Mapping[str, Any]:
        s = self.setting
        writer = Writer(s.engine, checkpoint, s.tokens) if control == "random_edits" else None
        used, editor = Counter[str](), s.roles["editor"] if control == "editor" else None
        if editor is not None:
            writer, used = Writer(editor.engine, editor.checkpoint, editor.tokens), editor.used.copy()
        metric = s.recipe.gate.primary.metric
        counted = s.tryer.opinions.counting()
        found = adapt(s.tryer, checkpoint, "dev", s.tasks.dev, metric, s.recipe.seed, writer, control)
        write_rows(out / "rows.parquet", Rollout, found.edits)
        write_rows(out / "items.parquet", Item, found.items)
        write_report(out / "report.json", found.report)
        facts = {"control": control, "suite": "dev", metric: round(main_metric(found.report).value, 6), **counted()}
        return facts | ({editor.name: dict(editor.used - used)} if editor is not None else {})

    # ------------------------------------------------------------ texts

    def _text_pair(self, name: str, candidate: Checkpoint) -> tuple[Report, Report] | None:
        """Log-likelihoods of a text guard under the base and the candidate; None where there is no such text."""
        rows = [(t, ids) for t, ids in self._texts(name) if len(ids) > 1]
        if not rows:
            return None
        found = [self._likelihood(c, role, name, rows) for c, role in
                 ((self.setting.base, "parent"), (candidate, "candidate"))]  # fmt: skip
        self.evaluations[name] = (found[0][0], found[1][0])
        return found[0][1], found[1][1]

    def _texts(self, name: str) -> texts.Sequences:
        s, config = self.setting, self.setting.recipe.gate
        if name == "text":
            held = [t for t in heldout_documents(s.whole) if t.split == "dev"]  # none where documents are learned
            return texts.held_out(s.real_text, held, s.tasks.dev, s.method, s.tokens, config.text_items)
        if not texts.can_write_unprompted(s.tokens):
            return []
        count = max(1, round(config.text_items * s.recipe.budget.holdout_share))
        sampling = Sampling(count, 1.0, max_tokens=s.recipe.train.replay_max_tokens)
        key = digest(s.base.digest, s.recipe.seed, repr(sampling))
        unit = s.store.unit("texts", key, "texts/replay", lambda out: self._write_unprompted(out, sampling))
        return texts.replay_as_sequences(read_rows(unit.folder / "rows.parquet", Rollout))

    def _write_unprompted(self, out: Path, sampling: Sampling) -> Mapping[str, Any]:
        s = self.setting
        task, nobody = Task((), checker="", source="guard"), {"": NO_CHECKER}
        seed = seed_for(s.recipe.seed, "guard", "replay")  # not the texts that are trained on
        rows = rollout(s.engine, s.base, s.tokens, [task], sampling, nobody, run_seed=seed, stop=s.stop,
                       progress=s.view.progress)  # fmt: skip
        write_rows(out / "rows.parquet", Rollout, rows)
        return {"samples": len(rows), "tokens": sum(len(r.completion_ids) for r in rows)}

    def _likelihood(self, checkpoint: Checkpoint, role: str, suite: str, rows: texts.Sequences) -> tuple[str, Report]:
        s = self.setting

        def score(out: Path) -> Mapping[str, Any]:
            scored = s.engine.score(checkpoint, [ids for _, ids in rows], stop=s.stop)
            with _blaming(role):
                found = likelihood(suite, checkpoint, [t for t, _ in rows], scored)
            write_rows(out / "items.parquet", Item, unasked([t for t, _ in rows], found))
            write_report(out / "report.json", found)
            return {"role": role, "suite": suite, "nats": round(found.metrics["loglik"].value, 6)}

        key = digest("loglik", checkpoint.digest, [t.id for t, _ in rows], s.recipe.digest)
        unit = s.store.unit("evaluation", key, f"{self.place}/evaluate/{role}-{suite}", score)
        found = ledger.read_report(unit.folder / "report.json")
        s.view.line(_said(role, found))
        return unit.id, found

    # ------------------------------------------------------------ the vault

    def _look(self, decision: Decision, candidate: Checkpoint) -> Decision:
        """The look is on record before its result is known; past the last one the vault stays shut."""
        s, config = self.setting, self.setting.recipe.gate
        look = ledger.spend_look(
            ledger.registry(s.recipe, s.store.folder),
            [t.id for t in s.whole.vault],
            candidate.digest,
            s.store.folder.name,
            share=config.alpha / config.looks,
            asked=digest(sorted(t.id for t in s.tasks.vault)),
        )
        self.looks = {"look": look, "of": config.looks}
        s.view.line(f"  accepted on dev; look {look} of {config.looks} on the vault")
        if look > config.looks:
            empty = Report("evaluation", "vault", candidate.digest, "vault")
            return gate.prove(decision, config, empty, empty, look)
        return gate.prove(decision, config, *self._pair(self.proven, candidate, "vault", s.tasks.vault), look)

    def _pair(self, old: Checkpoint, new: Checkpoint, suite: str, tasks: Sequence[Task]) -> tuple[Report, Report]:
        (first, before), (second, after) = (
            self._evaluate(old, "parent", suite, tasks),
            self._evaluate(new, "candidate", suite, tasks),
        )
        self.evaluations[suite] = (first, second)
        return before, after

    def _evaluate(self, checkpoint: Checkpoint, role: str, suite: str, tasks: Sequence[Task]) -> tuple[str, Report]:
        """(id of the unit, its report); what an earlier round answered already is read back."""
        s = self.setting
        metric = s.recipe.gate.primary.metric if suite in HOLDOUTS else "accuracy"
        asked = [t.id for t in tasks]
        unit = s.store.unit(
            "evaluation",
            digest(checkpoint.digest, asked, s.recipe.digest, metric),
            f"{self.place}/evaluate/{role}-{suite}",
            lambda out: self._measure(out, checkpoint, role, suite, tasks, metric),
        )
        self.labels_read = True
        found = ledger.read_report(unit.folder / "report.json")
        s.view.line(_said(role, found))
        return unit.id, found

    def _measure(
        self, out: Path, checkpoint: Checkpoint, role: str, suite: str, tasks: Sequence[Task], metric: str
    ) -> Mapping[str, Any]:
        s = self.setting
        counted = s.tryer.opinions.counting() if self._adapts(suite) else dict[str, Any]
        with _blaming(role):
            found = measure(
                s.engine,
                checkpoint,
                s.tokens,
                s.method,
                s.tasks,
                suite,
                tasks,
                metric,
                seed=s.recipe.seed,
                tryer=s.tryer if self._adapts(suite) else None,
                stop=s.stop,
                progress=s.view.progress,
            )
        if found.rollouts:
            write_rows(out / "rows.parquet", Rollout, found.rollouts)
        write_rows(out / "items.parquet", Item, found.items)
        write_report(out / "report.json", found.report)
        return {"role": role, "suite": suite, metric: round(main_metric(found.report).value, 6), **counted()}


def sentinels(taught: Sequence[Example]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """SENTINELS of the method's own examples, drawn by their ids; none that was unlearned."""
    own = sorted((e for e in taught if e.own and e.weight > 0), key=lambda e: e.id)[:SENTINELS]
    return [(e.prompt_ids, e.completion_ids) for e in own]


def _said(role: str, report: Report) -> str:
    return f"  {role} on {report.name}: {figure(main_metric(report).value, report.unit)} of {len(report.scores)}"


@contextmanager
def _blaming(role: str) -> Iterator[None]:
    """A candidate that left the numbers is rejected (NonFiniteError); a parent that did is no model to begin with."""
    try:
        yield
    except NonFiniteError as error:
        if role != "parent":
            raise
        raise ModelError(f"The parent: {error.message}", hint="No candidate can be compared with it.") from error
