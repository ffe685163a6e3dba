"""The protocol ``adapt``: edit, tune, ask, as SEAL judges an editor (Zweiger et al. 2025, arXiv 2506.10943, 4.1).

A model writes an edit of each held-out document, a throw-away adapter on it learns what was written, and the adapter is
asked about the document without seeing it. Controls put something else in the place of the model's own edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import cast

from selftaught.engines.base import Generates, Tokens
from selftaught.evaluate import mean, proportion, report_of
from selftaught.methods.base import Studies, Trial
from selftaught.retrieval import Retriever
from selftaught.rollout import TRUNCATED, rollout
from selftaught.tasks.base import NO_CHECKER
from selftaught.trial import Tryer
from selftaught.types import Checkpoint, Document, Example, Item, Report, Rollout, Task, Tried

OWN = "own edits"


@dataclass(frozen=True)
class Writer:
    """Who writes the edits: a checkpoint behind an engine, and the tokens it writes in."""

    engine: Generates
    checkpoint: Checkpoint
    tokens: Tokens


@dataclass(frozen=True)
class Adapted:
    """``edits``: ``trial.seeds`` of each document, in the order of the documents; none where nobody wrote any."""

    report: Report
    items: list[Item]
    edits: list[Rollout]


def adapt(
    tryer: Tryer,
    checkpoint: Checkpoint,
    suite: str,
    tasks: Sequence[Task],
    metric: str,
    seed: int,
    writer: Writer | None = None,
    control: str = OWN,
) -> Adapted:
    """``metric`` (accuracy or loglik) of adapters on ``checkpoint``, a mean over ``trial.seeds`` of them per document.

    ``writer`` writes the edits for the controls that need somebody; each adapter learns an edit of its own.
    """
    asked = by_document(tasks, tryer.source.documents)
    edits = _write(tryer, writer, asked, seed) if writer else []
    arm = _Arm(tryer, control, _cleaned(tryer, edits, writer.tokens) if writer else {})
    trials = [arm.trial(d, asked[d.id], k) for d in _documents(tryer, asked) for k in range(arm.seeds)]
    said = tryer.run(checkpoint, trials)
    rows: dict[str, list[Tried]] = {}
    for trial, found in zip(trials, said, strict=True):
        for task, row in zip(asked[arm.document_of[trial.id]], found, strict=True):
            rows.setdefault(task.id, []).append(row)
    return _report(suite, checkpoint, tasks, [rows[t.id] for t in tasks], metric, edits)


def by_document(tasks: Sequence[Task], documents: Mapping[str, Document]) -> dict[str, list[Task]]:
    """Questions by the document they are about, in the order in which documents first come."""
    found: dict[str, list[Task]] = {}
    for task in tasks:
        assert task.group in documents, "check_claim refuses questions about no document"
        found.setdefault(cast(str, task.group), []).append(task)
    return found


def _documents(tryer: Tryer, asked: Mapping[str, Sequence[Task]]) -> list[Document]:
    return [tryer.source.documents[name] for name in asked]


def _write(tryer: Tryer, writer: Writer, asked: Mapping[str, Sequence[Task]], seed: int) -> list[Rollout]:
    method = cast(Studies, tryer.method)
    sampling = replace(method.sampling(), n=tryer.config.seeds)
    return rollout(
        writer.engine,
        writer.checkpoint,
        writer.tokens,
        [method.study(d) for d in _documents(tryer, asked)],
        sampling,
        {"": NO_CHECKER},
        run_seed=seed,
        stop=tryer.stop,
        progress=tryer.view.progress,
    )


def _cleaned(tryer: Tryer, edits: Sequence[Rollout], tokens: Tokens) -> dict[tuple[str, int], str]:
    """(document, number) -> an edit as its adapter learns it. ``tokens`` are the writer's."""
    method = cast(Studies, tryer.method)
    documents = {method.study(d).id: d for d in tryer.source.documents.values()}
    said = [(tokens.said(e.prompt_ids, e.text) or "", documents[e.task_id]) for e in edits]
    clean = method.cleaned(said, tryer.opinions.support)
    return {(documents[e.task_id].id, e.index): text for e, text in zip(edits, clean, strict=True)}


class _Arm:
    """What the adapters of one arm learn, and how they are asked."""

    def __init__(self, tryer: Tryer, control: str, edits: Mapping[tuple[str, int], str]) -> None:
        self.tryer, self.control = tryer, control
        self.method = cast(Studies, tryer.method)
        self.seeds = 1 if control in ("base", "in_context", "retrieval") else tryer.config.seeds
        self.edits = edits
        self.document_of: dict[str, str] = {}  # trial -> document
        self._retriever = Retriever([*tryer.source.documents.values()]) if control == "retrieval" else None

    def trial(self, document: Document, questions: Sequence[Task], number: int) -> Trial:
        asked = tuple(self._asked(q, document) for q in questions)
        found = Trial(self._lessons(document, number), asked, number)
        self.document_of[found.id] = document.id
        return found

    def _asked(self, question: Task, document: Document) -> Task:
        if self._retriever is not None:
            document = self._retriever.best(question.question)
        elif self.control != "in_context":
            return question
        return self.method.open_book(question, document)

    def _lessons(self, document: Document, number: int) -> tuple[Example, ...]:
        if self.control in ("base", "in_context", "retrieval"):
            return ()
        text = ""
        if self.control == "oracle":
            text = "\n".join(document.oracle)
        elif self.control != "passage":
            text = self.edits[document.id, number]
        return self.method.lessons(text, document, self.tryer.tokens)


def _report(
    suite: str,
    checkpoint: Checkpoint,
    tasks: Sequence[Task],
    rows: Sequence[Sequence[Tried]],
    metric: str,
    edits: list[Rollout],
) -> Adapted:
    groups = [t.group for t in tasks]
    right, loglik = ([fmean(getattr(r, name) for r in some) for some in rows] for name in ("right", "loglik"))
    empty = [fmean(float(r.error in (None, TRUNCATED) and not r.text.strip()) for r in some) for some in rows]
    metrics = {
        "accuracy": proportion(right, groups),
        "loglik": mean(loglik, groups),
        "empty": proportion(empty, groups),
    }
    scores, unit = (loglik, "nats") if metric == "loglik" else (right, "share")
    report = report_of(suite, checkpoint, tasks, scores, unit, metrics)
    items = [
        Item(t.id, t.question, t.group, t.answer, some[0].answer, score, some[0].error)
        for t, some, score in zip(tasks, rows, scores, strict=True)
    ]
    return Adapted(report, items, edits)
