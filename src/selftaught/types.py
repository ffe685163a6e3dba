"""The nouns. Frozen, without logic, each with a content id; everything that reaches disk is one of them.

An id is the SHA-256 (first 16 hex digits) of the canonical JSON of the fields that identify the value, so equal things
have equal ids on every machine, and a seed derived from an id never depends on order, batch, worker or time.
This module imports nothing of ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, get_args

VERSION = "0.1.0"  # of the package, as in pyproject.toml

Message = Mapping[str, str]  # {"role": "user" | "assistant" | "system", "content": text}

Outcome = Literal[
    "promoted",
    "proved",
    "accepted",
    "unproven",
    "rejected",
    "no change",
    "nothing to train on",
    "waiting",
    "paused",
    "stopped",
    "broken",
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


CLAIMS = ("gain", "no loss")  # of a run, as its rules on dev and vault begin
MIXED_IN = ("replay", "real")  # sources of examples that no method made: see replay.py


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8. NaN is refused."""
    return _CANONICAL.encode(value).encode("utf-8", "surrogatepass")


def digest(*parts: Any) -> str:
    """SHA-256 over the canonical JSON of ``parts``, 64 hex digits."""
    return hashlib.sha256(canonical(parts)).hexdigest()


def content_id(*parts: Any) -> str:
    return digest(*parts)[:16]


def seed_for(run_seed: int, *unit: Any) -> int:
    """A 63-bit seed from (run seed, unit id); the only source of randomness in the system."""
    return int(digest(run_seed, *unit)[:16], 16) >> 1


@dataclass(frozen=True)
class Guide:
    """What a completion has to match, from its first token to its end token.

    ``text`` is a JSON schema, a regular expression (Rust's, for all of the text), a Lark grammar as llguidance reads
    it, or a JSON list of the texts to choose from. White space in JSON is free unless the schema has
    ``"x-guidance": {"whitespace_flexible": false}``.
    """

    kind: Literal["json", "regex", "lark", "choice"]
    text: str


@dataclass(frozen=True)
class Sampling:
    """How to draw completions. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 switch their filters off.

    ``min_tokens``: neither an end token nor a stop string ends a sample before it has so many tokens. End tokens are
    masked until then; a stop string that is complete earlier is passed over, and one that begins earlier and ends later
    counts. ``guide`` masks what the grammar forbids before temperature, ``top_k`` and ``top_p``; it allows an end token
    only where the text is complete, and then even before ``min_tokens`` if nothing else may follow. Log-probabilities
    are those of the masked distribution. A guided sample that meets ``max_tokens`` first is cut off as any other.
    """

    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    min_tokens: int = 0
    guide: Guide | None = None

    def __repr__(self) -> str:
        """As dataclasses write it, but a field after ``stop`` only where it is set: this text stands in memo keys of
        runs that began before there were such fields."""
        first = [f.name for f in fields(self)].index("stop")
        shown = [f for i, f in enumerate(fields(self)) if i <= first or getattr(self, f.name) != f.default]
        return f"Sampling({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"


@dataclass(frozen=True)
class Task:
    """Something to do. ``prompt`` is empty for prompt-free generation; ``answer`` is hidden from methods."""

    prompt: tuple[Message, ...]
    answer: str | None = None
    checker: str = "exact"
    split: str = "train"
    group: str | None = None
    source: str = ""
    form: str = "chat"  # how the prompt becomes text: see rollout.render

    @cached_property
    def id(self) -> str:
        return content_id("task", [dict(m) for m in self.prompt], self.form)

    @property
    def question(self) -> str:
        """The last user message, or "" for a prompt-free task."""
        return next((m["content"] for m in reversed(self.prompt) if m["role"] == "user"), "")


@dataclass(frozen=True)
class Document:
    """A text that a model may come to know. ``id`` is the ``group`` of the tasks that ask about it.

    Only those of the ``split`` "train" are learned from. ``oracle`` restates it as somebody would who knows what will
    be asked; only a generated world has that.
    """

    id: str
    text: str
    title: str = ""
    split: str = "train"
    oracle: tuple[str, ...] = ()


@dataclass(frozen=True)
class Private:
    """A text that must not come out of a model again.

    ``repeats``: how often it stood in what the model was trained on, where somebody knows; 0 is a control.
    """

    text: str
    repeats: int | None = None


@dataclass(frozen=True)
class Canary:
    """A secret that was put into a corpus so that its leaking can be measured (Carlini et al. 2019, arXiv 1802.08232).

    ``before`` and the ``secret``, one piece per slot, make its text. ``space`` holds what each slot could have been,
    the secret's own piece among them: |R| is the product of their sizes.
    """

    before: str
    secret: tuple[str, ...]
    space: tuple[tuple[str, ...], ...]
    repeats: int | None = None

    @property
    def text(self) -> str:
        return self.before + "".join(self.secret)


@dataclass(frozen=True)
class Rollout:
    """One attempt at a task. A failure is a value: ``error`` says why ("truncated", "context"), and the row stays."""

    task_id: str
    index: int  # which of the n samples
    author: str  # digest of the checkpoint that wrote it, or "human:NAME"
    tokenizer: str  # digest of the tokenizer that the ids belong to
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]  # what was sampled, with the end token if one was drawn
    logprobs: tuple[float, ...]  # natural log, one per completion id, of the distribution sampled from; () if unknown
    text: str
    seed: int
    answer: str | None = None  # parsed by the task's checker
    error: str | None = None

    @cached_property
    def id(self) -> str:
        return content_id("rollout", self.task_id, self.index, self.author, self.seed, list(self.completion_ids))


