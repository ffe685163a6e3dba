"""Continued pretraining on documents and on edits of them, so that a model contains what they say.

SEAL's second setting (Zweiger et al. 2025, arXiv 2506.10943, section 4.1): one update on all documents at once, each
with edits of it, and closed-book questions about those very documents. ``edits: 0`` is the baseline, passages alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from pydantic import Field, model_validator

from selftaught.methods import _edits
from selftaught.methods.base import Bench, Group
from selftaught.types import Document, Example, Rollout, Sampling, Task


class ContinuedPretrainingOptions(_edits.Writing):
    edits: int = Field(default=5, ge=0)  # of each document
    whole: bool = True  # an edit is one training text, or each of its lines is
    piece: int = Field(default=1024, ge=16)  # tokens of a training text; a longer one is cut

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
        return self.options.sampling(max(1, self.options.edits))

    def most(self) -> tuple[int, int]:
        return self.options.edits, self.options.edits + self.options.passage

    def ask(self, task: Task) -> Task:
        return task

    def answering(self) -> Sampling:
        return self.options.answering()

    def study(self, document: Document) -> Task:
        return self.options.study(document)

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
