"""Self-edits on documents: SEAL, "Self-Adapting Language Models" (Zweiger et al. 2025, arXiv 2506.10943).

The model writes k edits of each passage. Each is tried: a throw-away adapter learns it and is asked about the passage
without seeing it. What helped is what the model learns to write. Judged by ``gate.primary.protocol: adapt``.

Where we depart: padding is never in a loss; an edit is kept only if it beats the model without it on the same
questions; the model without it answers once per passage; rewards come with their reliability.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from selftaught.engines.base import Tokens
from selftaught.errors import RecipeError
from selftaught.methods import _edits, _proxy, _rewards
from selftaught.methods.base import Bench, Group, Supports, Trial
from selftaught.statements import statements
from selftaught.tasks.base import Support
from selftaught.types import Document, Example, Metric, Rollout, Sampling, Task, Tried, Verdict, seed_for


class SelfeditOptions(_edits.Writing):
    passages: int = Field(default=50, ge=1)  # of a round
    edits: int = Field(default=5, ge=1)  # k, of each passage
    seeds: int = Field(default=3, ge=1)  # adapters that try each edit
    whole: bool = False  # an edit is one training text, or each of its lines is
    most: int = Field(default=30, ge=1)  # training texts of an edit
    book: str = "{text}\n\n{question}"  # a question with its passage
    check: bool = True  # hold every statement of an edit against its passage, where somebody can tell
    filter: bool = False  # leave out lines with a statement that the passage does not support
    reward: Literal["accuracy", "loglik", "proxy"] = "accuracy"
    proxy: Literal["measured", "judge"] = "measured"  # who gives the marks for the reward proxy, and for prefilter
    prefilter: float = Field(default=1.0, gt=0, le=1)  # share of a passage's edits, the best by marks, that are tried
    halving: bool = False  # after each seed the worse half of a passage's edits is tried no more
    rule: Literal["rest_em", "group_relative"] = "rest_em"
    threshold: float = Field(default=0.0, ge=0)  # by how much an edit must beat the model without it

    @model_validator(mode="after")
    def _fits(self) -> SelfeditOptions:
        if not all(part in self.book for part in ("{text}", "{question}")):
            raise ValueError("book needs {text} and {question}")
        if self.rule == "group_relative" and (self.edits < 2 or self.halving):
            raise ValueError("group_relative compares all edits of a document, each tried by as many adapters: it needs"
                             " edits of 2 or more and no halving")  # fmt: skip
        return self


@dataclass
class Edit:
    """An edit of a document, what an adapter learns from it, and its reward under every seed so far."""

    document: Document
    rollout: Rollout
    lessons: tuple[Example, ...]
    rewards: list[float] = field(default_factory=list)
    support: list[Support | None] = field(default_factory=list)  # of its statements
    marks: float = 0.0

    @property
    def reward(self) -> float:
        return fmean(self.rewards)


class Selfedit:
    Options = SelfeditOptions
    name = "selfedit"
    roles = ("source", "editor", "judge")

    def __init__(self, options: SelfeditOptions) -> None:
        self.options = options
        self._edits: list[Edit] = []
        self._weight: dict[str, float] = {}  # of what was tried

    # ------------------------------------------------------------ asking

    def sampling(self) -> Sampling:
        return self.options.sampling(self.options.edits)

    def answering(self) -> Sampling:
        return self.options.answering()

    def most(self) -> tuple[int, int]:
        return self.options.edits, self.options.edits

    def ask(self, task: Task) -> Task:
        return task

    def study(self, document: Document) -> Task:
        return self.options.study(document)

    def lessons(self, text: str, document: Document, tokens: Tokens) -> tuple[Example, ...]:
        o = self.options
        learned = _edits.texts(o.format, text, whole=o.whole)[: o.most]
        if o.passage or not learned:
            learned = [*learned, document.text]
        return _edits.lessons(learned, document.title if o.title else "", tokens)

    def open_book(self, task: Task, document: Document) -> Task:
        text = _edits.filled(self.options.book, text=document.text, question=task.question)
        return replace(task, prompt=(*task.prompt[:-1], {"role": "user", "content": text}))

    def propose(self, bench: Bench) -> Iterable[Task]:
        asked_about = {t.group for t in bench.tasks}
        known = sorted(d for d in bench.documents if d in asked_about)
        bench.note("passages without a question", len(bench.documents) - len(known))
        rng = random.Random(seed_for(bench.seed, "passages"))
        chosen = rng.sample(known, min(self.options.passages, len(known)))
        return [self.study(bench.documents[name]) for name in chosen]

    # ------------------------------------------------------------ rewards

    def harvest(self, groups: Sequence[Group], bench: Bench) -> Iterable[Example]:
        edits = self._edits = self._usable(groups, bench)
        if self.options.check and edits:
            self._check(edits, bench)
        if self.options.reward == "proxy":
            self._mark(edits, bench)
            for e in edits:
                e.rewards = [e.marks]
            tried, base = edits, dict[str, float]()
        else:
            tried = self._promising(edits, bench)
            base = self._try(tried, bench)
        weights = self._weights(tried, base)
        self._record(tried, weights, base, bench)
        self._weight = {e.rollout.id: w for e, w in zip(tried, weights, strict=True)}
        yield from (self._example(e, w) for e, w in zip(tried, weights, strict=True) if w)

    def cleaned(self, edits: Sequence[tuple[str, Document]], support: Supports) -> list[str]:
        if not self.options.filter:
            return [text for text, _ in edits]
        parts = [_edits.texts(self.options.format, text, whole=False) for text, _ in edits]
        stated = [[statements(part) for part in some] for some in parts]
        pairs = [(s, d) for (_, d), some in zip(edits, stated, strict=True) for part in some for s in part]
        said = iter(support(pairs))
        holds = [[[next(said) in (None, "supported") for _ in part] for part in some] for some in stated]
        return [
            "\n".join(part for part, good in zip(some, verdicts, strict=True) if all(good))
            for some, verdicts in zip(parts, holds, strict=True)
        ]

    def _usable(self, groups: Sequence[Group], bench: Bench) -> list[Edit]:
        """Edits that say something; the others are counted by why they do not."""
        found, lost = list[Edit](), Counter[str]()
        for task, rollouts in groups:
            document = bench.documents[task.group or ""]
            for r in rollouts:
                said = bench.tokens.said(r.prompt_ids, r.text)
                text = said.strip() if said is not None else ""
                if not text:
                    lost[r.error or "empty"] += 1
                else:
                    found.append(Edit(document, r, ()))
        bench.note("edits", len(found) + lost.total())
        clean = self.cleaned([(self._text(e, bench), e.document) for e in found], bench.support)
        kept = []
        for edit, text in zip(found, clean, strict=True):
            if text.strip():
                edit.lessons = self.lessons(text, edit.document, bench.tokens)
                kept.append(edit)
        lost["nothing in it is supported"] += len(found) - len(kept)
        for why, count in (+lost).items():
            bench.note(f"edits without text: {why}", count)
        return kept

    def _text(self, edit: Edit, bench: Bench) -> str:
        return (bench.tokens.said(edit.rollout.prompt_ids, edit.rollout.text) or "").strip()

    def _check(self, edits: Sequence[Edit], bench: Bench) -> None:
        """Every statement against its passage: hallucinations are counted, whatever becomes of them."""
        said = [statements(self._text(e, bench)) for e in edits]
        found = iter(bench.support([(s, e.document) for e, some in zip(edits, said, strict=True) for s in some]))
        for edit, some in zip(edits, said, strict=True):
            edit.support = [next(found) for _ in some]
            bench.note("statements", len(some))
            for verdict, count in Counter(edit.support).items():
                bench.note(f"statements {verdict or 'not judged'}", count)

    def _mark(self, edits: Sequence[Edit], bench: Bench) -> None:
        """Marks without any adapter; an edit for which a judge has none gets the mean of the others."""
        texts = [self._text(e, bench) for e in edits]
        if self.options.proxy == "judge":
            given = bench.marks([(e.document, text) for e, text in zip(edits, texts, strict=True)])
        else:
            given = [_proxy.score(text, e.document.text, e.support) for e, text in zip(edits, texts, strict=True)]
        known = [m for m in given if m is not None]
        if given and not known:
            raise RecipeError(
                "method.proxy=judge: nobody gave an edit marks that can be read.",
                hint="Name a judge as roles.judge, or take method.proxy=measured.",
            )
        bench.note("edits without marks", len(given) - len(known))
        for edit, mark in zip(edits, given, strict=True):
            edit.marks = mark if mark is not None else fmean(known or [0.0])

    def _promising(self, edits: list[Edit], bench: Bench) -> list[Edit]:
        """What is tried: with ``prefilter``, the best of each passage by marks."""
        if self.options.prefilter == 1:
            return edits
        self._mark(edits, bench)
        kept = [g[i] for g in _by_document(edits)
                for i in _rewards.top([e.marks for e in g], math.ceil(self.options.prefilter * len(g)))]  # fmt: skip
        bench.note("edits that were not tried, by their marks", len(edits) - len(kept))
        return kept

    def _try(self, edits: Sequence[Edit], bench: Bench) -> dict[str, float]:
        """Every edit under every seed; with ``halving``, fewer and fewer of each passage. What the model has without
        any edit is returned, by passage."""
        questions: dict[str, list[Task]] = {}
        for task in bench.tasks:
            questions.setdefault(task.group or "", []).append(task)
        passages = list({e.document.id: e.document for e in edits})
        said = bench.trials([Trial((), tuple(questions[p])) for p in passages])
        alive = list(edits)
        waves = [[k] for k in range(self.options.seeds)] if self.options.halving else [range(self.options.seeds)]
        for wave in waves:
            pairs = [(e, k) for e in alive for k in wave]
            trials = [Trial(e.lessons, tuple(questions[e.document.id]), k) for e, k in pairs]
            for (edit, _), rows in zip(pairs, bench.trials(trials), strict=True):
                edit.rewards.append(self._score(rows))
                bench.note("adapters", 1)
                bench.note("adapters that left the numbers", int(bool(rows) and all(_lost(r) for r in rows)))
                bench.note("answers", len(rows))
                bench.note("empty answers", sum(r.error is None and not r.text.strip() for r in rows))
            if len(waves) > 1:
                alive = [g[i] for g in _by_document(alive)
                         for i in _rewards.top([e.reward for e in g], math.ceil(len(g) / 2))]  # fmt: skip
        return {p: self._score(rows) for p, rows in zip(passages, said, strict=True)}

    def _score(self, rows: Sequence[Tried]) -> float:
        return fmean(r.loglik if self.options.reward == "loglik" else r.right for r in rows)

    def _weights(self, edits: Sequence[Edit], base: dict[str, float]) -> list[float]:
        weights: dict[str, float] = {}
        for some in _by_document(edits):
            most = max(len(e.rewards) for e in some)
            group = [e for e in some if len(e.rewards) == most]  # what halving dropped was tried by fewer adapters
            means = [e.reward for e in group]
            if self.options.rule == "group_relative":
                weights |= {e.rollout.id: w for e, w in zip(group, _rewards.relative(means), strict=True)}
            elif (top := _rewards.best(means, base.get(group[0].document.id), self.options.threshold)) is not None:
                weights[group[top].rollout.id] = 1.0
        return [weights.get(e.rollout.id, 0.0) for e in edits]

    def _example(self, edit: Edit, weight: float) -> Example:
        r = edit.rollout
        return Example(r.prompt_ids, r.completion_ids, r.text, r.task_id, weight=weight, source=self.name,
                       parents=(r.id,))  # fmt: skip

    def at_random(self, groups: Sequence[Group], bench: Bench) -> Iterable[Example]:
        """The same weights as in ``harvest``, shuffled among the edits of each document: as many are learned, of the
        same documents, whatever helped."""
        rng = random.Random(seed_for(bench.seed, "random edits"))
        shuffled: list[Example] = []
        for group in _by_document(self._edits):
            weights = [self._weight.get(e.rollout.id, 0.0) for e in group]
            rng.shuffle(weights)
            shuffled += [self._example(e, w) for e, w in zip(group, weights, strict=True) if w]
        return shuffled

    # ------------------------------------------------------------ record

    def _record(self, edits: Sequence[Edit], weights: Sequence[float], base: dict[str, float], bench: Bench) -> None:
        tables = [] if self.options.halving else [np.array([e.rewards for e in g]) for g in _by_document(edits)]
        kept = [e for e, w in zip(edits, weights, strict=True) if w > 0]
        found = {
            "without an edit": _mean([*base.values()]),
            "all edits": _over_documents(edits, lambda e: e.reward),
            "learned edits": _over_documents(kept, lambda e: e.reward),
            "best edit, honestly above the mean": _mean(_rewards.honest_best(tables)),
            "edits that beat none": _over_documents(edits if base else [], lambda e: e.reward > base[e.document.id]),
            "reliability": _rewards.reliability_of(tables),
            "statements supported, of all edits": _supported(edits),
            "statements supported, of learned edits": _supported(kept),
        }
        without = {name: f"without an edit {reward:.4g}; " for name, reward in base.items()}
        said = [
            Verdict(e.rollout.id, f"reward:{self.options.reward}", w > 0,
                    f"{len(e.rewards)} rewards; {without.get(e.document.id, '')}weight {w:.3g}", f"{e.reward:.6g}")
            for e, w in zip(edits, weights, strict=True)
        ]  # fmt: skip
        bench.record("rewards", {name: m for name, m in found.items() if m is not None}, said)


def _by_document(edits: Sequence[Edit]) -> list[list[Edit]]:
    found: dict[str, list[Edit]] = {}
    for e in edits:
        found.setdefault(e.document.id, []).append(e)
    return list(found.values())


def _supported(edits: Sequence[Edit]) -> Metric | None:
    """Share of judged statements that their passages support, a mean over edits."""
    judged = [e for e in edits if any(e.support)]
    return _over_documents(judged, lambda e: fmean(s == "supported" for s in e.support if s))


def _lost(row: Tried) -> bool:
    return row.answer is None and not row.text and row.error is not None


def _over_documents(edits: Sequence[Edit], value: Callable[[Edit], float]) -> Metric | None:
    """The mean over documents of the mean over their edits: edits of one document are no independent ones."""
    return _mean([fmean(map(value, some)) for some in _by_document(edits)])


def _mean(values: Sequence[float]) -> Metric | None:
    """With the normal 95 % interval; None of nothing."""
    if not values:
        return None
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    middle = fmean(values)
    return Metric(middle, len(values), middle - 1.96 * error, middle + 1.96 * error)