@dataclass(frozen=True)
class Example:
    """One thing to learn from: loss is taken on the completion (and never on padding).

    ``loss`` names a function in losses.py; ``weight`` is signed. ``parents`` are the rollouts it came from.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    text: str
    task_id: str = ""
    rejected_ids: tuple[int, ...] = ()
    loss: str = "nll"
    weight: float = 1.0
    source: str = ""  # the method that made it, or one of MIXED_IN
    parents: tuple[str, ...] = ()

    @property
    def own(self) -> bool:
        """Whether the run's method made it."""
        return self.source not in MIXED_IN

    @cached_property
    def id(self) -> str:
        return content_id(
            "example",
            list(self.prompt_ids),
            list(self.completion_ids),
            list(self.rejected_ids),
            self.loss,
            float(self.weight),
            list(self.parents),
        )


@dataclass(frozen=True)
class Verdict:
    """Anybody's opinion on anything: a filter's, an audit's, a person's. ``value`` is a label, or an edited text."""

    subject: str  # id of an Example, Rollout, Checkpoint, Question, ...
    by: str  # "filter:overlap", "audit:collapse", "human:ana"
    ok: bool
    reason: str = ""
    value: str | None = None


@dataclass(frozen=True)
class Question:
    """Something that somebody outside the run is asked: an opinion on a text, or an answer."""

    subject: str  # id of what it is about, or of a task: what the Verdict will name
    kind: str  # "review": is this text good to learn from?; "answer": what is the answer?
    question: str
    text: str = ""  # what is to be judged
    why: str = ""  # why this one was chosen


@dataclass(frozen=True)
class Checkpoint:
    """Weights that can answer. ``digest`` covers model and adapter bytes; paths are where they lie on this machine."""

    digest: str
    model: str  # folder with full weights
    adapter: str | None = None  # PEFT folder on top of ``model``
    parent: str | None = None  # digest


@dataclass(frozen=True)
class Metric:
    """A value with its 95 % interval (Wilson for proportions, normal for means; by group, if any) over ``n`` items."""

    value: float
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class Report:
    """What was measured on one checkpoint: an evaluation, an audit or a probe.

    ``unit`` says what ``scores`` are: "share" (1 for right, 0 for not), "score" (what a user's function returned, any
    finite number) or "nats" (natural-log probability of a text or a gold answer, per token).
    """

    kind: str  # "evaluation", "audit"
    name: str  # suite or audit
    subject: str  # checkpoint digest
    split: str
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    scores: tuple[float, ...] = ()  # per item, in the order of ``items``; what a paired test needs
    items: tuple[str, ...] = ()  # task ids
    groups: tuple[str | None, ...] = ()
    unit: str = "share"


@dataclass(frozen=True)
class Item:
    """One held-out item as one checkpoint answered it: what a reader needs to judge it again without our code."""

    id: str  # of the task or text
    question: str
    group: str | None
    gold: str | None
    answer: str | None  # as the checker read it
    score: float
    error: str | None = None


@dataclass(frozen=True)
class Tried:
    """What a throw-away adapter said to one question.

    ``loglik`` is the mean natural-log probability of the gold answer's tokens, the end token among them.
    """

    trial: str  # id of the trial
    task_id: str
    answer: str | None  # as the checker read it
    text: str
    right: float  # 1.0 or 0.0
    loglik: float
    error: str | None = None  # why the answer does not count: truncated, or training left the numbers


AuditOutcome = Literal["passed", "failed", "inconclusive", "not applicable"]


@dataclass(frozen=True)
class Audited:
    """What an audit said of a round's candidate, beside the model that the run began with.

    ``decides``: whether it is part of the gate. ``subjects``: digests of all models that a failure is about.
    """

    name: str
    version: int
    outcome: AuditOutcome
    reason: str
    decides: bool
    subjects: tuple[str, ...] = ()
    before: Mapping[str, Metric] = field(default_factory=dict)
    after: Mapping[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """One line of a decision: what was compared, and whether it passed."""

    name: str
    before: float | None
    after: float | None
    passed: bool
    detail: str = ""
    unit: str = "share"  # of before and after, as in Report

    @property
    def holdout(self) -> str:
        """The suite that the run's claim was put to here; "" for other rules."""
        lead, _, suite = self.name.rpartition(" on ")
        return suite if lead in CLAIMS else ""


@dataclass(frozen=True)
class Decision:
    outcome: Outcome
    rules: tuple[Rule, ...]
    reason: str = ""


@dataclass(frozen=True)
class Labels:
    """What labels were used for: gold answers, and what people said. Recorded by the loop, never asserted."""

    training: bool = False
    selection: bool = False
    gate: bool = False


@dataclass(frozen=True)
class Round:
    """The record of one transaction.

    ``evaluations`` names, per suite, the units with the answers before and after that the decision rests on. On dev
    "before" is the parent, on guards the model that the run began with (else small losses would add up over rounds
    unseen), on the vault the last model that was proved.
    """

    index: int
    parent: str
    candidate: str | None
    decision: Decision
    counts: Mapping[str, int]
    labels: Labels
    method: str
    looks: Mapping[str, int] = field(default_factory=dict)
    evaluations: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def as_json(value: Any) -> Any:
    """A noun as plain JSON values (tuples become lists)."""
    return json.loads(canonical(asdict(value)))


def groups_of(tasks: Sequence[Task], rollouts: Sequence[Rollout]) -> list[tuple[Task, list[Rollout]]]:
    """Rollouts by task, in task order; a task without any keeps an empty list."""
    by_task: dict[str, list[Rollout]] = {t.id: [] for t in tasks}
    for r in rollouts:
        by_task[r.task_id].append(r)
    return [(t, by_task[t.id]) for t in tasks]
