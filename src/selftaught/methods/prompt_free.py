"""Prompt-free self-training: learn from plain text that a model writes after its begin token alone.

"Not All Synthetic Data Is Yours to Learn From" (Alemohammad et al. 2026, arXiv 2605.31126): no prompt, teacher,
verifier or reward. It helps where source and student are compatible, best where they are one model. The defaults of
sampling are the reference's. Where we depart: the token budget is counted, not estimated from characters; text is
drawn without replacement; and a model without a begin token is refused, where the reference feeds a line break and
calls it one (Qwen's tokenizers have none): name what to feed as ``begin``, and the record says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import Field, model_validator

from selftaught.config import Section
from selftaught.errors import ModelError
from selftaught.methods.base import Bench, Group
from selftaught.types import Example, Rollout, Sampling, Task

TRUNCATED = "truncated"  # the error of a rollout that met max_tokens


class PromptFreeOptions(Section):
    samples: int = Field(default=20_000, ge=1)
    tokens: int | None = Field(default=5_000_000, ge=1)  # to learn from, counted; none: all that was sampled
    temperature: float = Field(default=1.25, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    max_tokens: int = Field(default=1024, ge=1)
    min_tokens: int = Field(default=50, ge=0)  # shorter texts are impossible, and dropped where a source wrote them
    cut_off: bool = True  # whether a text that met max_tokens is learned, without an end
    begin: str | None = None  # fed instead of the begin token, for a model that has none
    answer_tokens: int = Field(default=256, ge=1)  # of an answer where a model is judged

    @model_validator(mode="after")
    def _fits(self) -> PromptFreeOptions:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens={self.min_tokens} is more than max_tokens={self.max_tokens}")
        return self


class PromptFree:
    Options = PromptFreeOptions
    name = "prompt_free"
    roles = ("source",)

    def __init__(self, options: PromptFreeOptions) -> None:
        self.options = options

    def sampling(self) -> Sampling:
        o = self.options
        return Sampling(o.samples, o.temperature, o.top_p, o.top_k, o.max_tokens, min_tokens=o.min_tokens)

    def most(self) -> tuple[int, int]:
        return self.options.samples, self.options.samples

    def ask(self, task: Task) -> Task:
        return task

    def answering(self) -> Sampling:
        return Sampling(max_tokens=self.options.answer_tokens)

    def propose(self, bench: Bench) -> Iterable[Task]:
        """One task, whose prompt is empty or ``begin``. Raises ModelError for a model without a begin token."""
        if self.options.begin is not None:
            return [Task(({"role": "user", "content": self.options.begin},), checker="", source=self.name, form="raw")]
        if not bench.tokens.has_bos:
            raise ModelError(
                "This model has no begin token, so it cannot write after that alone.",
                hint='Say what it is fed instead, and the record will: method.begin="\\n" (as the reference does).',
            )
        return [Task((), checker="", source=self.name)]

    def harvest(self, groups: Sequence[Group], bench: Bench) -> Iterable[Example]:
        """Texts in the order in which they were sampled, until the token budget is spent; the last one is cut."""
        [(_, rollouts)] = groups
        left = self.options.tokens
        lost = Counter[str]()
        for fed, count in Counter(r.prompt_ids for r in rollouts).items():
            bench.note(f"samples after the token ids {[*fed]}", count)
        for r in rollouts:
            if why := self._useless(r):
                lost[why] += 1
                continue
            ids = _cut_off(r, bench) if r.error == TRUNCATED else r.completion_ids
            ids = ids if left is None else ids[:left]
            if not ids:
                lost["beyond the token budget"] += 1
                continue
            text = r.text if len(ids) == len(r.completion_ids) else bench.tokens.decode(ids)
            left = left and left - len(ids)
            bench.note("tokens of text", len(ids))
            yield Example(r.prompt_ids, ids, text, r.task_id, source=self.name, parents=(r.id,))
        if left:
            bench.note("tokens missing from the budget", left)
        for why, count in lost.items():
            bench.note(f"samples dropped: {why}", count)

    def _useless(self, rollout: Rollout) -> str:
        o = self.options
        if rollout.error is not None and not (rollout.error == TRUNCATED and o.cut_off):
            return rollout.error
        if not rollout.text.strip():
            return "empty"
        return f"shorter than {o.min_tokens} tokens" if len(rollout.completion_ids) < o.min_tokens else ""


def _cut_off(rollout: Rollout, bench: Bench) -> tuple[int, ...]:
    """A text that met max_tokens without the end that re-tokenising gave it, in the student's context."""
    ids, end = rollout.completion_ids, bench.tokens.encode_completion("")
    if end and ids[-len(end) :] == end:
        ids = ids[: -len(end)]
    return ids[: bench.tokens.context - len(rollout.prompt_ids)]
