"""Run the audits of a round: each measures the base once and every candidate, and its opinion is put on record.

An audit that breaks (private texts that cannot be read, numbers that are none) has failed, and then decides, whether
the recipe made it part of the gate or not: what nobody could check is not promoted. Faults of the machine (a full disk,
too little memory, a record that was damaged) end the run instead, which goes on when they are mended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selftaught import ledger, load
from selftaught.audits.base import Answered, Audit, Ids, Opinion
from selftaught.config import Member, Recipe
from selftaught.engines.base import Engine, Request, StopToken, Tokens
from selftaught.errors import (
    DataError,
    IntegrityError,
    OutOfMemory,
    RecipeError,
    RunError,
    SelftaughtError,
    Stopped,
    WorkerLost,
    disk_is_full,
)
from selftaught.rollout import rollout
from selftaught.rows import write_report
from selftaught.store import Store
from selftaught.tasks.base import NO_CHECKER
from selftaught.texts import can_write_unprompted
from selftaught.types import (
    Audited,
    Canary,
    Checkpoint,
    Metric,
    Private,
    Report,
    Rollout,
    Sampling,
    Task,
    as_json,
    digest,
    seed_for,
)
from selftaught.view import View

BROKE = "it could not be measured"
NOT_ITS_OWN = (Stopped, OSError, RunError, IntegrityError, OutOfMemory, WorkerLost)  # what breaks beside an audit


def make_audits(recipe: Recipe) -> list[Audit]:
    """Every audit there is, with the recipe's options. Raises RecipeError for one that there is not."""
    for name in recipe.audits:
        load.member_class("audits", name)
    named = [Member(name=name, **recipe.audits.get(name, {})) for name in load.members("audits")]
    return [load.make("audits", member) for member in named]


def settled(recipe: Recipe, lab: Workshop) -> tuple[Recipe, tuple[str, ...]]:
    """(the recipe with a reason for each audit that has nothing to measure, those reasons in words).

    Raises RecipeError where the recipe makes such an audit part of the gate.
    """
    options, said = {name: dict(given) for name, given in recipe.audits.items()}, []
    for audit in make_audits(recipe):
        why = audit.options.skip or audit.needless(lab)
        if why and audit.options.gating:
            raise RecipeError(
                f"audits.{audit.name}.gating is true, and there is nothing to measure: {why}.",
                hint="Give it what it needs, or take gating out.",
            )
        if why:
            options[audit.name] = {**options.get(audit.name, {}), "skip": why}
            said.append(f"audit {audit.name}: not applicable, {why}")
    return recipe.model_copy(update={"audits": options}), tuple(said)


def samples(recipe: Recipe) -> float:
    """Unprompted texts that the audits of a settled recipe take in a round, the base's shared out over all rounds."""
    taken = sum(audit.samples for audit in make_audits(recipe) if not audit.options.skip)
    return taken * (1 + 1 / recipe.rounds)


def broken(error: Exception) -> Opinion:
    """What an audit says that broke with ``error``; a fault of the machine is raised again."""
    if isinstance(error, NOT_ITS_OWN) or disk_is_full(error):
        raise error
    why = error.message if isinstance(error, SelftaughtError) else f"{type(error).__name__}: {error}"
    return Opinion("failed", f"{BROKE}: {why}")


class Workshop:
    """``Lab`` over an engine. Nothing is remembered here: reports are, in the record."""

    def __init__(
        self,
        engine: Engine,
        tokens: Tokens,
        seed: int,
        stop: StopToken,
        *,
        private: Sequence[Private] | DataError = (),
        canaries: Sequence[Canary] = (),
        texts: Sequence[Ids] = (),
        written: Sequence[Ids] = (),
        taught: Mapping[str, Sequence[tuple[Ids, Ids]]] = {},
        votes: Sequence[tuple[float, float]] = (),
        answers: Mapping[str, Mapping[str, Answered]] = {},
    ) -> None:
        self.engine, self.tokens, self.seed, self.stop = engine, tokens, seed, stop
        self.canaries, self.texts, self.written = canaries, texts, written
        self.taught, self.votes = taught, votes
        self._private, self._answers = private, answers

    @property
    def private(self) -> Sequence[Private]:
        if isinstance(self._private, DataError):
            raise self._private
        return self._private

    @property
    def unprompted(self) -> bool:
        return can_write_unprompted(self.tokens)

    def sample(self, checkpoint: Checkpoint, sampling: Sampling, draw: int = 0) -> list[Rollout]:
        task = Task((), checker="", source="audit")
        seed = seed_for(self.seed, "audit", draw)
        return rollout(
            self.engine, checkpoint, self.tokens, [task], sampling, {"": NO_CHECKER}, run_seed=seed, stop=self.stop
        )

    def continued(self, checkpoint: Checkpoint, prefixes: Sequence[Ids], tokens: int) -> list[Ids]:
        sampling = Sampling(max_tokens=tokens)
        requests = [Request(checkpoint, p, sampling, (0,)) for p in prefixes]
        done = {i: found[0].ids for i, found in self.engine.generate(requests, stop=self.stop)}
        return [done[i] for i in range(len(prefixes))]

    def score(self, checkpoint: Checkpoint, sequences: Sequence[Ids]) -> list[list[float]]:
        return self.engine.score(checkpoint, sequences, stop=self.stop) if sequences else []

    def answered(self, checkpoint: Checkpoint) -> Mapping[str, Answered]:
        return self._answers.get(checkpoint.digest, {})


