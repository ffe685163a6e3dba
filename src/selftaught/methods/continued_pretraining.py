"""Continued pretraining on documents and on edits of them, so that a model contains what they say.

SEAL's second setting (Zweiger et al. 2025, arXiv 2506.10943, section 4.1): one update on all documents at once, each
with edits of it, and closed-book questions about those very documents. ``edits: 0`` is the baseline, passages alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from pydantic import Field, model_validator

from selftaught.config import Section
from selftaught.methods import _edits
from selftaught.methods.base import Bench, Group
from selftaught.types import Document, Example, Message, Rollout, Sampling, Task


class ContinuedPretrainingOptions(Section):
    edits: int = Field(default=5, ge=0)  # of each document
    format: _edits.Format = "implications"
    prompt: str | None = None  # instead of the format's, with {title} and {text}
    chat: bool = False  # whether the prompt is a user's turn, or text that the model goes on with
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=1024, ge=1)
    whole: bool = True  # an edit is one training text, or each of its lines is
    title: bool = True  # stands before every training text
    passage: bool = True  # the document is learned too
    piece: int = Field(default=1024, ge=16)  # tokens of a training text; a longer one is cut
    answer_tokens: int = Field(default=64, ge=1)
    answer_stop: tuple[str, ...] = ("\n",)  # ends an answer

    @model_validator(mode="after")
    def _something(self) -> ContinuedPretrainingOptions:
        if not (self.edits or self.passage):
            raise ValueError("edits=0 and passage=false leave nothing to learn")
        return self


class ContinuedPretraining:
    Options = ContinuedPretrainingOptions
    name = "continued_pretraining"
    roles = ("source",)
    retains = True

    def __init__(self, options: ContinuedPretrainingOptions) -> None:
        self.options = options

    def sampling(self) -> Sampling:
        o = self.options
        return Sampling(max(1, o.edits), o.temperature, o.top_p, max_tokens=o.max_tokens)

    def most(self) -> tuple[int, int]:
        return self.options.edits, self.options.edits + self.options.passage

    def ask(self, task: Task) -> Task:
        return task

    def answering(self) -> Sampling:
        return Sampling(max_tokens=self.options.answer_tokens, stop=self.options.answer_stop)

    def study(self, document: Document) -> Task:
        message: Message = {
            "role": "user",
            "content": _edits.prompt(self.options.format, self.options.prompt, document),
        }
        return Task((message,), checker="", group=document.id, form="plain" if self.options.chat else "raw")

    def propose(self, bench: Bench) -> Iterable[Task]:
        bench.note("documents", len(bench.documents))
        return [self.study(d) for d in bench.documents.values()] if self.options.edits else []

    def harvest(self, groups: Sequence[Group], bench: Bench) -> Iterable[Example]:
        """Document by document: its passage, then what its edits add to that, each text once."""
        edits = {task.group: rollouts for task, rollouts in groups}
        for document in bench.documents.values():
            passage = [("", document.text)] if self.options.passage else []
            seen = set[str]()
            for rollout, text in [*passage, *self._texts(edits.get(document.id, ()), bench)]:
                bench.note("texts that stood before", int(text in seen))
                if text not in seen:
                    seen.add(text)
                    yield from self._lessons(rollout, text, document, bench)

    def _texts(self, rollouts: Sequence[Rollout], bench: Bench) -> Iterator[tuple[str, str]]:
        """(id of the edit, a training text in it); edits without any are counted by why they have none."""
        lost = Counter[str]()
        for r in rollouts:
            said = bench.tokens.said(r.prompt_ids, r.text)
            texts = _edits.texts(self.options.format, said or "", whole=self.options.whole)
            lost[r.error or "empty"] += not texts
            yield from ((r.id, text) for text in texts)
        bench.note("edits", len(rollouts))
        for why, count in (+lost).items():
            bench.note(f"edits without text: {why}", count)

    def _lessons(self, rollout: str, text: str, document: Document, bench: Bench) -> Iterator[Example]:
        """``task_id`` names the document, so that filters hold documents against each other and not what one says."""
        title = document.title if self.options.title else ""
        for lesson in _edits.lessons([text], title, bench.tokens, self.options.piece):
            yield replace(lesson, task_id=document.id, source=self.name, parents=(rollout,) if rollout else ())
