"""The bench: the only handle a method gets. It samples, remembers what it sampled, and never shows held-out data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from selftaught import people
from selftaught.config import RolesConfig
from selftaught.engines.base import Engine, StopToken
from selftaught.errors import IntegrityError
from selftaught.methods.base import Group, Trial
from selftaught.opinions import Opinions
from selftaught.roles import STUDENT, Role, retokenised, taken
from selftaught.rollout import TRUNCATED, rollout
from selftaught.rows import read_rows, write_report, write_rows
from selftaught.stopping import heeding
from selftaught.store import Store, chunks, write_file
from selftaught.tasks.base import NO_CHECKER, Checker, Held, Support, TaskSet, without_answers, wording
from selftaught.trial import Tryer
from selftaught.types import (
    Checkpoint,
    Document,
    Metric,
    Question,
    Report,
    Rollout,
    Sampling,
    Task,
    Tried,
    Verdict,
    as_json,
    canonical,
    digest,
    groups_of,
)
from selftaught.view import View

P = TypeVar("P")
V = TypeVar("V")

CHUNK_SAMPLES = 6000  # samples in one unit: what a kill can cost, and what a progress bar moves by


class RunBench:
    """``Bench`` over a run's store: every call is cut into units, each committed before the next begins."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        parent: Checkpoint,
        tasks: TaskSet,
        seed: int,
        place: str,
        view: View,
        stop: StopToken,
        roles: Mapping[str, Role] = {},
        tryer: Tryer | None = None,
    ) -> None:
        self.seed = seed
        self.tasks = without_answers(tasks.train)
        learned = [d for d in tasks.documents.values() if d.split == "train"]
        self.documents: Mapping[str, Document] = {d.id: replace(d, oracle=()) for d in learned}  # which are answers
        self.tokens = engine.tokens(parent)
        self.counts: Counter[str] = Counter()
        self.labels_read = False  # gold answers are given away nowhere; an answer that a person gave is a label
        self._store, self._engine, self._parent, self._source = store, engine, parent, tasks
        self._roles = {name: role.beside(parent) for name, role in roles.items()}
        self._heldout = Held(t.prompt for t in heldout(tasks))
        self._place, self._view, self._stop = place, view, stop
        self._tryer = tryer
        self._opinions = tryer.opinions if tryer else Opinions(tasks, None, seed)
        self._calls = self._asks = self._tried = self._opined = 0

    def checker(self, task: Task) -> Checker:
        return self._source.checkers[task.checker]

    def note(self, key: str, count: int) -> None:
        self.counts[key] += count

    def generate(
        self, tasks: Sequence[Task], sampling: Sampling, *, first: int = 0, role: str = STUDENT
    ) -> list[Group]:
        """Samples of every task from the frozen parent, or from who stands in for it in ``role``, in task order; a task
        that stands twice makes one group.

        Raises IntegrityError for a prompt that holds a held-out one, in whatever form or behind whatever examples, and
        EndpointError where a server cannot go on.
        """
        if role not in (STUDENT, *RolesConfig.model_fields):
            raise ValueError(f"there is no role {role!r}")
        who = self._roles.get(role) or self._student(self._parent)
        return self._sample(who, self.seed, tasks, sampling, first)

    def sample(
        self, checkpoint: Checkpoint, seed: int, tasks: Sequence[Task], sampling: Sampling, *, first: int = 0
    ) -> list[Group]:
        """``generate`` from any local checkpoint with any seed; what an earlier round sampled so is read back."""
        return self._sample(self._student(checkpoint), seed, tasks, sampling, first)

    def _student(self, checkpoint: Checkpoint) -> Role:
        return Role(STUDENT, self._engine, checkpoint, self.tokens)

    def _sample(self, who: Role, seed: int, tasks: Sequence[Task], sampling: Sampling, first: int) -> list[Group]:
        tasks = list({t.id: t for t in tasks}.values())
        self._refuse_heldout(tasks)
        call = f"{self._place}/rollouts/{self._calls:02d}"
        self._calls += 1
        rows: list[Rollout] = []
        total, number = len(tasks) * sampling.n, 0
        for start in range(0, sampling.n, CHUNK_SAMPLES):
            part = replace(sampling, n=min(CHUNK_SAMPLES, sampling.n - start))
            for some in heeding(self._stop, chunks(tasks, max(1, CHUNK_SAMPLES // part.n))):
                place = f"{call}-{number:03d}"
                rows += self._chunk(who, seed, some, part, first + start, place, len(rows), total)
                number += 1
        return [(t, r) for t, r in groups_of(tasks, rows)]

    def fresh(self, tasks: Sequence[Task]) -> list[Task]:
        """Those that are neither a training question nor a held-out one, each once: for questions a model wrote."""
        taken = {wording(t.prompt) for t in self.tasks}
        new = {wording(t.prompt): t for t in reversed(tasks) if not self._heldout.shows(t.prompt)}
        return [t for t in tasks if t is new.get(wording(t.prompt)) and wording(t.prompt) not in taken]

    def ask(self, tasks: Sequence[Task], why: str = "") -> list[Verdict]:
        """What a person answers to each task, in order, as the ``value`` of a Verdict. Raises Waiting until all did."""
        tasks = list({t.id: t for t in tasks}.values())
        self._refuse_heldout(tasks)
        place = f"{self._place}/asked/{self._asks:02d}"
        self._asks += 1
        self.labels_read = True
        return people.ask(self._store, place, [Question(t.id, "answer", t.question, "", why) for t in tasks])

    def support(self, pairs: Sequence[tuple[str, Document]]) -> list[Support | None]:
        """One per pair; every statement of every document is judged once in a run."""
        return self._remembered("support", pairs, [[s, d.id] for s, d in pairs], self._opinions.support)

    def marks(self, pairs: Sequence[tuple[Document, str]]) -> list[float | None]:
        """One per pair."""
        return self._remembered("marks", pairs, [[d.id, edit] for d, edit in pairs], self._opinions.marks)

    def _remembered(self, name: str, pairs: Sequence[P], key: Any, ask: Callable[[Sequence[P]], list[V]]) -> list[V]:
        """``ask(pairs)`` as a unit of the record."""
        place = f"{self._place}/opinions/{self._opined:02d}-{name}"
        self._opined += 1

        def make(out: Path) -> Mapping[str, Any]:
            counted = self._opinions.counting()
            said = ask(pairs)
            write_file(out / "said.json", canonical(said))
            return {"name": name, "texts": len(said), **counted()}

        unit = self._store.unit("opinions", digest(name, key), place, make)
        self._note_others(unit.facts)
        found: list[V] = json.loads((unit.folder / "said.json").read_text(encoding="utf-8"))
        return found

    def trials(self, trials: Sequence[Trial]) -> list[tuple[Tried, ...]]:
        """Throw-away adapters on the frozen parent; a finished one is never run again."""
        assert self._tryer is not None, "a bench without a tryer"
        tryer, place = self._tryer, f"{self._place}/trials/{self._tried:02d}"
        self._tried += 1
        given = {t.id: t for t in self._source.train}
        asked = [replace(t, questions=tuple(given.get(q.id, q) for q in t.questions)) for t in trials]
        self._refuse_heldout(list({q.id: q for t in asked for q in t.questions}.values()))
        self.labels_read = self.labels_read or any(q.id in given for t in asked for q in t.questions)

        def make(out: Path) -> Mapping[str, Any]:
            self._store.journal("stage", stage="try")
            self._view.stage("try", f"{len(asked):,} adapters")
            counted = tryer.opinions.counting()
            rows = tryer.run(self._parent, asked)
            write_rows(out / "rows.parquet", Tried, [r for some in rows for r in some])
            different = {t.id: t for t in asked}.values()
            learned = sum(tryer.config.epochs * len(e.completion_ids) for t in different for e in t.examples)
            return {"trials": len(different), "questions": sum(map(len, rows)), "tokens": learned, **counted()}

        key = digest(self._parent.digest, self.seed, tryer.key, [t.id for t in asked])
        unit = self._store.unit("trials", key, place, make)
        self._note_others(unit.facts)
        rows = iter(read_rows(unit.folder / "rows.parquet", Tried))
        return [tuple(islice(rows, len(t.questions))) for t in asked]

    def record(self, name: str, metrics: Mapping[str, Metric], verdicts: Sequence[Verdict] = ()) -> None:
        """A unit with ``report.json`` and ``verdicts.parquet``."""
        report = Report("trial", name, self._parent.digest, "train", metrics)

        def make(out: Path) -> Mapping[str, Any]:
            write_report(out / "report.json", report)
            write_rows(out / "verdicts.parquet", Verdict, verdicts)
            return {"name": name, **{what: round(m.value, 6) for what, m in metrics.items()}}

        key = digest(as_json(report), [as_json(v) for v in verdicts])
        self._store.unit("findings", key, f"{self._place}/findings/{name}", make)

    def _note_others(self, facts: Mapping[str, Any]) -> None:
        """What others than the student gave out for a unit."""
        for what, count in taken(facts).items():
            self.note(what, count)

    def _refuse_heldout(self, tasks: Sequence[Task]) -> None:
        shown = [t for t in tasks if self._heldout.shows(t.prompt)]
        if shown:
            raise IntegrityError(
                f"A method asked about a held-out question: {shown[0].question[:80]!r}.",
                hint="Held-out questions belong to the gate. Is one among the method's exemplars? Else it is a fault of"
                " the method.",
            )

    def _chunk(
        self,
        who: Role,
        seed: int,
        tasks: Sequence[Task],
        sampling: Sampling,
        first: int,
        place: str,
        before: int,
        total: int,
    ) -> list[Rollout]:
        key = digest(who.checkpoint.digest, seed, [t.id for t in tasks], repr(sampling), first)

        def make(out: Path) -> Mapping[str, Any]:
            used = who.used.copy()
            rows = rollout(
                who.engine,
                who.checkpoint,
                who.tokens,
                tasks,
                sampling,
                {**self._source.checkers, "": NO_CHECKER},
                run_seed=seed,
                first=first,
                stop=self._stop,
                progress=lambda done, _, unit: self._view.progress(before + done, total, unit),
            )
            others = {}
            if who.name != STUDENT:
                rows, moved = retokenised(rows, tasks, self.tokens)
                others = {who.name: {"samples": len(rows), "re-tokenised": moved, **(who.used - used)}}
            write_rows(out / "rows.parquet", Rollout, rows)
            return {
                "samples": len(rows),
                "tokens": sum(len(r.completion_ids) for r in rows),
                "truncated": sum(r.error == TRUNCATED for r in rows),
                **others,
            }

        unit = self._store.unit("rollouts", key, place, make)
        self._note_others(unit.facts)
        return read_rows(unit.folder / "rows.parquet", Rollout)


def heldout(tasks: TaskSet) -> tuple[Task, ...]:
    """Every question that judges: dev, vault, test and guards."""
    return (*tasks.dev, *tasks.vault, *tasks.test, *(t for suite in tasks.guards.values() for t in suite))


def heldout_documents(tasks: TaskSet) -> tuple[Task, ...]:
    """The texts that nothing is learned from, as tasks."""
    held = (d for d in tasks.documents.values() if d.split != "train")
    return tuple(Task(({"role": "user", "content": d.text},), split=d.split, form="document") for d in held)