class Auditor:
    """The audits of one round."""

    def __init__(self, recipe: Recipe, store: Store, place: str, lab: Workshop, view: View) -> None:
        self.recipe, self.store, self.place, self.lab, self.view = recipe, store, place, lab, view

    def run(self, base: Checkpoint, candidate: Checkpoint) -> list[Audited]:
        """Every audit's opinion of the candidate, each a unit of the record.

        Raises Stopped, and DataError where private texts cannot be read and no audit failed for it: nothing is decided
        about texts that nobody looked at.
        """
        said = [self._one(audit, base, candidate) for audit in make_audits(self.recipe)]
        if not any(a.reason.startswith(BROKE) for a in said):
            _ = self.lab.private
        return said

    def _one(self, audit: Audit, base: Checkpoint, candidate: Checkpoint) -> Audited:
        """What is on record stands, though it could be measured by now."""
        key, place = self._key(audit, candidate), f"{self.place}/audits/{audit.name}"
        unit = self.store.unit("audit", key, place, lambda out: as_json(self._audited(audit, base, candidate)))
        said = read_audited(unit.facts)
        self.view.line(f"  audit {audit.name}: {said.outcome}; {said.reason}")
        return said

    def _audited(self, audit: Audit, base: Checkpoint, candidate: Checkpoint) -> Audited:
        if audit.options.skip:
            return self._said(audit, candidate, None, None, Opinion("not applicable", audit.options.skip))
        try:
            before = self._measured(audit, base, base=True)
            now = self._measured(audit, candidate, base=False)
            return self._said(audit, candidate, before, now, audit.judge(before, self._past(audit), now))
        except Exception as error:
            return self._said(audit, candidate, None, None, broken(error))

    def _key(self, audit: Audit, checkpoint: Checkpoint) -> str:
        options = audit.options.model_dump(mode="json")
        return digest("audit", audit.name, audit.version, options, checkpoint.digest, self.recipe.digest)

    def _measured(self, audit: Audit, checkpoint: Checkpoint, *, base: bool) -> Report:
        place = f"audits/{audit.name}" if base else f"{self.place}/audits/measured/{audit.name}"

        def measure(out: Path) -> Mapping[str, Any]:
            report = audit.measure(self.lab, checkpoint, base=base)
            write_report(out / "report.json", report)
            return {"audit": audit.name, "version": audit.version, "subject": checkpoint.digest}

        unit = self.store.unit("measured", self._key(audit, checkpoint), place, measure)
        return ledger.read_report(unit.folder / "report.json")

    def _past(self, audit: Audit) -> list[Report]:
        """Reports of the accepted candidates before this round, in order."""
        rounds = [e["round"] for e in self.store.chain if e["kind"] == "round"]
        lineage = [r["candidate"] for r in rounds if r["decision"]["outcome"] in ledger.GOOD]
        places = {e["facts"]["subject"]: e["place"] for e in self.store.chain
                  if e["kind"] == "measured" and e["facts"]["audit"] == audit.name}  # fmt: skip
        return [ledger.read_report(self.store.folder / places[d] / "report.json") for d in lineage if d in places]

    def _said(
        self, audit: Audit, candidate: Checkpoint, before: Report | None, now: Report | None, opinion: Opinion
    ) -> Audited:
        decides = audit.options.gating or opinion.reason.startswith(BROKE)
        subjects = (candidate.digest, *opinion.subjects) if opinion.outcome == "failed" else ()
        return Audited(
            audit.name,
            audit.version,
            opinion.outcome,
            opinion.reason,
            decides,
            subjects,
            before.metrics if before else {},
            {**now.metrics, **opinion.more} if now else {},
        )


def read_audited(facts: Mapping[str, Any]) -> Audited:
    """An opinion as it stands in the record."""
    metrics = {side: {k: Metric(**v) for k, v in facts[side].items()} for side in ("before", "after")}
    return Audited(**{**facts, "subjects": tuple(facts["subjects"]), **metrics})
